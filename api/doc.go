// Package api speaks: it holds the nouns of NovaCron and the Go SDK for them.
//
// The nouns are used everywhere (HTTP, RPC, Raft, SDK): there is no second set
// of structs. What must not leave the servers (token hashes, wrapped keys, node
// secrets) is therefore not here; it has its own record in package fsm.
//
// Promises: fields are append-only; quantities are typed (Bytes, MilliCPU);
// nothing here depends on another package of this module; every type that is
// replicated encodes to the same bytes for the same value (no Go maps).
//
// What does not belong: rules that need the state of a cluster, I/O other than
// the SDK's own HTTP calls.
package api

//go:generate go run github.com/tinylib/msgp -file . -o msgp_gen.go -io=false -tests=false
