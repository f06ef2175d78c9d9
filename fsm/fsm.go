package fsm

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
)

// Config is what a state machine is built with. All is optional.
type Config struct {
	Logger *slog.Logger
	// Halt is called once, when an entry cannot be decoded, is not known or the
	// state differs from the leader's. It should stop the server. The state
	// machine refuses everything afterwards.
	Halt func(error)
	// OnCommit is called after the publication of each entry, in the order of
	// the indexes, on the goroutine that applies: it must be quick.
	OnCommit func(index api.Index, changes []Change)
	// OnHash is called with the state whose hash will be compared next, like
	// OnCommit. Whoever wants to spare the goroutine that applies the work calls
	// its Sum soon, elsewhere.
	OnHash func(*HashPoint)
	// OnRestore is called after a restore, with the new state.
	OnRestore func(s *State)
	// Registry is what the binary knows; nil means DefaultRegistry.
	Registry *Registry
}

// Result is what Raft's ApplyFuture.Response returns, as a pointer.
type Result struct {
	// Value is what the command answers: see the command. Nil with Err.
	Value any
	Err   *api.Error
	Index api.Index
	// Replayed: the idempotency key was seen before and nothing was changed.
	// Value is then the noun as it is now, and Index that of the first time.
	Replayed bool
}

// Alarm is the pseudo record of the changes of an entry whose command panicked.
type Alarm struct {
	Index   api.Index `json:"index"`
	Command string    `json:"command"`
}

// TableAlarm is the table named in the Change of an Alarm.
const TableAlarm = "alarm"

// FSM is the replicated state machine. It implements raft.FSM and
// raft.BatchingFSM.
type FSM struct {
	cfg     Config
	log     *slog.Logger
	reg     *Registry
	state   atomic.Pointer[State]
	hub     *hub
	waiters waiters
	halted  atomic.Pointer[error]

	restores atomic.Uint64
	panics   atomic.Uint64

	mu      sync.Mutex // held by whoever applies, captures or restores
	scratch []byte
	point   *HashPoint
	verify  func(table string, m api.Message)
}

var (
	_ raft.FSM         = (*FSM)(nil)
	_ raft.BatchingFSM = (*FSM)(nil)
)

// New returns a state machine with an empty state.
func New(cfg Config) *FSM {
	f := &FSM{cfg: cfg, log: cfg.Logger, reg: cfg.Registry, hub: newHub(), waiters: waiters{list: map[*waiter]struct{}{}}}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.reg == nil {
		f.reg = defaultRegistry
	}
	f.state.Store(newState())
	return f
}

// State returns the newest published state.
func (f *FSM) State() *State { return f.state.Load() }

// Registry returns what this binary knows.
func (f *FSM) Registry() *Registry { return f.reg }

// Panics counts the commands that failed inside the state machine.
func (f *FSM) Panics() uint64 { return f.panics.Load() }

// Halted returns why the state machine has stopped, or nil.
func (f *FSM) Halted() error {
	if p := f.halted.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *FSM) halt(err error) {
	if !f.halted.CompareAndSwap(nil, &err) {
		return
	}
	f.log.Error("the state machine has halted", "error", err, "code", api.CodeInternal.String())
	if f.cfg.Halt != nil {
		f.cfg.Halt(err)
	}
}

// Apply runs one entry of the log.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// commit is one entry that was run and is to be published.
type commit struct {
	index   api.Index
	log     []undo
	changes []Change
}

// ApplyBatch runs entries of the log, each as one transaction, and publishes
// the state once.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]any, len(logs))
	b := f.begin()
	var done []commit
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		if err := f.Halted(); err != nil {
			out[i] = &Result{Index: l.Index, Err: haltedError(err)}
			continue
		}
		env, cmd, scratch, err := f.reg.decode(l.Data, f.scratch)
		f.scratch = scratch
		if err != nil {
			f.halt(fmt.Errorf("entry %d: %w", l.Index, err))
			out[i] = &Result{Index: l.Index, Err: haltedError(f.Halted())}
			continue
		}
		if h, ok := cmd.(*Hash); ok {
			// The hash is of a published state, so that it can be taken later.
			f.publish(b, done)
			b, done = f.begin(), nil
			if err := f.compare(h); err != nil {
				f.halt(fmt.Errorf("entry %d: %w", l.Index, err))
				out[i] = &Result{Index: l.Index, Err: haltedError(f.Halted())}
				continue
			}
			f.point = newHashPoint(b.base)
			if f.cfg.OnHash != nil {
				f.cfg.OnHash(f.point)
			}
		}
		res, c := f.one(b, l.Index, &env, cmd)
		if _, ok := cmd.(*Hash); ok && res.Err == nil {
			res.Value = f.point
		}
		out[i] = res
		done = append(done, c)
	}
	f.publish(b, done)
	return out
}

