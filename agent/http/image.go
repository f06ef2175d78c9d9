package http

import (
	"net/http"
	"strings"

	"github.com/novacron/novacron/api"
)

func imageRoutes() []Route {
	return []Route{
		{
			Name: "image.list", Method: "GET", Path: "/v1/images", RPC: "Image.List", Capability: "image:read", Query: true, Namespaced: true,
			Summary: "List images.", Response: api.ImageListResponse{}, handle: readOf[api.ListRequest, api.ImageListResponse](),
		},
		{
			Name: "image.upload", Method: "POST", Path: "/v1/images", RPC: "Image.Upload", Capability: "image:write", Namespaced: true, Stream: true,
			Summary: "Upload an image; the body is its content.", Accepts: []string{mimeBinary}, Response: api.ImageResponse{}, handle: imageUpload,
			Params: []Param{
				{Name: "name", Type: "string", Summary: "The image's name.", Required: true},
				{Name: "kind", Type: "string", Summary: "disk (default), kernel or initrd."},
				{Name: "format", Type: "string", Summary: "qcow2 (default for disks) or raw."},
				{Name: "sha256", Type: "string", Summary: "SHA-256 of the content, 64 hex digits.", Required: true},
				{Name: "size", Type: "integer", Summary: "Size of the content in bytes; default: the Content-Length."},
				{Name: "label", Type: "string", Summary: "A label, key=value.", Many: true},
			},
		},
		{
			Name: "image.get", Method: "GET", Path: "/v1/image/{key}", RPC: "Image.Get", Capability: "image:read", Query: true, Without: api.NotOne, Namespaced: true,
			Summary: "Get one image.", Response: api.ImageResponse{}, handle: readOf[api.GetRequest, api.ImageResponse](),
		},
		{
			Name: "image.download", Method: "GET", Path: "/v1/image/{key}/content", RPC: "Image.Download", Capability: "image:read", Namespaced: true, Stream: true,
			Summary: "Download the content of an image.", Produces: mimeBinary, handle: imageDownload,
		},
		{
			Name: "image.delete", Method: "DELETE", Path: "/v1/image/{key}", RPC: "Image.Delete", Capability: "image:write", Namespaced: true,
			Summary: "Delete an image.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
	}
}

func imageUpload(s *Server, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	req := &api.ImageUpload{Namespace: q.Get("namespace"), Name: q.Get("name"), Kind: q.Get("kind"), Format: q.Get("format"), SHA256: q.Get("sha256")}
	size, err := uintParam(r, "size")
	if err != nil {
		return err
	}
	switch {
	case size > uint64(api.MaxImageSize):
		return badParam("size", "%d is more than %s", size, api.MaxImageSize)
	case !q.Has("size") && r.ContentLength > 0:
		size = uint64(r.ContentLength)
	case r.ContentLength >= 0 && uint64(r.ContentLength) != size:
		return badParam("size", "%d is not the length of the body, %d", size, r.ContentLength)
	}
	req.Size = api.Bytes(size)
	for _, l := range q["label"] {
		k, v, ok := strings.Cut(l, "=")
		if _, twice := req.Labels.Get(k); !ok || twice {
			return badParam("label", "%q is not key=value, or is there twice", clip(l))
		}
		req.Labels = req.Labels.Set(k, v)
	}
	if err := prepare(req); err != nil {
		return err
	}
	resp, err := upload[api.ImageResponse](s, w, r, req, int64(size))
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, resp)
}

func imageDownload(s *Server, w http.ResponseWriter, r *http.Request) error {
	req := &api.GetRequest{Key: keyOf(r)}
	req.Namespace = r.URL.Query().Get("namespace")
	if err := prepare(req); err != nil {
		return err
	}
	st, err := s.cfg.Backend.Open(r.Context(), "Image.Download", req)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Disposition", `attachment; filename="image"`)
	return s.download(w, st, 0)
}
