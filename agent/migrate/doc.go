// Package migrate is the data plane of migrations: it carries the connections
// that two hypervisors need for one migration (libvirt's control connection,
// memory, disks) between two agents, through the one port (nova-tunnel/1).
// Hypervisors see UNIX sockets on both ends and listen on no network.
//
// The source opens a session (Host.Open), which is a folder of listening
// sockets. Each connection that a hypervisor makes there becomes one tunnel: a
// TLS connection of its own to the destination's agent, which expects the
// migration (Host.Expect) and connects the tunnel to its hypervisor's control
// socket, or to the socket of the same name in its own folder, at which the
// guest process waits.
//
// Promises: what is not expected is refused and counted: another migration,
// node or token. Bytes arrive in order and whole, or the connection breaks at
// both ends; a half-close is carried over. When nothing was heard from the other
// agent for two keepalives (4 s) both sockets of a stream are closed, also while
// a hypervisor does not read. A session ends within a second, and closing waits
// for every goroutine. Memory is bounded by what both ends grant, whatever the
// other end sends. Memory and disks may be compressed, chunk by chunk, and are
// held under the session's cap of bandwidth; control never.
//
// What does not belong: who may migrate what and when (fsm, scheduler, cluster),
// the calls to a hypervisor (agent/hypervisor), the steps of a migration
// (agent/client).
package migrate
