package guard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// fakeKiller is a VM that dies when it is allowed to.
type fakeKiller struct {
	kills  atomic.Int32
	mortal atomic.Bool
	dead   atomic.Bool
	closed atomic.Bool
}

func (f *fakeKiller) Kill() error {
	f.kills.Add(1)
	if f.mortal.Load() {
		f.dead.Store(true)
		return nil
	}
	return errors.New("it does not die")
}

func (f *fakeKiller) Alive() bool  { return !f.dead.Load() }
func (f *fakeKiller) Close() error { f.closed.Store(true); return nil }

// bench is a guard in this process, whose VMs are fakes.
type bench struct {
	t    *testing.T
	k    *keeper
	dir  string
	vms  map[api.ID]*fakeKiller
	stop chan os.Signal
	end  context.CancelFunc
	done chan error
	c    *Client
	l    *LeaseFile
}

func newBench(t *testing.T, dir string, limits Limits, wd Watchdog) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, vms: map[api.ID]*fakeKiller{vm1: {}, vm2: {}}, stop: make(chan os.Signal), done: make(chan error, 1)}
	b.k = &keeper{
		cfg: Config{Dir: dir, Limits: limits, Watchdog: wd, Stop: b.stop}, log: slog.New(slog.DiscardHandler), means: map[api.ID]means{}, class: ClassLeaseOnly,
		open: func(t *Target, _ api.ID) (means, error) { return means{b.vms[t.VM]}, nil },
	}
	var ctx context.Context
	ctx, b.end = context.WithCancel(t.Context())
	go func() { b.done <- b.k.run(ctx) }()
	eventually(t, "the guard answers", func() bool {
		var err error
		b.c, err = Dial(t.Context(), dir)
		return err == nil
	})
	b.l = openLease(t, dir)
	t.Cleanup(func() {
		b.end()
		_ = b.c.Close()
		<-b.done
	})
	return b
}

func (b *bench) lease(d time.Duration) {
	b.t.Helper()
	now := boottime.Now()
	must.NoError(b.t, b.l.Write(now, now+d))
}

func (b *bench) request(vm api.ID, epoch api.Epoch) ArmRequest {
	return ArmRequest{Target: Target{VM: vm, Epoch: epoch, Process: Process{PID: 1000 + int(vm[0]), Start: 1}}}
}

func (b *bench) arm(vm api.ID, epoch api.Epoch) error {
	_, err := b.c.Arm(b.t.Context(), b.request(vm, epoch))
	return err
}

func TestAVMThatDoesNotDieIsKilledAgainAndTheWatchdogResetsTheHost(t *testing.T) {
	t.Parallel()
	bitten := make(chan struct{})
	wd := &fakeWatchdog{info: WatchdogInfo{Timeout: 5 * time.Second}, bite: func() { close(bitten) }}
	limits := Limits{Lease: time.Hour, Kill: 300 * time.Millisecond, Retry: 20 * time.Millisecond, Pet: 100 * time.Millisecond}
	b := newBench(t, guardDir(t), limits, wd)
	must.False(t, wd.Info().Open, must.Sprint("nothing is armed"))
	armFor(t, b.c, b.l, time.Second, b.request(vm1, 1))
	must.True(t, wd.Info().Open, must.Sprint("armed"))
	deadline := status(t, b.c).Deadline
	wait(t, bitten, "the watchdog")
	must.GreaterEq(t, deadline, boottime.Now())
	must.Greater(t, 3, b.vms[vm1].kills.Load(), must.Sprint("it was tried again and again"))
	s := status(t, b.c)
	must.True(t, s.Armed[0].Doomed)
	must.SliceEmpty(t, s.Proofs)
	b.vms[vm1].mortal.Store(true)
	must.True(t, proven(t, b.c, vm1).Killed)
	eventually(t, "the watchdog rests", func() bool { return !wd.Info().Open })
}

