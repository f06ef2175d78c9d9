// Package http is the agent's HTTP API: routes, middleware, one handler file
// per noun, streams of events, consoles, and the description of it all.
//
// Promises: every route stands in one table (Routes), with its parameters,
// bodies, capability and the RPC method behind it, and the OpenAPI description
// is made from that table; a request is checked here before it goes further,
// so that what is malformed never reaches Raft; every error is
// {code, message, hint, request_id, details}; tokens are passed on and appear
// in no log; bodies of images, snapshots and consoles are streamed, never held.
//
// What does not belong: decisions. Who may do what, and what a write does, is
// decided behind Backend; parsing HCL belongs to agent/spec, which the agent
// hands in as Config.Parse.
package http

//go:generate go test -run TestDescription -update .
