package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

// fakePeers is a pool that shows what the test wants.
type fakePeers struct {
	joined int
	view   *api.PeerView
}

func (f *fakePeers) Join([]byte, []string) error { f.joined++; return nil }

func (f *fakePeers) View() *api.PeerView { return f.view }

func TestOnlyNewsOfPeersIsTold(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		p := &fakePeers{}
		b.change = func(c *Config) { c.Peers = p }
		b.start()
		told := func() (n int) {
			b.srv.do(func() {
				for _, beat := range b.srv.beats {
					if beat.Peers != nil {
						n++
					}
				}
				b.srv.beats = nil
			})
			return n
		}
		b.sleep(30 * time.Second)
		must.Eq(t, 0, told(), must.Sprint("it is in no pool"))
		p.view = &api.PeerView{Alive: 2}
		b.sleep(7 * time.Second)
		must.Eq(t, 1, told())
		p.view = &api.PeerView{Alive: 1, Failed: []api.ID{{9}}}
		b.sleep(7 * time.Second)
		must.Eq(t, 1, told())
		b.sleep(time.Minute)
		must.Between(t, 2, told(), 8, must.Sprint("now and then it is told again"))
	})
}
