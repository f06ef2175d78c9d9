package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Context is a cluster as a person knows it: where, as whom, and by which CA.
type Context struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	Token     string `json:"token,omitempty"`
	CACert    string `json:"ca_cert,omitempty"` // PEM
	Region    string `json:"region,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// contexts is the file contexts.json.
type contexts struct {
	Current  string    `json:"current,omitempty"`
	Contexts []Context `json:"contexts"`

	path string
}

// loadContexts reads the file; one that does not exist is empty. A file that
// others can read is refused: it holds tokens.
func loadContexts(env *Env) (*contexts, error) {
	c := &contexts{}
	if env.ConfigDir == "" {
		return c, nil
	}
	c.path = filepath.Join(env.ConfigDir, "contexts.json")
	info, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds tokens but others can read it; run: chmod 600 %s", c.path, c.path)
	}
	b, err := os.ReadFile(c.path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return c, nil
}

func (c *contexts) find(name string) int {
	return slices.IndexFunc(c.Contexts, func(x Context) bool { return x.Name == name })
}

// save writes the file whole or not at all, for its owner only.
func (c *contexts) save() error {
	if c.path == "" {
		return errors.New("there is no home folder to keep contexts in; set HOME or XDG_CONFIG_HOME")
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	b, err := marshal(c)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), ".contexts-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.path)
}

// shown is a context without its secret.
func (c Context) shown() Context {
	if c.Token != "" {
		c.Token = hideToken(c.Token)
	}
	return c
}

// hideToken keeps kind and accessor, which are no secret.
func hideToken(s string) string {
	if parts := strings.Split(s, "."); len(parts) >= 3 {
		return parts[0] + "." + parts[1] + ".…"
	}
	return "…"
}

func contextSpecs() []*spec {
	return []*spec{
		{
			name: "context list", synopsis: "list the contexts", local: true,
			examples: []string{"novacron context list"},
			build: simple(func(c *call) error {
				s, err := loadContexts(c.env)
				if err != nil {
					return err
				}
				shown := make([]Context, len(s.Contexts))
				for i, x := range s.Contexts {
					shown[i] = x.shown()
				}
				return c.out.show(shown, func() error {
					t := c.out.table("", "NAME", "ADDRESS", "REGION", "NAMESPACE", "TOKEN")
					for _, x := range shown {
						mark := ""
						if x.Name == s.Current {
							mark = "*"
						}
						t.row(mark, x.Name, x.Address, orDash(x.Region), orDash(x.Namespace), orDash(x.Token))
					}
					return t.write("No contexts. `novacron context add NAME` makes one.")
				})
			}),
		},
		{
			name: "context add", args: "NAME", min: 1, max: 1, synopsis: "add or change a context", local: true,
			long:     "A context remembers an address, a token and the CA certificate under a name, in\ncontexts.json in your configuration folder, readable by you only. The first one\nbecomes the one in use. A token given as - is read from standard input.",
			examples: []string{"novacron context add lab -address https://10.0.0.1:7646 -ca-cert ca.pem -token -", "novacron context add dev -address http://127.0.0.1:7646 -token nova.…"},
			build:    contextAdd,
		},
		{
			name: "context use", args: "NAME", min: 1, max: 1, synopsis: "choose the context in use", local: true,
			examples: []string{"novacron context use lab"},
			build: simple(func(c *call) error {
				return changeContexts(c, func(s *contexts, at int) string { s.Current = c.args[0]; return "In use: " + c.args[0] })
			}),
		},
		{
			name: "context remove", args: "NAME", min: 1, max: 1, synopsis: "forget a context", local: true,
			examples: []string{"novacron context remove lab"},
			build: simple(func(c *call) error {
				return changeContexts(c, func(s *contexts, at int) string {
					s.Contexts = slices.Delete(s.Contexts, at, at+1)
					if s.Current == c.args[0] {
						s.Current = ""
					}
					return "Removed: " + c.args[0]
				})
			}),
		},
		{
			name: "context show", args: "[NAME]", max: 1, synopsis: "show a context, or the one in use", local: true,
			examples: []string{"novacron context show", "novacron context show lab -o json"},
			build:    simple(contextShow),
		},
	}
}

func contextAdd(f *flags) func(*call) error {
	var x Context
	f.StringVar(&x.Address, "address", "", "`url` of an agent")
	f.StringVar(&x.Token, "token", "", "`secret` of a token, or - to read it")
	ca := f.String("ca-cert", "", "`file` with the cluster's CA")
	f.StringVar(&x.Region, "region", "", "`name` of the region")
	f.StringVar(&x.Namespace, "namespace", "", "`name` of the namespace")
	return func(c *call) error {
		s, err := loadContexts(c.env)
		if err != nil {
			return err
		}
		x.Name = c.args[0]
		if at := s.find(x.Name); at >= 0 {
			old := s.Contexts[at]
			x.Address, x.Token = first(x.Address, old.Address), first(x.Token, old.Token)
			x.Region, x.Namespace, x.CACert = first(x.Region, old.Region), first(x.Namespace, old.Namespace), old.CACert
			s.Contexts = slices.Delete(s.Contexts, at, at+1)
		}
		if x.Address == "" {
			return usagef("-address is missing")
		}
		if x.Token == "-" {
			if _, err := fmt.Fscan(c.env.Stdin, &x.Token); err != nil {
				return fmt.Errorf("reading the token: %w", err)
			}
		}
		if *ca != "" {
			pem, err := os.ReadFile(*ca)
			if err != nil {
				return fmt.Errorf("the CA certificate: %w", err)
			}
			x.CACert = string(pem)
		}
		s.Contexts = append(s.Contexts, x)
		slices.SortFunc(s.Contexts, func(a, b Context) int { return strings.Compare(a.Name, b.Name) })
		if len(s.Contexts) == 1 {
			s.Current = x.Name
		}
		if err := s.save(); err != nil {
			return err
		}
		c.out.say("Saved: %s", x.Name)
		return nil
	}
}

// changeContexts changes the context that the first argument names.
func changeContexts(c *call, change func(s *contexts, at int) string) error {
	s, err := loadContexts(c.env)
	if err != nil {
		return err
	}
	at := s.find(c.args[0])
	if at < 0 {
		return fmt.Errorf("there is no context %q; `novacron context list` shows those there are", c.args[0])
	}
	text := change(s, at)
	if err := s.save(); err != nil {
		return err
	}
	c.out.say("%s", text)
	return nil
}

func contextShow(c *call) error {
	s, err := loadContexts(c.env)
	if err != nil {
		return err
	}
	name := s.Current
	if len(c.args) == 1 {
		name = c.args[0]
	}
	at := s.find(name)
	if at < 0 {
		return fmt.Errorf("there is no context %q; `novacron context list` shows those there are", name)
	}
	x := s.Contexts[at].shown()
	return c.out.show(x, func() error {
		f := c.out.fields()
		f.add("Name", x.Name)
		f.add("Address", x.Address)
		f.add("Token", x.Token)
		f.add("Region", x.Region)
		f.add("Namespace", x.Namespace)
		f.add("CA", fmt.Sprintf("%d bytes", len(x.CACert)))
		f.write()
		return nil
	})
}
