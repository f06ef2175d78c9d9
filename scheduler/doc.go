// Package scheduler decides: which node a VM goes to, what has to change about a
// placement, and why. State goes in, decisions and explanations come out.
//
// It promises: no clock, no goroutine, no randomness, no input or output (a test
// reads the source for them); the same history of calls gives the same
// decisions; the choice is the exact best of all nodes, never a sample; its
// columns of free capacity agree with fsm.Fits, which is the truth and is asked
// again when a decision is committed.
//
// An Engine follows committed changes and carries an overlay of decisions that
// are not committed yet, each of which is settled or rolled back by itself. A
// Queue orders the work and keeps the VMs that fit nowhere, by class, until
// something changes that can help them.
//
// What does not belong: committing (cluster/schedule.go does it), anything that
// waits, metrics, and validation of requests other than of constraints.
package scheduler
