package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// keepMigrations is how many ended migrations of a VM are kept.
const keepMigrations = 10

// MigrationCreate queues a move of a VM. It answers *api.Migration.
type MigrationCreate struct {
	Migration api.Migration `msg:"migration,omitempty"` // id, VM, mode, options, cause, priority, secret; To if it is pinned
}

// CommandID is 36.
func (c *MigrationCreate) CommandID() uint16 { return cmdMigrationCreate }

// Validate checks the fields.
func (c *MigrationCreate) Validate() error {
	var k checker
	m := &c.Migration
	k.id("id", m.ID)
	k.id("vm_id", m.VMID)
	k.id("secret", m.Secret)
	k.oneOf("mode", string(m.Mode), string(api.MigrateLive), string(api.MigrateWarm), string(api.MigrateCold))
	k.oneOf("compress", m.Options.Compress, "", "auto", "zstd", "none")
	k.oneOf("cause", m.Cause, api.CauseOperator, api.CauseDrain)
	k.size("bandwidth", m.Options.Bandwidth, 0)
	for _, d := range []api.Duration{m.Options.MaxDowntime, m.Options.DowntimeLimit, m.Options.Timeout} {
		if d < 0 {
			k.fail("options", "a duration is negative")
		}
	}
	if m.Restart && m.Mode != api.MigrateCold {
		k.fail("restart", "is for cold moves")
	}
	if m.Pinned == m.To.IsZero() {
		k.fail("to", "a pinned migration names its destination, another does not")
	}
	return k.done()
}

func (c *MigrationCreate) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	m := c.Migration
	vm, err := tx.needVM(m.VMID, nil)
	if err != nil {
		return nil, err
	}
	p := tx.s.Placement(vm.ID)
	if p == nil {
		return nil, api.Errorf(api.CodeUnplaced, "VM %q is on no node", vm.Name)
	}
	if err := tx.unmoved(vm); err != nil && !mutant.On(mutant.TwoMoves) {
		return nil, err
	}
	if m.Pinned && m.To == p.NodeID {
		return nil, api.Errorf(api.CodeState, "VM %q is on that node already", vm.Name)
	}
	if m.Restart && vm.Power == api.PowerRunning {
		vm = tx.setPower(vm, api.PowerStopped, false) // it waits in the queue until the guest has ended
	} else if err := Movable(vm, p, m.Mode); err != nil {
		return nil, err
	} else {
		m.Restart = false
	}
	m.Namespace, m.VMName, m.From, m.Epoch = vm.Namespace, vm.Name, p.NodeID, p.Epoch
	m.FromNode, m.ToNode = nodeName(tx.s, m.From), ""
	if m.Pinned {
		n := tx.s.Node(m.To)
		if n == nil {
			return nil, api.Errorf(api.CodeNotFound, "node %s not found", m.To)
		}
		m.ToNode = n.Name
	}
	m.Phase, m.PhaseTime, m.CreateTime, m.CreateIndex, m.ModifyIndex = api.MigrationQueued, tx.now, tx.now, tx.index, tx.index
	unreserve(&m)
	m.Volumes, m.Attempts, m.Source, m.Dest = nil, 0, api.MigrationEnd{}, api.MigrationEnd{}
	m.KillSource, m.KillDest, m.Lost, m.Code, m.Message, m.Deadline, m.CommitTime, m.EndTime = false, false, false, 0, "", 0, 0, 0
	m.GiveUp, m.AskTime, m.Cutover = false, 0, nil
	tx.pruneMigrations(vm.ID)
	migrationDef.put(tx, &m)
	tx.made(m.ID, "")
	return &m, nil
}

