// Package rpc is how the machines of a cluster call each other: one TLS port,
// typed endpoints, forwarding to the leader and to other regions.
//
// An endpoint is registered with its kind and its capability and cannot exist
// without them. The registration runs, for every call and once only:
// authenticate, region, rate, leader, authorize, panic guard, handle, metrics.
//
// Promises: the deadline and the cancellation of a caller reach the handler;
// *api.Error arrives as it left, everything else arrives as NOVA-6000 and its
// text stays in the log; a server that forwards vouches for nothing but the
// node id of a node's call; a call makes at most one hop to a region and one to
// a leader; a write whose fate is not known fails with NOVA-6002, and one that
// fails with NOVA-6001 or NOVA-6004 did nothing; closing waits for every
// goroutine.
//
// What does not belong: Raft and gossip (cluster), what endpoints do, tokens
// (an Authenticator is given), and any knowledge of gRPC outside this package.
package rpc
