package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

func TestABatchIsAnsweredTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		b := newBatcher(50*time.Millisecond, 3, func(_ context.Context, in []int) ([]int, error) {
			sizes = append(sizes, len(in))
			if in[0] < 0 {
				return nil, errors.New("no")
			}
			out := make([]int, len(in))
			for i, v := range in {
				out[i] = v * 2
			}
			return out, nil
		})
		_, err := b.do(t.Context(), 1, false)
		must.ErrorIs(t, err, code(api.CodeNoLeader), must.Sprint("nobody leads yet"))

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.run(ctx) }()
		synctest.Wait()
		results := make(chan int, 4)
		start := time.Now()
		for i := range 4 {
			go func() {
				v, err := b.do(t.Context(), i, false)
				must.NoError(t, err)
				results <- v
			}()
		}
		sum := 0
		for range 4 {
			sum += <-results
		}
		must.Eq(t, 12, sum)
		must.Eq(t, []int{3, 1}, sizes)
		must.Eq(t, 100*time.Millisecond, time.Since(start))
		start = time.Now()
		v, err := b.do(t.Context(), 4, true)
		must.NoError(t, err)
		must.Eq(t, 8, v)
		must.Zero(t, time.Since(start), must.Sprint("somebody is in a hurry"))
		_, err = b.do(t.Context(), -1, false)
		must.EqError(t, err, "no")

		quick, stop := context.WithTimeout(t.Context(), time.Millisecond)
		_, err = b.do(quick, 1, false)
		must.ErrorIs(t, err, context.DeadlineExceeded)
		stop()

		// Whoever waits when the leader loses its term is told so.
		lost := make(chan error, 1)
		go func() { _, err := b.do(t.Context(), 1, false); lost <- err }()
		synctest.Wait()
		cancel()
		must.ErrorIs(t, <-lost, code(api.CodeNoLeader))
		must.NoError(t, <-ended)
	})
}

func TestADutyIsBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0
		s.serve(ctx, duty{"test", func(context.Context) error {
			if runs++; runs == 3 {
				cancel()
			}
			if runs == 2 {
				return nil
			}
			return errors.New("failed")
		}})
		must.Eq(t, 3, runs)
	})
}

func TestASnapshotThatComesAgainAndAgainHalts(t *testing.T) {
	var halted error
	l := &livelock{halt: func(err error) { halted = err }}
	for _, index := range []uint64{5, 5, 6, 7, 7} {
		l.restored(index)
		must.NoError(t, halted)
	}
	l.restored(7)
	must.ErrorContains(t, halted, "installed 3 times")
}

func TestRaftErrorsSayWhatIsKnown(t *testing.T) {
	for _, err := range []error{raft.ErrNotLeader, raft.ErrLeadershipTransferInProgress} {
		must.ErrorIs(t, applyError(err), code(api.CodeNoLeader))
	}
	for _, err := range []error{raft.ErrLeadershipLost, raft.ErrEnqueueTimeout, raft.ErrAbortedByRestore, raft.ErrRaftShutdown, errors.New("other")} {
		must.ErrorIs(t, applyError(err), code(api.CodeUnknown))
	}
	must.Eq(t, api.CodeDeadline, asError(fmt.Errorf("x: %w", context.DeadlineExceeded)).Code)
	must.Eq(t, api.CodeCanceled, asError(context.Canceled).Code)
	must.Eq(t, api.CodeInternal, asError(errors.New("x")).Code)
}