func TestArmedIsNotSaidBeforeItIsTrue(t *testing.T) {
	wd := &fakeWatchdog{info: WatchdogInfo{Timeout: time.Hour}, bite: func() {}}
	dir := guardDir(t)
	b := newBench(t, dir, Limits{Lease: time.Hour}, wd)
	b.lease(time.Hour)
	must.Eq(t, ClassWatchdog, status(t, b.c).Class)
	wd.mu.Lock()
	wd.refuse = errors.New("busy")
	wd.mu.Unlock()
	must.Eq(t, api.CodeUnsupported, code(b.arm(vm1, 1)), must.Sprint("without its watchdog"))
	must.SliceEmpty(t, status(t, b.c).Armed)
	wd.mu.Lock()
	wd.refuse = nil
	wd.mu.Unlock()
	blocked := filepath.Join(dir, stateName+".new")
	must.NoError(t, os.MkdirAll(blocked, 0o700))
	must.Eq(t, api.CodeJournal, code(b.arm(vm1, 1)), must.Sprint("without its state on disk"))
	must.SliceEmpty(t, status(t, b.c).Armed)
	must.False(t, wd.Info().Open, must.Sprint("and nothing is left running for it"))
	must.NoError(t, os.Remove(blocked))
	must.NoError(t, b.arm(vm1, 1))
	must.NoError(t, os.MkdirAll(blocked, 0o700))
	must.Eq(t, api.CodeJournal, code(b.c.Disarm(t.Context(), vm1, 1)))
	must.Len(t, 1, status(t, b.c).Armed)
	must.NoError(t, os.Remove(blocked))
	must.NoError(t, b.c.Disarm(t.Context(), vm1, 1))
	must.False(t, wd.Info().Open)
	must.True(t, b.vms[vm1].closed.Load())
	must.Zero(t, b.vms[vm1].kills.Load())
}

func TestAHostWithoutAUsableWatchdogIsLeaseOnly(t *testing.T) {
	wd := &fakeWatchdog{refuse: errors.New("busy")}
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, wd)
	b.lease(time.Hour)
	s := status(t, b.c)
	must.Eq(t, ClassLeaseOnly, s.Class)
	must.NoError(t, b.arm(vm1, 1))
	must.NoError(t, b.c.Disarm(t.Context(), vm1, 1))
}

func TestAGuardThatComesTooLateDoesNotPetByOpening(t *testing.T) {
	dir := guardDir(t)
	boot, err := bootID()
	must.NoError(t, err)
	vm := newGuest(t)
	must.NoError(t, saveState(dir, State{BootID: boot, Lease: Lease{BootID: boot, Sequence: 1, Deadline: 1}, Armed: []Armed{{Target: vm.target(vm1, 1).Target}}}))
	wd := &fakeWatchdog{info: WatchdogInfo{Timeout: time.Hour}, bite: func() {}}
	k := &keeper{cfg: Config{Dir: dir, Watchdog: wd}, log: slog.New(slog.DiscardHandler), means: map[api.ID]means{}, class: ClassLeaseOnly, open: openTarget}
	k.alarm, err = newAlarm()
	must.NoError(t, err)
	defer func() { must.NoError(t, k.alarm.Close()) }()
	must.NoError(t, k.load())
	stubborn := &fakeKiller{}
	k.means[vm1].close()
	k.means[vm1] = means{stubborn}
	k.look(Event{Kind: Tick})
	must.Eq(t, 1, stubborn.kills.Load())
	must.False(t, wd.Info().Open, must.Sprint("something armed lives past deadline + K"))
	stubborn.dead.Store(true)
	k.look(Event{Kind: Tick})
	must.Eq(t, ClassWatchdog, k.class, must.Sprint("now it may be tried"))
}

func TestAWatchdogWithoutAWayOutKeepsTheGuard(t *testing.T) {
	wd := &fakeWatchdog{info: WatchdogInfo{Timeout: time.Hour, NoWayOut: true}, bite: func() {}}
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour, Pet: 10 * time.Millisecond}, wd)
	b.stop <- syscall.SIGTERM
	must.True(t, status(t, b.c).Watchdog.Open, must.Sprint("it goes on: its end would reset the host"))
	eventually(t, "it is petted though nothing is armed", func() bool {
		wd.mu.Lock()
		defer wd.mu.Unlock()
		return wd.pets > 3
	})
}

func TestTheEndOfTheContextLeavesAllForTheNextGuard(t *testing.T) {
	wd := &fakeWatchdog{info: WatchdogInfo{Timeout: time.Hour}, bite: func() {}}
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, wd)
	b.lease(time.Hour)
	must.NoError(t, b.arm(vm1, 1))
	b.stop <- syscall.SIGTERM
	must.Len(t, 1, status(t, b.c).Armed)
	b.end()
	wait(t, b.c.Done(), "the client to notice")
	err := <-b.done
	b.done <- err
	must.ErrorIs(t, err, context.Canceled)
	s, err := loadState(b.dir)
	must.NoError(t, err)
	must.Len(t, 1, s.Armed)
	must.True(t, wd.Info().Open)
}

