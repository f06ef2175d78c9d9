package rpc_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// BenchmarkCall is one read through the whole pipeline, one caller.
func BenchmarkCall(b *testing.B) {
	run := func(b *testing.B, c rpc.Caller) {
		ctx := as(goodToken)
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Call(ctx, "Agent.Hello", &api.GetRequest{Key: "vm"}, new(api.VMResponse)); err != nil {
				b.Fatal(err)
			}
		}
	}
	a := newAuthority(b)
	box := newBox(nil, "west", nil)
	defer box.mux.Close()
	port, err := rpc.Listen(b.Context(), "127.0.0.1:0", a.tls(box.name), rpc.PortOptions{Mux: box.mux})
	must.NoError(b, err)
	defer port.Close()
	mem := rpc.NewMemory()
	mp, err := mem.Listen("s", box.name, box.mux)
	must.NoError(b, err)
	defer mp.Close()
	me := certName(api.RoleServer, "west")
	b.Run("memory", func(b *testing.B) { run(b, rpc.NewPool(mem.Transport("c", me)).Get("s")) })
	b.Run("tls", func(b *testing.B) {
		p := rpc.NewPool(rpc.NewTransport(a.tls(me)))
		defer p.Close()
		run(b, p.Get(port.Addr().String()))
	})
}
