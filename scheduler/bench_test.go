package scheduler

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
)

// sampleLog2n is the model that engines are judged by: it looks at random
// nodes until it has seen ceil(log2 n) on which the request fits (Nomad's way
// for services) and takes the best fit of those.
type sampleLog2n struct {
	e   *engine
	rnd *rand.Rand
}

func (m *sampleLog2n) pick(c *class) int32 {
	n := len(m.e.cols.ids)
	best, top := int32(-1), no
	for k, start, seen := 0, m.rnd.IntN(n), 0; k < n && seen < bits.Len(uint(n-1)); k++ {
		i := int32((start + k*stride(n)) % n)
		if s := c.rate(m.e, i); s != no {
			seen++
			if s > top {
				best, top = i, s
			}
		}
	}
	return best
}

// stride is near the golden section of n and has no divisor in common with it,
// so that the walk is a permutation.
func stride(n int) int {
	s := n*618/1000 | 1
	for gcd(s, n) != 1 {
		s += 2
	}
	return s
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// mixed is a fleet's usual mix: eight sizes, a third with a constraint, all with
// a disk.
func mixed(n int) func(*api.VMSpec) {
	sizes := []struct {
		cores int32
		gib   api.Bytes
	}{{1, 1}, {1, 2}, {2, 2}, {2, 4}, {4, 4}, {4, 8}, {8, 8}, {8, 16}}
	return func(s *api.VMSpec) {
		k := sizes[n%len(sizes)]
		s.CPU.Cores, s.Memory = k.cores, k.gib*api.GiB
		if n%3 == 0 {
			s.Constraints = []api.Constraint{{Attribute: "label.rack", Operator: "!=", Value: fmt.Sprintf("r%d", n/3%3)}}
		}
	}
}

func benchWorld(b *testing.B, nodes int) (*world, []api.ID) {
	w := newWorld(b)
	for i := range nodes {
		w.node(i, func(n *api.Node) {
			n.Capacity = api.Resources{CPU: api.Cores(64), Memory: 256 * api.GiB}
			n.Pools[0].Capacity = 10 * api.TiB
		})
	}
	ids := make([]api.ID, min(nodes*20, 20_000)) // about a third of the memory
	for i := range ids {
		ids[i] = w.vm(i, mixed(i))
	}
	w.follow()
	return w, ids
}

func emptyNodes(e *engine) float64 {
	n := 0
	for _, p := range e.cols.pledges {
		if p == 0 {
			n++
		}
	}
	return float64(n)
}

// BenchmarkPlace decides against the overlay, engine and model on the same
// nodes, requests and features.
func BenchmarkPlace(b *testing.B) {
	for _, nodes := range []int{100, 2000, 10000} {
		w, ids := benchWorld(b, nodes)
		run := func(name string, decide func(api.ID) bool) {
			b.Run(fmt.Sprintf("%s/nodes=%d", name, nodes), func(b *testing.B) {
				b.ReportAllocs()
				empty := -1.0
				for i := 0; b.Loop(); i++ {
					must.True(b, decide(ids[i%len(ids)]))
					if i%len(ids) == len(ids)-1 {
						b.StopTimer()
						empty = emptyNodes(w.e)
						w.e.Settle(ids...)
						w.e.flush()
						b.StartTimer()
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
				if empty >= 0 {
					b.ReportMetric(empty, "empty-nodes")
				}
				w.e.Settle(ids...)
				w.e.flush()
			})
		}
		run("engine", func(id api.ID) bool { return w.e.Decide(id).Verdict == Commit })
		m := &sampleLog2n{w.e, rand.New(rand.NewPCG(1, 2))}
		run("sample-log2n", func(id api.ID) bool {
			vm := w.e.state.VM(id)
			vols := w.e.volumesOf(vm)
			c, _ := w.e.classOf(vm, vols, fsm.AskOf(&vm.Spec, vols))
			i := m.pick(c)
			if i >= 0 {
				w.e.promise(id, i, c, true)
			}
			return i >= 0
		})
	}
}

// BenchmarkPlaceSpread is the dearest kind of request: spread and hard
// anti-affinity look at every node that fits.
func BenchmarkPlaceSpread(b *testing.B) {
	w := newWorld(b)
	for i := range 2000 {
		w.node(i, nil)
	}
	ids := make([]api.ID, 1000)
	for i := range ids {
		ids[i] = w.vm(i, func(s *api.VMSpec) {
			s.Labels = api.PairsOf(map[string]string{"app": fmt.Sprint(i / 10)})
			s.Spread = []api.Spread{{Attribute: "label.rack"}}
			s.Affinities = []api.Affinity{{Selector: s.Labels, Anti: true}}
		})
	}
	w.follow()
	for i := 0; b.Loop(); i++ {
		must.EqOp(b, Commit, w.e.Decide(ids[i%len(ids)]).Verdict)
		if i%len(ids) == len(ids)-1 {
			b.StopTimer()
			w.e.Settle(ids...)
			w.e.flush()
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
}

// BenchmarkExplain answers "why" over 2,000 nodes.
func BenchmarkExplain(b *testing.B) {
	w, ids := benchWorld(b, 2000)
	for b.Loop() {
		w.e.Explain(w.e.state.VM(ids[0]))
	}
}
