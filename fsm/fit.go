package fsm

import (
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// Defaults where neither the node nor the region says otherwise.
const (
	DefaultCPURatio    = 4
	DefaultMemoryRatio = 1
	DefaultDiskRatio   = 1
	DefaultPool        = "default"
)

// The dimensions that Fits names.
const (
	DimCPU    = "cpu"
	DimMemory = "memory"
	DimDisk   = "disk"
	DimPool   = "pool"
	DimGuard  = "guard"
)

// Ask is what a VM takes of a node.
type Ask struct {
	CPU    api.MilliCPU
	Memory api.Bytes
	// Disk is what new volumes take of each pool, by name. A pool stands here
	// with zero bytes when it only has to be there.
	Disk []PoolAsk
}

// PoolAsk is what new volumes take of one pool.
type PoolAsk struct {
	Pool  string
	Bytes api.Bytes
}

// AskOf returns what a VM with this spec and these volumes takes. Volumes that
// are on a node already take nothing more. Nil volumes mean that they are not
// made yet: they are taken from the spec.
func AskOf(spec *api.VMSpec, vols []*api.Volume) Ask {
	a := Ask{CPU: spec.CPU.Reserve, Memory: spec.Memory}
	if a.CPU == 0 {
		a.CPU = api.Cores(int(spec.CPU.Cores))
	}
	if vols == nil {
		for i := range spec.Disks {
			if d := &spec.Disks[i]; d.Volume == "" {
				a.Add(poolName(d.Pool), d.Size)
			}
		}
		return a
	}
	for _, v := range vols {
		if v.NodeID.IsZero() {
			a.Add(v.Pool, v.Size)
		}
	}
	return a
}

// Add adds a new volume.
func (a *Ask) Add(pool string, size api.Bytes) {
	i, ok := slices.BinarySearchFunc(a.Disk, pool, func(p PoolAsk, name string) int { return strings.Compare(p.Pool, name) })
	if !ok {
		a.Disk = slices.Insert(a.Disk, i, PoolAsk{Pool: pool})
	}
	a.Disk[i].Bytes += size
}

func poolName(p string) string {
	if p == "" {
		return DefaultPool
	}
	return p
}

// Limits returns the CPU and memory of a node that may be promised: its
// capacity with the overcommit ratios.
func Limits(s *State, n *api.Node) api.Resources {
	return api.Resources{
		CPU:    api.MilliCPU(scale(int64(n.Capacity.CPU), ratio(n.CPURatio, s.meta.Scheduler.CPURatio, DefaultCPURatio))),
		Memory: api.Bytes(scale(int64(n.Capacity.Memory), ratio(n.MemoryRatio, s.meta.Scheduler.MemoryRatio, DefaultMemoryRatio))),
	}
}

// PoolLimit returns the bytes of a node's pool that may be promised.
func PoolLimit(s *State, np *api.NodePool) api.Bytes {
	r := 0.0
	if p := s.Pool(np.Name); p != nil {
		r = p.Ratio
	}
	return api.Bytes(scale(int64(np.Capacity), ratio(r, 0, DefaultDiskRatio)))
}

func ratio(own, region, fallback float64) float64 {
	if own > 0 {
		return own
	}
	if region > 0 {
		return region
	}
	return fallback
}

// scale multiplies exactly alike on every machine: float64 multiplication is
// correctly rounded everywhere, and no other operation follows that could be
// fused with it.
func scale(n int64, r float64) int64 { return int64(float64(n) * r) }

// NodePoolOf returns a pool as a node sees it, or nil.
func NodePoolOf(n *api.Node, pool string) *api.NodePool {
	for i := range n.Pools {
		if n.Pools[i].Name == pool {
			return &n.Pools[i]
		}
	}
	return nil
}

// Fits reports whether a node has room for an ask, and if not in which
// dimension not. It is the truth: the placement command checks it again at
// apply time. It asks about capacity only, not about status or constraints.
func Fits(s *State, n *api.Node, a Ask) (dim string, ok bool) {
	used, limit := s.Used(n.ID), Limits(s, n)
	if a.CPU > limit.CPU-used.CPU {
		return DimCPU, false
	}
	if a.Memory > limit.Memory-used.Memory {
		return DimMemory, false
	}
	for _, d := range a.Disk {
		np := NodePoolOf(n, d.Pool)
		if np == nil || np.Error != "" {
			return DimPool, false
		}
		room := PoolLimit(s, np)
		if np.Shared {
			// The volumes of a shared pool are counted since they were made.
			if s.Promised(api.ID{}, d.Pool) > room {
				return DimDisk, false
			}
			continue
		}
		if d.Bytes > room-s.Promised(n.ID, d.Pool) {
			return DimDisk, false
		}
	}
	return "", true
}
