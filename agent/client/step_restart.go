package client

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// The defaults of a restart policy.
const (
	defaultAttempts = 3
	defaultInterval = 10 * time.Minute
	defaultDelay    = 5 * time.Second
)

// The restart policies.
const (
	restartAlways = "always"
	restartNever  = "never"
)

// gone clears what was known of a domain that is no more.
func (m *machine) gone() {
	m.Alive, m.RunEpoch, m.Phase, m.StopBy, m.Unpause, m.prepared = false, 0, "", 0, false, false
	m.dom = dom{kind: domAbsent}
	m.hold = hold{giving: m.hold.giving} // the guard buries it by itself
}

// ended decides what the end of a domain means: ordered, the guest's own wish,
// a reboot of the host, or a failure. Without a reason it is a failure.
func (m *machine) ended(exit, note string, e env) {
	phase, boot := m.Phase, m.BootID
	left := m.Reason == reasonProcess
	died := m.died(exit, e)
	m.gone()
	if !left {
		m.Message = ""
	}
	switch {
	case m.handedOver(): // the servers decide where it goes on
		m.Move.Died = died
		m.State, m.Reason = api.StatePaused, reasonSwitch
	case phase == phaseStop:
		m.State, m.Reason = api.StateStopped, reasonOrdered
	case boot != e.boot:
		m.State, m.Reason = api.StatePending, reasonHostReboot
		if m.HA == api.HANone && m.Desired != api.PowerStopped {
			m.State, m.Ended = api.StateStopped, true
		}
	case phase == phaseFence:
		m.State, m.Reason, m.Message = api.StateFailed, reasonFenced, "ended by the agent: no guard was there to hold it"
	case exit == exitFenced && !m.Revoked && m.Tomb == 0 && m.Desired != api.PowerStopped:
		// Not a failure of its own. It starts again when there is a lease and it is
		// still ordered here.
		m.State, m.Reason, m.Message = api.StateFailed, reasonFenced, note
	case phase == phaseStart:
		// Nobody saw it run: it was not begun, or its end is the start's failure.
		// An exit reason in the log may be that of the run before.
		m.State = api.StatePending
		if !left { // else it was refused, and says why
			m.delay(opStart, e.now)
			m.Reason = reasonStartLost
		}
	case m.Revoked || m.Tomb > 0 || m.Desired == api.PowerStopped:
		m.State, m.Reason = api.StateStopped, endReason(exit)
	case exit == "migrated":
		m.State, m.Reason, m.Ended = api.StateStopped, exit, true
	case exit == "shutdown" && m.Restart.Policy != restartAlways:
		m.State, m.Reason, m.Ended = api.StateStopped, reasonGuest, true
	default:
		m.fail(endReason(exit), "", e)
	}
}

// died reports whether the guest of a source may have gone on after it was copied,
// until it ended here: what the destination has may be older.
func (m *machine) died(exit string, e env) bool {
	v := &m.Move
	stood := v.Over && m.dom.kind == domPaused && m.dom.reason == hypervisor.ReasonMigrating
	switch {
	case v.In || exit == "migrated":
		return false
	case exit == "crashed" || exit == "shutdown":
		return true
	case stood || v.Over && !v.Failed || mutant.On(mutant.FencedIsMoved): // or its call said that it has left
		return false
	}
	// The guard's kill, the agent's in its place, or an end with the machine: it starts
	// anew from the disk that it had here, which no copy is ahead of.
	return exit == exitFenced || m.Phase == phaseFence || m.BootID != e.boot
}

func endReason(exit string) string {
	switch exit {
	case "":
		return reasonUnknownEnd
	case "shutdown":
		return reasonGuest
	}
	return exit
}

// fail applies the restart policy to an end that was not ordered.
func (m *machine) fail(reason, message string, e env) {
	attempts, interval, delay := limits(m.Restart)
	if m.Restart.Policy == restartNever {
		m.State, m.Reason, m.Message, m.Ended = api.StateFailed, reason, message, true
		return
	}
	if m.WindowStart == 0 || e.now-m.WindowStart >= api.Time(interval) || e.now < m.WindowStart {
		m.WindowStart, m.WindowCount = e.now, 0
	}
	if m.WindowCount >= attempts {
		m.State, m.Reason, m.Ended = api.StateFailed, reasonLimit, true
		m.Message = fmt.Sprintf("%s; restarted %d times in %s, not again", join(reason, message), m.WindowCount, interval)
		return
	}
	d := delay
	for i := int32(0); i < m.WindowCount && d < interval; i++ {
		d = min(2*d, interval)
	}
	m.WindowCount++
	m.Restarts++
	m.NextStart = e.now + api.Time(d)
	m.State, m.Reason = api.StateStarting, reasonRestarting
	m.Message = fmt.Sprintf("%s; restart %d of %d in %s", join(reason, message), m.WindowCount, attempts, d)
}

// limits reads a policy and fills in its defaults.
func limits(p api.RestartPolicy) (attempts int32, interval, delay time.Duration) {
	attempts, interval, delay = p.Attempts, p.Interval.D(), p.Delay.D()
	if attempts <= 0 {
		attempts = defaultAttempts
	}
	if interval <= 0 {
		interval = defaultInterval
	}
	if delay <= 0 {
		delay = defaultDelay
	}
	return attempts, interval, delay
}

func join(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}
