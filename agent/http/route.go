package http

import (
	"net/http"
	"slices"
)

// Route is one row of the table of the API.
type Route struct {
	Name    string // "vm.list": the operation's id and the label of its metrics
	Method  string
	Path    string // with {key}
	Summary string
	// RPC is the method behind it; empty for what the agent answers itself.
	RPC string
	// Capability that the token must grant; "none" for what is open to all.
	Capability string
	// Request and Response are zero values of the bodies' types; nil for none.
	Request, Response any
	Params            []Param
	// Query says that the parameters of reads are taken, besides those that
	// Without names.
	Query   bool
	Without []string
	// Namespaced says that ?namespace= is taken.
	Namespaced bool
	// Stream routes have no deadline. Accepts and Produces name their bodies.
	Stream   bool
	Accepts  []string
	Produces string
	// Limit of the body in bytes; 0 means api.MaxBody.
	Limit int64

	handle func(*Server, http.ResponseWriter, *http.Request) error
}

// Param is one parameter of a query.
type Param struct {
	Name, Type, Summary string
	Required, Many      bool
}

// What every route takes, what writes in a namespace take, what reads take.
var (
	paramRegion    = Param{Name: "region", Type: "string", Summary: "The region asked; the agent's own when it is not said."}
	paramPretty    = Param{Name: "pretty", Type: "boolean", Summary: "Indent the answer."}
	paramNamespace = Param{Name: "namespace", Type: "string", Summary: "The namespace; \"default\" when it is not said. Reads of lists also take \"*\" for all."}
	paramsQuery    = []Param{
		{Name: "consistency", Type: "string", Summary: "default (the leader), consistent (linearizable) or stale (any server)."},
		{Name: "stale", Type: "boolean", Summary: "Short for consistency=stale."},
		{Name: "consistent", Type: "boolean", Summary: "Short for consistency=consistent."},
		{Name: "index", Type: "integer", Summary: "Wait until the answer has changed after this index."},
		{Name: "wait", Type: "string", Summary: "How long to wait for a change, at most 10m (default 5m)."},
		{Name: "per_page", Type: "integer", Summary: "Items of a page, at most 1000."},
		{Name: "next_token", Type: "string", Summary: "Go on after the page that gave this token."},
		{Name: "prefix", Type: "string", Summary: "Only names or ids that begin so."},
		{Name: "filter", Type: "string", Summary: "Only items for which this expression holds."},
	}
	paramCheck = Param{Name: "check_index", Type: "integer", Summary: "Do it only when the noun's modify index is this."}
	paramForce = Param{Name: "force", Type: "boolean", Summary: "Skip what protects from mistakes, where that is possible."}
)

// AllParams returns every parameter that the route takes.
func (r *Route) AllParams() []Param {
	out := []Param{paramRegion, paramPretty}
	if r.Namespaced {
		out = append(out, paramNamespace)
	}
	for _, p := range paramsQuery {
		if r.Query && !slices.Contains(r.Without, p.Name) {
			out = append(out, p)
		}
	}
	return append(out, r.Params...)
}

// Routes returns the table of the API, in the order of the description.
func Routes() []Route {
	var all []Route
	for _, part := range [][]Route{
		vmRoutes(), migrationRoutes(), nodeRoutes(), placementRoutes(), volumeRoutes(), poolRoutes(), imageRoutes(),
		networkRoutes(), namespaceRoutes(), tokenRoutes(), eventRoutes(), statusRoutes(), operatorRoutes(), agentRoutes(),
	} {
		all = append(all, part...)
	}
	return all
}
