package api

import (
	"context"
	"iter"
	"net/http"
	"strconv"
)

//msgp:ignore VMs ConsoleTicket ParseResponse

// VMs are the calls about VMs.
type VMs struct{ c *Client }

// VMs returns the calls about VMs.
func (c *Client) VMs() VMs { return VMs{c} }

// ConsoleTicket opens one console, once, within 30 seconds, where a token
// cannot be sent in a header (browsers): it goes into Sec-WebSocket-Protocol
// as "nova.ticket.<ticket>", beside "nova-console".
type ConsoleTicket struct {
	Ticket  string `json:"ticket"`
	VMID    ID     `json:"vm_id"`
	Expires Time   `json:"expires"`
}

// ParseResponse holds the specs of a text: every one in Specs, and the only one
// also in Spec.
type ParseResponse struct {
	Spec  *VMSpec   `json:"spec,omitempty"`
	Specs []*VMSpec `json:"specs"`
}

// List returns a page of VMs.
func (v VMs) List(ctx context.Context, q *QueryOptions) (*VMListResponse, error) {
	return get[VMListResponse](ctx, v.c, v.c.read("/v1/vms", q))
}

// All goes over all pages of the list.
func (v VMs) All(ctx context.Context, q *QueryOptions) iter.Seq2[*VMStub, error] {
	return pages(q, func(q *QueryOptions) ([]*VMStub, string, error) {
		r, err := v.List(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return r.Items, r.NextToken, nil
	})
}

// Get returns one VM by name, ID or unambiguous ID prefix.
func (v VMs) Get(ctx context.Context, key string, q *QueryOptions) (*VMResponse, error) {
	return one[VMResponse](ctx, v.c, "/v1/vm/%s", key, q)
}

// Status returns everything a person asks about one VM.
func (v VMs) Status(ctx context.Context, key string, q *QueryOptions) (*VMStatusResponse, error) {
	return one[VMStatusResponse](ctx, v.c, "/v1/vm/%s/status", key, q)
}

// History returns the versions of a VM's spec.
func (v VMs) History(ctx context.Context, key string, q *QueryOptions) (*VMHistoryResponse, error) {
	return one[VMHistoryResponse](ctx, v.c, "/v1/vm/%s/history", key, q)
}

// Stats returns a sample of what the guest uses.
func (v VMs) Stats(ctx context.Context, key string, q *QueryOptions) (*VMStatsResponse, error) {
	return one[VMStatsResponse](ctx, v.c, "/v1/vm/%s/stats", key, q)
}

// Events returns the newest events about a VM. Of l, only the query and the limit
// are looked at.
func (v VMs) Events(ctx context.Context, key string, l *EventListRequest) (*EventListResponse, error) {
	if key == "" {
		return nil, Errorf(CodeInvalid, "the query is not valid: key: is missing")
	}
	if l == nil {
		l = &EventListRequest{}
	}
	r := v.c.read("/v1/vm/"+seg(key)+"/events", &l.QueryOptions)
	if l.Limit != 0 {
		r.query.Set("limit", strconv.Itoa(int(l.Limit)))
	}
	return get[EventListResponse](ctx, v.c, r)
}

// Apply creates a VM or changes its spec.
func (v VMs) Apply(ctx context.Context, a *VMApply, o *WriteOptions) (*VMApplied, error) {
	return put[VMApplied](ctx, v.c, v.c.write(http.MethodPost, "/v1/vms", o), a)
}

// Plan says what Apply would do.
func (v VMs) Plan(ctx context.Context, p *VMPlan, o *WriteOptions) (*VMPlanned, error) {
	return put[VMPlanned](ctx, v.c, v.c.write(http.MethodPost, "/v1/vms/plan", o), p)
}

// Parse turns the text of a specification into specs, with defaults filled in.
func (v VMs) Parse(ctx context.Context, p *ParseRequest) (*ParseResponse, error) {
	return put[ParseResponse](ctx, v.c, v.c.write(http.MethodPost, "/v1/vms/parse", nil), p)
}

// Power starts, stops, reboots, resets, pauses or resumes a VM.
func (v VMs) Power(ctx context.Context, p *VMPower, o *WriteOptions) (*VMApplied, error) {
	if p.Key == "" {
		return nil, Errorf(CodeInvalid, "the power request is not valid: key: is missing")
	}
	return put[VMApplied](ctx, v.c, v.c.write(http.MethodPost, "/v1/vm/"+seg(p.Key)+"/power", o).set("namespace", p.Namespace), p)
}

// Revert makes an old version of the spec the newest.
func (v VMs) Revert(ctx context.Context, p *VMRevert, o *WriteOptions) (*VMApplied, error) {
	if p.Key == "" {
		return nil, Errorf(CodeInvalid, "the revert request is not valid: key: is missing")
	}
	return put[VMApplied](ctx, v.c, v.c.write(http.MethodPost, "/v1/vm/"+seg(p.Key)+"/revert", o).set("namespace", p.Namespace), p)
}

// Delete removes a VM and the volumes that are its own.
func (v VMs) Delete(ctx context.Context, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	return del(ctx, v.c, "/v1/vm/%s", d, o)
}

// ConsoleTicket makes a ticket for a browser's console.
func (v VMs) ConsoleTicket(ctx context.Context, key string, o *WriteOptions) (*ConsoleTicket, error) {
	if key == "" {
		return nil, Errorf(CodeInvalid, "the query is not valid: key: is missing")
	}
	return put[ConsoleTicket](ctx, v.c, v.c.write(http.MethodPost, "/v1/vm/"+seg(key)+"/console/ticket", o), nil)
}

// Console opens the serial console of a VM. It stays open until Close, the end
// of ctx, or the end of the guest. q may name the namespace.
func (v VMs) Console(ctx context.Context, key string, q *QueryOptions) (*Console, error) {
	if key == "" {
		return nil, Errorf(CodeInvalid, "the query is not valid: key: is missing")
	}
	ws, err := v.c.dialWebSocket(ctx, v.c.read("/v1/vm/"+seg(key)+"/console", q), consoleProtocol)
	if err != nil {
		return nil, err
	}
	return &Console{ws: ws}, nil
}

// pages goes over the pages of a list.
func pages[T any](q *QueryOptions, list func(*QueryOptions) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var next QueryOptions
		if q != nil {
			next = *q
		}
		for {
			items, token, err := list(&next)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, it := range items {
				if !yield(it, nil) {
					return
				}
			}
			if token == "" {
				return
			}
			next.NextToken = token
		}
	}
}
