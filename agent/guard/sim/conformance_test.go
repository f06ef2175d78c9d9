package sim

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is what an agent has of a guard.
type conn interface {
	Arm(context.Context, guard.ArmRequest) (time.Duration, error)
	Disarm(context.Context, api.ID, api.Epoch) error
	Status(context.Context) (*guard.Status, error)
	Done() <-chan struct{}
	Close() error
	Extend(sent, deadline time.Duration) error
}

// host is a machine with a guard, real or simulated.
type host struct {
	connect func() (conn, error)
	// process starts what can be armed; ended is closed when it has died.
	process    func(t *testing.T) (p guard.Process, ended <-chan struct{})
	die, start func()
}

var short = guard.Limits{Lease: 2 * time.Second, Kill: time.Second, Retry: 10 * time.Millisecond, Pet: 50 * time.Millisecond}

// TestBothGuardsAreOneToTheAgent runs one suite on the simulated guard and on the
// real one.
func TestBothGuardsAreOneToTheAgent(t *testing.T) {
	for name, open := range map[string]func(*testing.T) host{"sim": simHost, "real": realHost} {
		for what, f := range map[string]func(*testing.T, host, conn){
			"no lease": noLease, "verdicts": verdicts, "kill": killed, "death": death,
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				h := open(t)
				c := dial(t, h)
				f(t, h, c)
			})
		}
	}
}

func dial(t *testing.T, h host) conn {
	t.Helper()
	c, err := h.connect()
	for i := 0; err != nil && i < 500; i++ { // it is on its way
		<-time.After(10 * time.Millisecond)
		c, err = h.connect()
	}
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.Close()) })
	return c
}

func request(p guard.Process, e api.Epoch) guard.ArmRequest {
	return guard.ArmRequest{Target: guard.Target{VM: api.ID{1}, Epoch: e, Process: p}}
}

func extend(t *testing.T, c conn, d time.Duration) (deadline time.Duration) {
	now := boottime.Now()
	must.NoError(t, c.Extend(now, now+d))
	return now + d
}

func noLease(t *testing.T, h host, c conn) {
	p, _ := h.process(t)
	_, err := c.Arm(t.Context(), request(p, 1))
	must.Eq(t, api.CodeState, api.CodeOf(err))
	extend(t, c, time.Hour) // longer than T
	_, err = c.Arm(t.Context(), request(p, 1))
	must.Eq(t, api.CodeState, api.CodeOf(err))
	st, err := c.Status(t.Context())
	must.NoError(t, err)
	must.Eq(t, 0, st.Deadline)
	must.Eq(t, short.Lease, st.Lease)
	must.Eq(t, guard.ClassLeaseOnly, st.Class)
	must.SliceEmpty(t, st.Armed)
}

func verdicts(t *testing.T, h host, c conn) {
	p, _ := h.process(t)
	other, _ := h.process(t)
	deadline := extend(t, c, short.Lease)
	got, err := c.Arm(t.Context(), request(p, 2))
	must.NoError(t, err)
	must.Eq(t, deadline, got)
	for _, r := range []struct {
		req  guard.ArmRequest
		want api.Code
	}{
		{request(p, 2), 0}, {request(p, 1), api.CodeStaleEpoch}, {request(other, 2), api.CodeConflict}, {request(p, 0), api.CodeInvalid},
		{request(guard.Process{PID: 1 << 22, Start: 1}, 2), api.CodeNotFound}, {request(p, 3), 0},
	} {
		_, err := c.Arm(t.Context(), r.req)
		must.Eq(t, r.want, api.CodeOf(err), must.Sprintf("%+v", r.req))
	}
	must.Eq(t, api.CodeStaleEpoch, api.CodeOf(c.Disarm(t.Context(), api.ID{1}, 2)))
	must.NoError(t, c.Disarm(t.Context(), api.ID{2}, 1), must.Sprint("nothing is armed"))
	must.NoError(t, c.Disarm(t.Context(), api.ID{1}, 3))
	st, err := c.Status(t.Context())
	must.NoError(t, err)
	must.SliceEmpty(t, st.Armed)
}

