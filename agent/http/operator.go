package http

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/novacron/novacron/api"
)

func operatorRoutes() []Route {
	return []Route{
		{
			Name: "operator.raft.list", Method: "GET", Path: "/v1/operator/raft", RPC: "Operator.RaftList", Capability: "operator:read", Query: true, Without: api.NotNow,
			Summary: "The servers as Raft sees them.", Response: api.ServerListResponse{}, handle: readOf[api.ListRequest, api.ServerListResponse](),
		},
		{
			Name: "operator.raft.remove", Method: "DELETE", Path: "/v1/operator/raft", RPC: "Operator.RaftRemove", Capability: "operator:write",
			Summary: "Remove a server from Raft.", Response: api.Empty{},
			Params: []Param{{Name: "id", Type: "string", Summary: "The server.", Required: true}}, handle: raftRemove,
		},
		{
			Name: "operator.raft.transfer", Method: "POST", Path: "/v1/operator/raft/transfer", RPC: "Operator.RaftTransfer", Capability: "operator:write",
			Summary: "Hand leadership to a server, or to any.", Request: api.RaftTransfer{}, Response: api.Empty{},
			handle: writeOf[api.RaftTransfer, api.Empty](),
		},
		{
			Name: "operator.snapshot.save", Method: "GET", Path: "/v1/operator/snapshot", RPC: "Operator.SnapshotSave", Capability: "operator:write", Stream: true,
			Summary: "Download an archive of the region's state; the header X-Nova-Snapshot describes it.", Produces: mimeBinary, handle: snapshotSave,
		},
		{
			Name: "operator.snapshot.restore", Method: "PUT", Path: "/v1/operator/snapshot", RPC: "Operator.SnapshotRestore", Capability: "operator:write", Stream: true,
			Summary: "Replace the region's state by an archive. The region is in recovery afterwards.", Accepts: []string{mimeBinary}, Response: api.SnapshotMeta{}, handle: snapshotRestore,
		},
		{
			Name: "operator.schema.status", Method: "GET", Path: "/v1/operator/schema", RPC: "Operator.SchemaStatus", Capability: "operator:read", Query: true, Without: api.NotNow,
			Summary: "Which schema is active and which each binary knows.", Response: api.SchemaStatus{}, handle: readOf[api.ListRequest, api.SchemaStatus](),
		},
		{
			Name: "operator.schema.change", Method: "PUT", Path: "/v1/operator/schema", RPC: "Operator.SchemaChange", Capability: "operator:write",
			Summary: "Move the schema up or down, or finalize it.", Request: api.SchemaChange{}, Response: api.SchemaStatus{},
			handle: writeOf[api.SchemaChange, api.SchemaStatus](),
		},
		{
			Name: "operator.scheduler.get", Method: "GET", Path: "/v1/operator/scheduler", RPC: "Operator.SchedulerGet", Capability: "operator:read", Query: true, Without: api.NotOne,
			Summary: "How the region schedules.", Response: api.SchedulerConfigResponse{}, handle: readOf[api.ListRequest, api.SchedulerConfigResponse](),
		},
		{
			Name: "operator.scheduler.set", Method: "PUT", Path: "/v1/operator/scheduler", RPC: "Operator.SchedulerSet", Capability: "operator:write",
			Summary: "Change how the region schedules.", Request: api.SchedulerConfigApply{}, Response: api.SchedulerConfigResponse{},
			handle: writeOf[api.SchedulerConfigApply, api.SchedulerConfigResponse](),
		},
		{
			Name: "operator.ha.status", Method: "GET", Path: "/v1/operator/ha", RPC: "Operator.HAStatus", Capability: "operator:read", Query: true, Without: api.NotNow,
			Summary: "Leases, guards and evidence of the nodes, who would have no room if one were lost, and which VMs wait for a restart elsewhere.", Response: api.HAStatus{}, handle: readOf[api.ListRequest, api.HAStatus](),
		},
		{
			Name: "operator.ha.control", Method: "PUT", Path: "/v1/operator/ha", RPC: "Operator.HAControl", Capability: "operator:write",
			Summary: "Hold restarts elsewhere back, resume them, take all VMs from the guards, or change how hosts are fenced.", Request: api.HAControl{}, Response: api.HAStatus{},
			handle: writeOf[api.HAControl, api.HAStatus](),
		},
		{
			Name: "operator.recovery.get", Method: "GET", Path: "/v1/operator/recovery", RPC: "Operator.RecoveryGet", Capability: "operator:read", Query: true, Without: api.NotOne,
			Summary: "Whether the region is in recovery after a restore.", Response: api.Recovery{}, handle: readOf[api.ListRequest, api.Recovery](),
		},
		{
			Name: "operator.recovery.end", Method: "POST", Path: "/v1/operator/recovery", RPC: "Operator.RecoveryEnd", Capability: "operator:write",
			Summary: "End recovery without the nodes named, which are said to be off.", Request: api.RecoveryEnd{}, Response: api.Recovery{},
			handle: writeOf[api.RecoveryEnd, api.Recovery](),
		},
	}
}

func raftRemove(s *Server, w http.ResponseWriter, r *http.Request) error {
	id, err := idParam(r, "id")
	if err != nil {
		return err
	}
	return s.write(w, r, &api.RaftRemove{ID: id}, &api.Empty{})
}

// snapshotSave streams an archive: first what it is, as a header, then it.
func snapshotSave(s *Server, w http.ResponseWriter, r *http.Request) error {
	st, err := s.cfg.Backend.Open(r.Context(), "Operator.SnapshotSave", &api.Empty{})
	if err != nil {
		return err
	}
	meta := &api.SnapshotMeta{}
	if err := st.Recv(meta); err != nil {
		return cutOff(err)
	}
	desc, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	w.Header().Set(api.HeaderSnapshot, string(desc))
	w.Header().Set("Content-Disposition", `attachment; filename="novacron.snap"`)
	return s.download(w, st, meta.Size)
}

func snapshotRestore(s *Server, w http.ResponseWriter, r *http.Request) error {
	meta, err := upload[api.SnapshotMeta](s, w, r, &api.Empty{}, -1)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, meta)
}

// cutOff names the end of a stream that should not have ended yet.
func cutOff(err error) error {
	if err == io.EOF {
		return api.Errorf(api.CodeUnreachable, "the server ended the stream too early")
	}
	return err
}
