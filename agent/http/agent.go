package http

import (
	_ "embed"
	"net/http"

	"github.com/novacron/novacron/api"
)

//go:embed openapi.json
var description []byte

// Description returns the OpenAPI description of the API.
func Description() []byte { return description }

func agentRoutes() []Route {
	return []Route{
		{
			Name: "agent.self", Method: "GET", Path: "/v1/agent/self", Capability: "operator:read",
			Summary: "Who this agent is, and how it is set up.", Response: api.AgentSelf{}, handle: agentSelf,
		},
		{
			Name: "agent.health", Method: "GET", Path: "/v1/agent/health", Capability: "none",
			Summary: "How this agent is: 200 when it is well, 503 when it is not.", Response: api.AgentHealth{},
			Params: []Param{{Name: "always", Type: "boolean", Summary: "Answer 200 also when it is not well."}}, handle: agentHealth,
		},
		{
			Name: "agent.metrics", Method: "GET", Path: "/v1/metrics", Capability: "operator:read", Produces: mimeJSON,
			Summary: "The agent's metrics, as JSON or as Prometheus text.",
			Params:  []Param{{Name: "format", Type: "string", Summary: "json (default) or prometheus."}}, handle: agentMetrics,
		},
		{
			Name: "agent.openapi", Method: "GET", Path: "/v1/openapi.json", Capability: "none", Produces: mimeJSON,
			Summary: "This description.", handle: agentOpenAPI,
		},
	}
}

func agentSelf(s *Server, w http.ResponseWriter, r *http.Request) error {
	if err := s.cfg.Authorize(r.Context(), "operator:read"); err != nil {
		return err
	}
	self := s.cfg.Self()
	return s.answer(w, r, http.StatusOK, &self)
}

func agentHealth(s *Server, w http.ResponseWriter, r *http.Request) error {
	always, err := boolParam(r, "always")
	if err != nil {
		return err
	}
	h, status := s.cfg.Health(), http.StatusOK
	if !h.OK && !always {
		status = http.StatusServiceUnavailable
	}
	return s.answer(w, r, status, &h)
}

func agentMetrics(s *Server, w http.ResponseWriter, r *http.Request) error {
	if f := r.URL.Query().Get("format"); f != "" && f != "json" && f != "prometheus" {
		return badParam("format", "%q is neither json nor prometheus", clip(f))
	}
	if err := s.cfg.Authorize(r.Context(), "operator:read"); err != nil {
		return err
	}
	if s.cfg.Metrics == nil {
		return api.Errorf(api.CodeUnsupported, "this agent keeps no metrics")
	}
	s.cfg.Metrics.ServeHTTP(w, r)
	return nil
}

func agentOpenAPI(_ *Server, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", mimeJSON)
	send(w, r, http.StatusOK, description)
	return nil
}
