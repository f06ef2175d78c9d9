package peers

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// member makes a pool on a free port of the loopback.
func member(t *testing.T, id byte, region string) *Pool {
	t.Helper()
	p := New(Config{NodeID: api.ID{id}, Region: region, BindAddr: "127.0.0.1", AdvertiseAddr: "127.0.0.1", Fast: true})
	t.Cleanup(func() { must.NoError(t, p.Close()) })
	return p
}

// sees waits until a pool shows what is wanted.
func sees(t *testing.T, p *Pool, alive int32, failed ...api.ID) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for {
		v := p.View()
		if v != nil && v.Alive == alive && fmt.Sprint(v.Failed) == fmt.Sprint(failed) {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%v sees %+v, not %d alive and %v failed", p.cfg.NodeID.Short(), v, alive, failed)
		}
	}
}

func TestPeersSeeWhoFails(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	a, b, c := member(t, 1, "eu"), member(t, 2, "eu"), member(t, 3, "eu")
	must.Nil(t, a.View(), must.Sprint("it is in no pool yet"))
	must.Eq(t, "", a.Address())
	must.NoError(t, a.Join(key, []string{"127.0.0.1:1"}), must.Sprint("nobody there yet is no error"))
	must.NoError(t, b.Join(key, []string{a.Address()}))
	must.NoError(t, c.Join(key, []string{a.Address(), b.Address()}))
	for _, p := range []*Pool{a, b, c} {
		sees(t, p, 2)
	}
	addr := c.Address()
	must.NoError(t, c.Close())
	sees(t, a, 1, api.ID{3})
	sees(t, b, 1, api.ID{3})

	// It is back, at another port.
	c = member(t, 3, "eu")
	must.NoError(t, c.Join(key, []string{a.Address()}))
	must.NotEq(t, addr, c.Address())
	sees(t, a, 2)
	sees(t, b, 2)
	must.NoError(t, b.Close())
	sees(t, a, 1, api.ID{2})
	must.ErrorIs(t, b.Join(key, nil), errClosed)
}

func TestStrangersAreNotPeers(t *testing.T) {
	a := member(t, 1, "eu")
	must.NoError(t, a.Join(bytes.Repeat([]byte{7}, 32), nil))
	for name, p := range map[string]*Pool{"another key": member(t, 2, "eu"), "another region": member(t, 3, "us")} {
		key := bytes.Repeat([]byte{7}, 32)
		if name == "another key" {
			key[0]++
		}
		must.NoError(t, p.Join(key, []string{a.Address()}))
		p.again()
		sees(t, p, 0)
	}
	sees(t, a, 0)
	must.Error(t, member(t, 4, "eu").Join([]byte("short"), nil))
}
