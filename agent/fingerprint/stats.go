package fingerprint

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// Sampler measures the load of the machine between two samples.
type Sampler struct {
	root machine

	mu         sync.Mutex
	busy, idle uint64
}

// NewSampler makes one; root "" is "/".
func NewSampler(root string) *Sampler {
	if root == "" {
		root = "/"
	}
	return &Sampler{root: machine(root)}
}

// Sample returns CPU (percent of all cores since the last sample), load, memory
// and uptime. What cannot be read is zero. NodeID and VMs are the caller's.
func (s *Sampler) Sample() *api.NodeStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &api.NodeStats{Time: api.TimeOf(time.Now())}
	if b, err := s.root.line("proc/stat"); err == nil {
		line, _, _ := strings.Cut(b, "\n")
		busy, idle := cpuTimes(strings.Fields(line))
		if d := (busy - s.busy) + (idle - s.idle); d > 0 && busy >= s.busy && idle >= s.idle {
			st.CPUPercent = 100 * float64(busy-s.busy) / float64(d)
		}
		s.busy, s.idle = busy, idle
	}
	if l, err := s.root.line("proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(l, " ")
		st.Load1, _ = strconv.ParseFloat(first, 64)
	}
	var avail api.Bytes
	_ = s.root.lines("proc/meminfo", ":", func(k, v string) {
		switch k {
		case "MemTotal":
			st.Memory = kib(v)
		case "MemAvailable":
			avail = kib(v)
		}
	})
	st.MemoryUsed = max(0, st.Memory-avail)
	if l, err := s.root.line("proc/uptime"); err == nil {
		first, _, _ := strings.Cut(l, " ")
		sec, _ := strconv.ParseFloat(first, 64)
		st.Uptime = api.Duration(sec * float64(time.Second))
	}
	return st
}

// cpuTimes adds up the "cpu" line of /proc/stat.
func cpuTimes(f []string) (busy, idle uint64) {
	for i, v := range f {
		n, _ := strconv.ParseUint(v, 10, 64)
		switch {
		case i == 0 || i > 8: // the name; guest times are in user time already
		case i == 4 || i == 5:
			idle += n
		default:
			busy += n
		}
	}
	return busy, idle
}
