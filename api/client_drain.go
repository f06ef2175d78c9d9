package api

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Drain begins to empty a node, or cancels that.
func (n NodesClient) Drain(ctx context.Context, d *NodeDrainRequest, o *WriteOptions) (*NodeResponse, error) {
	if d.Key == "" {
		return nil, Errorf(CodeInvalid, "the drain is not valid: key: is missing")
	}
	return put[NodeResponse](ctx, n.c, n.c.write(http.MethodPut, "/v1/node/"+seg(d.Key)+"/drain", o), d)
}

// WatchDrain follows the drain of a node: it gives the node with what the drain
// does about each VM at once and each second, until the drain is done or taken
// back. Servers that do not answer are asked again for a minute.
func (n NodesClient) WatchDrain(ctx context.Context, key string) iter.Seq2[*NodeResponse, error] {
	return func(yield func(*NodeResponse, error) bool) {
		heard := time.Now()
		for {
			r, err := n.Get(ctx, key, nil)
			if err != nil {
				if retriable(err) && time.Since(heard) < watchPatience && wait(ctx, watchRetry) {
					continue
				}
				yield(nil, err)
				return
			}
			heard = time.Now()
			if r.Node == nil {
				yield(nil, Errorf(CodeInternal, "the answer holds no node"))
				return
			}
			if !yield(r, nil) || !r.Node.Drain.Active() {
				return
			}
			if !wait(ctx, watchStep.D()) {
				yield(nil, n.c.unreachable(ctx, ctx.Err()))
				return
			}
		}
	}
}
