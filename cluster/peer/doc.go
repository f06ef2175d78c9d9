// Package peer knows the servers of all regions as gossip shows them: the tags
// that a server carries, and the map from regions to servers.
//
// Promises: tags that do not parse are refused whole and change nothing; the
// map is safe for concurrent use and never hands out what it keeps.
//
// What does not belong: gossip itself (cluster), connections (cluster/rpc), and
// trust: a tag is a hint where to dial, the certificate there is the proof.
package peer
