package cluster

import (
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/shoenig/test/must"
)

// voteOf leaves on disk what a crash between the two writes of a vote leaves
// (term 6 is written, its candidate is not, the candidate of term 5 is still
// there), starts Raft on it, and lets that old candidate ask for a vote in term
// 6 with a log that is behind. It reports whether the vote was granted.
func voteOf(t *testing.T, st raft.StableStore) bool {
	t.Helper()
	_, voter := raft.NewInmemTransport("s0")
	_, asker := raft.NewInmemTransport("s2")
	voter.Connect("s2", asker)
	asker.Connect("s0", voter)
	logs, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = "s0", hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout = time.Hour, time.Hour
	servers := raft.Configuration{Servers: []raft.Server{{ID: "s0", Address: "s0"}, {ID: "s1", Address: "s1"}, {ID: "s2", Address: "s2"}}}
	must.NoError(t, raft.BootstrapCluster(c, logs, st, snaps, voter, servers))
	for i := uint64(2); i <= 10; i++ {
		must.NoError(t, logs.StoreLog(&raft.Log{Index: i, Term: 5, Data: []byte("committed")}))
	}
	must.NoError(t, st.Set(keyLastVoteCand, []byte("s2"))) // the vote of term 5
	must.NoError(t, st.SetUint64([]byte("CurrentTerm"), 6))
	must.NoError(t, st.SetUint64(keyLastVoteTerm, 6)) // the crash comes here

	r, err := raft.NewRaft(c, &raft.MockFSM{}, logs, st, snaps, voter)
	must.NoError(t, err)
	req := &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("s2"), Addr: []byte("s2")},
		Term:      6, Candidate: []byte("s2"), LastLogIndex: 1, LastLogTerm: 1,
	}
	var resp raft.RequestVoteResponse
	must.NoError(t, asker.RequestVote("s0", "s0", req, &resp))
	must.NoError(t, r.Shutdown().Error())
	must.NoError(t, voter.Close())
	must.NoError(t, asker.Close())
	return resp.Granted
}

func TestATornVoteIsNotGrantedToAStaleLog(t *testing.T) {
	file, err := openVotes(filepath.Join(t.TempDir(), "vote.db"))
	must.NoError(t, err)
	defer file.Close()
	must.False(t, voteOf(t, &stableStore{file: file}))

	plain, err := raftboltdb.NewBoltStore(filepath.Join(t.TempDir(), "plain.db"))
	must.NoError(t, err)
	defer plain.Close()
	must.True(t, voteOf(t, plain), must.Sprint("the plain store no longer has the defect: the own one may go"))
}

// brokenVotes is a file of votes of which one write fails: it reached the disk all
// the same, or not. One that is careless says nothing of it.
type brokenVotes struct {
	voteFile
	key      string
	skip     int // so many writes of the key go well
	reached  bool
	careless bool
}

func (b *brokenVotes) put(key, val, drop []byte) error {
	if string(key) != b.key {
		return b.voteFile.put(key, val, drop)
	}
	if b.skip--; b.skip >= 0 {
		return b.voteFile.put(key, val, drop)
	}
	b.key = ""
	if b.reached {
		if err := b.voteFile.put(key, val, drop); err != nil {
			return err
		}
	}
	if b.careless {
		return nil
	}
	return syscall.EIO
}

// votesOf lets one server after the other ask for a vote in term 6, each after a
// restart of the voter; the first write of a key by which the voter would give its
// vote fails. It returns how many votes were given, and how often the voter has halted.
func votesOf(t *testing.T, b *brokenVotes) (given, halted int) {
	logs, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	st := &stableStore{file: b, watch: &watchdog{limit: time.Minute, halt: func(err error) {
		halted++
		runtime.Goexit() // as the end of the process: Raft never learns of the error
	}}}
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = "s0", hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout = time.Hour, time.Hour
	servers := raft.Configuration{Servers: []raft.Server{{ID: "s0", Address: "s0"}, {ID: "s1", Address: "s1"}, {ID: "s2", Address: "s2"}}}
	for _, name := range []raft.ServerAddress{"s1", "s2"} {
		_, voter := raft.NewInmemTransport("s0")
		_, asker := raft.NewInmemTransport(name)
		voter.Connect(name, asker)
		asker.Connect("s0", voter)
		if last, _ := logs.LastIndex(); last == 0 {
			must.NoError(t, raft.BootstrapCluster(c, logs, st, snaps, voter, servers))
		}
		r, err := raft.NewRaft(c, &raft.MockFSM{}, logs, st, snaps, voter)
		must.NoError(t, err)
		req := &raft.RequestVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(name), Addr: []byte(name)},
			Term:      6, Candidate: []byte(name), LastLogIndex: 1, LastLogTerm: 1,
		}
		var resp raft.RequestVoteResponse
		if err := asker.RequestVote("s0", "s0", req, &resp); err == nil && resp.Granted {
			given++
		}
		must.NoError(t, r.Shutdown().Error())
		must.NoError(t, voter.Close())
		must.NoError(t, asker.Close())
	}
	return given, halted
}

