package client

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// op is one call to the outside that a machine wants made. At most one is under
// way for each VM.
type op uint8

const (
	opNone     op = iota
	opInspect     // look at the domain, and why it ended if it is gone
	opPrepare     // images, volumes, networks, seed
	opStart       // attest absent, then start
	opShutdown    // ACPI
	opDestroy     // force off
	opPause
	opResume
	opReboot
	opReset
	opSetEpoch
	opAttest // prove that it is absent
	opArm    // put it under the guard
	opDisarm // take it back

	opMoveIn     // destination: images, volumes, networks, seed, and the gate of the tunnel
	opMovePull   // destination: fetch the disks of a stopped VM
	opMoveOut    // source: send; takes as long as it takes
	opMoveEnd    // source: end a copy that an earlier agent began
	opMoveAttest // prove that nothing of it runs here
	opMoveClean  // take away what the migration left here
	numOps
)

var opNames = [numOps]string{"none", "inspect", "prepare", "start", "shutdown", "destroy",
	"pause", "resume", "reboot", "reset", "setepoch", "attest", "arm", "disarm",
	"receive", "fetch", "send", "end-send", "prove-absent", "clean"}

// String returns the op's name, for logs.
func (o op) String() string { return opNames[o] }

// domKind is what is known of the domain.
type domKind uint8

const (
	domUnseen  domKind = iota // not looked at yet
	domUnknown                // the hypervisor does not answer
	domAbsent
	domRunning
	domPaused
	domDead // still listed, but it executes nothing and never will
)

// dom is one look at a domain.
type dom struct {
	kind    domKind
	reason  string // in the hypervisor's words
	exit    string // of an absent or dead one: why it ended, empty if nobody says
	note    string // more about that, in words
	epoch   api.Epoch
	version uint64
	start   api.Time
}

// result classifies the outcome of an op.
type result uint8

const (
	resOK       result = iota
	resFailed          // answered: no
	resUnknown         // not answered: nothing follows
	resNotFound        // answered: no such domain
	resExists          // answered: it is there already
)

// eventKind says what happened.
type eventKind uint8

const (
	evTick      eventKind = iota // time has passed, or the hold was lifted
	evOrder                      // the servers want something
	evSeen                       // a look at the domain, of the list
	evLook                       // something may have happened: look
	evDone                       // the op under way has an outcome
	evForget                     // the region was restored: grants need confirmation
	evMove                       // the servers say how far a migration is
	evMoveKnown                  // the servers know that nothing of a migration is left here
	evGone                       // the guest that is being sent has left, and its process has ended
	evGuard                      // the guard says what it holds
	evUnarmed                    // the servers know that the VM is not to be counted as armed
)

type event struct {
	kind       eventKind
	order      *api.Order
	generation uint64
	move       *moveOrder
	dom        dom
	seq        uint64 // of evSeen: how many ops had begun when the list was asked for
	hint       string // of evLook: why it ended, if that is what happened
	op         op
	epoch      api.Epoch // of evDone: the epoch that the op was for; of evGuard, evUnarmed
	mine       bool      // of evGuard
	term       uint64    // of evOrder: of the lease, when its stream was opened
	res        result
	message    string
	mark       chan<- struct{} // only tells that everything before it is done
}

// env is what a step sees of the world.
type env struct {
	now  api.Time
	boot string
	// hold: the servers have not spoken yet, or the region is in recovery.
	hold bool

	// up is the boot time, deadline the end of the host's lease by it, and known
	// until when the servers certainly count the host as there.
	up, deadline, known time.Duration
	// guard: one answers. disarm: nothing is to be armed.
	guard, disarm bool
	// doubt: the last beats were not acknowledged.
	doubt bool
	// term rises when a lease has run out: what was confirmed before counts no more
	// for HA VMs.
	term uint64
}

// verdict is what became of an order.
type verdict uint8

const (
	orderNone     verdict = iota
	orderAccepted         // newer than what was held: to be journaled
	orderKnown            // the one that is held, confirmed
	orderStale            // older than what was seen
	orderRefused          // an epoch below the one that is held
)

type output struct {
	op       op
	wake     api.Time // step again then, 0: not needed
	verdict  verdict
	attested api.Epoch // a tombstone that is fulfilled, 0: none
	cancel   bool      // the copy under way is to be ended
	retell   bool      // the servers are to be told once more
}

type backoff struct {
	until api.Time
	n     uint8
}

// machine is the state of one VM: its record, and what is known only now.
type machine struct {
	record
	dom       dom
	hint      string
	confirmed bool // an order was accepted in this session
	moving    bool // the part in a migration was confirmed in this session
	received  bool // destination: prepared in this session
	// destination: what comes in may run only under the guard
	comesGuarded bool
	checked      bool // destination: looked at since nothing more can come in
	look         bool // the domain must be looked at before anything else
	prepared     bool
	busy         op
	wait         [numOps]backoff
	hold         hold
	term         uint64 // of the lease, as of the newest order
	// doubt: an agent before this one had begun a start, and the hypervisor may
	// still come to it. since is when it was first seen absent, 0: not yet.
	doubt bool
	since api.Time
}

