package command

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// scriptStream is a console that writes one text and then echoes what is typed,
// until the test ends it.
type scriptStream struct {
	ctx   context.Context
	hello string
	end   chan struct{}
	typed chan []byte
	once  sync.Once
}

func aConsole(hello string) *scriptStream {
	return &scriptStream{hello: hello, end: make(chan struct{}), typed: make(chan []byte, 16)}
}

func (s *scriptStream) Context() context.Context { return s.ctx }

func (s *scriptStream) CloseSend() error { return nil }

func (s *scriptStream) Send(m api.Message) error {
	select {
	case <-s.end:
		return io.EOF
	case s.typed <- m.(*api.Chunk).Data:
		return nil
	}
}

func (s *scriptStream) Recv(m api.Message) error {
	c := m.(*api.Chunk)
	s.once.Do(func() { c.Data = []byte(s.hello) })
	if len(c.Data) > 0 {
		return nil
	}
	select {
	case <-s.end:
		return io.EOF
	case <-s.ctx.Done():
		return s.ctx.Err()
	case c.Data = <-s.typed:
		return nil
	}
}

func on(node string, id byte, state api.VMState) *api.VMStatusResponse {
	vm := &api.VM{ID: api.ID{9}, Name: "web", Namespace: "default"}
	return &api.VMStatusResponse{VM: vm, Node: node, State: string(state),
		Placement: &api.Placement{VMID: vm.ID, NodeID: api.ID{id}, State: state, Desired: api.PowerRunning}}
}

func TestAConsoleFollowsItsVM(t *testing.T) {
	a, b := aConsole("on the first"), aConsole("on the second")
	c, s := atScript(t, map[string][]any{
		"VM.Get": {&api.VMResponse{VM: on("n1", 1, api.StateRunning).VM}},
		// Before, when it ends, while it is on the way, after the cutover, there.
		"VM.Status":     {on("n1", 1, api.StateRunning), on("n1", 1, api.StateRunning), on("n2", 2, api.StatePaused), on("n2", 2, api.StateRunning)},
		"Migration.Get": {got(api.MigrationSwitched, nil), got(api.MigrationCommitted, nil), got(api.MigrationDone, nil)},
	})
	s.streams = []*scriptStream{a, b}
	in, out := io.Pipe()
	p := c.startWith(t.Context(), in, "vm", "console", "web")
	p.shows(t, "on the first", 1)
	_, err := out.Write([]byte("one"))
	must.NoError(t, err)
	p.shows(t, "one", 1)
	close(a.end)
	p.shows(t, "on the second", 1)
	must.StrContains(t, p.errs.String(), "\r\n[web: the VM is being moved]\r\n\r\n[web: moved to n2: connecting again]\r\n")
	_, err = out.Write([]byte("two"))
	must.NoError(t, err)
	p.shows(t, "two", 1)
	// The next end is none of a move: nothing is opened again.
	close(b.end)
	must.Eq(t, exitOK, <-p.code)
	must.Eq(t, 1, strings.Count(p.errs.String(), "connecting again"))
	must.NoError(t, out.Close())
}

// A guest that ends where it is ends its console, as does one that is gone, and
// one that the caller may not see.
func TestAConsoleEndsWithItsGuest(t *testing.T) {
	for name, answers := range map[string][]any{
		"stopped":   {on("n1", 1, api.StateRunning), on("n1", 1, api.StateStopped)},
		"gone":      {on("n1", 1, api.StateRunning), api.Errorf(api.CodeNotFound, "gone")},
		"forbidden": {api.Errorf(api.CodeForbidden, "no")},
	} {
		t.Run(name, func(t *testing.T) {
			a := aConsole("hello")
			c, s := atScript(t, map[string][]any{
				"VM.Get": {&api.VMResponse{VM: on("n1", 1, api.StateRunning).VM}}, "VM.Status": answers,
				"Migration.Get": {api.Errorf(api.CodeNotFound, "was not moved")},
			})
			s.streams = []*scriptStream{a}
			p := c.start(t.Context(), "vm", "console", "web")
			p.shows(t, "hello", 1)
			close(a.end)
			must.Eq(t, exitOK, <-p.code)
			must.Eq(t, "", p.errs.String())
		})
	}
}
