package guard

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// Guards, agents and guests as processes of their own. Leases are short, and no
// test asserts that something happens soon: only that it happens, and not before.

func startGuard(t *testing.T, c childConfig, files ...*os.File) *child {
	t.Helper()
	if c.Lease == 0 {
		c.Lease = time.Hour
	}
	g := start(t, c, files...)
	g.says("the guard is up")
	return g
}

func status(t *testing.T, c *Client) *Status {
	t.Helper()
	s, err := c.Status(t.Context())
	must.NoError(t, err)
	return s
}

// armFor gives the host a lease and arms a VM within it, again if this machine was
// too slow for that. It returns the deadline.
func armFor(t *testing.T, c *Client, l *LeaseFile, lease time.Duration, r ArmRequest) time.Duration {
	t.Helper()
	var deadline time.Duration
	eventually(t, "armed within a lease", func() bool {
		now := boottime.Now()
		must.NoError(t, l.Write(now, now+lease))
		var err error
		deadline, err = c.Arm(t.Context(), r)
		must.True(t, err == nil || code(err) == api.CodeState, must.Sprint(err))
		return err == nil
	})
	return deadline
}

// proven waits for the proof of a VM.
func proven(t *testing.T, c *Client, vm api.ID) Proof {
	t.Helper()
	var p Proof
	eventually(t, "the proof", func() bool {
		for _, q := range status(t, c).Proofs {
			if q.VM == vm {
				p = q
			}
		}
		return p.VM == vm
	})
	return p
}

func TestProcessKillsTheArmedAtTheEndOfTheLeaseAndNobodyElse(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir})
	c, l := dial(t, dir), openLease(t, dir)
	armed, disarmed, never := newGuest(t), newGuest(t), newGuest(t)

	_, err := c.Arm(t.Context(), armed.target(vm1, 3))
	must.Eq(t, api.CodeState, code(err), must.Sprint("no lease yet"))
	now := boottime.Now()
	must.NoError(t, l.Write(now, now+time.Minute))
	deadline, err := c.Arm(t.Context(), armed.target(vm1, 3))
	must.NoError(t, err)
	must.Eq(t, now+time.Minute, deadline)
	_, err = c.Arm(t.Context(), disarmed.target(vm2, 1))
	must.NoError(t, err)
	must.NoError(t, c.Disarm(t.Context(), vm2, 1))
	s := status(t, c)
	must.Eq(t, []Armed{{Target: armed.target(vm1, 3).Target}}, s.Armed)
	must.Eq(t, ClassLeaseOnly, s.Class)
	must.Eq(t, k.cmd.Process.Pid, s.PID)

	// The lease cannot be shortened, so a second guard has the short one.
	_, err = c.Arm(t.Context(), armed.target(vm1, 2))
	must.Eq(t, api.CodeStaleEpoch, code(err))
	must.Eq(t, api.CodeStaleEpoch, code(c.Disarm(t.Context(), vm1, 2)))
	must.NoError(t, c.Disarm(t.Context(), vm1, 3))

	dir = guardDir(t)
	startGuard(t, childConfig{Dir: dir})
	c, l = dial(t, dir), openLease(t, dir)
	deadline = armFor(t, c, l, time.Second, armed.target(vm1, 3))
	armed.killed(t)
	must.GreaterEq(t, deadline, armed.died, must.Sprint("nothing is killed before the deadline"))
	p := proven(t, c, vm1)
	must.True(t, p.Killed)
	must.Eq(t, 3, p.Epoch)
	must.GreaterEq(t, deadline, p.At)
	must.SliceEmpty(t, status(t, c).Armed)
	must.True(t, disarmed.alive())
	must.True(t, never.alive())
	_, err = c.Arm(t.Context(), never.target(vm2, 1))
	must.Eq(t, api.CodeState, code(err), must.Sprint("a start after the deadline finds the guard refusing"))
}

func TestProcessTheDeathOfTheAgentDoesNotDisarm(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir})
	vm := newGuest(t)
	arm := vm.target(vm1, 1)
	agent := start(t, childConfig{Agent: &arm, Dir: dir, Lease: 3 * time.Second})
	agent.says("armed and renewing")
	agent.signal(syscall.SIGKILL)
	agent.end()
	boot, err := bootID()
	must.NoError(t, err)
	last, ok := readLease(dir, boot)
	must.True(t, ok)
	k.says("the agent is gone")
	vm.killed(t)
	must.GreaterEq(t, last.Deadline, vm.died, must.Sprint("the lease just ran out"))
}

func TestProcessAnAgentThatIsFrozenDoesNotSave(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	startGuard(t, childConfig{Dir: dir})
	vm := newGuest(t)
	arm := vm.target(vm1, 1)
	agent := start(t, childConfig{Agent: &arm, Dir: dir, Lease: 3 * time.Second})
	agent.says("armed and renewing")
	agent.freeze()
	vm.killed(t)
}

