package fingerprint

import (
	"runtime"
	"strings"
)

func kernel(m machine, f *Facts) error {
	name, err := m.line("proc/sys/kernel/ostype")
	if err != nil {
		return err
	}
	release, err := m.line("proc/sys/kernel/osrelease")
	f.set("kernel.name", strings.ToLower(name))
	f.set("kernel.version", release)
	f.set("cpu.arch", runtime.GOARCH)
	return err
}
