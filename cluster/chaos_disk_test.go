package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// simDisk is the disk of one server in a simulation: what is on it outlives the
// server. Each run of the server has a mount of it.
type simDisk struct {
	mu    sync.Mutex
	safe  diskData
	casts map[string]bool   // the votes that were ever written whole
	votes map[uint64]string // those that may have been given, by term
	// old are the entries that were compacted away; gap: a snapshot of another
	// server stands in for some that never were here.
	old  map[uint64]*raft.Log
	gap  bool
	sent int         // such snapshots
	raw  bool        // defect: the vote's rule is left out
	lost bool        // defect: a vote is not on the disk, only in its cache
	full func() bool // defect: whether there is no room for a vote
	lies bool        // defect: "done" comes before it is
	flip func() bool // defect: whether a bit of the next entry turns over
}

// diskData is the content of a disk, or of a disk with what is not synced yet.
type diskData struct {
	logs      map[uint64]*raft.Log
	low, high uint64
	kv        map[string][]byte
	snaps     []*simSnapshot // newest first
}

type simSnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

func newSimDisk() *simDisk {
	return &simDisk{safe: diskData{logs: map[uint64]*raft.Log{}, kv: map[string][]byte{}}, casts: map[string]bool{}, votes: map[uint64]string{}, old: map[uint64]*raft.Log{}}
}

func (d *diskData) clone() diskData {
	return diskData{logs: maps.Clone(d.logs), low: d.low, high: d.high, kv: maps.Clone(d.kv), snaps: slices.Clone(d.snaps)}
}

func (d *diskData) vote() (key string, whole bool) {
	term, cand := d.kv[string(keyLastVoteTerm)], d.kv[string(keyLastVoteCand)]
	if term == nil || cand == nil {
		return "", false
	}
	return fmt.Sprintf("%d/%s", binary.BigEndian.Uint64(term), cand), true
}

// entries returns the synced log, oldest first, with what was compacted away; nil
// when it is not whole.
func (d *simDisk) entries() []*raft.Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*raft.Log
	for i := uint64(1); i <= d.safe.high; i++ {
		l := d.safe.logs[i]
		if l == nil {
			l = d.old[i]
		}
		if l == nil || d.gap {
			return nil
		}
		out = append(out, l)
	}
	return out
}

// simMount is a disk as one run of a server sees it. After a crash it goes on
// for whatever still runs, but nothing reaches the disk.
type simMount struct {
	disk *simDisk
	// onTear is called when a vote was written by half; it is the crash. onTwice
	// is called when a second vote was written in a term.
	onTear  func()
	onTwice func(vote string)

	seen    diskData
	dead    chan struct{}
	crashed bool
	pending map[int]func(*diskData) // written, not synced
	next    int
	gate    chan struct{} // not nil while the disk stands still
	tear    bool
	fail    bool   // the next write to the log
	failKey []byte // the next write of this key of the vote
	failed  bool
	stuck   map[int]time.Time // when writes that the watchdog looks after began
}

// mount mounts the disk. It says what is wrong with the vote on it, if it is one
// that was never cast.
func (d *simDisk) mount() (*simMount, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := &simMount{disk: d, seen: d.safe.clone(), dead: make(chan struct{}), pending: map[int]func(*diskData){}, stuck: map[int]time.Time{}}
	if v, whole := d.safe.vote(); whole && !d.casts[v] {
		return m, "the disk holds the vote " + v + ", which was never cast"
	}
	return m, ""
}

// crash loses what is not synced. A write under way has reached the disk or not.
func (m *simMount) crash() {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.crashed {
		return
	}
	m.crashed = true
	close(m.dead)
	for _, apply := range m.pending {
		if !m.disk.lies && rand.N(2) == 0 {
			apply(&m.disk.safe)
		}
	}
}

func (m *simMount) stall() {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.gate == nil {
		m.gate = make(chan struct{})
	}
}

