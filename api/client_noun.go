package api

import (
	"context"
	"iter"
	"net/http"
)

//msgp:ignore NodesClient PlacementsClient VolumesClient PoolsClient NetworksClient NamespacesClient TokensClient

// NodesClient holds the calls about nodes.
type NodesClient struct{ c *Client }

// Nodes returns the calls about nodes.
func (c *Client) Nodes() NodesClient { return NodesClient{c} }

// List returns a page of nodes.
func (n NodesClient) List(ctx context.Context, q *QueryOptions) (*NodeListResponse, error) {
	return get[NodeListResponse](ctx, n.c, n.c.read("/v1/nodes", q))
}

// All goes over all pages of the list.
func (n NodesClient) All(ctx context.Context, q *QueryOptions) iter.Seq2[*NodeStub, error] {
	return pages(q, func(q *QueryOptions) ([]*NodeStub, string, error) {
		r, err := n.List(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return r.Items, r.NextToken, nil
	})
}

// Get returns one node.
func (n NodesClient) Get(ctx context.Context, key string, q *QueryOptions) (*NodeResponse, error) {
	return one[NodeResponse](ctx, n.c, "/v1/node/%s", key, q)
}

// Stats returns a sample of a node's load.
func (n NodesClient) Stats(ctx context.Context, key string, q *QueryOptions) (*NodeStatsResponse, error) {
	return one[NodeStatsResponse](ctx, n.c, "/v1/node/%s/stats", key, q)
}

// Update changes what an operator may change of a node.
func (n NodesClient) Update(ctx context.Context, u *NodeUpdate, o *WriteOptions) (*NodeResponse, error) {
	if u.Key == "" {
		return nil, Errorf(CodeInvalid, "the change of the node is not valid: key: is missing")
	}
	return put[NodeResponse](ctx, n.c, n.c.write(http.MethodPut, "/v1/node/"+seg(u.Key), o), u)
}

// Delete forgets a node that left or is lost and holds nothing.
func (n NodesClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, n.c, "/v1/node/%s", d, o)
}

// Fence takes the operator's word that a node is off for certain: it is lost.
func (n NodesClient) Fence(ctx context.Context, f *NodeFence, o *WriteOptions) (*NodeResponse, error) {
	if f.Key == "" {
		return nil, Errorf(CodeInvalid, "the confirmation is not valid: key: is missing")
	}
	return put[NodeResponse](ctx, n.c, n.c.write(http.MethodPost, "/v1/node/"+seg(f.Key)+"/fence", o), f)
}

// Deny forbids a node to connect, or allows it again.
func (n NodesClient) Deny(ctx context.Context, d *NodeDeny, o *WriteOptions) (*WriteMeta, error) {
	if d.Key == "" {
		return nil, Errorf(CodeInvalid, "the denial is not valid: key: is missing")
	}
	return put[WriteMeta](ctx, n.c, n.c.write(http.MethodPut, "/v1/node/"+seg(d.Key)+"/deny", o), d)
}

// PlacementsClient holds the calls about placements.
type PlacementsClient struct{ c *Client }

// Placements returns the calls about placements.
func (c *Client) Placements() PlacementsClient { return PlacementsClient{c} }

// List returns a page of placements, all or those of one node.
func (p PlacementsClient) List(ctx context.Context, l *PlacementListRequest) (*PlacementListResponse, error) {
	if l == nil {
		l = &PlacementListRequest{}
	}
	r := p.c.read("/v1/placements", &l.QueryOptions)
	if !l.NodeID.IsZero() {
		r.set("node_id", l.NodeID.String())
	}
	return get[PlacementListResponse](ctx, p.c, r)
}

// Get returns the placement of a VM.
func (p PlacementsClient) Get(ctx context.Context, vm string, q *QueryOptions) (*PlacementResponse, error) {
	return one[PlacementResponse](ctx, p.c, "/v1/placement/%s", vm, q)
}

// VolumesClient holds the calls about volumes.
type VolumesClient struct{ c *Client }

// Volumes returns the calls about volumes.
func (c *Client) Volumes() VolumesClient { return VolumesClient{c} }

// List returns a page of volumes.
func (v VolumesClient) List(ctx context.Context, q *QueryOptions) (*VolumeListResponse, error) {
	return get[VolumeListResponse](ctx, v.c, v.c.read("/v1/volumes", q))
}

// All goes over all pages of the list.
func (v VolumesClient) All(ctx context.Context, q *QueryOptions) iter.Seq2[*Volume, error] {
	return pages(q, func(q *QueryOptions) ([]*Volume, string, error) {
		r, err := v.List(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return r.Items, r.NextToken, nil
	})
}

// Get returns one volume.
func (v VolumesClient) Get(ctx context.Context, key string, q *QueryOptions) (*VolumeResponse, error) {
	return one[VolumeResponse](ctx, v.c, "/v1/volume/%s", key, q)
}

// Create makes a standalone volume.
func (v VolumesClient) Create(ctx context.Context, a *VolumeCreate, o *WriteOptions) (*VolumeResponse, error) {
	return put[VolumeResponse](ctx, v.c, v.c.write(http.MethodPost, "/v1/volumes", o), a)
}

// Delete removes a volume that nothing uses, with its content.
func (v VolumesClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, v.c, "/v1/volume/%s", d, o)
}