func TestAVoteThatIsNotWrittenIsNotGiven(t *testing.T) {
	votes := func(b brokenVotes) (given, halted int) {
		synctest.Test(t, func(t *testing.T) {
			file, err := openVotes(filepath.Join(t.TempDir(), "vote.db"))
			must.NoError(t, err)
			defer file.Close()
			b.voteFile = file
			given, halted = votesOf(t, &b)
		})
		return given, halted
	}
	given, halted := votes(brokenVotes{key: "none"})
	must.Eq(t, []int{1, 0}, []int{given, halted}, must.Sprint("on a disk that works"))
	for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} {
		for _, reached := range []bool{false, true} {
			// BootstrapCluster and NewRaft write the first term.
			b := brokenVotes{key: key, reached: reached}
			if key == "CurrentTerm" {
				b.skip = 2
			}
			given, halted := votes(b)
			must.LessEq(t, 1, given, must.Sprintf("%s, reached %v", key, reached))
			must.Eq(t, 1, halted, must.Sprintf("%s, reached %v", key, reached))
		}
	}
	given, _ = votes(brokenVotes{key: "LastVoteCand", careless: true})
	must.Eq(t, 2, given, must.Sprint("this test cannot fail"))
}

func TestTheStableStoreKeepsWhatRaftWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vote.db")
	file, err := openVotes(path)
	must.NoError(t, err)
	s := &stableStore{file: file}
	_, err = s.Get([]byte("nothing"))
	must.EqError(t, err, "not found") // the text that Raft compares with
	n, err := s.GetUint64([]byte("nothing"))
	must.ErrorIs(t, err, errKeyNotFound)
	must.Zero(t, n)

	must.NoError(t, s.SetUint64([]byte("CurrentTerm"), 9))
	must.NoError(t, s.SetUint64(keyLastVoteTerm, 9))
	must.NoError(t, s.Set(keyLastVoteCand, []byte("s1")))
	must.NoError(t, file.Close())

	file, err = openVotes(path)
	must.NoError(t, err)
	defer file.Close()
	s = &stableStore{file: file}
	n, err = s.GetUint64(keyLastVoteTerm)
	must.NoError(t, err)
	must.Eq(t, uint64(9), n)
	b, err := s.Get(keyLastVoteCand)
	must.NoError(t, err)
	must.Eq(t, "s1", string(b))
	_, err = s.GetUint64(keyLastVoteCand)
	must.ErrorContains(t, err, "want 8")
}

// stuckStore is a log store whose disk stands still when told so.
type stuckStore struct {
	*raft.InmemStore
	stuck chan struct{}
}

func (s *stuckStore) StoreLogs(l []*raft.Log) error {
	if s.stuck != nil {
		<-s.stuck
	}
	return s.InmemStore.StoreLogs(l)
}

func TestAStalledDiskHaltsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		halted := make(chan error, 1)
		disk := &stuckStore{InmemStore: raft.NewInmemStore(), stuck: make(chan struct{})}
		s := &stallStore{LogStore: disk, watch: &watchdog{limit: 5 * time.Second, halt: func(err error) { halted <- err }}}
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- s.StoreLog(&raft.Log{Index: 1}) }()
		must.ErrorContains(t, <-halted, "stands still")
		must.Eq(t, 5*time.Second, time.Since(start))
		close(disk.stuck)
		must.NoError(t, <-done)

		// A disk that is only slow does not.
		must.NoError(t, s.watch.run("x", func() error { time.Sleep(4 * time.Second); return nil }))
		time.Sleep(10 * time.Second)
		select {
		case err := <-halted:
			t.Fatal(err)
		default:
		}
		must.NoError(t, s.DeleteRange(1, 1))
	})
}

func TestADiskThatFailsHaltsTheServer(t *testing.T) {
	var halted error
	s := &stallStore{LogStore: raft.NewInmemStore(), watch: &watchdog{limit: time.Minute, halt: func(err error) { halted = err }}}
	// A disk that is full has written nothing: the leader steps down, and reads go on.
	must.ErrorIs(t, s.watch.run("x", func() error { return fmt.Errorf("write: %w", syscall.ENOSPC) }), syscall.ENOSPC)
	must.NoError(t, halted)
	// After a write that failed nobody knows what is on the disk: a second try
	// might succeed without it.
	must.ErrorIs(t, s.watch.run("append", func() error { return syscall.EIO }), syscall.EIO)
	must.ErrorIs(t, halted, syscall.EIO)
	must.ErrorContains(t, halted, "append")
}