// goOn ends a stall and returns how long the oldest write has waited.
func (m *simMount) goOn() time.Duration {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	var longest time.Duration
	for _, at := range m.stuck {
		longest = max(longest, time.Since(at))
	}
	if m.gate != nil {
		close(m.gate)
		m.gate = nil
	}
	return longest
}

// sick reports whether the server has reason to end itself.
func (m *simMount) sick() bool {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.gate != nil || m.failed
}

func (m *simMount) arm(what *bool) { m.change(func() { *what = true }) }

func (m *simMount) change(f func()) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	f()
}

// write makes a change that is on the disk when it returns nil.
func (m *simMount) write(apply func(*diskData)) error { return m.sync(apply, true) }

// sync is write; watched says whether it is one that the watchdog looks after: a
// snapshot is not.
func (m *simMount) sync(apply func(*diskData), watched bool) error {
	d := m.disk
	d.mu.Lock()
	apply(&m.seen)
	n := m.next
	m.next++
	m.pending[n] = apply
	if watched {
		m.stuck[n] = time.Now()
	}
	gate, lies := m.gate, d.lies
	d.mu.Unlock()

	if gate != nil {
		select {
		case <-gate:
		case <-m.dead:
		}
	}
	if lies {
		time.AfterFunc(300*time.Millisecond, func() { m.synced(n) })
		pauseFor(time.Millisecond, m.dead)
	} else {
		pauseFor(500*time.Microsecond+rand.N(3*time.Millisecond), m.dead)
		m.synced(n)
	}
	d.mu.Lock()
	delete(m.stuck, n)
	d.mu.Unlock()
	return nil
}

func pauseFor(d time.Duration, end <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-end:
	}
}

func (m *simMount) synced(n int) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if !m.crashed {
		m.pending[n](&m.disk.safe)
	}
	delete(m.pending, n)
}

// The vote.

var _ voteFile = (*simMount)(nil)

func (m *simMount) put(key, val, drop []byte) error {
	val = bytes.Clone(val)
	if m.disk.raw {
		drop = nil
	}
	put := func(d *diskData) {
		if drop != nil {
			delete(d.kv, string(drop))
		}
		d.kv[string(key)] = val
		if v, whole := d.vote(); whole && string(key) == string(keyLastVoteCand) {
			m.disk.casts[v] = true
		}
	}
	if m.failsVote(key, put) {
		return syscall.EIO
	}
	if m.disk.full != nil && string(key) == string(keyLastVoteCand) && m.disk.full() {
		return syscall.ENOSPC
	}
	onDisk := put
	if m.disk.lost {
		onDisk = func(d *diskData) {
			if d == &m.seen {
				put(d)
			}
		}
	}
	err := m.write(onDisk)
	m.given(key, val)
	m.disk.mu.Lock()
	tear := m.tear && !m.crashed && string(key) == string(keyLastVoteTerm)
	m.tear = m.tear && !tear
	m.disk.mu.Unlock()
	if tear {
		m.onTear()
	}
	return err
}

// failsVote reports whether this write of a vote's key fails. It may have reached
// the disk all the same. (That of the current term does not fail here: Raft panics
// then, if the process has not ended yet; see TestAVoteThatIsNotWrittenIsNotGiven.)
func (m *simMount) failsVote(key []byte, apply func(*diskData)) bool {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.failKey == nil || m.crashed || string(key) != string(m.failKey) {
		return false
	}
	apply(&m.seen)
	if rand.N(2) == 0 {
		apply(&m.disk.safe)
	}
	m.failKey, m.failed = nil, true
	return true
}

// given notes a vote that was written and may now be given.
func (m *simMount) given(key, cand []byte) {
	m.disk.mu.Lock()
	term, now := m.seen.kv[string(keyLastVoteTerm)], string(cand)
	if m.crashed || term == nil || string(key) != string(keyLastVoteCand) {
		m.disk.mu.Unlock()
		return
	}
	n := binary.BigEndian.Uint64(term)
	before := m.disk.votes[n]
	m.disk.votes[n] = now
	m.disk.mu.Unlock()
	if before != "" && before != now {
		m.onTwice(fmt.Sprintf("in term %d for %s and for %s", n, before, now))
	}
}

