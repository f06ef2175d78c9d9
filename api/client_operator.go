package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

//msgp:ignore RootKeyExport OperatorClient StatusClient AgentClient RegionListResponse

// StatusClient holds the calls about servers and regions.
type StatusClient struct{ c *Client }

// RegionListResponse names the regions that the agent knows.
type RegionListResponse struct {
	QueryMeta `json:"meta"`
	Items     []string `json:"items"`
}

// Status returns the calls about servers and regions.
func (c *Client) Status() StatusClient { return StatusClient{c} }

// Leader says who leads the region.
func (s StatusClient) Leader(ctx context.Context, q *QueryOptions) (*StatusResponse, error) {
	return get[StatusResponse](ctx, s.c, s.c.read("/v1/status/leader", q))
}

// Members lists the servers of all regions.
func (s StatusClient) Members(ctx context.Context, q *QueryOptions) (*ServerListResponse, error) {
	return get[ServerListResponse](ctx, s.c, s.c.read("/v1/status/members", q))
}

// Regions lists the regions.
func (s StatusClient) Regions(ctx context.Context, q *QueryOptions) (*RegionListResponse, error) {
	return get[RegionListResponse](ctx, s.c, s.c.read("/v1/regions", q))
}

// OperatorClient holds the calls for operators of the cluster.
type OperatorClient struct{ c *Client }

// Operator returns the calls for operators of the cluster.
func (c *Client) Operator() OperatorClient { return OperatorClient{c} }

// RaftList lists the servers as Raft sees them.
func (o OperatorClient) RaftList(ctx context.Context, q *QueryOptions) (*ServerListResponse, error) {
	return get[ServerListResponse](ctx, o.c, o.c.read("/v1/operator/raft", q))
}

// RaftRemove removes a server from Raft.
func (o OperatorClient) RaftRemove(ctx context.Context, id ID) error {
	return o.c.call(ctx, o.c.write(http.MethodDelete, "/v1/operator/raft", nil).set("id", id.String()), nil, nil)
}

// RaftTransfer hands leadership to a server, or to any when id is zero.
func (o OperatorClient) RaftTransfer(ctx context.Context, id ID) error {
	return o.c.call(ctx, o.c.write(http.MethodPost, "/v1/operator/raft/transfer", nil), &RaftTransfer{ID: id}, nil)
}

// SchemaStatus says which schema is active.
func (o OperatorClient) SchemaStatus(ctx context.Context, q *QueryOptions) (*SchemaStatus, error) {
	return get[SchemaStatus](ctx, o.c, o.c.read("/v1/operator/schema", q))
}

// SchemaChange moves the schema, or finalizes it.
func (o OperatorClient) SchemaChange(ctx context.Context, s *SchemaChange, w *WriteOptions) (*SchemaStatus, error) {
	return put[SchemaStatus](ctx, o.c, o.c.write(http.MethodPut, "/v1/operator/schema", w), s)
}

// SchedulerGet returns how the region schedules.
func (o OperatorClient) SchedulerGet(ctx context.Context, q *QueryOptions) (*SchedulerConfigResponse, error) {
	return get[SchedulerConfigResponse](ctx, o.c, o.c.read("/v1/operator/scheduler", q))
}

// SchedulerSet changes how the region schedules.
func (o OperatorClient) SchedulerSet(ctx context.Context, s *SchedulerConfigApply, w *WriteOptions) (*SchedulerConfigResponse, error) {
	return put[SchedulerConfigResponse](ctx, o.c, o.c.write(http.MethodPut, "/v1/operator/scheduler", w), s)
}

// HAStatus shows the leases of the nodes and which VMs wait for a restart elsewhere.
func (o OperatorClient) HAStatus(ctx context.Context, q *QueryOptions) (*HAStatus, error) {
	return get[HAStatus](ctx, o.c, o.c.read("/v1/operator/ha", q))
}

// HAControl holds restarts elsewhere back, resumes or disarms them.
func (o OperatorClient) HAControl(ctx context.Context, h *HAControl, w *WriteOptions) (*HAStatus, error) {
	return put[HAStatus](ctx, o.c, o.c.write(http.MethodPut, "/v1/operator/ha", w), h)
}

