package api

import (
	"context"
	"iter"
	"net/http"
	"time"
)

//msgp:ignore MigrationsClient

const (
	watchStep     = Duration(time.Second) // how often a watch asks how far it is
	watchPatience = time.Minute           // for servers that do not answer
	watchRetry    = 500 * time.Millisecond
)

// MigrationsClient holds the calls about migrations.
type MigrationsClient struct{ c *Client }

// Migrations returns the calls about migrations.
func (c *Client) Migrations() MigrationsClient { return MigrationsClient{c} }

// List returns a page of migrations, the newest first.
func (m MigrationsClient) List(ctx context.Context, l *MigrationListRequest) (*MigrationListResponse, error) {
	if l == nil {
		l = &MigrationListRequest{}
	}
	r := m.c.read("/v1/migrations", &l.QueryOptions).set("vm", l.VM).set("node", l.Node)
	if l.Active {
		r.set("active", "true")
	}
	return get[MigrationListResponse](ctx, m.c, r)
}

// All goes over all pages of the list.
func (m MigrationsClient) All(ctx context.Context, l *MigrationListRequest) iter.Seq2[*Migration, error] {
	if l == nil {
		l = &MigrationListRequest{}
	}
	return pages(&l.QueryOptions, func(q *QueryOptions) ([]*Migration, string, error) {
		next := *l
		next.QueryOptions = *q
		r, err := m.List(ctx, &next)
		if err != nil {
			return nil, "", err
		}
		return r.Items, r.NextToken, nil
	})
}

// Get returns a migration by its id or a prefix of it, or the newest one of a VM
// by the VM's name or id.
func (m MigrationsClient) Get(ctx context.Context, key string, q *QueryOptions) (*MigrationResponse, error) {
	return one[MigrationResponse](ctx, m.c, "/v1/migration/%s", key, q)
}

// Create moves a VM, or with DryRun forecasts how that would go.
func (m MigrationsClient) Create(ctx context.Context, a *MigrationCreate, o *WriteOptions) (*MigrationCreated, error) {
	return put[MigrationCreated](ctx, m.c, m.c.write(http.MethodPost, "/v1/migrations", o).set("namespace", a.Namespace), a)
}

// Cancel ends a migration; the guest goes on where it is.
func (m MigrationsClient) Cancel(ctx context.Context, a *MigrationCancel, o *WriteOptions) (*MigrationCanceled, error) {
	if a.Key == "" {
		return nil, Errorf(CodeInvalid, "the request to cancel a migration is not valid: key: is missing")
	}
	r := m.c.write(http.MethodPost, "/v1/migration/"+seg(a.Key)+"/cancel", o).set("namespace", a.Namespace)
	return get[MigrationCanceled](ctx, m.c, r)
}

// Update changes the limits of a migration that is not committed.
func (m MigrationsClient) Update(ctx context.Context, a *MigrationUpdate, o *WriteOptions) (*MigrationUpdated, error) {
	if a.Key == "" {
		return nil, Errorf(CodeInvalid, "the change of the migration is not valid: key: is missing")
	}
	return put[MigrationUpdated](ctx, m.c, m.c.write(http.MethodPut, "/v1/migration/"+seg(a.Key), o).set("namespace", a.Namespace), a)
}

// Watch follows a migration: it gives its state at once, whenever it changes,
// and each second with its newest progress, until it is over. Servers that do
// not answer are asked again for a minute. It ends with an error, or with a
// migration that is done or aborted.
func (m MigrationsClient) Watch(ctx context.Context, key string, q *QueryOptions) iter.Seq2[*MigrationResponse, error] {
	return func(yield func(*MigrationResponse, error) bool) {
		next := QueryOptions{}
		if q != nil {
			next = *q
		}
		next.MinIndex = 0
		heard := time.Now()
		for {
			r, err := m.Get(ctx, key, &next)
			if err != nil {
				if retriable(err) && time.Since(heard) < watchPatience && wait(ctx, watchRetry) {
					next.MinIndex, next.Wait = 0, 0
					continue
				}
				yield(nil, err)
				return
			}
			heard = time.Now()
			if r.Migration == nil {
				yield(nil, Errorf(CodeInternal, "the answer holds no migration"))
				return
			}
			if !yield(r, nil) || !r.Migration.Phase.Active() {
				return
			}
			// A VM's name means this migration from now on, whatever follows it.
			key, next.MinIndex, next.Wait = r.Migration.ID.String(), r.Migration.ModifyIndex, watchStep
		}
	}
}

// retriable reports whether a read that failed may succeed in a moment.
func retriable(err error) bool {
	switch CodeOf(err) {
	case CodeUnreachable, CodeNoLeader, CodeRateLimited:
		return true
	}
	return false
}

// wait waits, and reports whether ctx is still alive.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