// Movable checks that a VM is in a state from which a mode can move it.
func Movable(vm *api.VM, p *api.Placement, mode api.MigrationMode) error {
	if mode == api.MigrateCold {
		if vm.Power != api.PowerStopped || p.State.Holds() {
			return api.Errorf(api.CodeState, "VM %q is %s: only a stopped VM is moved cold", vm.Name, p.State).
				WithHint("stop it first, or move it live")
		}
		return nil
	}
	if vm.Power == api.PowerStopped || p.State != api.StateRunning && p.State != api.StatePaused {
		return api.Errorf(api.CodeState, "VM %q is %s: only a VM that runs or is paused is moved %s", vm.Name, p.State, mode).
			WithHint("a stopped VM is moved with --mode cold")
	}
	return nil
}

// unreserve gives back what a move holds at its destination.
func unreserve(m *api.Migration) {
	if !mutant.On(mutant.KeepReservation) {
		m.Reserved, m.Disk = api.Resources{}, nil
	}
}

// nodeMoves looks again at the migrations of a node of which more is known now.
func (tx *Txn) nodeMoves(node api.ID) {
	for _, m := range slices.Concat(slices.Collect(tx.s.MigrationsFrom(node)), slices.Collect(tx.s.MigrationsTo(node))) {
		if m.Phase.Active() {
			next := *m
			tx.putMigration(m, &next)
		}
	}
}

// pruneMigrations forgets the oldest ended migrations of a VM.
func (tx *Txn) pruneMigrations(vm api.ID) {
	var ended []*api.Migration
	for m := range tx.s.MigrationsOf(vm) {
		if !m.Phase.Active() && tx.clean(m) {
			ended = append(ended, m)
		}
	}
	slices.SortFunc(ended, func(a, b *api.Migration) int { return int(int64(a.CreateIndex - b.CreateIndex)) })
	for len(ended) >= keepMigrations {
		migrationDef.del(tx, ended[0].ID)
		ended = ended[1:]
	}
}

// clean reports whether nothing of an ended migration is left on a node.
func (tx *Txn) clean(m *api.Migration) bool {
	return m.To.IsZero() || (m.Source.Clean || tx.lostFor(m.VMID, m.From)) && (m.Dest.Clean || tx.lostFor(m.VMID, m.To))
}

// MigrationStep is the leader's part in a migration: it admits one from the
// queue, lets the copy begin, or aborts it. It is compare-and-set on the phase
// and answers *api.Migration.
type MigrationStep struct {
	ID    api.ID             `msg:"id,omitempty"`
	Phase api.MigrationPhase `msg:"phase,omitempty"` // that the leader knew
	Next  api.MigrationPhase `msg:"next,omitempty"`  // proposed, copying, aborting
	// To is the destination (proposed).
	To       api.ID   `msg:"to,omitempty"`
	Deadline api.Time `msg:"deadline,omitempty"`
	// Code and Message say why (aborting).
	Code    api.Code `msg:"code,omitempty"`
	Message string   `msg:"message,omitempty"`
	// GiveUp (aborting): the destination is to end what is not whole (Dangling).
	GiveUp bool `msg:"give_up,omitempty"`
}

// CommandID is 37.
func (c *MigrationStep) CommandID() uint16 { return cmdMigrationStep }

// Validate checks the phases.
func (c *MigrationStep) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.oneOf("next", string(c.Next), string(api.MigrationProposed), string(api.MigrationCopying), string(api.MigrationAborting))
	if c.Next == api.MigrationProposed {
		k.id("to", c.To)
	}
	k.text("message", c.Message)
	if c.GiveUp && c.Next != api.MigrationAborting {
		k.fail("give_up", "is for moves that are being ended")
	}
	return k.done()
}

func (c *MigrationStep) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	m := tx.s.Migration(c.ID)
	switch {
	case m == nil:
		return nil, api.Errorf(api.CodeNotFound, "migration %s not found", c.ID)
	case m.Phase != c.Phase && !mutant.On(mutant.NoCompareAndSet):
		return nil, raced("migration %s is %s, not %s", m.ID.Short(), m.Phase, c.Phase)
	}
	next := *m
	switch c.Next {
	case api.MigrationProposed:
		if err := tx.admit(&next, c); err != nil {
			return nil, err
		}
	case api.MigrationCopying:
		if m.Phase != api.MigrationPrepared && !mutant.On(mutant.NoCompareAndSet) {
			return nil, raced("a migration that is %s cannot begin to copy", m.Phase)
		}
		next.Attempts++
		next.Phase = api.MigrationCopying
	case api.MigrationAborting:
		end := tx.abort
		if c.GiveUp {
			end = tx.giveUp
		}
		if err := end(&next, c.Code, c.Message); err != nil {
			return nil, err
		}
	}
	return tx.putMigration(m, &next), nil
}

