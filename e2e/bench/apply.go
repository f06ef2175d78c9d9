package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/e2e/fleet"
	"github.com/novacron/novacron/fsm"
)

// applyGoal is the share of bare Raft's commits that the Apply path should keep.
const applyGoal = 0.85

// benchApply measures cluster.Server.Apply, with its encoding, validation, state
// machine, watches and events, beside Raft alone.
func benchApply(ctx context.Context, b *bench) error {
	command := applyCommand(0)
	entry, err := fsm.Encode(command, fsm.Meta{Time: api.TimeOf(time.Now()), Schema: 1})
	if err != nil {
		return err
	}
	const multiplier = 1
	fmt.Printf("   NamespaceApply of %d bytes in the log; both: bolt log store, fsync, log cache 1024, 1024 entries a batch,\n"+
		"   no pipeline, mTLS 1.3 on loopback, multiplier %d; one disk and these cores for all nodes\n", len(entry), multiplier)
	fmt.Printf("   %5s %8s   %-44s %-44s %s\n", "nodes", "appliers", "bare raft", "novacron", "ratio (goal "+fmt.Sprint(applyGoal)+")")
	for _, nodes := range b.nodes {
		if err := applyOn(ctx, b, nodes, multiplier, entry); err != nil {
			return err
		}
	}
	return nil
}

// applyCommand is a real command of about 1 KiB; every worker changes its own
// namespace.
func applyCommand(worker int) *fsm.NamespaceApply {
	return &fsm.NamespaceApply{Namespace: api.Namespace{Name: fmt.Sprintf("bench-%03d", worker), Description: strings.Repeat("x", 930)}}
}

// applyOn measures one size of cluster, both sides up at the same time and
// loaded in turns.
func applyOn(ctx context.Context, b *bench, nodes int, multiplier float64, entry []byte) (err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("apply-%d", nodes))
	f, err := newFleet(ctx, filepath.Join(dir, "novacron"), nodes, multiplier)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err != nil {
		return err
	}
	bare, err := startBareRaft(nodes, filepath.Join(dir, "bare"), multiplier)
	defer func() { bare.stop() }()
	if err != nil {
		return err
	}
	raft, err := bare.leader()
	if err != nil {
		return err
	}
	leader, err := leaderOf(ctx, f)
	if err != nil {
		return err
	}
	sides := []func(worker, i int) error{
		func(int, int) error { return raft.Apply(entry, 30*time.Second).Error() },
		func(w, _ int) error { _, err := leader.Apply(ctx, applyCommand(w)); return err },
	}
	for _, appliers := range b.appliers {
		measured, err := alternate(ctx, pick(b, 3, 5), func(side int) (result, error) {
			return load(appliers, pick(b, 500*time.Millisecond, 1500*time.Millisecond), sides[side])
		})
		if err != nil {
			return err
		}
		bare, own := middle(measured[0]), middle(measured[1])
		fmt.Printf("   %5d %8d   %-44s %-44s %.2f\n", nodes, appliers, bare, own, own.rate/bare.rate)
	}
	return nil
}

// newFleet makes a region of n servers. The fleet is to be closed even after an
// error.
func newFleet(ctx context.Context, dir string, n int, multiplier float64) (*fleet.Fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f, err := fleet.New(ctx, fleet.Options{Dir: dir, Multiplier: multiplier})
	for i := 1; i < n && err == nil; i++ {
		err = f.AddServer(ctx)
	}
	return f, err
}

// leaderOf waits for the leader of a fleet.
func leaderOf(ctx context.Context, f *fleet.Fleet) (*cluster.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var up *cluster.Server
	return up, fleet.Until(ctx, func() error {
		if s := f.Leader(); s != nil {
			if up = s.Up(); up != nil {
				return nil
			}
		}
		return errors.New("no leader")
	})
}
