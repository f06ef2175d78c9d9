package command

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

// defaultAddress is where an agent of this machine serves.
const defaultAddress = "https://127.0.0.1:7646"

// defaultCA is the CA of an agent of this machine, if there is one.
const defaultCA = "/var/lib/novacron/tls/ca.pem"

// connNames are the flags of connFlags, in the order of the help.
var connNames = []string{"address", "token", "ca-cert", "context", "region", "namespace"}

// connFlags say whom to talk to and as whom. A flag wins over the environment,
// the environment over the context in use.
type connFlags struct {
	address, token, caCert, context, region, namespace string
}

func (c *connFlags) declare(f *flags) {
	f.StringVar(&c.address, "address", "", "`url` of an agent (NOVACRON_ADDR)")
	f.StringVar(&c.token, "token", "", "`secret` of the token to use (NOVACRON_TOKEN)")
	f.StringVar(&c.caCert, "ca-cert", "", "`file` with the cluster's CA (NOVACRON_CACERT)")
	f.StringVar(&c.context, "context", "", "`name` of a context (NOVACRON_CONTEXT)")
	f.StringVar(&c.region, "region", "", "`name` of the region to ask (NOVACRON_REGION)")
	f.StringVar(&c.namespace, "namespace", "", "`name` of the namespace, * for all in lists (NOVACRON_NAMESPACE)")
}

// resolve returns the context that flags, environment and contexts.json make
// together. CACert is PEM.
func (c *connFlags) resolve(env *Env) (Context, error) {
	store, err := loadContexts(env)
	if err != nil {
		return Context{}, err
	}
	name, base := first(c.context, env.getenv("NOVACRON_CONTEXT"), store.Current), Context{}
	if name != "" {
		at := store.find(name)
		if at < 0 {
			return Context{}, fmt.Errorf("there is no context %q; `novacron context list` shows those there are", name)
		}
		base = store.Contexts[at]
	}
	out := Context{
		Name:      name,
		Address:   first(c.address, env.getenv("NOVACRON_ADDR"), base.Address, defaultAddress),
		Token:     first(c.token, env.getenv("NOVACRON_TOKEN"), base.Token),
		Region:    first(c.region, env.getenv("NOVACRON_REGION"), base.Region),
		Namespace: first(c.namespace, env.getenv("NOVACRON_NAMESPACE"), base.Namespace),
		CACert:    base.CACert,
	}
	if !strings.Contains(out.Address, "://") {
		out.Address = "https://" + out.Address
	}
	if file := first(c.caCert, env.getenv("NOVACRON_CACERT")); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return Context{}, fmt.Errorf("the CA certificate: %w", err)
		}
		out.CACert = string(pem)
	} else if out.CACert == "" && strings.HasPrefix(out.Address, "https:") {
		if pem, err := os.ReadFile(defaultCA); err == nil {
			out.CACert = string(pem)
		}
	}
	return out, nil
}

// first returns the first text that is not empty.
func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// client makes the SDK's client for this call, and the context it was made of.
func (c *call) client() (*api.Client, Context, error) {
	x, err := c.conn.resolve(c.env)
	if err != nil {
		return nil, x, err
	}
	cl, err := api.NewClient(api.ClientConfig{
		Address: x.Address, Token: x.Token, CACert: []byte(x.CACert), Region: x.Region, Namespace: x.Namespace,
		UserAgent: "novacron/" + Version,
	})
	return cl, x, err
}

// with runs f with a client, which is closed afterwards.
func with(f func(*call, *api.Client) error) func(*call) error {
	return func(c *call) error {
		cl, _, err := c.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return f(c, cl)
	}
}

// write sends a write, and sends it again under the same idempotency key while
// its outcome is not known or no server leads.
func write[R any](ctx context.Context, send func(*api.WriteOptions) (R, error)) (R, error) {
	o := &api.WriteOptions{IdempotencyKey: api.NewID().String()}
	for try := 1; ; try++ {
		r, err := send(o)
		switch code := api.CodeOf(err); {
		case err == nil, try == 4, code != api.CodeUnknown && code != api.CodeNoLeader:
			return r, err
		}
		t := time.NewTimer(time.Duration(try) * 500 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return r, ctx.Err()
		case <-t.C:
		}
	}
}

// listFlags are the flags of every list.
type listFlags struct{ q api.QueryOptions }

func (f *flags) listFlags() *listFlags {
	l := &listFlags{}
	f.StringVar(&l.q.Filter, "filter", "", "only what this `expression` is true for, such as 'Name matches \"^web\"'")
	f.StringVar(&l.q.Prefix, "prefix", "", "only names that begin with `text`")
	f.Func("consistency", "`level` of the read: default, consistent or stale", func(s string) error {
		l.q.Consistency = api.Consistency(s)
		return nil
	})
	return l
}

// all collects the pages of a list.
func all[T any](seq iter.Seq2[T, error]) ([]T, error) {
	out := []T{}
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// paged collects the pages of a list that the SDK gives page by page.
func paged[T any](q api.QueryOptions, list func(*api.QueryOptions) ([]T, string, error)) ([]T, error) {
	out := []T{}
	for {
		items, next, err := list(&q)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		if next == "" {
			return out, nil
		}
		q.NextToken = next
	}
}