// admit takes a migration from the queue: the destination is checked again, and
// what the VM takes is reserved there.
func (tx *Txn) admit(m *api.Migration, c *MigrationStep) error {
	vm, p := tx.s.VM(m.VMID), tx.s.Placement(m.VMID)
	switch {
	case m.Phase != api.MigrationQueued:
		return raced("a migration that is %s is not in the queue", m.Phase)
	case vm == nil || vm.Deleting || p == nil:
		return api.Errorf(api.CodeState, "the VM is gone")
	case p.NodeID != m.From || p.Epoch != m.Epoch:
		return api.Errorf(api.CodeState, "the VM has another owner by now")
	case c.To == m.From || m.Pinned && c.To != m.To:
		return raced("the destination is not the one that was asked for")
	}
	for old := range tx.s.MigrationsOf(vm.ID) {
		if !old.Phase.Active() && !tx.clean(old) {
			return raced("what migration %s left is still being cleaned up", old.ID.Short())
		}
	}
	if err := Movable(vm, p, m.Mode); err != nil {
		return err
	}
	n, err := tx.usable(c.To, !m.Pinned)
	if err != nil {
		return err
	}
	if _, err := tx.usable(m.From, false); err != nil {
		return err
	}
	if vm.Spec.HA.Policy == api.HARestart && p.Reserved != (api.Resources{}) && !GuardUsable(tx.s, n) {
		return api.Errorf(api.CodeNoNode, "node %s has no guard that ha = restart could rely on", n.Name).WithDetail(DimGuard, "%s", n.Guard)
	}
	if named := p.CPUModel != "" && p.CPUModel != api.ModelHost; named && m.Mode != api.MigrateCold && !GivesModel(n, p.CPUModel) {
		return raced("node %s cannot give the CPU model %q", n.Name, p.CPUModel)
	}
	vols, ask, err := tx.moveAsk(vm, p, n)
	if err != nil {
		return err
	}
	if dim, ok := Fits(tx.s, n, ask); !ok {
		return noRoom(n, dim)
	}
	m.To, m.ToNode, m.Volumes, m.Deadline = n.ID, n.Name, vols, c.Deadline
	m.Reserved, m.Disk = api.Resources{CPU: ask.CPU, Memory: ask.Memory}, nil
	for _, d := range ask.Disk {
		m.Disk = append(m.Disk, api.PoolAmount{Pool: d.Pool, Bytes: d.Bytes})
	}
	m.Phase = api.MigrationProposed
	return nil
}

// moveAsk returns the volumes of a VM that move with it to a node, and what it
// takes there.
func (tx *Txn) moveAsk(vm *api.VM, p *api.Placement, n *api.Node) ([]api.ID, Ask, error) {
	var ids []api.ID
	a := Ask{CPU: p.Reserved.CPU, Memory: p.Reserved.Memory}
	for i, v := range tx.s.DiskVolumes(vm) {
		if v == nil {
			return nil, a, api.Errorf(api.CodeState, "disk %q has no volume", vm.Spec.Disks[i].Name)
		}
		np := NodePoolOf(n, v.Pool)
		if np == nil || np.Error != "" {
			return nil, a, api.Errorf(api.CodeNoNode, "node %s has no usable pool %q", n.Name, v.Pool).WithDetail(DimPool, "%s", v.Pool)
		}
		if v.NodeID.IsZero() {
			continue // shared
		}
		if v.State != api.VolumeReady {
			return nil, a, api.Errorf(api.CodeState, "volume %q is %s", v.Name, v.State)
		}
		ids = append(ids, v.ID)
		a.Add(v.Pool, v.Size)
	}
	return sortedIDs(ids), a, nil
}

