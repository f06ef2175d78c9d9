package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

func TestTheLinkToAnotherNodeIsMeasured(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		other := &Client{links: newLinkMeter()}
		mux := rpc.NewMux(rpc.Options{Router: rpc.Alone("r")})
		other.Register(mux)
		mem := rpc.NewMemory()
		mem.SetLatency(func(string, string) time.Duration { return 5 * time.Millisecond })
		port, err := mem.Listen("n2:1", api.CertName{Region: "r", Role: api.RoleClient, NodeID: api.ID{0xbb}}, mux)
		must.NoError(t, err)
		pool := rpc.NewPool(mem.Transport("n1:1", api.CertName{Region: "r", Role: api.RoleClient, NodeID: node1}))
		defer func() {
			pool.Close()
			port.Close()
		}()
		b.srv.do(func() { b.peers["n2:1"] = pool.Member("n2:1") })
		b.start()
		ask := &api.LinkMeasure{To: api.ID{0xbb}, Address: "n2:1"}
		got, err := b.c.linkMeasure(t.Context(), ask)
		must.NoError(t, err)
		must.Eq(t, api.Duration(10*time.Millisecond), got.RoundTrip)
		must.Positive(t, int64(got.Rate))
		must.Eq(t, 0, got.Age)
		must.LessEq(t, linkBytes, got.Sent)
		must.Positive(t, int64(got.Sent))

		// Asked again soon, nothing is sent.
		b.sleep(10 * time.Second)
		again, err := b.c.linkMeasure(t.Context(), ask)
		must.NoError(t, err)
		must.Eq(t, got.Rate, again.Rate)
		must.Eq(t, api.Duration(10*time.Second), again.Age)

		// One at a time; and a link that is cut is an error, not a slow link.
		b.sleep(time.Minute)
		other.links.in <- struct{}{}
		_, err = b.c.linkMeasure(t.Context(), ask)
		must.Eq(t, api.CodeState, api.CodeOf(err))
		<-other.links.in
		mem.Cut("n1:1", "n2:1")
		_, err = b.c.linkMeasure(t.Context(), ask)
		must.Error(t, err)
		mem.Heal("n1:1", "n2:1")
		_, err = b.c.linkMeasure(t.Context(), ask)
		must.NoError(t, err)
		_, err = b.c.linkMeasure(t.Context(), &api.LinkMeasure{})
		must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	})
}
