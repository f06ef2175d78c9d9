package cluster

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/raft"
)

// watchdog halts the server when a write to its disk does not return in time.
// A leader whose disk stands still keeps its leadership by heartbeats alone and
// nobody can write; a leader that is gone is replaced in a second.
//
// It also halts the server when a write fails: the kernel may have let go of what
// it could not write, and then a second try succeeds without it. Only a full disk
// is no reason to: it refuses before anything is written.
type watchdog struct {
	limit time.Duration
	halt  func(error)
}

// run calls fn and halts the server if it fails or has not returned after the
// limit.
func (w *watchdog) run(what string, fn func() error) error {
	if w == nil || w.limit <= 0 {
		return fn()
	}
	t := time.AfterFunc(w.limit, func() {
		metrics.IncrCounter([]string{"raft", "disk_stall"}, 1)
		w.halt(fmt.Errorf("the raft disk stands still: %s has not returned for %s", what, w.limit))
	})
	defer t.Stop()
	err := fn()
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		metrics.IncrCounter([]string{"raft", "disk_failed"}, 1)
		w.halt(fmt.Errorf("the raft disk fails: %s: %w", what, err))
	}
	return err
}

// stallStore is a log store under a watchdog.
type stallStore struct {
	raft.LogStore
	watch *watchdog
}

var _ raft.LogStore = (*stallStore)(nil)

// StoreLog writes one entry.
func (s *stallStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries.
func (s *stallStore) StoreLogs(l []*raft.Log) error {
	return s.watch.run("append to the log", func() error { return s.LogStore.StoreLogs(l) })
}

// DeleteRange removes entries.
func (s *stallStore) DeleteRange(lo, hi uint64) error {
	return s.watch.run("truncate the log", func() error { return s.LogStore.DeleteRange(lo, hi) })
}
