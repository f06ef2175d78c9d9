// Package acl says who may do what: the capabilities that endpoints ask for, and
// the identities that hold them.
//
// Promises: deny by default (a nil identity, an unknown capability and an
// identity without grants are refused); what comes from a certificate cannot
// be had by a token, and the other way round; nothing here keeps state or does
// I/O.
//
// What does not belong: reading tokens or certificates (cluster, cluster/rpc),
// storing grants (fsm).
package acl