// abort ends a migration while the source can still go on.
func (tx *Txn) abort(m *api.Migration, code api.Code, message string) error {
	switch {
	case !m.Phase.Open():
		return api.Errorf(api.CodeState, "migration %s is %s: it cannot be ended any more", m.ID.Short(), m.Phase)
	case (m.Source.State == api.EndAbsent || m.KillSource && !mutant.On(mutant.AbortAfterKill)) && m.Mode != api.MigrateCold:
		return api.Errorf(api.CodeState, "migration %s is past its point of no return: the guest has left %s", m.ID.Short(), m.FromNode)
	}
	m.Code, m.Message = code, message
	if m.Phase == api.MigrationQueued {
		leaveQueue(m)
		return nil
	}
	m.Phase = api.MigrationAborting
	if m.Attempts == 0 && m.Dest.State == api.EndUnheard && tx.lostFor(m.VMID, m.To) {
		m.Phase = api.MigrationAborted // nobody was told
	}
	return nil
}

// leaveQueue ends a migration of which neither end was told: there is nothing
// to clean.
func leaveQueue(m *api.Migration) {
	m.Phase = api.MigrationAborted
	m.Source.Clean, m.Dest.Clean = true, true
}

// putMigration writes a changed migration and carries out what follows from it,
// until nothing does. It returns the migration as it is then.
func (tx *Txn) putMigration(old, m *api.Migration) *api.Migration {
	for range 8 { // each round is a step forward; the phases are fewer
		if m.Phase != old.Phase {
			m.PhaseTime = tx.now
		}
		if !m.Phase.Active() && m.EndTime == 0 {
			m.EndTime = tx.now
			unreserve(m)
			tx.startAgain(m)
		}
		m.ModifyIndex = tx.index
		migrationDef.put(tx, m)
		next := *m
		if !tx.carryOut(&next, decideMove(m, tx.side(m.VMID, m.From, m.Source), tx.side(m.VMID, m.To, m.Dest))) {
			break
		}
		old, m = m, &next
	}
	return m
}

// carryOut changes a migration as was decided; false when nothing is to be done.
func (tx *Txn) carryOut(m *api.Migration, what move) bool {
	switch what {
	case moveNext:
		m.Phase = api.MigrationPrepared
	case moveSwitch:
		m.Phase = api.MigrationSwitched
	case moveKillSource:
		m.KillSource, m.Phase = true, api.MigrationSwitched
	case moveAsk:
		m.Attempts++
		m.AskTime = tx.now
	case moveKillDest:
		m.KillDest = true
	case moveCommit:
		tx.commitMove(m)
	case moveAbort:
		m.Phase, m.Code = api.MigrationAborting, api.CodeMigration
		switch {
		case m.Source.Failed:
			m.Message = m.Source.Message
		case m.Dest.Failed:
			m.Message = m.Dest.Message
		case tx.lostFor(m.VMID, m.From) || tx.lostFor(m.VMID, m.To):
			m.Message = "a node was lost"
		default:
			m.Message = "the source is " + string(m.Source.State) + ", the destination " + string(m.Dest.State)
		}
	case moveAborted:
		m.Phase = api.MigrationAborted
	case moveLost:
		m.Phase, m.Lost = api.MigrationAborted, true
		tx.regrant(m)
	case moveDone:
		m.Phase = api.MigrationDone
	default:
		return false
	}
	return true
}

