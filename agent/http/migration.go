package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
)

func migrationRoutes() []Route {
	return []Route{
		{
			Name: "migration.list", Method: "GET", Path: "/v1/migrations", RPC: "Migration.List", Capability: "vm:read", Query: true, Namespaced: true,
			Summary: "List migrations, the newest first; the newest of each VM are kept.", Response: api.MigrationListResponse{},
			Params: []Param{
				{Name: "vm", Type: "string", Summary: "Only those of this VM."},
				{Name: "node", Type: "string", Summary: "Only those from or to this node."},
				{Name: "active", Type: "boolean", Summary: "Only those that are not over."},
			},
			handle: readOf[api.MigrationListRequest, api.MigrationListResponse](func(r *http.Request, p *api.MigrationListRequest) (err error) {
				p.VM, p.Node = r.URL.Query().Get("vm"), r.URL.Query().Get("node")
				p.Active, err = boolParam(r, "active")
				return err
			}),
		},
		{
			Name: "migration.create", Method: "POST", Path: "/v1/migrations", RPC: "Migration.Create", Capability: "vm:write", Namespaced: true,
			Summary: "Move a VM to another node. With dry_run say where it would go, why, and how long that would take; then nothing is changed.",
			Request: api.MigrationCreate{}, Response: api.MigrationCreated{},
			handle: writeOf[api.MigrationCreate, api.MigrationCreated](func(r *http.Request, c *api.MigrationCreate) error {
				return namespaceFrom(r, &c.Namespace)
			}),
		},
		{
			Name: "migration.get", Method: "GET", Path: "/v1/migration/{key}", RPC: "Migration.Get", Capability: "vm:read", Query: true, Namespaced: true,
			Summary:  "Get one migration by its id or a prefix of it, or the newest of a VM by the VM's name or id; with how far it is, and what it waits for.",
			Response: api.MigrationResponse{}, handle: readOf[api.GetRequest, api.MigrationResponse](),
		},
		{
			Name: "migration.update", Method: "PUT", Path: "/v1/migration/{key}", RPC: "Migration.Update", Capability: "vm:write", Namespaced: true,
			Summary: "Change the bandwidth or the downtime of a migration that is not committed; its source follows within a second.",
			Request: api.MigrationUpdate{}, Response: api.MigrationUpdated{},
			handle: writeOf[api.MigrationUpdate, api.MigrationUpdated](func(r *http.Request, u *api.MigrationUpdate) error {
				if err := namespaceFrom(r, &u.Namespace); err != nil {
					return err
				}
				return keyFrom(r, "key", &u.Key)
			}),
		},
		{
			Name: "migration.cancel", Method: "POST", Path: "/v1/migration/{key}/cancel", RPC: "Migration.Cancel", Capability: "vm:write", Namespaced: true,
			Summary:  "End a migration; the guest goes on where it is. Refused once the guest has left its node.",
			Response: api.MigrationCanceled{}, handle: migrationCancel,
		},
	}
}

func migrationCancel(s *Server, w http.ResponseWriter, r *http.Request) error {
	return s.write(w, r, &api.MigrationCancel{Key: keyOf(r), Namespace: r.URL.Query().Get("namespace")}, &api.MigrationCanceled{})
}
