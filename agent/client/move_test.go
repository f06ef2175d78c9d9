package client

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

// stalePeer is a destination behind connections that break when they are used.
type stalePeer struct {
	stale int // how many
	asked int
	err   error
}

func (p *stalePeer) Call(_ context.Context, method string, _, resp api.Message) error {
	p.asked++
	if p.stale > 0 {
		p.stale--
		return api.Errorf(api.CodeUnknown, "the connection was lost before the answer came")
	}
	if p.err != nil || method != "Agent.MoveTarget" {
		return p.err
	}
	b, err := json.Marshal(moveTarget{Machine: &hypervisor.Machine{ID: vm1}})
	resp.(*api.Chunk).Data = b
	return err
}

func (p *stalePeer) Open(context.Context, string, api.Message) (api.Stream, error) {
	return nil, api.Errorf(api.CodeInternal, "no streams here")
}

func TestADestinationIsAskedAgainWhenAStaleConnectionBreaks(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		for _, w := range []struct {
			peer  stalePeer
			asked int
			code  api.Code
		}{
			{stalePeer{}, 1, 0},
			{stalePeer{stale: 1}, 2, 0},
			{stalePeer{stale: 2}, 2, api.CodeMigration},
			{stalePeer{err: api.Errorf(api.CodeState, "that guest is not expected")}, 1, api.CodeMigration},
		} {
			b.peers["n2:1"] = &w.peer
			got, err := b.c.askTarget(t.Context(), "n2:1", vm1)
			must.Eq(t, w.asked, w.peer.asked)
			must.Eq(t, w.code, api.CodeOf(err))
			must.Eq(t, w.code == 0, got.Machine != nil)
		}
	})
}