// PoolsClient holds the calls about pools.
type PoolsClient struct{ c *Client }

// Pools returns the calls about pools.
func (c *Client) Pools() PoolsClient { return PoolsClient{c} }

// List returns a page of pools.
func (p PoolsClient) List(ctx context.Context, q *QueryOptions) (*PoolListResponse, error) {
	return get[PoolListResponse](ctx, p.c, p.c.read("/v1/pools", q))
}

// Get returns one pool with its use on each node.
func (p PoolsClient) Get(ctx context.Context, name string, q *QueryOptions) (*PoolResponse, error) {
	return one[PoolResponse](ctx, p.c, "/v1/pool/%s", name, q)
}

// Apply creates or changes what an operator may set of a pool.
func (p PoolsClient) Apply(ctx context.Context, a *PoolApply, o *WriteOptions) (*PoolResponse, error) {
	if a.Pool.Name == "" {
		return nil, Errorf(CodeInvalid, "the pool is not valid: name: is missing")
	}
	return put[PoolResponse](ctx, p.c, p.c.write(http.MethodPut, "/v1/pool/"+seg(a.Pool.Name), o), a)
}

// Delete forgets a pool that no node has and no volume is in.
func (p PoolsClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, p.c, "/v1/pool/%s", d, o)
}

// NetworksClient holds the calls about networks.
type NetworksClient struct{ c *Client }

// Networks returns the calls about networks.
func (c *Client) Networks() NetworksClient { return NetworksClient{c} }

// List returns a page of networks.
func (n NetworksClient) List(ctx context.Context, q *QueryOptions) (*NetworkListResponse, error) {
	return get[NetworkListResponse](ctx, n.c, n.c.read("/v1/networks", q))
}

// Get returns one network and the nodes that have it.
func (n NetworksClient) Get(ctx context.Context, name string, q *QueryOptions) (*NetworkResponse, error) {
	return one[NetworkResponse](ctx, n.c, "/v1/network/%s", name, q)
}

// Apply creates or changes a network.
func (n NetworksClient) Apply(ctx context.Context, a *NetworkApply, o *WriteOptions) (*NetworkResponse, error) {
	if a.Network.Name == "" {
		return nil, Errorf(CodeInvalid, "the network is not valid: name: is missing")
	}
	return put[NetworkResponse](ctx, n.c, n.c.write(http.MethodPut, "/v1/network/"+seg(a.Network.Name), o), a)
}

// Delete removes a network that no VM uses.
func (n NetworksClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, n.c, "/v1/network/%s", d, o)
}

// NamespacesClient holds the calls about namespaces.
type NamespacesClient struct{ c *Client }

// Namespaces returns the calls about namespaces.
func (c *Client) Namespaces() NamespacesClient { return NamespacesClient{c} }

// List returns a page of namespaces.
func (n NamespacesClient) List(ctx context.Context, q *QueryOptions) (*NamespaceListResponse, error) {
	return get[NamespaceListResponse](ctx, n.c, n.c.read("/v1/namespaces", q))
}

// Get returns one namespace.
func (n NamespacesClient) Get(ctx context.Context, name string, q *QueryOptions) (*NamespaceResponse, error) {
	return one[NamespaceResponse](ctx, n.c, "/v1/namespace/%s", name, q)
}

// Apply creates or changes a namespace.
func (n NamespacesClient) Apply(ctx context.Context, a *NamespaceApply, o *WriteOptions) (*NamespaceResponse, error) {
	if a.Namespace.Name == "" {
		return nil, Errorf(CodeInvalid, "the namespace is not valid: name: is missing")
	}
	return put[NamespaceResponse](ctx, n.c, n.c.write(http.MethodPut, "/v1/namespace/"+seg(a.Namespace.Name), o), a)
}

// Delete removes an empty namespace.
func (n NamespacesClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, n.c, "/v1/namespace/%s", d, o)
}

// TokensClient holds the calls about tokens.
type TokensClient struct{ c *Client }

// Tokens returns the calls about tokens.
func (c *Client) Tokens() TokensClient { return TokensClient{c} }

// List returns a page of tokens, without their secrets.
func (t TokensClient) List(ctx context.Context, q *QueryOptions) (*TokenListResponse, error) {
	return get[TokenListResponse](ctx, t.c, t.c.read("/v1/tokens", q))
}

// Get returns one token by its accessor.
func (t TokensClient) Get(ctx context.Context, accessor string, q *QueryOptions) (*TokenResponse, error) {
	return one[TokenResponse](ctx, t.c, "/v1/token/%s", accessor, q)
}

// Create makes a token; the answer is the only place where its secret is shown.
func (t TokensClient) Create(ctx context.Context, a *TokenCreate, o *WriteOptions) (*TokenCreated, error) {
	return put[TokenCreated](ctx, t.c, t.c.write(http.MethodPost, "/v1/tokens", o), a)
}

// Bootstrap makes the first management token; it works only over the socket
// that root alone can open.
func (t TokensClient) Bootstrap(ctx context.Context) (*TokenCreated, error) {
	return put[TokenCreated](ctx, t.c, t.c.write(http.MethodPost, "/v1/tokens/bootstrap", nil), &Bootstrap{})
}

// Delete revokes a token.
func (t TokensClient) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, t.c, "/v1/token/%s", d, o)
}