// RecoveryGet says whether the region is in recovery after a restore.
func (o OperatorClient) RecoveryGet(ctx context.Context, q *QueryOptions) (*Recovery, error) {
	return get[Recovery](ctx, o.c, o.c.read("/v1/operator/recovery", q))
}

// RecoveryEnd ends recovery without the nodes named.
func (o OperatorClient) RecoveryEnd(ctx context.Context, e *RecoveryEnd, w *WriteOptions) (*Recovery, error) {
	return put[Recovery](ctx, o.c, o.c.write(http.MethodPost, "/v1/operator/recovery", w), e)
}

// KeyringExport returns the root key; it works only over the socket that root
// alone can open.
func (o OperatorClient) KeyringExport(ctx context.Context) (*RootKeyExport, error) {
	return get[RootKeyExport](ctx, o.c, o.c.read("/v1/operator/keyring", nil))
}

// SnapshotSave writes an archive of the region's state to w. When it returns an
// error, what was written is not whole.
func (o OperatorClient) SnapshotSave(ctx context.Context, w io.Writer) (*SnapshotMeta, error) {
	r := o.c.read("/v1/operator/snapshot", nil)
	r.accept = "application/octet-stream"
	resp, err := o.c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	meta := new(SnapshotMeta)
	if err := json.Unmarshal([]byte(resp.Header.Get(HeaderSnapshot)), meta); err != nil {
		return nil, Errorf(CodeSnapshot, "the answer does not describe a snapshot")
	}
	sum := sha256.New()
	n, err := io.Copy(w, io.TeeReader(resp.Body, sum))
	switch {
	case err != nil:
		return nil, Errorf(CodeSnapshot, "the snapshot broke off after %d bytes: %s", n, clip(err.Error()))
	case meta.Size != 0 && n != meta.Size:
		return nil, Errorf(CodeSnapshot, "the snapshot has %d bytes instead of %d", n, meta.Size)
	case meta.SHA256 != "" && meta.SHA256 != hex.EncodeToString(sum.Sum(nil)):
		return nil, Errorf(CodeSnapshot, "the snapshot's checksum is wrong")
	}
	meta.Size = n
	meta.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return meta, nil
}

// SnapshotRestore replaces the region's state by an archive.
func (o OperatorClient) SnapshotRestore(ctx context.Context, archive io.Reader) (*SnapshotMeta, error) {
	r := o.c.write(http.MethodPut, "/v1/operator/snapshot", nil)
	r.body, r.length = archive, -1
	r.header.Set("Content-Type", "application/octet-stream")
	r.header.Set("Expect", "100-continue")
	return get[SnapshotMeta](ctx, o.c, r)
}

// AgentClient holds the calls about the agent itself.
type AgentClient struct{ c *Client }

// Agent returns the calls about the agent itself.
func (c *Client) Agent() AgentClient { return AgentClient{c} }

// Self says who the agent is.
func (a AgentClient) Self(ctx context.Context) (*AgentSelf, error) {
	return get[AgentSelf](ctx, a.c, a.c.read("/v1/agent/self", nil))
}

// Health says how the agent is. An agent that is not well is an answer too, not
// an error.
func (a AgentClient) Health(ctx context.Context) (*AgentHealth, error) {
	r := a.c.read("/v1/agent/health", nil)
	r.query.Set("always", "true")
	return get[AgentHealth](ctx, a.c, r)
}

// Metrics returns the agent's metrics: JSON, or Prometheus text when format is
// "prometheus".
func (a AgentClient) Metrics(ctx context.Context, format string) ([]byte, error) {
	return a.text(ctx, a.c.read("/v1/metrics", nil).set("format", format))
}

// OpenAPI returns the description of the HTTP API.
func (a AgentClient) OpenAPI(ctx context.Context) ([]byte, error) {
	return a.text(ctx, a.c.read("/v1/openapi.json", nil))
}

func (a AgentClient) text(ctx context.Context, r *request) ([]byte, error) {
	resp, err := a.c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, resp.Body); err != nil {
		return nil, a.c.unreachable(ctx, err)
	}
	return []byte(b.String()), nil
}
