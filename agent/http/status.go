package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func statusRoutes() []Route {
	return []Route{
		{
			Name: "status.leader", Method: "GET", Path: "/v1/status/leader", RPC: "Status.Leader", Capability: "none", Query: true, Without: api.NotNow,
			Summary: "Who leads the region.", Response: api.StatusResponse{}, handle: readOf[api.ListRequest, api.StatusResponse](),
		},
		{
			Name: "status.members", Method: "GET", Path: "/v1/status/members", RPC: "Status.Members", Capability: "operator:read", Query: true, Without: api.NotMembers,
			Summary: "The servers of all regions.", Response: api.ServerListResponse{}, handle: readOf[api.ListRequest, api.ServerListResponse](),
		},
		{
			Name: "region.list", Method: "GET", Path: "/v1/regions", RPC: "Status.Leader", Capability: "none", Query: true, Without: api.NotNow,
			Summary: "The regions that the agent knows.", Response: api.RegionListResponse{}, handle: regionList,
		},
	}
}

func regionList(s *Server, w http.ResponseWriter, r *http.Request) error {
	req, resp := &api.ListRequest{}, &api.StatusResponse{}
	if err := queryOf(r, s.routeOf(r), &req.QueryOptions); err != nil {
		return err
	}
	if err := prepare(req); err != nil {
		return err
	}
	if err := s.cfg.Backend.Call(r.Context(), "Status.Leader", req, resp); err != nil {
		return err
	}
	regions := resp.Regions
	if len(regions) == 0 && resp.Region != "" {
		regions = []string{resp.Region}
	}
	return s.answer(w, r, http.StatusOK, &api.RegionListResponse{QueryMeta: resp.QueryMeta, Items: regions})
}
