package client

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// absorb takes in an order, or says why not. It decides nothing.
func (m *machine) absorb(o *api.Order, generation uint64) verdict {
	if o.Stop {
		return m.absorbTombstone(o, generation)
	}
	switch {
	case o.Epoch < m.Epoch:
		return orderRefused
	case o.Epoch == m.Epoch && m.Revoked:
		return orderStale
	case o.Epoch == m.Epoch && older(generation, o.Index, m.Generation, m.Index):
		return orderStale
	case o.Epoch == m.Epoch && generation == m.Generation && o.Index == m.Index:
		m.confirmed = true
		return orderKnown
	}
	fresh, granted := m.Epoch == 0, o.Epoch > m.Epoch
	if fresh { // what was counted before this node held it is not for this node
		m.DoneReboots, m.DoneResets = o.Reboots, o.Resets
	}
	if granted && !m.Alive { // what the servers believed was of the epoch before
		m.Told = false
	}
	started := granted || o.Starts > m.Starts || m.Desired == api.PowerStopped && o.Desired != api.PowerStopped
	repaired := o.SpecVersion > m.SpecVersion && m.State == api.StateFailed
	if started || repaired {
		m.renew()
		if started {
			m.Restarts = 0
		}
	}
	if o.SpecVersion != m.SpecVersion {
		m.wait[opPrepare], m.wait[opStart] = backoff{}, backoff{}
	}
	resume := m.Desired == api.PowerPaused || o.Resumes > m.Resumes && !fresh
	m.Unpause = o.Desired == api.PowerRunning && (m.Unpause || resume)
	m.prepared, m.confirmed, m.Revoked = false, true, false
	if m.State == api.StateAbsent {
		m.State = api.StatePending
	}
	m.Epoch, m.Generation, m.Index = o.Epoch, generation, o.Index
	m.Namespace, m.Name = o.Namespace, o.Name
	m.Desired, m.Force, m.Reboots, m.Resets, m.Starts = o.Desired, o.Force, o.Reboots, o.Resets, o.Starts
	m.SpecVersion, m.Resumes = o.SpecVersion, o.Resumes
	if o.Spec != nil {
		m.Restart, m.StopTimeout, m.HA = o.Spec.Restart, o.Spec.StopTimeout, o.Spec.HA.Policy
	}
	return orderAccepted
}

// absorbTombstone takes in a STOP(vm, epoch).
func (m *machine) absorbTombstone(o *api.Order, generation uint64) verdict {
	if m.Tomb == o.Epoch && m.TombForce == o.Force || m.Tomb > o.Epoch {
		return orderKnown
	}
	if o.Epoch == m.Epoch && older(generation, o.Index, m.Generation, m.Index) {
		return orderStale // it cannot be older than the grant that it takes away
	}
	m.Tomb, m.TombForce = o.Epoch, o.Force
	if o.Epoch >= m.Epoch {
		m.Revoked = true
		m.Epoch, m.Generation, m.Index = o.Epoch, generation, o.Index
	}
	if m.Name == "" {
		m.Namespace, m.Name = o.Namespace, o.Name
	}
	return orderAccepted
}

// renew forgets that the VM ended by itself: it is wanted anew.
func (m *machine) renew() {
	m.Ended = false
	m.WindowStart, m.WindowCount, m.NextStart = 0, 0, 0
	m.wait[opPrepare], m.wait[opStart] = backoff{}, backoff{}
}

// older compares positions: the generation first, then the index in it.
func older(gen uint64, idx api.Index, thanGen uint64, thanIdx api.Index) bool {
	if mutant.On(mutant.OrderGoesBack) {
		return false
	}
	return gen < thanGen || gen == thanGen && idx < thanIdx
}

// fulfil ends a tombstone: the VM is absent at its epoch.
func (m *machine) fulfil() {
	m.Tomb, m.TombForce = 0, false
	switch {
	case m.Alive: // what runs here is newer
	case m.Revoked:
		m.State, m.Reason, m.Message, m.Told = api.StateAbsent, "", "", false
	default:
		m.State, m.Reason = api.StatePending, ""
	}
}
