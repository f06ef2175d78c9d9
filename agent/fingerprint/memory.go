package fingerprint

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

func memory(m machine, f *Facts) error {
	var total api.Bytes
	if err := m.lines("proc/meminfo", ":", func(k, v string) {
		if k == "MemTotal" {
			total = kib(v)
		}
	}); err != nil {
		return err
	}
	if total == 0 {
		return fmt.Errorf("no MemTotal")
	}
	f.Capacity.Memory = total
	f.set("memory.bytes", strconv.FormatInt(int64(total), 10))
	return nil
}

// kib reads "1234 kB"; 0 if it is something else.
func kib(v string) api.Bytes {
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return api.Bytes(n) * api.KiB
}