// step is the whole behaviour of a VM's runner, without any side effect: it
// takes one event and says what to do next. The caller journals the new record
// before it performs the op.
func step(m machine, ev event, e env) (machine, output) {
	var out output
	if mutant.On(mutant.OldOrders) {
		m.term = e.term
	}
	switch ev.kind {
	case evOrder:
		out.verdict = m.absorb(ev.order, ev.generation)
		if out.verdict == orderAccepted || out.verdict == orderKnown {
			m.term = max(m.term, ev.term)
		}
	case evSeen:
		if m.busy != opNone {
			m.look = true
		} else {
			m.observe(ev.dom, e)
		}
	case evLook:
		m.look = true
		if ev.hint != "" {
			m.hint = ev.hint
		}
	case evForget:
		m.confirmed, m.moving, m.Tomb, m.TombForce = false, false, 0, false
	case evTick:
		m.look = m.look || m.busy == opNone && m.arriving()
	case evMove:
		m.absorbMove(ev.move, &out)
	case evMoveKnown:
		if m.Move.ID == ev.move.id && m.Move.Clean {
			m.LastMove, m.Move = m.Move.ID, moveRecord{}
		}
	case evGone:
		m.left(e)
	case evGuard:
		m.guardSays(ev)
	case evUnarmed:
		m.Told = m.Told && (ev.epoch < m.Epoch || !m.heeded(e))
	case evDone:
		m.busy = opNone
		m.finish(ev, e, &out)
	}
	m.settleHold(e, &out)
	if out.verdict == orderAccepted && m.Desired == api.PowerStopped && !m.Alive {
		out.retell = true // a word from before the order to stop is not enough for the servers
	}
	if m.busy == opNone {
		out.op = m.decide(e, &out)
		m.busy = out.op
	} else if m.bareDue(e, &out) && (m.busy == opMoveOut || m.busy == opMovePull) {
		out.cancel = true
	}
	return m, out
}

// newMachine makes the state for a record of the journal, or a new one.
func newMachine(r record, journaled bool) machine {
	m := machine{record: r}
	if journaled {
		m.dom.kind = domUnknown // until the first list
		m.doubt = r.Phase == phaseStart
		m.hold.maybe, m.hold.was = true, r.Told
	}
	if m.State == "" {
		m.State = api.StatePending
	}
	return m
}

// observe takes in one look at the domain.
func (m *machine) observe(d dom, e env) {
	hint := m.hint
	m.look, m.hint = false, ""
	switch d.kind {
	case domUnseen, domUnknown:
		if mutant.On(mutant.SilenceIsAbsence) {
			m.observe(dom{kind: domAbsent}, e)
			return
		}
		m.dom = dom{kind: domUnknown}
	case domAbsent:
		if m.doubtful(e) {
			m.dom = dom{kind: domUnknown}
			return
		}
		was := m.Alive
		m.dom = d
		if was {
			exit := d.exit
			if hint != "" && exit != exitFenced {
				exit = hint
			}
			m.ended(exit, d.note, e)
		}
	case domRunning, domPaused, domDead:
		m.dom, m.doubt = d, false
		if m.Reason == reasonProcess { // it has its domain
			m.Reason, m.Message = "", ""
		}
		m.adopt(d, e)
		m.seenMove()
	}
}

// doubtful reports whether an absence is not to be believed yet: a start of the
// agent before may still be under way, unless the machine was started anew.
func (m *machine) doubtful(e env) bool {
	switch {
	case !m.doubt || m.BootID != e.boot:
		m.doubt = false
	case m.since == 0 || m.since > e.now:
		m.since = e.now
	default:
		m.doubt = e.now-m.since < api.Time(doubtTime)
	}
	return m.doubt
}

// adopt takes a domain that is there as ours. What the journal knows of it wins
// over what its metadata says.
func (m *machine) adopt(d dom, e env) {
	if !m.Alive {
		m.Alive, m.RunEpoch, m.RunVersion, m.StartTime = true, d.epoch, d.version, d.start
	}
	if d.epoch > m.RunEpoch && d.epoch <= m.Epoch { // a rewrite whose answer was lost
		m.RunEpoch = d.epoch
	}
	m.BootID = e.boot
	if m.StartTime == 0 {
		m.StartTime = d.start
	}
	m.Ended, m.prepared = false, false
	if m.Phase == phaseStart {
		m.Phase = ""
	}
	switch {
	case m.Phase == phaseStop:
		m.State = api.StateStopping
	case d.kind == domRunning:
		m.State, m.Reason, m.Unpause = api.StateRunning, "", false
	case m.arming(d):
		m.State, m.Reason = api.StateStarting, reasonArming
	case d.kind == domPaused:
		m.State, m.Reason = api.StatePaused, d.reason
	case d.kind == domDead:
		m.State, m.Reason = api.StateFailed, d.reason
	}
}

