package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func poolRoutes() []Route {
	return []Route{
		{
			Name: "pool.list", Method: "GET", Path: "/v1/pools", RPC: "Pool.List", Capability: "pool:read", Query: true,
			Summary: "List pools.", Response: api.PoolListResponse{}, handle: readOf[api.ListRequest, api.PoolListResponse](),
		},
		{
			Name: "pool.get", Method: "GET", Path: "/v1/pool/{key}", RPC: "Pool.Get", Capability: "pool:read", Query: true, Without: api.NotOne,
			Summary: "Get one pool and its use on each node.", Response: api.PoolResponse{}, handle: readOf[api.GetRequest, api.PoolResponse](),
		},
		{
			Name: "pool.apply", Method: "PUT", Path: "/v1/pool/{key}", RPC: "Pool.Apply", Capability: "pool:write",
			Summary: "Create a pool, or change what an operator may set of it.", Request: api.PoolApply{}, Response: api.PoolResponse{},
			handle: writeOf[api.PoolApply, api.PoolResponse](func(r *http.Request, p *api.PoolApply) error { return keyFrom(r, "pool.name", &p.Pool.Name) }),
		},
		{
			Name: "pool.delete", Method: "DELETE", Path: "/v1/pool/{key}", RPC: "Pool.Delete", Capability: "pool:write",
			Summary: "Forget a pool that no node has and no volume is in.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}
