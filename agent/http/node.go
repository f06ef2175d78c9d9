package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func nodeRoutes() []Route {
	return []Route{
		{
			Name: "node.list", Method: "GET", Path: "/v1/nodes", RPC: "Node.List", Capability: "node:read", Query: true,
			Summary: "List nodes.", Response: api.NodeListResponse{}, handle: readOf[api.ListRequest, api.NodeListResponse](),
		},
		{
			Name: "node.get", Method: "GET", Path: "/v1/node/{key}", RPC: "Node.Get", Capability: "node:read", Query: true, Without: api.NotOne,
			Summary: "Get one node and what is used of it.", Response: api.NodeResponse{}, handle: readOf[api.GetRequest, api.NodeResponse](),
		},
		{
			Name: "node.update", Method: "PUT", Path: "/v1/node/{key}", RPC: "Node.Update", Capability: "node:write",
			Summary: "Cordon a node, or change its overcommit ratios.", Request: api.NodeUpdate{}, Response: api.NodeResponse{},
			handle: writeOf[api.NodeUpdate, api.NodeResponse](func(r *http.Request, u *api.NodeUpdate) error { return keyFrom(r, "key", &u.Key) }),
		},
		{
			Name: "node.drain", Method: "PUT", Path: "/v1/node/{key}/drain", RPC: "Node.Drain", Capability: "node:write",
			Summary: "Empty a node: its VMs are moved, each by its own policy, and it takes nothing new. node.get tells how far it is. With cancel it is used again.",
			Request: api.NodeDrainRequest{}, Response: api.NodeResponse{},
			handle: writeOf[api.NodeDrainRequest, api.NodeResponse](func(r *http.Request, d *api.NodeDrainRequest) error { return keyFrom(r, "key", &d.Key) }),
		},
		{
			Name: "node.delete", Method: "DELETE", Path: "/v1/node/{key}", RPC: "Node.Delete", Capability: "node:write",
			Summary: "Forget a node that left or is lost and holds nothing.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
		{
			Name: "node.fence", Method: "POST", Path: "/v1/node/{key}/fence", RPC: "Operator.NodeFence", Capability: "operator:write",
			Summary: "Confirm that a silent node is off for certain: it counts as lost.", Request: api.NodeFence{}, Response: api.NodeResponse{},
			handle: writeOf[api.NodeFence, api.NodeResponse](func(r *http.Request, f *api.NodeFence) error { return keyFrom(r, "key", &f.Key) }),
		},
		{
			Name: "node.deny", Method: "PUT", Path: "/v1/node/{key}/deny", RPC: "Operator.NodeDeny", Capability: "operator:write",
			Summary: "Forbid a node to connect, or allow it again.", Request: api.NodeDeny{}, Response: api.WriteMeta{},
			handle: writeOf[api.NodeDeny, api.WriteMeta](func(r *http.Request, d *api.NodeDeny) error { return keyFrom(r, "key", &d.Key) }),
		},
		{
			Name: "node.stats", Method: "GET", Path: "/v1/node/{key}/stats", RPC: "Node.Stats", Capability: "node:read", Query: true, Without: api.NotNow,
			Summary: "A sample of a node's load.", Response: api.NodeStatsResponse{}, handle: readOf[api.GetRequest, api.NodeStatsResponse](),
		},
	}
}