// finish takes in the outcome of the op that was under way.
func (m *machine) finish(ev event, e env, out *output) {
	switch {
	case ev.op >= opMoveIn:
		m.finishMove(ev, e)
		return
	case ev.op == opArm || ev.op == opDisarm:
		m.finishHold(ev, e)
		return
	}
	if ev.res == resUnknown {
		m.delay(ev.op, e.now)
		m.dom, m.look = dom{kind: domUnknown}, false // the next list tells
		return
	}
	if ev.op == opInspect {
		m.wait[opInspect] = backoff{}
		m.checked = true
		m.observe(ev.dom, e)
		return
	}
	if ev.op == opPrepare {
		m.finishPrepare(ev, e)
		return
	}
	if ev.op == opStart {
		m.finishStart(ev, e)
		return
	}
	switch {
	case ev.op == opDestroy && ev.res == resNotFound && m.handedOver(): // it was not this that ended it
		if m.Phase == phaseFence {
			m.Phase = ""
		}
		m.look = true
		return
	case ev.op == opDestroy && (ev.res == resOK || ev.res == resNotFound):
		m.wait[opDestroy] = backoff{}
		m.observe(dom{kind: domAbsent, exit: m.dom.exit}, e)
		return
	case ev.res == resNotFound:
		m.look = true
		return
	case ev.res == resExists: // attest: it is there after all
		m.exists(ev, e)
		return
	case ev.res == resFailed:
		m.delay(ev.op, e.now)
		m.Message = ev.op.String() + ": " + ev.message
		return
	}
	m.wait[ev.op] = backoff{}
	m.Message = ""
	switch ev.op {
	case opShutdown: // pressed again when a guest that still boots did not hear
		m.wait[opShutdown].until = e.now + api.Time(pressAgain)
	case opPause:
		m.dom = dom{kind: domPaused, reason: "user"}
		m.State, m.Reason = api.StatePaused, "user"
	case opResume:
		m.dom, m.Unpause = dom{kind: domRunning}, false
		if m.Phase != phaseStop {
			m.State, m.Reason = api.StateRunning, ""
		}
	case opSetEpoch:
		m.RunEpoch = ev.epoch
	case opAttest:
		if m.Tomb <= ev.epoch { // else a newer tombstone came meanwhile: once more
			out.attested = m.Tomb
			m.fulfil()
		}
	}
}

func (m *machine) finishPrepare(ev event, e env) {
	if ev.res == resOK {
		m.wait[opPrepare] = backoff{}
		m.prepared, m.Message = true, ""
		return
	}
	m.delay(opPrepare, e.now)
	m.State, m.Reason, m.Message = api.StatePreparing, reasonPrepare, ev.message
}

func (m *machine) finishStart(ev event, e env) {
	m.prepared = false
	switch ev.res {
	case resOK:
		m.wait[opStart] = backoff{}
		m.Phase, m.Ended, m.Unpause, m.StartTime, m.Message = "", false, false, e.now, ""
		m.dom = ev.dom
		m.State, m.Reason = api.StateRunning, ""
		switch {
		case m.arming(ev.dom):
			m.State, m.Reason = api.StateStarting, reasonArming
		case ev.dom.kind == domPaused:
			m.State, m.Reason = api.StatePaused, ev.dom.reason
		}
	case resExists:
		m.exists(ev, e)
	default:
		m.gone()
		m.fail(reasonStart, ev.message, e)
	}
}

// exists takes in that something of the VM is here. If it is no domain, then it
// is a process that the hypervisor has lost, which the message names.
func (m *machine) exists(ev event, e env) {
	m.delay(ev.op, e.now)
	m.look = true
	m.Reason, m.Message = reasonProcess, ev.message
}

// report is what the node says of the VM.
func (m *machine) report() api.VMReport {
	r := api.VMReport{
		VMID: m.ID, Epoch: max(m.Epoch, m.RunEpoch), State: m.State, Reason: m.Reason, Message: m.Message,
		Reboots: m.DoneReboots, Resets: m.DoneResets, Restarts: m.Restarts, Armed: m.saysArmed(),
		Order: m.Index, Generation: m.Generation,
	}
	if r.Message == "" {
		r.Message = m.hold.why
	}
	if m.Alive {
		r.Version, r.StartTime, r.Orphan = m.RunVersion, m.StartTime, m.RunEpoch > m.Epoch
	}
	if m.dom.kind == domUnknown {
		r.State, r.Reason = api.StateUnknown, reasonHypervisor
	}
	return r
}
