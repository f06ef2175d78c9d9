// Package cluster agrees: it is the server. It runs Raft, gossip and the region
// map, the leader's duties, and one RPC endpoint for each verb of each noun.
//
// Promises: a write is answered only after it is committed and applied; an
// outcome that is not known is said to be unknown (api.CodeUnknown); a beat of a
// node is acknowledged only after a quorum check begun after it arrived; a data
// folder serves one cluster, region and node only; every goroutine ends before
// Close returns.
//
// What does not belong: rules about the nouns (package fsm), where a VM goes
// (package scheduler), wire formats (cluster/rpc), anything that touches a
// hypervisor (package agent).
package cluster
