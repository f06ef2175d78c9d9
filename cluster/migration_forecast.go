package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
)

// switchOver is what a switch-over costs beside the rest of the memory: two
// words to the leader, one entry, and the guest's first instruction.
const switchOver = 100 * time.Millisecond

// maxPasses over memory: then a live move that did not converge never does.
const maxPasses = 30

// forecastMove answers a dry run: where the VM would go and why, what would be
// moved and how long it would take. It changes nothing.
func (s *Server) forecastMove(ctx context.Context, st *fsm.State, vm *api.VM, p *api.Placement, m *api.Migration) (*api.MigrationCreated, error) {
	switch {
	case vm.Deleting:
		return nil, api.Errorf(api.CodeState, "VM %q is being deleted", vm.Name)
	case p == nil:
		return nil, api.Errorf(api.CodeUnplaced, "VM %q is on no node", vm.Name)
	case m.Pinned && m.To == p.NodeID:
		return nil, api.Errorf(api.CodeState, "VM %q is on that node already", vm.Name)
	}
	if err := fsm.Movable(vm, p, m.Mode); err != nil {
		return nil, err
	}
	x := s.sched.move(moves.Question(st, vm, m, nil))
	out := &api.MigrationCreated{WriteMeta: api.WriteMeta{Index: max(st.Index(), 1)}, Migration: m, Explanation: x}
	m.ID, m.Secret = api.ID{}, api.ID{}
	m.Namespace, m.VMName, m.From, m.To, m.ToNode = vm.Namespace, vm.Name, p.NodeID, x.Chosen, x.Node
	f := &api.MigrationForecast{}
	out.Forecast = f
	for _, v := range st.DiskVolumes(vm) {
		if v == nil || v.NodeID.IsZero() {
			continue
		}
		m.Volumes = append(m.Volumes, v.ID)
		if f.Disk += v.Used; v.Used == 0 {
			f.Disk += v.Size
		}
	}
	if m.Mode != api.MigrateCold {
		f.Memory = vm.Spec.Memory
	}
	if n := st.Node(p.NodeID); n != nil {
		m.FromNode = n.Name
		s.measure(ctx, n, vm, m, f)
	}
	if other := st.MigrationOf(vm.ID); other != nil {
		f.Notes = append(f.Notes, fmt.Sprintf("the VM is being moved already: migration %s is %s", other.ID.Short(), other.Phase))
	}
	estimate(f, m)
	return out, nil
}

// measure asks the source how fast the guest writes and how fast its link is. A
// forecast without that says so.
func (s *Server) measure(ctx context.Context, n *api.Node, vm *api.VM, m *api.Migration, f *api.MigrationForecast) {
	note := func(format string, args ...any) { f.Notes = append(f.Notes, fmt.Sprintf(format, args...)) }
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	got := &api.MigrationForecast{}
	ask := &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: vm.Namespace}, Key: vm.ID.String()}
	if err := s.pool.Node(n.ID, n.Address).Call(ctx, "Agent.DirtyRate", ask, got); err != nil {
		note("node %s could not measure how fast the guest writes: %s", n.Name, asError(err).Message)
	} else {
		f.DirtyRate = got.DirtyRate
		f.Notes = append(f.Notes, got.Notes...)
		if m.Mode == api.MigrateLive && f.DirtyRate == 0 {
			note("the guest wrote no memory while it was measured")
		}
	}
	s.measureLink(ctx, n, m, f)
	switch {
	case f.Link == 0 && m.Options.Bandwidth == 0:
		note("the link was not measured: no time can be told")
	case f.Link == 0:
		note("the link was not measured: the cap of %s/s stands in for it", m.Options.Bandwidth)
	}
}

// measureLink lets the source send a burst to the destination, if one was found.
func (s *Server) measureLink(ctx context.Context, from *api.Node, m *api.Migration, f *api.MigrationForecast) {
	note := func(format string, args ...any) { f.Notes = append(f.Notes, fmt.Sprintf(format, args...)) }
	to := s.fsm.State().Node(m.To)
	if to == nil {
		return
	}
	got := &api.LinkMeasured{}
	if err := s.pool.Node(from.ID, from.Address).Call(ctx, "Agent.LinkMeasure", &api.LinkMeasure{To: to.ID, Address: to.Address}, got); err != nil {
		note("node %s could not measure its link to %s: %s", from.Name, to.Name, asError(err).Message)
		return
	}
	f.Link, f.RoundTrip = got.Rate, got.RoundTrip
	age := "now"
	if got.Age > 0 {
		age = got.Age.D().Round(time.Second).String() + " ago"
	}
	note("the link was measured %s: the agent of %s sent %s to that of %s", age, from.Name, got.Sent, to.Name)
}

// estimate fills in duration, downtime and whether the move converges, from what
// was measured: memory is copied in passes, each of which leaves what the guest
// wrote meanwhile.
func estimate(f *api.MigrationForecast, m *api.Migration) {
	note := func(format string, args ...any) { f.Notes = append(f.Notes, fmt.Sprintf(format, args...)) }
	rate := float64(f.Link)
	if most := float64(m.Options.Bandwidth); most > 0 && (rate == 0 || most < rate) {
		rate = most
	}
	if rate <= 0 {
		return
	}
	spent := float64(f.Disk) / rate
	if m.Mode != api.MigrateLive {
		spent += float64(f.Memory) / rate
		f.Duration, f.Converges = seconds(spent), true
		if m.Mode == api.MigrateWarm {
			f.Downtime = f.Duration + api.Duration(switchOver)
			note("the guest stands still all the while and keeps its memory")
		}
		return
	}
	left := float64(f.Memory)
	limit := max(m.Options.MaxDowntime, m.Options.DowntimeLimit)
	fits := func(most api.Duration) bool { return left <= rate*most.D().Seconds() }
	for range maxPasses {
		t := left / rate
		spent += t
		next := min(float64(f.Memory), float64(f.DirtyRate)*t)
		stuck := next >= left
		if left = next; stuck || fits(m.Options.MaxDowntime) {
			break
		}
	}
	f.Converges = fits(limit)
	f.Downtime = seconds(left/rate) + api.Duration(switchOver)
	f.Duration = seconds(spent + left/rate)
	switch {
	case f.Converges && !fits(m.Options.MaxDowntime):
		note("the downtime has to be raised above %s, up to %s at most", m.Options.MaxDowntime, limit)
	case f.Converges:
	case m.Options.AutoConverge:
		note("the guest writes faster than can be sent: its CPUs are throttled, and if that is not enough %s", after(m))
	default:
		note("the guest writes faster than can be sent: %s", after(m))
	}
}

// after is the last rung of the ladder.
func after(m *api.Migration) string {
	if m.Options.WarmFallback {
		return "the move goes on warm"
	}
	return "the move is given up and the guest goes on where it is"
}

func seconds(s float64) api.Duration { return api.Duration(s * float64(time.Second)) }
