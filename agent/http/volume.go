package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func volumeRoutes() []Route {
	return []Route{
		{
			Name: "volume.list", Method: "GET", Path: "/v1/volumes", RPC: "Volume.List", Capability: "volume:read", Query: true, Namespaced: true,
			Summary: "List volumes.", Response: api.VolumeListResponse{}, handle: readOf[api.ListRequest, api.VolumeListResponse](),
		},
		{
			Name: "volume.create", Method: "POST", Path: "/v1/volumes", RPC: "Volume.Create", Capability: "volume:write", Namespaced: true,
			Summary: "Make a standalone volume.", Request: api.VolumeCreate{}, Response: api.VolumeResponse{},
			handle: writeOf[api.VolumeCreate, api.VolumeResponse](func(r *http.Request, v *api.VolumeCreate) error { return namespaceFrom(r, &v.Namespace) }),
		},
		{
			Name: "volume.get", Method: "GET", Path: "/v1/volume/{key}", RPC: "Volume.Get", Capability: "volume:read", Query: true, Without: api.NotOne, Namespaced: true,
			Summary: "Get one volume.", Response: api.VolumeResponse{}, handle: readOf[api.GetRequest, api.VolumeResponse](),
		},
		{
			Name: "volume.delete", Method: "DELETE", Path: "/v1/volume/{key}", RPC: "Volume.Delete", Capability: "volume:write", Namespaced: true,
			Summary: "Delete a volume that nothing uses, with its content.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}