func TestRaftRunsWithTheSettingsThatAreNeeded(t *testing.T) {
	c := raftConfig(api.NewID(), ProfileFast, newHLog(slog.Default(), "raft"), nil)
	must.NoError(t, raft.ValidateConfig(c))
	must.Eq(t, 250*time.Millisecond, c.HeartbeatTimeout)
	must.Eq(t, 125*time.Millisecond, c.LeaderLeaseTimeout)
	must.True(t, c.BatchApplyCh)
	must.False(t, c.PreVoteDisabled)
	must.Eq(t, 1024, c.MaxAppendEntries)
	must.Greater(t, 10239, c.TrailingLogs)
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	id, err := NewIdentity(InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	c, err := Config{Identity: id}.withDefaults()
	must.NoError(t, err)
	must.Eq(t, ProfileNormal, c.Multiplier)
	must.Eq(t, ":7647", c.Bind)
	must.Greater(t, 0, c.Clock())
	for _, m := range []float64{0.01, 99} {
		_, err = Config{Identity: id, Multiplier: m}.withDefaults()
		must.ErrorIs(t, err, code(api.CodeConfig))
	}
	for in, want := range map[[2]string]string{
		{"10.0.0.1:7647", "0.0.0.0:7647"}: "10.0.0.1:7647",
		{"", "10.0.0.2:7647"}:             "10.0.0.2:7647",
		{"", "[::1]:7647"}:                "[::1]:7647",
	} {
		got, err := advertised(in[0], in[1])
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	for _, bad := range []string{"10.0.0.1", ":7647", "h:0"} {
		_, err := advertised(bad, "0.0.0.0:1")
		must.ErrorIs(t, err, code(api.CodeConfig))
	}
	for _, bad := range []string{"x", "h:port", "h:99999"} {
		_, _, err := hostPort(t.Context(), bad)
		must.ErrorIs(t, err, code(api.CodeConfig))
	}
	host, port, err := hostPort(t.Context(), ":7648")
	must.NoError(t, err)
	must.Eq(t, "0.0.0.0", host)
	must.Eq(t, 7648, port)
}

func TestLibrariesLogThroughSlog(t *testing.T) {
	var b strings.Builder
	l := newHLog(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})), "raft")
	l.Debug("hidden")
	l.Trace("hidden")
	l.With("peer", "s1").Named("fsm").Warn("shown", "n", 1, "f", hclog.Format{"%d-%d", 1, 2})
	l.Info("info")
	l.Error("error")
	l.StandardLogger(nil).Print("[WARN] memberlist: slow")
	l.StandardLogger(nil).Print("[DEBUG] memberlist: hidden")
	l.StandardLogger(nil).Print("plain")
	l.SetLevel(hclog.Off)
	out := b.String()
	must.StrNotContains(t, out, "hidden")
	for _, want := range []string{"level=WARN msg=shown", "peer=s1", "component=raft.fsm", "f=1-2", `level=WARN msg="memberlist: slow"`, "level=INFO msg=plain", "level=ERROR"} {
		must.StrContains(t, out, want)
	}
	must.Eq(t, hclog.Info, l.GetLevel())
	must.True(t, l.IsInfo() && l.IsWarn() && l.IsError())
	must.False(t, l.IsDebug() || l.IsTrace())
	must.Eq(t, "raft", l.Name())
	must.Eq(t, []any{"k", 1}, l.With("k", 1).ImpliedArgs())
}

func TestADifferenceShowsEachField(t *testing.T) {
	old := &api.VMSpec{
		Name: "web", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB, Labels: api.Pairs{{K: "tier", V: "web"}},
		Disks:     []api.Disk{{Name: "root", Size: 10 * api.GiB}, {Name: "data", Size: api.GiB}},
		CloudInit: &api.CloudInit{UserData: []byte("secret")},
	}
	next := &api.VMSpec{
		Name: "web", CPU: api.CPUSpec{Cores: 2}, Memory: api.GiB, Labels: api.Pairs{{K: "tier", V: "db"}}, Protection: true,
		Disks:     []api.Disk{{Name: "root", Size: 20 * api.GiB}},
		CloudInit: &api.CloudInit{UserData: []byte("other secret")},
	}
	diff, err := diffSpec(old, next)
	must.NoError(t, err)
	var lines []string
	for _, d := range diff {
		must.StrNotContains(t, d.Old+d.New, "secret")
		if d.Field != "cloud_init.user_data" {
			lines = append(lines, fmt.Sprintf("%s: %q -> %q %v", d.Field, d.Old, d.New, d.RestartNeeded))
		}
	}
	must.Eq(t, []string{
		`cpu.cores: "1" -> "2" true`,
		`disks[data].name: "data" -> "" true`,
		`disks[data].size: "1 GiB" -> "" true`,
		`disks[root].size: "10 GiB" -> "20 GiB" true`,
		`labels.tier: "web" -> "db" false`,
		`protection: "" -> "true" false`,
	}, lines)
	must.Len(t, 7, diff)
	same, err := diffSpec(old, old)
	must.NoError(t, err)
	must.SliceEmpty(t, same)
	must.True(t, needsRestart(diff))
}

// A move is not told of again to an end that has cleaned up, also not before the
// other end has: it may have forgotten it, and would remember it for ever.
func TestAnEndThatIsCleanHearsOfItsMoveNoMore(t *testing.T) {
	from, to := api.NewID(), api.NewID()
	m := &api.Migration{ID: api.NewID(), Phase: api.MigrationCommitted, From: from, To: to}
	st := fsm.New(fsm.Config{}).State()
	s := &Server{}
	must.NotNil(t, s.moveOrder(st, m, from))
	m.Source.Clean = true
	must.Nil(t, s.moveOrder(st, m, from))
	must.NotNil(t, s.moveOrder(st, m, to))
}
