// Package agent is one node's process: it reads the configuration, wires the
// server half (package cluster), the client half (agent/client) and the HTTP
// front together, and handles signals, reload and the node's certificate.
//
// Promises: a configuration is validated as a whole before anything starts;
// stopping the agent never stops a guest, except those that -dev made; Close
// ends every goroutine, listener and file that New opened.
//
// What does not belong: what a server, a client or an API handler does.
package agent
