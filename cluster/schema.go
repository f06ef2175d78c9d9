package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

func (s *Server) schemaEndpoints() {
	read(s, "Operator.SchemaStatus", acl.OperatorRead, s.schemaStatus)
	write(s, "Operator.SchemaChange", acl.OperatorWrite, s.schemaChange)
}

// schemaMembers is what each binary of the region knows. A server that Raft has
// and gossip has not knows nothing, as far as can be told.
func (s *Server) schemaMembers(st *fsm.State) ([]api.SchemaMember, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	var out []api.SchemaMember
	for _, m := range f.Configuration().Servers {
		role := "voter"
		if m.Suffrage != raft.Voter {
			role = "non-voter"
		}
		sm := api.SchemaMember{Name: string(m.ID), Role: role}
		if id, err := api.ParseID(string(m.ID)); err == nil {
			if srv, ok := s.gossip.regions.Server(id); ok {
				sm.Name, sm.Max = srv.Name, srv.SchemaMax
			}
		}
		out = append(out, sm)
	}
	for n := range st.Nodes() {
		if n.Status != api.NodeLost && n.Status != api.NodeLeft {
			out = append(out, api.SchemaMember{Name: n.Name, Role: "client", Max: n.SchemaMax})
		}
	}
	return out, nil
}

// knowsSchema refuses a binary that is older than what was finalized: there is no
// way back to what it knows. Every binary knows schema 1.
func (s *Server) knowsSchema(who string, newest uint32) error {
	if final := s.fsm.State().Finalized(); max(newest, 1) < final {
		return api.Errorf(api.CodeSchema, "%s knows schemas up to %d, and schema %d is finalized", who, max(newest, 1), final).
			WithHint("install a newer version there")
	}
	return nil
}

// behind names the members that do not know a version.
func behind(members []api.SchemaMember, version uint32) string {
	var out []string
	for _, m := range members {
		if m.Max < version {
			out = append(out, fmt.Sprintf("%s %s knows up to %d", m.Role, m.Name, m.Max))
		}
	}
	return strings.Join(out, ", ")
}

func (s *Server) schemaStatus(_ context.Context, req *api.ListRequest) (*api.SchemaStatus, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	out, err := s.schemaNow()
	if err == nil {
		s.label(&req.QueryOptions, &out.QueryMeta)
	}
	return out, err
}

func (s *Server) schemaNow() (*api.SchemaStatus, error) {
	st := s.fsm.State()
	members, err := s.schemaMembers(st)
	if err != nil {
		return nil, err
	}
	reg := s.fsm.Registry()
	out := &api.SchemaStatus{Active: st.Schema(), Newest: reg.Newest(), Finalized: st.Finalized(), Members: members}
	out.Index = max(st.Index(), 1)
	known := map[uint32]bool{}
	for r := range st.Schemas() {
		known[r.Version] = true
		out.Steps = append(out.Steps, api.SchemaStep{Version: r.Version, Name: r.Name, Applied: r.Applied})
	}
	for _, p := range reg.Steps() {
		if !known[p.Version] {
			out.Steps = append(out.Steps, api.SchemaStep{Version: p.Version, Name: p.Name})
		}
	}
	out.Why = behind(members, out.Newest)
	out.Ready = out.Why == ""
	return out, nil
}

// schemaChange takes the schema up or down step by step, and finalizes it if
// that was asked for.
func (s *Server) schemaChange(ctx context.Context, req *api.SchemaChange) (*api.SchemaStatus, error) {
	st := s.fsm.State()
	members, err := s.schemaMembers(st)
	if err != nil {
		return nil, err
	}
	if req.Version > s.fsm.Registry().Newest() {
		return nil, api.Errorf(api.CodeSchema, "schema %d is not known to the leader's binary, which knows up to %d", req.Version, s.fsm.Registry().Newest())
	}
	if why := behind(members, req.Version); why != "" && (req.Finalize || req.Version > st.Schema()) {
		return nil, api.Errorf(api.CodeSchema, "not every member knows schema %d: %s", req.Version, why).WithHint("upgrade them first")
	}
	for now := st.Schema(); now != req.Version; {
		next := now + 1
		if req.Version < now {
			next = now - 1
		}
		if _, err := s.Apply(stepOf(ctx, fmt.Sprintf("schema %d", next)), &fsm.SchemaStep{Version: next}); err != nil {
			return nil, err
		}
		// A step that was taken before under this key is not taken again.
		if now = s.fsm.State().Schema(); now != next {
			return nil, api.Errorf(api.CodeConflict, "schema %d is active, after the step to %d: somebody else changes it", now, next)
		}
	}
	if req.Finalize {
		if _, err := s.Apply(stepOf(ctx, "finalize"), &fsm.SchemaFinalize{Version: req.Version}); err != nil {
			return nil, err
		}
	}
	return s.schemaNow()
}