func TestProcessARestartedAgentFindsWhatIsArmedAndItsLeaseIsNotLonger(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	startGuard(t, childConfig{Dir: dir})
	vm := newGuest(t)
	c, l := dial(t, dir), openLease(t, dir)
	now := boottime.Now()
	must.NoError(t, l.Write(now, now+time.Hour))
	_, err := c.Arm(t.Context(), vm.target(vm1, 4))
	must.NoError(t, err)
	must.NoError(t, c.Close())
	c = dial(t, dir)
	s := status(t, c)
	must.Eq(t, []Armed{{Target: vm.target(vm1, 4).Target}}, s.Armed)
	must.Eq(t, now+time.Hour, s.Deadline)
	must.NoError(t, c.Disarm(t.Context(), vm1, 4))
}

func TestProcessRefusesToBeStoppedWhileArmed(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir})
	vm := newGuest(t)
	c, l := dial(t, dir), openLease(t, dir)
	now := boottime.Now()
	must.NoError(t, l.Write(now, now+time.Hour))
	_, err := c.Arm(t.Context(), vm.target(vm1, 1))
	must.NoError(t, err)
	k.signal(syscall.SIGHUP)
	k.signal(syscall.SIGTERM)
	k.says("does not end while something is armed")
	must.Len(t, 1, status(t, c).Armed)
	must.NoError(t, c.Disarm(t.Context(), vm1, 1))
	k.signal(syscall.SIGTERM)
	must.Eq(t, 0, k.end())
	wait(t, c.Done(), "the client to notice")
	must.True(t, vm.alive())
}

func TestProcessGuardKilledAndRestartedStillKills(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("after the deadline=%t", late), func(t *testing.T) {
			t.Parallel()
			dir := guardDir(t)
			k := startGuard(t, childConfig{Dir: dir})
			vm, free := newGuest(t), newGuest(t)
			c, l := dial(t, dir), openLease(t, dir)
			deadline := armFor(t, c, l, 2*time.Second, vm.target(vm1, 1))
			k.signal(syscall.SIGKILL)
			wait(t, c.Done(), "the agent to notice that the guard is dead")
			_, err := c.Status(t.Context())
			must.Eq(t, api.CodeUnreachable, code(err))
			k.end()
			_, err = Dial(t.Context(), dir)
			must.Eq(t, api.CodeUnreachable, code(err))
			if late {
				rings, err := newAlarm()
				must.NoError(t, err)
				must.NoError(t, rings.Set(deadline+time.Millisecond))
				wait(t, rings.C, "the deadline")
				must.NoError(t, rings.Close())
			}
			startGuard(t, childConfig{Dir: dir}).says("taken over")
			vm.killed(t)
			must.GreaterEq(t, deadline, vm.died)
			must.Eq(t, 1, proven(t, dial(t, dir), vm1).Epoch)
			must.True(t, free.alive())
		})
	}
}

func TestProcessARestartedGuardTellsWhoHasDiedMeanwhile(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir})
	vm, lives := newGuest(t), newGuest(t)
	c, l := dial(t, dir), openLease(t, dir)
	now := boottime.Now()
	must.NoError(t, l.Write(now, now+time.Hour))
	for id, g := range map[api.ID]*guest{vm1: vm, vm2: lives} {
		_, err := c.Arm(t.Context(), g.target(id, 1))
		must.NoError(t, err)
	}
	k.signal(syscall.SIGKILL)
	k.end()
	must.NoError(t, vm.cmd.Process.Kill())
	vm.killed(t)
	startGuard(t, childConfig{Dir: dir})
	c = dial(t, dir)
	p := proven(t, c, vm1)
	must.False(t, p.Killed)
	must.Eq(t, []Armed{{Target: lives.target(vm2, 1).Target}}, status(t, c).Armed)
	must.NoError(t, c.Disarm(t.Context(), vm2, 1))
}

func TestProcessARestartedGuardKillsWhatAProcessThatDiedMeanwhileHasLeft(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			t.Parallel()
			group := newCgroup(t, v2)
			vm := guestIn(t, group, "setsid sleep 600 & wait")
			eventually(t, "its child is there", func() bool { return count(t, group) == 2 })
			dir := guardDir(t)
			k := startGuard(t, childConfig{Dir: dir})
			r := vm.target(vm1, 1)
			r.Cgroup = group
			c, l := dial(t, dir), openLease(t, dir)
			deadline := armFor(t, c, l, 2*time.Second, r)
			k.signal(syscall.SIGKILL)
			k.end()
			must.NoError(t, vm.cmd.Process.Kill())
			wait(t, vm.dead, "the death of the VM's process")
			startGuard(t, childConfig{Dir: dir})
			p := proven(t, dial(t, dir), vm1)
			must.True(t, p.Killed)
			must.GreaterEq(t, deadline, p.At)
			must.Eq(t, 0, count(t, group))
		})
	}
}

