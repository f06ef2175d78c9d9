package command

import (
	"fmt"
	"io"
	"time"

	"github.com/novacron/novacron/api"
)

func tokenSpecs() []*spec {
	return []*spec{
		{
			name: "token create", synopsis: "make a management token", args: "[NAME]", max: 1,
			long:     "The secret is printed once and kept nowhere; -quiet prints nothing else.",
			examples: []string{"novacron token create alice -ttl 720h", "export NOVACRON_TOKEN=$(novacron token create -quiet)"},
			build: func(f *flags) func(*call) error {
				ttl := f.Duration("ttl", 0, "end after `time`; 0 is never")
				quiet := f.Bool("quiet", false, "print only the secret")
				return with(func(c *call, cl *api.Client) error {
					req := &api.TokenCreate{Type: api.TokenManagement, TTL: api.Duration(*ttl)}
					if len(c.args) == 1 {
						req.Name = c.args[0]
					}
					return createToken(c, cl, req, *quiet)
				})
			},
		},
		{
			name: "token join", synopsis: "make a token that lets machines join",
			long:     "Give it to `novacron agent -join ADDRESS -token-file FILE`. It holds the hash of the\ncluster's CA, so the new machine knows whom it talks to.",
			examples: []string{"novacron token join -role client", "novacron token join -role server -uses 2 -ttl 1h -quiet >join.token"},
			build: func(f *flags) func(*call) error {
				role := f.String("role", "client", "`role` of the machines: server or client")
				uses := f.Int("uses", 0, "let this `number` of machines join; 0 is no limit")
				ttl := f.Duration("ttl", 24*time.Hour, "end after `time`")
				name := f.String("name", "", "`text` for people")
				quiet := f.Bool("quiet", false, "print only the secret")
				return with(func(c *call, cl *api.Client) error {
					return createToken(c, cl, &api.TokenCreate{Name: *name, Type: api.TokenJoin, Role: *role, Uses: int32(*uses), TTL: api.Duration(*ttl)}, *quiet)
				})
			},
		},
		{
			name: "token list", synopsis: "list tokens, without their secrets",
			examples: []string{"novacron token list"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := paged(l.q, func(q *api.QueryOptions) ([]*api.Token, string, error) {
						r, err := cl.Tokens().List(c, q)
						if err != nil {
							return nil, "", err
						}
						return r.Items, r.NextToken, nil
					})
					if err != nil {
						return err
					}
					return c.out.show(list, func() error {
						t := c.out.table("ACCESSOR", "NAME", "TYPE", "ROLE", "USES LEFT", "EXPIRES", "CREATED")
						for _, k := range list {
							t.row(k.Accessor.String(), orDash(k.Name), string(k.Type), orDash(k.Role), usesLeft(k), expiry(k), age(k.CreateTime, time.Now()))
						}
						return t.write("No tokens.")
					})
				})
			},
		},
		{
			name: "token status", args: "ACCESSOR", min: 1, max: 1, synopsis: "show a token, without its secret",
			examples: []string{"novacron token status 6ba7b810-9dad-41d1-80b4-00c04fd430c8"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Tokens().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return c.out.show(r.Token, func() error { showToken(c.out, r.Token); return nil })
			})),
		},
		deleteSpec("token", "revoke tokens by their accessor", func(cl *api.Client) deleter { return cl.Tokens() }),
		{
			name: "acl bootstrap", synopsis: "make the first management token, as root on a server", local: true,
			long:     "Asks the server on this machine over a UNIX socket that only root can open. It works\nonce for a cluster.",
			examples: []string{"novacron acl bootstrap", "novacron acl bootstrap -config /etc/novacron -o json", "export NOVACRON_TOKEN=$(novacron acl bootstrap -quiet)"},
			build:    aclBootstrap,
		},
	}
}

func aclBootstrap(f *flags) func(*call) error {
	socket := f.String("socket", "", "`path` of the server's socket (default: novacron.sock in the data folder)")
	config := f.list("config", "`path` of the agent's configuration, to find its data folder")
	quiet := f.Bool("quiet", false, "print only the secret")
	return func(c *call) error {
		cl, err := overSocket(c, *socket, *config)
		if err != nil {
			return err
		}
		defer cl.Close()
		t, err := cl.Tokens().Bootstrap(c)
		if err != nil {
			return err
		}
		return showSecret(c, t, *quiet)
	}
}

// overSocket is a client of the server on this machine.
func overSocket(c *call, path string, config []string) (*api.Client, error) {
	if path == "" {
		var err error
		if path, err = socketPath(c.env, config); err != nil {
			return nil, err
		}
	}
	return api.NewClient(api.ClientConfig{Address: "unix://" + path})
}

func createToken(c *call, cl *api.Client, req *api.TokenCreate, quiet bool) error {
	t, err := write(c, func(o *api.WriteOptions) (*api.TokenCreated, error) { return cl.Tokens().Create(c, req, o) })
	if err != nil {
		return err
	}
	if t.Secret == "" {
		return fmt.Errorf("the token was made, but its secret was lost on the way; revoke %s and make another", t.Token.Accessor)
	}
	return showSecret(c, t, quiet)
}

// showSecret prints a new token; this is the only time that its secret is seen.
func showSecret(c *call, t *api.TokenCreated, quiet bool) error {
	if quiet {
		_, err := io.WriteString(c.env.Stdout, t.Secret+"\n")
		return err
	}
	return c.out.show(t, func() error {
		showToken(c.out, t.Token)
		c.out.say("%s  %s", c.out.bold("Secret"), t.Secret)
		c.out.say("\nThe secret is not shown again.")
		return nil
	})
}

func showToken(o *output, t *api.Token) {
	f := o.fields()
	f.add("Accessor", t.Accessor.String())
	f.add("Name", t.Name)
	f.add("Type", string(t.Type))
	f.add("Role", t.Role)
	if t.Type == api.TokenJoin {
		f.add("Uses left", usesLeft(t))
	}
	f.add("Expires", expiry(t))
	f.add("Created", clock(t.CreateTime))
	f.write()
}

func usesLeft(t *api.Token) string {
	switch {
	case t.Type != api.TokenJoin:
		return "-"
	case t.Uses == 0:
		return "no limit"
	}
	return fmt.Sprint(t.Uses)
}

func expiry(t *api.Token) string {
	if t.Expires == 0 {
		return "never"
	}
	return clock(t.Expires)
}
