package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func namespaceRoutes() []Route {
	return []Route{
		{
			Name: "namespace.list", Method: "GET", Path: "/v1/namespaces", RPC: "Namespace.List", Capability: "namespace:read", Query: true,
			Summary: "List namespaces.", Response: api.NamespaceListResponse{}, handle: readOf[api.ListRequest, api.NamespaceListResponse](),
		},
		{
			Name: "namespace.get", Method: "GET", Path: "/v1/namespace/{key}", RPC: "Namespace.Get", Capability: "namespace:read", Query: true, Without: api.NotOne,
			Summary: "Get one namespace.", Response: api.NamespaceResponse{}, handle: readOf[api.GetRequest, api.NamespaceResponse](),
		},
		{
			Name: "namespace.apply", Method: "PUT", Path: "/v1/namespace/{key}", RPC: "Namespace.Apply", Capability: "namespace:write",
			Summary: "Create or change a namespace.", Request: api.NamespaceApply{}, Response: api.NamespaceResponse{},
			handle: writeOf[api.NamespaceApply, api.NamespaceResponse](func(r *http.Request, n *api.NamespaceApply) error {
				return keyFrom(r, "namespace.name", &n.Namespace.Name)
			}),
		},
		{
			Name: "namespace.delete", Method: "DELETE", Path: "/v1/namespace/{key}", RPC: "Namespace.Delete", Capability: "namespace:write",
			Summary: "Delete an empty namespace.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}
