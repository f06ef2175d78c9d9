package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func tokenRoutes() []Route {
	return []Route{
		{
			Name: "token.list", Method: "GET", Path: "/v1/tokens", RPC: "Token.List", Capability: "token:read", Query: true,
			Summary: "List tokens, without their secrets.", Response: api.TokenListResponse{}, handle: readOf[api.ListRequest, api.TokenListResponse](),
		},
		{
			Name: "token.create", Method: "POST", Path: "/v1/tokens", RPC: "Token.Create", Capability: "token:write",
			Summary: "Make a token. The answer is the only place where its secret is shown.", Request: api.TokenCreate{}, Response: api.TokenCreated{},
			handle: writeOf[api.TokenCreate, api.TokenCreated](),
		},
		{
			Name: "token.bootstrap", Method: "POST", Path: "/v1/tokens/bootstrap", Capability: "none",
			Summary: "Make the first management token. Works only over the socket of a server that root alone can open.",
			Request: api.Bootstrap{}, Response: api.TokenCreated{}, handle: tokenBootstrap,
		},
		{
			Name: "token.get", Method: "GET", Path: "/v1/token/{key}", RPC: "Token.Get", Capability: "token:read", Query: true, Without: api.NotOne,
			Summary: "Get one token by its accessor.", Response: api.TokenResponse{}, handle: readOf[api.GetRequest, api.TokenResponse](),
		},
		{
			Name: "token.delete", Method: "DELETE", Path: "/v1/token/{key}", RPC: "Token.Delete", Capability: "token:write",
			Summary: "Revoke a token.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}

func tokenBootstrap(s *Server, w http.ResponseWriter, r *http.Request) error {
	if s.cfg.Bootstrap == nil {
		return api.Errorf(api.CodeForbidden, "the first token is made over the socket of a server that root alone can open").
			WithHint("run \"novacron acl bootstrap\" as root on a server")
	}
	if err := api.DecodeJSON(r.Body, 1024, &api.Bootstrap{}); err != nil {
		return err
	}
	t, err := s.cfg.Bootstrap(r.Context())
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, t)
}
