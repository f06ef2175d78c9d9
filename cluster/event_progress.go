package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
)

// progressEvery is how often the source of a move is asked while somebody reads
// events.
const progressEvery = time.Second

// progressFeed tells readers of events how far moves are. Progress is not in
// Raft: while somebody reads, this server asks the sources, at most once in
// progressEvery for each move, and hands the samples to its own readers only.
type progressFeed struct {
	fsm  *fsm.FSM
	ask  func(context.Context, *api.Migration) *api.MigrationProgress
	wake chan struct{} // buffered by one: there is a first reader, or a first move

	mu     sync.Mutex
	subs   map[*progressSub]struct{}
	active map[api.ID]struct{} // nil: to be read from the state
}

// progressSub is one reader. Of each move it holds the newest sample only.
type progressSub struct {
	filter event.Filter
	wake   chan struct{} // buffered by one
	newest map[string]*api.Event
}

func newProgressFeed(f *fsm.FSM, ask func(context.Context, *api.Migration) *api.MigrationProgress) *progressFeed {
	return &progressFeed{fsm: f, ask: ask, wake: make(chan struct{}, 1), subs: map[*progressSub]struct{}{}}
}

func (p *progressFeed) subscribe(f event.Filter) *progressSub {
	sub := &progressSub{filter: f, wake: make(chan struct{}, 1), newest: map[string]*api.Event{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subs[sub] = struct{}{}
	p.poke()
	return sub
}

func (p *progressFeed) drop(sub *progressSub) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.subs, sub)
}

// take returns the samples that the reader has not seen.
func (p *progressFeed) take(sub *progressSub) (out []*api.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range sub.newest {
		out = append(out, e)
	}
	clear(sub.newest)
	return out
}

// onCommit follows which moves copy; it is called on the goroutine that applies.
func (p *progressFeed) onCommit(changes []fsm.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range changes {
		if changes[i].Table != fsm.TableMigration || p.active == nil {
			continue
		}
		if m, ok := changes[i].New.(*api.Migration); ok && copies(m) {
			p.active[m.ID] = struct{}{}
			p.poke()
		} else if m, ok := changes[i].Old.(*api.Migration); ok {
			delete(p.active, m.ID)
		}
	}
}

func (p *progressFeed) onRestore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active = nil
	p.poke()
}

// copies reports whether the source of a move can tell how far it is.
func copies(m *api.Migration) bool {
	return m.Attempts > 0 && (m.Phase == api.MigrationCopying || m.Phase == api.MigrationSwitched || m.Phase == api.MigrationAborting)
}

// poke is called with the lock held.
func (p *progressFeed) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run asks until ctx ends. While nobody reads or nothing is moved it sleeps.
func (p *progressFeed) run(ctx context.Context) {
	var next <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			if next == nil {
				next = time.After(0)
			}
		case <-next:
			next = nil
			if p.look(ctx) {
				next = time.After(progressEvery)
			}
		}
	}
}

// look takes one sample of each move that somebody wants to see; false when there
// is none.
func (p *progressFeed) look(ctx context.Context) bool {
	st := p.fsm.State()
	var wanted []*api.Migration
	p.mu.Lock()
	if len(p.subs) > 0 {
		if p.active == nil {
			p.active = map[api.ID]struct{}{}
			for m := range st.Migrations() {
				if copies(m) {
					p.active[m.ID] = struct{}{}
				}
			}
		}
		for id := range p.active {
			m := st.Migration(id)
			if m == nil || !copies(m) {
				continue
			}
			e := fsm.MigrationEvent(m)
			for sub := range p.subs {
				if sub.filter.Match(e) {
					wanted = append(wanted, m)
					break
				}
			}
		}
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, m := range wanted {
		wg.Go(func() {
			if g := p.ask(ctx, m); g != nil {
				p.tell(m, g)
			}
		})
	}
	wg.Wait()
	return len(wanted) > 0
}

// tell hands a sample to everybody who may see it.
func (p *progressFeed) tell(m *api.Migration, g *api.MigrationProgress) {
	e := fsm.MigrationEvent(m)
	e.Type, e.Transient, e.Time, e.Message = "progress", true, g.Time, progressText(m, g)
	e.Payload, _ = json.Marshal(g) // numbers and ids
	p.mu.Lock()
	defer p.mu.Unlock()
	for sub := range p.subs {
		if !sub.filter.Match(e) {
			continue
		}
		sub.newest[e.Key] = e
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

// progressText is a sample in one line.
func progressText(m *api.Migration, g *api.MigrationProgress) string {
	parts := []string{fmt.Sprintf("VM %s: %.0f%%, %s of %s copied, %s left, %s/s", m.VMName, g.Percent, g.Done, g.Total, g.Remaining, g.Rate)}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if g.DirtyRate > 0 {
		add("the guest writes %s/s", g.DirtyRate)
	}
	if g.Downtime > 0 {
		add("will stand still for %s", g.Downtime.D().Round(time.Millisecond))
	}
	if g.Throttle > 0 {
		add("slowed by %d%%", g.Throttle)
	}
	return strings.Join(parts, ", ")
}