func TestProcessAStateThatCannotBeReadStartsNoGuard(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	must.NoError(t, os.WriteFile(filepath.Join(dir, stateName), []byte("nonsense"), 0o600))
	k := start(t, childConfig{Dir: dir})
	k.says("what was armed is not known")
	must.Eq(t, 1, k.end())
}

func TestProcessAFoldersGuardIsOneAndItsFolderIsItsOwn(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	startGuard(t, childConfig{Dir: dir})
	second := start(t, childConfig{Dir: dir})
	second.says("another guard works in")
	must.Eq(t, 1, second.end())
	must.Len(t, 0, status(t, dial(t, dir)).Armed, must.Sprint("the first one still serves"))

	open := guardDir(t)
	must.NoError(t, os.Chmod(open, 0o755))
	k := start(t, childConfig{Dir: open})
	k.says("must be a folder of its own user only")
	must.Eq(t, 1, k.end())
}

// SCHED_FIFO once hung the host here: a thread of Go's runtime span for another
// one that waited behind it.
func TestProcessHardenedHasATimeSliceAndALimitInAllItsThreads(t *testing.T) {
	t.Parallel()
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir, Harden: true})
	s := status(t, dial(t, dir))
	must.Eq(t, k.cmd.Process.Pid, s.PID, must.Sprint("the same process, though executed anew"))
	if slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "not real-time") }) {
		t.Skipf("not allowed here: %v", s.Warnings)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.PID))
	must.NoError(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		must.NoError(t, err)
		attr, err := unix.SchedGetAttr(tid, 0)
		must.NoError(t, err)
		must.Eq(t, unix.SCHED_RR, int(attr.Policy))
	}
	var limit unix.Rlimit
	must.NoError(t, unix.Prlimit(s.PID, unix.RLIMIT_RTTIME, nil, &limit))
	must.Eq(t, uint64(realtimeBudget/time.Microsecond), limit.Max)
	k.signal(syscall.SIGTERM)
	must.Eq(t, 0, k.end())
}

// The test plays the hardware: it kills "the host" when it is not petted.
func TestProcessAFrozenGuardIsEndedByTheWatchdog(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	must.NoError(t, err)
	dir := guardDir(t)
	k := startGuard(t, childConfig{Dir: dir, Watchdog: true}, w)
	must.NoError(t, w.Close())
	vm := newGuest(t)
	hardware := make(chan struct{})
	go func() {
		defer close(hardware)
		running := false
		var b [64]byte
		for {
			limit := time.Time{}
			if running {
				limit = time.Now().Add(8 * time.Second)
			}
			_ = r.SetReadDeadline(limit)
			n, err := r.Read(b[:])
			switch {
			case n > 0:
				running = b[n-1] != 'V'
			case os.IsTimeout(err): // the host is reset
				_ = k.cmd.Process.Kill()
				_ = vm.cmd.Process.Kill()
				return
			default: // the guard died with the watchdog running: it runs on
				if !running {
					return
				}
			}
		}
	}()
	t.Cleanup(func() { <-hardware; _ = r.Close() })
	c, l := dial(t, dir), openLease(t, dir)
	must.Eq(t, ClassWatchdog, status(t, c).Class)
	now := boottime.Now()
	must.NoError(t, l.Write(now, now+time.Hour))
	_, err = c.Arm(t.Context(), vm.target(vm1, 1))
	must.NoError(t, err)
	must.True(t, status(t, c).Watchdog.Open)
	k.freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Status(ctx)
	must.ErrorIs(t, err, context.DeadlineExceeded, must.Sprint("how an agent sees that it is frozen"))
	wait(t, hardware, "the watchdog")
	vm.killed(t)
}

func TestProcessKillsTheWholeCgroupAlsoAfterARestart(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			t.Parallel()
			group := newCgroup(t, v2)
			vm := guestIn(t, group, "setsid sleep 600 & wait")
			eventually(t, "its child is there", func() bool { return count(t, group) == 2 })
			dir := guardDir(t)
			k := startGuard(t, childConfig{Dir: dir})
			r := vm.target(vm1, 1)
			r.Cgroup = group
			c, l := dial(t, dir), openLease(t, dir)
			deadline := armFor(t, c, l, 2*time.Second, r)
			k.signal(syscall.SIGKILL)
			k.end()
			startGuard(t, childConfig{Dir: dir})
			vm.killed(t)
			must.GreaterEq(t, deadline, vm.died)
			proven(t, dial(t, dir), vm1)
			must.Eq(t, 0, count(t, group), must.Sprint("proven dead is all of it"))
		})
	}
}
