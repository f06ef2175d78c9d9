package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func placementRoutes() []Route {
	return []Route{
		{
			Name: "placement.list", Method: "GET", Path: "/v1/placements", RPC: "Placement.List", Capability: "placement:read", Query: true, Namespaced: true,
			Summary: "List placements, all or those of one node.", Response: api.PlacementListResponse{},
			Params: []Param{{Name: "node_id", Type: "string", Summary: "Only those of this node."}},
			handle: readOf[api.PlacementListRequest, api.PlacementListResponse](func(r *http.Request, p *api.PlacementListRequest) (err error) {
				p.NodeID, err = idParam(r, "node_id")
				return err
			}),
		},
		{
			Name: "placement.get", Method: "GET", Path: "/v1/placement/{key}", RPC: "Placement.Get", Capability: "placement:read", Query: true, Without: api.NotOne, Namespaced: true,
			Summary: "Get the placement of a VM.", Response: api.PlacementResponse{}, handle: readOf[api.GetRequest, api.PlacementResponse](),
		},
	}
}