// commitMove is the cutover: owner, epoch, disks and the order to the old owner
// change in one entry.
func (tx *Txn) commitMove(m *api.Migration) {
	m.Phase, m.CommitTime, m.Code, m.Message = api.MigrationCommitted, tx.now, 0, ""
	unreserve(m)
	vm, p := tx.s.VM(m.VMID), tx.s.Placement(m.VMID)
	if vm == nil || p == nil || p.NodeID != m.From || p.Epoch != m.Epoch {
		return // deletion and release are refused while a move is active
	}
	v := *vm
	v.Epoch = max(vm.Epoch, p.Epoch) + 1
	if mutant.On(mutant.SameEpoch) {
		v.Epoch = p.Epoch
	}
	vmDef.put(tx, &v)
	q := *p
	q.NodeID, q.Epoch, q.Session, q.Seq, q.ModifyIndex = m.To, v.Epoch, api.ID{}, 0, tx.index
	q.Armed, q.Fenced, q.Halted = false, "", false
	q.Desired = vm.Power
	if m.Mode != api.MigrateCold {
		q.State, q.Reason, q.Message, q.StateTime = api.StatePaused, "switch-over", "", tx.now
	}
	placementDef.put(tx, &q)
	for _, id := range m.Volumes {
		if vol := tx.s.Volume(id); vol != nil && vol.NodeID == m.From {
			w := *vol
			w.NodeID, w.ModifyIndex = m.To, tx.index
			volumeDef.put(tx, &w)
		}
	}
	tx.bury(m.From, &v, p.Epoch, "moved", true)
}

// regrant gives the source its VM again after the guest was lost on both ends:
// a higher epoch, so that it is started anew.
func (tx *Txn) regrant(m *api.Migration) {
	vm, p := tx.s.VM(m.VMID), tx.s.Placement(m.VMID)
	if vm == nil || p == nil || p.NodeID != m.From || p.Epoch != m.Epoch {
		return
	}
	v, q := *vm, *p
	v.Epoch = max(vm.Epoch, p.Epoch) + 1
	q.Epoch, q.ModifyIndex = v.Epoch, tx.index
	q.Armed, q.Fenced, q.Halted = false, "", false // what was known was of the epoch before
	vmDef.put(tx, &v)
	placementDef.put(tx, &q)
}

// moveReport follows what a node says of its part in a migration.
func (tx *Txn) moveReport(node, session api.ID, r *api.MoveReport) {
	m := tx.s.Migration(r.Migration)
	n := tx.s.Node(node)
	if m == nil || n == nil || node != m.From && node != m.To {
		return
	}
	next := *m
	end := &next.Source
	if node == m.To {
		end = &next.Dest
	}
	if end.Clean || end.Session == session && r.Seq <= end.Seq && !mutant.On(mutant.AnyReportOrder) || r.BootID != n.BootID {
		return // nothing is left to say, overtaken, or of a boot that is over
	}
	e := api.MigrationEnd{
		State: r.State, BootID: r.BootID, Attempt: r.Attempt, Failed: r.Failed, Message: r.Message, Clean: r.Clean,
		Time: r.Time, Session: session, Seq: r.Seq,
	}
	same := e.State == end.State && e.BootID == end.BootID && e.Attempt == end.Attempt && e.Failed == end.Failed && e.Message == end.Message && e.Clean == end.Clean
	*end = e
	next.Cutover = m.Cutover.Merge(r.Cutover)
	if same { // only its number is news: an older report must not come after it
		migrationDef.put(tx, &next)
		return
	}
	tx.putMigration(m, &next)
}

// forgetMoves ends what was under way before a restore: its ends are told, and
// who owns what is found out from what the nodes run.
func (tx *Txn) forgetMoves() {
	for _, m := range slices.Collect(tx.s.Migrations()) {
		if !m.Phase.Active() {
			continue
		}
		next := *m
		if m.Phase == api.MigrationQueued {
			leaveQueue(&next)
		}
		next.Phase, next.PhaseTime, next.EndTime, next.ModifyIndex = api.MigrationAborted, tx.now, tx.now, tx.index
		next.Code, next.Message = api.CodeRecovery, "the region was restored from a snapshot"
		unreserve(&next)
		tx.startAgain(&next)
		migrationDef.put(tx, &next)
	}
}
