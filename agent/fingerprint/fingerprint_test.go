package fingerprint_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/fingerprint"
	"github.com/novacron/novacron/api"
)

const (
	v1 = "fpu cmov cx8 fxsr mmx sse sse2"
	v2 = v1 + " cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
	v3 = v2 + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
	v4 = v3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
)

// machine makes a root folder; an empty text leaves a file out.
func machine(t *testing.T, change map[string]string) string {
	t.Helper()
	files := map[string]string{
		"proc/sys/kernel/random/boot_id":         "b00t\n",
		"etc/machine-id":                         "mach1ne\n",
		"sys/class/dmi/id/product_uuid":          "AAAA-BBBB\n",
		"proc/sys/kernel/ostype":                 "Linux\n",
		"proc/sys/kernel/osrelease":              "6.1.0-18-amd64\n",
		"proc/sys/kernel/hostname":               "node-1\n",
		"etc/os-release":                         "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n",
		"proc/cpuinfo":                           strings.Repeat("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\ncpu MHz\t\t: 2450.123\nphysical id\t: 0\nflags\t\t: svm "+v3+"\n\n", 4),
		"proc/meminfo":                           "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    6000000 kB\n",
		"sys/devices/system/node/node0/cpulist":  "0-1,3\n",
		"sys/devices/system/node/node0/meminfo":  "Node 0 MemTotal:  4000000 kB\n",
		"sys/devices/system/node/node10/cpulist": "\n",
		"sys/devices/system/node/node10/meminfo": "Node 10 MemTotal:  4000000 kB\n",
		"sys/devices/system/node/nodes/cpulist":  "x\n",
		"sys/class/net/br1/bridge/bridge_id":     "1",
		"sys/class/net/br0/bridge/bridge_id":     "1",
		"sys/class/net/eth0/address":             "1",
		"dev/kvm":                                " ",
		"proc/stat":                              "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1\n",
		"proc/loadavg":                           "1.50 1.0 0.5 1/100 12345\n",
		"proc/uptime":                            "3600.50 100\n",
	}
	for k, v := range change {
		files[k] = v
	}
	root := t.TempDir()
	for name, text := range files {
		if text == "" {
			continue
		}
		p := filepath.Join(root, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	return root
}

func find(t *testing.T, change map[string]string) *fingerprint.Facts {
	t.Helper()
	f, err := fingerprint.Find(t.Context(), fingerprint.Options{Root: machine(t, change)})
	must.NoError(t, err)
	return f
}

func TestFind(t *testing.T) {
	f := find(t, nil)
	must.SliceEmpty(t, f.Warnings)
	must.Eq(t, "b00t", f.BootID)
	must.Eq(t, "mach1ne", f.MachineID)
	must.Eq(t, "aaaa-bbbb", f.ProductUUID)
	must.Eq(t, api.Resources{CPU: 4000, Memory: 8000000 * api.KiB}, f.Capacity)
	must.Eq(t, []string{"br0", "br1"}, f.Bridges)
	must.Eq(t, []api.NUMACell{{ID: 0, CPUs: []int32{0, 1, 3}, Memory: 4000000 * api.KiB}, {ID: 10, Memory: 4000000 * api.KiB}}, f.NUMA)
	for k, want := range map[string]string{
		"kernel.name": "linux", "kernel.version": "6.1.0-18-amd64", "cpu.arch": runtime.GOARCH, "os.name": "debian", "os.version": "12",
		"cpu.cores": "4", "cpu.sockets": "1", "cpu.model": "AMD EPYC", "cpu.vendor": "AuthenticAMD", "cpu.mhz": "2450",
		"cpu.baseline": "x86-64-v3", "memory.bytes": "8192000000", "numa.cells": "2", "kvm": "true", "host.name": "node-1",
	} {
		got, ok := f.Attributes.Get(k)
		must.True(t, ok, must.Sprint(k))
		must.Eq(t, want, got, must.Sprint(k))
	}
	must.True(t, f.KVM)
}

func TestMergeKeepsWhatOthersSet(t *testing.T) {
	n := &api.Node{Attributes: api.Pairs{{K: "driver.qemu", V: "9.0.0"}, {K: "kernel.name", V: "old"}}}
	find(t, nil).Merge(n)
	v, _ := n.Attributes.Get("driver.qemu")
	must.Eq(t, "9.0.0", v)
	v, _ = n.Attributes.Get("kernel.name")
	must.Eq(t, "linux", v)
	must.Eq(t, "b00t", n.BootID)
	must.Eq(t, 4000, n.Capacity.CPU)
}

func TestReserve(t *testing.T) {
	f, err := fingerprint.Find(t.Context(), fingerprint.Options{Root: machine(t, nil), ReserveCPU: 500, ReserveMemory: api.GiB})
	must.NoError(t, err)
	must.Eq(t, api.Resources{CPU: 3500, Memory: 8000000*api.KiB - api.GiB}, f.Capacity)
	f, err = fingerprint.Find(t.Context(), fingerprint.Options{Root: machine(t, nil), ReserveCPU: 99000, ReserveMemory: api.TiB})
	must.NoError(t, err)
	must.Eq(t, api.Resources{}, f.Capacity)
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	for file, fact := range map[string]string{
		"proc/sys/kernel/random/boot_id": "boot id", "etc/machine-id": "machine id", "proc/sys/kernel/ostype": "kernel",
		"proc/sys/kernel/osrelease": "kernel", "etc/os-release": "os", "proc/cpuinfo": "cpu", "proc/meminfo": "memory",
		"sys/devices/system/node/node0/cpulist": "numa", "sys/devices/system/node/node0/meminfo": "numa", "proc/sys/kernel/hostname": "hostname",
	} {
		f := find(t, map[string]string{file: ""})
		must.SliceLen(t, 1, f.Warnings, must.Sprint(file, f.Warnings))
		must.True(t, strings.HasPrefix(f.Warnings[0], fact+": "), must.Sprint(f.Warnings))
	}
	f := find(t, map[string]string{"proc/cpuinfo": "x", "proc/meminfo": "MemTotal: x\n", "sys/devices/system/node/node0/cpulist": "3-1"})
	must.Eq(t, 3, len(f.Warnings))
	must.SliceEmpty(t, find(t, map[string]string{"sys/class/dmi/id/product_uuid": ""}).Warnings, must.Sprint("many machines have none"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := fingerprint.Find(ctx, fingerprint.Options{})
	must.ErrorIs(t, err, context.Canceled)
}

func TestBaseline(t *testing.T) {
	for flags, want := range map[string]string{
		"": "", "fpu": "", v1: "x86-64-v1", v2: "x86-64-v2", v3: "x86-64-v3", v4: "x86-64-v4",
		strings.Replace(v4, "popcnt", "", 1): "x86-64-v1", strings.Replace(v4, "fma", "", 1): "x86-64-v2",
	} {
		must.Eq(t, want, fingerprint.Baseline(strings.Fields(flags)))
	}
}

// The trap: /dev/kvm opens, and there is no hardware behind it.
func TestKVMNeedsMoreThanItsDevice(t *testing.T) {
	cpu := func(flags string) string { return "processor : 0\nflags : " + flags + "\n" }
	for _, c := range []struct {
		dev, flags string
		works      bool
	}{{" ", "vmx", true}, {" ", "svm", true}, {" ", "fpu", runtime.GOARCH != "amd64"}, {"", "svm", false}} {
		f := find(t, map[string]string{"dev/kvm": c.dev, "proc/cpuinfo": cpu(c.flags)})
		must.Eq(t, c.works, f.KVM)
		_, reason := f.Attributes.Get("kvm.reason")
		must.Eq(t, !c.works, reason)
	}
}

func TestThisMachine(t *testing.T) {
	f, err := fingerprint.Find(t.Context(), fingerprint.Options{})
	must.NoError(t, err)
	must.Positive(t, f.Capacity.CPU)
	must.Positive(t, f.Capacity.Memory)
	must.NotEq(t, "", f.BootID)
	s := fingerprint.NewSampler("").Sample()
	must.Positive(t, s.Memory)
	must.Positive(t, s.Uptime)
}

func TestSampler(t *testing.T) {
	root := machine(t, nil)
	s := fingerprint.NewSampler(root)
	first := s.Sample()
	must.Eq(t, 20, first.CPUPercent, must.Sprint("since the boot"))
	must.Eq(t, 1.5, first.Load1)
	must.Eq(t, 8000000*api.KiB, first.Memory)
	must.Eq(t, 2000000*api.KiB, first.MemoryUsed)
	must.Eq(t, 3600500e6, float64(first.Uptime))
	must.NoError(t, os.WriteFile(filepath.Join(root, "proc/stat"), []byte("cpu  150 0 100 750 100 0 0 0 99 99\n"), 0o644))
	must.Eq(t, 50, s.Sample().CPUPercent)
	must.Eq(t, 0, s.Sample().CPUPercent, must.Sprint("no time has passed"))
	empty := fingerprint.NewSampler(t.TempDir()).Sample()
	must.Zero(t, empty.Memory)
}
