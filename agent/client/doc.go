// Package client is the client mode of an agent: it registers the node, beats,
// follows its orders, runs one small state machine for each VM and reports what
// it sees. DESIGN.md beside this file says how the parts fit.
//
// Promises: nothing is started or stopped before the servers have spoken, and
// absence from a stream means nothing; a VM is stopped only by an explicit order
// with an epoch at least its own, and started only with the newest epoch that
// the node was given; every intent is on disk before the hypervisor is called;
// a reboot or reset is executed at most once; a hypervisor that does not answer
// makes a VM unknown, never absent; the end of the agent ends no guest; a VM that
// the servers may restart elsewhere (ha = restart) runs only while the guard holds it.
//
// What does not belong: where a VM runs (the servers decide), how a hypervisor,
// a pool or a network does its work (the leaves), how the guard kills (agent/guard).
package client

//go:generate go run github.com/tinylib/msgp -file record.go -o msgp_gen.go -io=false -tests=false -unexported