func TestAnotherVMsCgroupIsRefused(t *testing.T) {
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, nil)
	b.lease(time.Hour)
	arm := func(vm api.ID, cgroup string) error {
		r := b.request(vm, 1)
		r.Cgroup = cgroup
		_, err := b.c.Arm(t.Context(), r)
		return err
	}
	must.NoError(t, arm(vm1, "/c/machine/one"))
	must.Eq(t, api.CodeConflict, code(arm(vm2, "/c/machine")))
	must.Eq(t, api.CodeConflict, code(arm(vm2, "/c/machine/one/sub")))
	must.NoError(t, arm(vm2, "/c/machine/two"))
	must.NoError(t, b.c.Disarm(t.Context(), vm1, 1))
	must.NoError(t, b.c.Disarm(t.Context(), vm2, 1))
}

func TestHostileMessagesEndTheirConnectionAndNothingElse(t *testing.T) {
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, nil)
	frame := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	for _, bad := range [][]byte{
		{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, frame("{"), frame("null"), frame(`{"id":1,"op":"kill"}`), frame(`{"id":1,"op":"arm"}`),
		frame(`{"id":1,"op":"status","arm":{}}`), frame(`{"id":1,"op":"arm","arm":{"vm":"x"}}`), frame(`{"id":1,"op":"arm","arm":{"force":true}}`),
		frame(`{"id":1,"op":"status"}{}`), []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		conn, err := net.Dial("unix", filepath.Join(b.dir, SocketName))
		must.NoError(t, err)
		_, err = conn.Write(bad)
		must.NoError(t, err)
		_, err = io.Copy(io.Discard, conn)
		if err != nil { // it may be closed before all was read
			must.ErrorIs(t, err, syscall.ECONNRESET)
		}
		must.NoError(t, conn.Close())
	}
	// One message, byte by byte, beside another connection.
	conn, err := net.Dial("unix", filepath.Join(b.dir, SocketName))
	must.NoError(t, err)
	for _, c := range frame(`{"id":7,"op":"status"}`) {
		_, err = conn.Write([]byte{c})
		must.NoError(t, err)
		must.SliceEmpty(t, status(t, b.c).Armed)
	}
	answer, err := readFrame(conn, maxAnswer)
	must.NoError(t, err)
	must.True(t, bytes.Contains(answer, []byte(`"id":7`)))
	must.NoError(t, conn.Close())
}

func TestTooManyConnectionsAreClosed(t *testing.T) {
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, nil)
	var open []*Client
	for range maxConns - 1 {
		c := dial(t, b.dir)
		status(t, c)
		open = append(open, c)
	}
	wait(t, dial(t, b.dir).Done(), "the one too many")
	must.NoError(t, open[0].Close())
	eventually(t, "there is room again", func() bool {
		_, err := dial(t, b.dir).Status(t.Context())
		return err == nil
	})
	status(t, b.c)
}

func TestOnlyRootIsServed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	b := newBench(t, guardDir(t), Limits{Lease: time.Hour}, nil)
	path := filepath.Join(b.dir, SocketName)
	must.NoError(t, os.Chmod(b.dir, 0o711)) // as if somebody had opened the folder
	must.NoError(t, os.Chmod(path, 0o666))
	fds := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: this thread has another user, and ends
		fd := -1
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); e == 0 {
			if s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil && unix.Connect(s, &unix.SockaddrUnix{Name: path}) == nil {
				fd = s
			}
		}
		fds <- fd
	}()
	fd := <-fds
	must.Positive(t, fd, must.Sprint("connected as nobody"))
	f := os.NewFile(uintptr(fd), "nobody")
	defer func() { must.NoError(t, f.Close()) }()
	answer, err := readFrame(f, maxAnswer)
	must.NoError(t, err)
	must.StrContains(t, string(answer), "only root may do this")
	_, err = readFrame(f, maxAnswer)
	must.ErrorIs(t, err, io.EOF)
	must.SliceEmpty(t, status(t, b.c).Armed)
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"arm","arm":{"vm":"01000000-0000-0000-0000-000000000000","epoch":3,"process":{"pid":5,"start":6},"cgroup":"/x"}}`))
	f.Add([]byte(`{"id":1,"op":"status"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err == nil && (r.Op == opStatus) == (r.Arm != nil) {
			t.Fatalf("%+v", r)
		}
		frame, err := readFrame(bytes.NewReader(b), maxRequest)
		if err == nil && (len(frame) == 0 || len(frame) > maxRequest) {
			t.Fatalf("a frame of %d bytes", len(frame))
		}
	})
}

func TestALogThatNobodyReadsHoldsUpNothing(t *testing.T) {
	r, w := io.Pipe()
	a := newAsyncWriter(w)
	for range 3 * logLines {
		_, err := a.Write([]byte("line\n"))
		must.NoError(t, err)
	}
	must.NoError(t, r.Close())
	must.NoError(t, a.Close())
}