func (m *simMount) get(key []byte) ([]byte, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	v, ok := m.seen.kv[string(key)]
	if !ok {
		return nil, errKeyNotFound
	}
	return bytes.Clone(v), nil
}

func (m *simMount) Close() error { return nil }

// The log.

type simLogs struct{ *simMount }

var _ raft.LogStore = simLogs{}

func (m simLogs) FirstIndex() (uint64, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.seen.low, nil
}

func (m simLogs) LastIndex() (uint64, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.seen.high, nil
}

func (m simLogs) GetLog(i uint64, out *raft.Log) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	l := m.seen.logs[i]
	if l == nil {
		return raft.ErrLogNotFound
	}
	*out = *l
	return nil
}

func (m simLogs) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

func (m simLogs) StoreLogs(ls []*raft.Log) error {
	kept := make([]*raft.Log, len(ls))
	for i, l := range ls {
		if m.disk.flip != nil && l.Type == raft.LogCommand && m.disk.flip() {
			l.Data = flipped(l.Data)
		}
		c := *l
		kept[i] = &c
	}
	put := func(d *diskData) {
		for _, l := range kept {
			d.logs[l.Index] = l
			if d.low == 0 || l.Index < d.low {
				d.low = l.Index
			}
			d.high = max(d.high, l.Index)
		}
	}
	if m.fails(put) {
		return syscall.EIO
	}
	return m.write(put)
}

// fails reports whether a write to the log fails now. What was to be written
// stays visible, as in the page cache, and never gets to the disk.
func (m *simMount) fails(apply func(*diskData)) bool {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if !m.fail || m.crashed {
		return false
	}
	apply(&m.seen)
	m.fail, m.failed = false, true
	return true
}

// flipped turns a bit in the description of a namespace, if there is one.
func flipped(b []byte) []byte {
	i := bytes.Index(b, []byte("op-"))
	if i < 0 {
		return b
	}
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func (m simLogs) DeleteRange(lo, hi uint64) error {
	return m.write(func(d *diskData) {
		for i := lo; i <= hi; i++ {
			if l := d.logs[i]; l != nil && hi < d.high && d == &m.disk.safe {
				m.disk.old[i] = l
			}
			delete(d.logs, i)
		}
		if lo <= d.low {
			d.low = hi + 1
		}
		if hi >= d.high {
			d.high = lo - 1
		}
		if d.low > d.high {
			d.low, d.high = 0, 0
		}
	})
}

// The snapshots.

type simSnaps struct{ *simMount }

var _ raft.SnapshotStore = simSnaps{}

type simSink struct {
	m    *simMount
	meta raft.SnapshotMeta
	bytes.Buffer
}

func (m simSnaps) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	m.disk.mu.Lock()
	if l := m.seen.logs[index]; l == nil || l.Term != term {
		m.disk.gap = true
		m.disk.sent++
	}
	m.disk.mu.Unlock()
	return &simSink{m: m.simMount, meta: raft.SnapshotMeta{
		Version: v, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term, Configuration: c, ConfigurationIndex: ci,
	}}, nil
}

func (s *simSink) ID() string    { return s.meta.ID }
func (s *simSink) Cancel() error { return nil }

func (s *simSink) Close() error {
	snap := &simSnapshot{meta: s.meta, data: s.Bytes()}
	snap.meta.Size = int64(len(snap.data))
	return s.m.sync(func(d *diskData) {
		d.snaps = append([]*simSnapshot{snap}, d.snaps[:min(len(d.snaps), snapshotsKept-1)]...)
	}, false)
}

func (m simSnaps) List() ([]*raft.SnapshotMeta, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	var out []*raft.SnapshotMeta
	for _, s := range m.seen.snaps {
		meta := s.meta
		out = append(out, &meta)
	}
	return out, nil
}

func (m simSnaps) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	for _, s := range m.seen.snaps {
		if s.meta.ID == id {
			meta := s.meta
			return &meta, io.NopCloser(bytes.NewReader(s.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("no snapshot %s", id)
}
