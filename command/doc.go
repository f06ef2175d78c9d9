// Package command asks: it is the command line, `novacron <noun> <verb>`. Each
// noun has its file; each verb is a spec (its flags, help and examples) and a
// function that calls the API through the SDK of package api.
//
// Promises: what a person reads goes to stdout, errors go to stderr with their
// code, hint and request id; the exit code is 0 when done, 1 on an error, 2 on
// wrong usage, 3 when a plan has changes; -o json and -o yaml print what the API
// says and nothing else; no secret is printed but the one that was asked for.
//
// What does not belong: anything that needs a package of the agent, other than in
// agent.go (and guard.go, snapshot.go): the command line knows only the API.
package command
