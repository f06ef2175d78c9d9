package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

// waitFlags are the flags of verbs that wait until a VM is as desired.
type waitFlags struct {
	detach  *bool
	timeout *time.Duration
}

func (f *flags) waitFlags() *waitFlags {
	return &waitFlags{
		detach:  f.Bool("detach", false, "do not wait"),
		timeout: f.Duration("timeout", 5*time.Minute, "wait no longer than `time`"),
	}
}

// verdict is what a condition says of a VM's status.
type verdict int

const (
	goOn verdict = iota
	reached
	hopeless
)

// condition judges a status; a nil status says that the VM does not exist.
type condition func(*api.VMStatusResponse) verdict

// untilState waits for a state as observed by the node.
func untilState(want ...string) condition {
	return func(s *api.VMStatusResponse) verdict {
		if s == nil {
			return hopeless
		}
		for _, w := range want {
			if s.State == w && len(s.Why) == 0 {
				return reached
			}
		}
		if s.State == string(api.StateFailed) {
			return hopeless
		}
		return goOn
	}
}

// untilDesired waits until the VM is as its desired power state says.
func untilDesired(s *api.VMStatusResponse) verdict {
	if s == nil || s.VM == nil {
		return hopeless
	}
	return untilState(string(s.VM.Power))(s)
}

// untilGone waits until the VM does not exist any more.
func untilGone(s *api.VMStatusResponse) verdict {
	if s == nil {
		return reached
	}
	return goOn
}

// untilBooted waits until the node has executed the reboots and resets ordered.
func untilBooted(reboots, resets uint64) condition {
	return func(s *api.VMStatusResponse) verdict {
		switch {
		case s == nil:
			return hopeless
		case s.Placement == nil || s.Placement.DoneReboots < reboots || s.Placement.DoneResets < resets:
			return goOn
		}
		return untilDesired(s)
	}
}

// wait shows how a VM goes on until the condition holds. It does nothing with
// -detach.
func (w *waitFlags) wait(c *call, cl *api.Client, vm *api.VM, until condition) error {
	if *w.detach {
		return nil
	}
	ctx, cancel := context.WithTimeout(c, *w.timeout)
	defer cancel()
	p := c.progress()
	defer p.erase()
	var last *api.VMStatusResponse
	err := watchStatus(ctx, cl, vm, p, func(s *api.VMStatusResponse) bool {
		if s != nil {
			last = s
			p.step(describeState(s))
		}
		return until(s) != goOn
	})
	switch {
	case c.Err() != nil:
		return c.Err()
	case ctx.Err() != nil:
		return fmt.Errorf("%s is not there after %v%s", vm.Name, *w.timeout, whyText(last))
	case err != nil:
		return err
	}
	if last != nil && last.State == string(api.StateFailed) && until(last) == hopeless {
		return &exitCode{exitError, vm.Name + " failed" + whyText(last) + "\n  Hint: `novacron vm status " + vm.Name + "` and `novacron vm events " + vm.Name + "` tell more"}
	}
	return nil
}

// watchStatus calls f with each new status of a VM (nil once it is gone) until f
// is content or the context ends. The leader answers, so what was written just
// now is in the first answer. On a terminal the line that lives tells the time.
func watchStatus(ctx context.Context, cl *api.Client, vm *api.VM, p *progress, f func(*api.VMStatusResponse) bool) error {
	type answer struct {
		s   *api.VMStatusResponse
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	answers, done := make(chan answer), make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		q := &api.QueryOptions{Namespace: vm.Namespace, Wait: api.Duration(10 * time.Second)}
		for ctx.Err() == nil {
			s, err := cl.VMs().Status(ctx, vm.ID.String(), q)
			if err == nil {
				q.MinIndex = s.Index
			} else if c := api.CodeOf(err); c == api.CodeUnreachable || c == api.CodeNoLeader || c == api.CodeDeadline {
				q.MinIndex = 0
				sleep(ctx, 500*time.Millisecond)
				continue
			}
			select {
			case answers <- answer{s, err}:
			case <-ctx.Done():
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			p.draw(p.since() + "  …")
		case a := <-answers:
			if errors.Is(a.err, &api.Error{Code: api.CodeNotFound}) {
				f(nil)
				return nil
			}
			if a.err != nil {
				return a.err
			}
			if f(a.s) {
				return nil
			}
		}
	}
}

// sleep waits, or until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// describeState is one line on a VM: its state, its node, and why it is not yet
// as desired.
func describeState(s *api.VMStatusResponse) string {
	line := s.VM.Name + ": " + s.State
	if s.Node != "" {
		line += " on " + s.Node
	}
	if len(s.Why) > 0 {
		line += " (" + strings.Join(s.Why, "; ") + ")"
	}
	return line
}

func whyText(s *api.VMStatusResponse) string {
	if s == nil {
		return ""
	}
	out := ": it is " + s.State
	if len(s.Why) > 0 {
		out += ": " + strings.Join(s.Why, "; ")
	}
	return out
}