func killed(t *testing.T, h host, c conn) {
	p, ended := h.process(t)
	deadline := extend(t, c, 300*time.Millisecond)
	_, err := c.Arm(t.Context(), request(p, 1))
	must.NoError(t, err)
	deadline = max(deadline, extend(t, c, 500*time.Millisecond))
	<-ended
	late := boottime.Now() - deadline
	must.Between(t, 0, late, short.Kill)
	st, err := c.Status(t.Context())
	must.NoError(t, err)
	must.SliceEmpty(t, st.Armed)
	must.SliceLen(t, 1, st.Proofs)
	must.Eq(t, guard.Proof{VM: api.ID{1}, Epoch: 1, At: st.Proofs[0].At, Killed: true}, st.Proofs[0])
	must.Between(t, deadline, st.Proofs[0].At, st.Now)
}

func death(t *testing.T, h host, c conn) {
	p, ended := h.process(t)
	extend(t, c, short.Lease)
	_, err := c.Arm(t.Context(), request(p, 1))
	must.NoError(t, err)
	h.die()
	<-c.Done()
	_, err = c.Status(t.Context())
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	h.start()
	again := dial(t, h)
	st, err := again.Status(t.Context())
	must.NoError(t, err)
	must.SliceLen(t, 1, st.Armed)
	must.Eq(t, p, st.Armed[0].Process)
	<-ended
}

func simHost(t *testing.T) host {
	lives := map[int]chan struct{}{}
	g := New(Options{
		Limits: short, Boottime: boottime.Now,
		Kill: func(pid int) {
			if ch := lives[pid]; ch != nil {
				close(ch)
				delete(lives, pid)
			}
		},
		Lives: func(pid int) bool { return lives[pid] != nil },
	})
	t.Cleanup(func() { must.NoError(t, g.Close()) })
	return host{
		connect: func() (conn, error) { return g.Connect(t.Context()) },
		process: func(*testing.T) (guard.Process, <-chan struct{}) {
			g.mu.Lock() // which guards lives, too
			defer g.mu.Unlock()
			pid, ch := 100+len(lives), make(chan struct{})
			lives[pid] = ch
			return guard.Process{PID: pid, Start: 1}, ch
		},
		die: g.Die, start: g.Start,
	}
}

// realConn is the real guard's, as package agent joins it.
type realConn struct {
	*guard.Client
	lease *guard.LeaseFile
}

func (c realConn) Extend(sent, deadline time.Duration) error { return c.lease.Write(sent, deadline) }
func (c realConn) Close() error                              { return errors.Join(c.Client.Close(), c.lease.Close()) }

func realHost(t *testing.T) host {
	dir := t.TempDir()
	must.NoError(t, exec.Command("chmod", "700", dir).Run())
	var stop func()
	start := func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- guard.Run(ctx, guard.Config{Dir: dir, Limits: short}) }()
		stop = func() {
			cancel()
			must.ErrorIs(t, <-ended, context.Canceled)
		}
	}
	start()
	t.Cleanup(func() { stop() })
	return host{
		connect: func() (conn, error) {
			c, err := guard.Dial(context.Background(), dir)
			if err != nil {
				return nil, err
			}
			l, err := guard.OpenLease(dir)
			if api.CodeOf(err) == api.CodeInUse { // of the connection before
				return struct {
					*guard.Client
					leaseless
				}{Client: c}, nil
			}
			return realConn{c, l}, err
		},
		process: func(t *testing.T) (guard.Process, <-chan struct{}) {
			cmd := exec.Command("sleep", "60")
			must.NoError(t, cmd.Start())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = cmd.Wait()
			}()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			p, err := guard.FindProcess(cmd.Process.Pid)
			must.NoError(t, err)
			return p, ended
		},
		die: func() { stop() }, start: start,
	}
}

// leaseless is a connection that does not write the lease.
type leaseless struct{}

func (leaseless) Extend(time.Duration, time.Duration) error {
	return errors.New("another connection writes it")
}
