package fingerprint

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

// levels are the x86-64 micro-architecture levels: the flags that each adds, by
// their names in /proc/cpuinfo.
var levels = []struct {
	name  string
	flags []string
}{
	{"x86-64-v1", strings.Fields("cmov cx8 fpu fxsr mmx sse sse2")},
	{"x86-64-v2", strings.Fields("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3")},
	{"x86-64-v3", strings.Fields("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave")},
	{"x86-64-v4", strings.Fields("avx512f avx512bw avx512cd avx512dq avx512vl")},
}

func cpu(m machine, f *Facts) error {
	cores := 0
	first := map[string]string{}
	sockets := map[string]bool{}
	err := m.lines("proc/cpuinfo", ":", func(k, v string) {
		if k == "processor" {
			cores++
		}
		if k == "physical id" {
			sockets[v] = true
		}
		if _, ok := first[k]; !ok {
			first[k] = v
		}
	})
	if err != nil {
		return err
	}
	if cores == 0 {
		return fmt.Errorf("no processor found")
	}
	f.Capacity.CPU = api.Cores(cores)
	f.set("cpu.cores", strconv.Itoa(cores))
	f.set("cpu.sockets", strconv.Itoa(max(1, len(sockets))))
	f.set("cpu.model", first["model name"])
	f.set("cpu.vendor", first["vendor_id"])
	f.set("cpu.flags", first["flags"])
	f.set("cpu.baseline", Baseline(strings.Fields(first["flags"])))
	if mhz, err := strconv.ParseFloat(first["cpu MHz"], 64); err == nil {
		f.set("cpu.mhz", strconv.Itoa(int(mhz)))
	}
	return nil
}

// Baseline returns the highest x86-64 level that CPU flags reach, or "".
func Baseline(flags []string) string {
	have := map[string]bool{}
	for _, f := range flags {
		have[f] = true
	}
	level := ""
	for _, l := range levels {
		for _, f := range l.flags {
			if !have[f] {
				return level
			}
		}
		level = l.name
	}
	return level
}
