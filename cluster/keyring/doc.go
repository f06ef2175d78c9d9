// Package keyring holds the secrets' arithmetic: the certificate authority, the
// root key that seals what is stored, and the form of tokens and join secrets.
//
// Promises: a private key is made where it is used and never leaves the
// machine (a joiner sends a signing request only); what a signing request asks
// for is ignored except its public key; sealed text is bound to its place by
// additional data; secrets are compared by hash in constant time; nothing here
// is kept in Raft unsealed.
//
// What does not belong: storing any of it (fsm, cluster), speaking to anyone
// (cluster/rpc), deciding who may join (cluster).
package keyring
