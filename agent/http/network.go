package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func networkRoutes() []Route {
	return []Route{
		{
			Name: "network.list", Method: "GET", Path: "/v1/networks", RPC: "Network.List", Capability: "network:read", Query: true,
			Summary: "List networks.", Response: api.NetworkListResponse{}, handle: readOf[api.ListRequest, api.NetworkListResponse](),
		},
		{
			Name: "network.get", Method: "GET", Path: "/v1/network/{key}", RPC: "Network.Get", Capability: "network:read", Query: true, Without: api.NotOne,
			Summary: "Get one network and the nodes that have it.", Response: api.NetworkResponse{}, handle: readOf[api.GetRequest, api.NetworkResponse](),
		},
		{
			Name: "network.apply", Method: "PUT", Path: "/v1/network/{key}", RPC: "Network.Apply", Capability: "network:write",
			Summary: "Create or change a network.", Request: api.NetworkApply{}, Response: api.NetworkResponse{},
			handle: writeOf[api.NetworkApply, api.NetworkResponse](func(r *http.Request, n *api.NetworkApply) error {
				return keyFrom(r, "network.name", &n.Network.Name)
			}),
		},
		{
			Name: "network.delete", Method: "DELETE", Path: "/v1/network/{key}", RPC: "Network.Delete", Capability: "network:write",
			Summary: "Delete a network that no VM uses.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}
