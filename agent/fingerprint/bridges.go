package fingerprint

import (
	"path/filepath"
	"slices"
)

func bridges(m machine, f *Facts) error {
	found, err := filepath.Glob(m.path("sys/class/net/*/bridge"))
	for _, p := range found {
		f.Bridges = append(f.Bridges, filepath.Base(filepath.Dir(p)))
	}
	slices.Sort(f.Bridges)
	return err
}
