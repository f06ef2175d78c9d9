// Package fsm remembers: it is the replicated state machine of a region. It
// holds the tables of all nouns, the commands that change them, the snapshots
// and the versions of the schema.
//
// Promises: equal logs give equal states, byte for byte, on every server; a
// State is immutable and costs nothing to take; every object read from a State
// is a constant (change a copy); a command is one transaction, which happens
// wholly or not at all; what cannot be decoded stops the server and is never
// skipped.
//
// What does not belong: a clock, randomness, the network, goroutines, the
// environment, and any knowledge of who listens. Times and ids arrive inside
// commands; the one door out is Config.OnCommit. The invariants stand in
// DESIGN.md beside this file, and lint_test.go holds the code to them.
package fsm

//go:generate go run github.com/tinylib/msgp -file . -o msgp_gen.go -io=false -tests=false

//msgp:ignore FSM Config Result State Txn WatchSet Change Registry Meta Ask PoolAsk Step HashPoint SnapshotReader Alarm Spec PlaceResult
