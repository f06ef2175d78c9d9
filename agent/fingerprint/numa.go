package fingerprint

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

func numa(m machine, f *Facts) error {
	dirs, err := filepath.Glob(m.path("sys/devices/system/node/node[0-9]*"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		id, err := strconv.ParseInt(strings.TrimPrefix(filepath.Base(d), "node"), 10, 32)
		if err != nil {
			continue
		}
		rel := filepath.Join("sys/devices/system/node", filepath.Base(d))
		list, err := m.line(filepath.Join(rel, "cpulist"))
		if err != nil {
			return err
		}
		cell := api.NUMACell{ID: int32(id)}
		if cell.CPUs, err = cpuList(list); err != nil {
			return err
		}
		if err := m.lines(filepath.Join(rel, "meminfo"), ":", func(k, v string) {
			if strings.HasSuffix(k, " MemTotal") {
				cell.Memory = kib(v)
			}
		}); err != nil {
			return err
		}
		f.NUMA = append(f.NUMA, cell)
	}
	slices.SortFunc(f.NUMA, func(a, b api.NUMACell) int { return cmp.Compare(a.ID, b.ID) })
	f.set("numa.cells", strconv.Itoa(max(1, len(f.NUMA))))
	return nil
}

// cpuList reads the kernel's "0-3,8,10-11".
func cpuList(s string) ([]int32, error) {
	var out []int32
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		a, err1 := strconv.ParseInt(from, 10, 32)
		b, err2 := strconv.ParseInt(to, 10, 32)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > 1<<16 {
			return nil, fmt.Errorf("%q is not a list of cpus", s)
		}
		for i := a; i <= b; i++ {
			out = append(out, int32(i))
		}
	}
	return out, nil
}