func haltedError(err error) *api.Error {
	return api.Errorf(api.CodeInternal, "the state machine has halted: %v", err)
}

// begin starts a batch on a copy of the published state, which shares all trees.
func (f *FSM) begin() *Txn {
	base := f.State()
	next := *base
	return &Txn{base: base, s: &next, reg: f.reg, verify: f.verify}
}

// publish makes a batch visible, wakes who waits for it, and tells what changed.
func (f *FSM) publish(b *Txn, done []commit) {
	if len(done) == 0 {
		return
	}
	f.state.Store(b.s)
	for _, c := range done {
		f.hub.commit(c.log)
	}
	f.waiters.wake(b.s.index)
	if f.cfg.OnCommit != nil {
		for _, c := range done {
			f.cfg.OnCommit(c.index, c.changes)
		}
	}
}

// one runs one command as a transaction of a batch.
func (f *FSM) one(b *Txn, index api.Index, env *Envelope, cmd Command) (*Result, commit) {
	b.s.index, b.index = index, index
	b.s.meta.Time = max(b.s.meta.Time, env.Time)
	b.now = b.s.meta.Time
	b.log, b.nounID, b.nounName = nil, api.ID{}, ""

	b.expireIdem()
	res := &Result{Index: index}
	var alarm *Alarm
	if rec, err := b.replay(env); err != nil {
		res.Err = err
	} else if rec != nil {
		res = b.answer(rec)
	} else {
		kept := len(b.log)
		v, err := f.run(b, cmd)
		if err != nil {
			b.undo(kept)
			res.Err = apiError(err)
			if res.Err.Code == api.CodeApplyPanic {
				alarm = &Alarm{Index: index, Command: f.reg.Name(env.Cmd)}
			}
		} else {
			res.Value = v
		}
		b.remember(env, res)
	}
	c := commit{index: index, log: b.log, changes: b.changes()}
	if alarm != nil {
		c.changes = append(c.changes, Change{Table: TableAlarm, Index: index, Time: b.now, New: alarm})
	}
	return res, c
}

// run validates and applies a command; a panic becomes an error.
func (f *FSM) run(tx *Txn, cmd Command) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			f.panics.Add(1)
			f.log.Error("a command panicked; its transaction was discarded", "command", f.reg.Name(cmd.CommandID()),
				"index", tx.index, "panic", fmt.Sprint(p), "stack", string(debug.Stack()), "code", api.CodeApplyPanic.String())
			v, err = nil, api.Errorf(api.CodeApplyPanic, "%s failed inside the state machine; nothing was changed", f.reg.Name(cmd.CommandID()))
		}
	}()
	if need, _ := f.reg.need(cmd); need > tx.s.meta.Schema {
		return nil, api.Errorf(api.CodeSchema, "%s needs schema %d, %d is active", f.reg.Name(cmd.CommandID()), need, tx.s.meta.Schema)
	}
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	if v, err = cmd.apply(tx); err == nil {
		tx.followNodes()
	}
	return v, err
}

// Try answers what a command would if it came next, and changes nothing. It holds
// up what is to be applied for as long as the command takes.
func (f *FSM) Try(cmd Command) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.Halted(); err != nil {
		return nil, haltedError(err)
	}
	tx := f.begin()
	tx.s.index++
	tx.index, tx.now = tx.s.index, tx.s.meta.Time
	v, err := f.run(tx, cmd)
	if err != nil {
		return nil, apiError(err)
	}
	return v, nil
}

// apiError makes sure that what a command answers has a code.
func apiError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return api.Errorf(api.CodeInternal, "%v", err)
}

// Snapshot captures the state; it costs nothing.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.Halted(); err != nil {
		return nil, haltedError(err)
	}
	return &snapshot{f.State()}, nil
}

// Restore replaces the state by a snapshot, wholly or not at all.
func (f *FSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.Halted(); err != nil {
		return haltedError(err)
	}
	s, err := restore(r, f.reg)
	if err != nil {
		return err
	}
	f.point = nil
	f.state.Store(s)
	f.restores.Add(1)
	f.hub.wakeAll()
	f.waiters.wake(s.index)
	if f.cfg.OnRestore != nil {
		f.cfg.OnRestore(s)
	}
	return nil
}
