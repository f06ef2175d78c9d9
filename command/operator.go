package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

func operatorSpecs() []*spec {
	return []*spec{
		{
			name: "operator raft list", synopsis: "list the servers that keep the state",
			examples: []string{"novacron operator raft list"},
			build:    simple(with(raftList)),
		},
		{
			name: "operator raft transfer", args: "[SERVER]", max: 1, synopsis: "hand leadership to another server",
			examples: []string{"novacron operator raft transfer", "novacron operator raft transfer s2"},
			build: simple(with(func(c *call, cl *api.Client) error {
				var id api.ID
				if len(c.args) == 1 {
					s, err := raftServer(c, cl, c.args[0])
					if err != nil {
						return err
					}
					id = s.ID
				}
				if err := cl.Operator().RaftTransfer(c, id); err != nil {
					return err
				}
				c.out.say("leadership is handed over")
				return nil
			})),
		},
		{
			name: "operator raft remove", args: "SERVER", min: 1, max: 1, synopsis: "remove a server that will not come back",
			examples: []string{"novacron operator raft remove s3"},
			build: simple(with(func(c *call, cl *api.Client) error {
				s, err := raftServer(c, cl, c.args[0])
				if err != nil {
					return err
				}
				if err := cl.Operator().RaftRemove(c, s.ID); err != nil {
					return err
				}
				c.out.say("%s is removed", first(s.Name, s.ID.String()))
				return nil
			})),
		},
		{
			name: "operator schema status", synopsis: "show which form the state has, and what each binary knows",
			examples: []string{"novacron operator schema status"},
			build: simple(with(func(c *call, cl *api.Client) error {
				s, err := cl.Operator().SchemaStatus(c, nil)
				if err != nil {
					return err
				}
				return showSchema(c, s)
			})),
		},
		schemaSpec("up", "bring the state to a newer form", func(s *api.SchemaStatus) uint32 { return s.Newest }, false),
		schemaSpec("down", "bring the state back to an older form", func(s *api.SchemaStatus) uint32 { return max(s.Active, 1) - 1 }, false),
		schemaSpec("finalize", "give up the way back to older forms", func(s *api.SchemaStatus) uint32 { return s.Active }, true),
		{
			name: "operator scheduler get", synopsis: "show how the region chooses nodes",
			examples: []string{"novacron operator scheduler get"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Operator().SchedulerGet(c, nil)
				if err != nil {
					return err
				}
				return showScheduler(c, r)
			})),
		},
		{
			name: "operator scheduler set", synopsis: "change how the region chooses nodes",
			examples: []string{"novacron operator scheduler set -algorithm spread", "novacron operator scheduler set -cpu-ratio 8 -expect 3"},
			build:    schedulerSet,
		},
		{
			name: "operator node fence-confirm", args: "NODE", min: 1, max: 1, synopsis: "confirm that a silent node is off for certain",
			long:     "The node counts as lost: its VMs are restarted elsewhere where their disks can be\nreached, and the node can be deleted with -force. If it is not off, VMs run twice.",
			examples: []string{"novacron operator node fence-confirm n3", "novacron operator node fence-confirm n3 -yes"},
			build: func(f *flags) func(*call) error {
				sure := f.Bool("yes", false, "do not ask")
				return with(func(c *call, cl *api.Client) error { return fenceConfirm(c, cl, *sure) })
			},
		},
		{
			name: "operator keyring export", synopsis: "print the root key, as root on a server", local: true,
			long:     "A backup needs it besides snapshots: it opens what is sealed in them. Whoever has both\nhas the cluster. Write it to where a lost cluster is rebuilt as root.key.",
			examples: []string{"novacron operator keyring export -out /mnt/backup/root.key"},
			build:    keyringExport,
		},
		{
			name: "operator recovery status", synopsis: "show whether the region recovers from a restore, and what it waits for",
			examples: []string{"novacron operator recovery status"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Operator().RecoveryGet(c, nil)
				if err != nil {
					return err
				}
				return showRecovery(c, r)
			})),
		},
		{
			name: "operator recovery end", synopsis: "end recovery without nodes that are known to be off",
			long:     "Your word that a node is off lets its VMs be started elsewhere. If it is not off,\nthey run twice.",
			examples: []string{"novacron operator recovery end -fenced n3"},
			build: func(f *flags) func(*call) error {
				fenced := f.list("fenced", "`name` of a node that is off; may be repeated")
				return with(func(c *call, cl *api.Client) error {
					r, err := write(c, func(o *api.WriteOptions) (*api.Recovery, error) {
						return cl.Operator().RecoveryEnd(c, &api.RecoveryEnd{Fenced: *fenced}, o)
					})
					if err != nil {
						return err
					}
					return showRecovery(c, r)
				})
			},
		},
	}
}

func keyringExport(f *flags) func(*call) error {
	socket := f.String("socket", "", "`path` of the server's socket (default: novacron.sock in the data folder)")
	config := f.list("config", "`path` of the agent's configuration, to find its data folder")
	out := f.String("out", "", "`path` of a new file, which only its owner can read (default: standard output)")
	return func(c *call) error {
		cl, err := overSocket(c, *socket, *config)
		if err != nil {
			return err
		}
		defer cl.Close()
		k, err := cl.Operator().KeyringExport(c)
		if err != nil {
			return err
		}
		if *out == "" {
			_, err := io.WriteString(c.env.Stdout, k.RootKey+"\n")
			return err
		}
		file, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = file.WriteString(k.RootKey + "\n")
		if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
			return err
		}
		fmt.Fprintf(c.env.Stderr, "The root key of region %s is in %s.\n", k.Region, *out)
		return nil
	}
}

// fenceConfirm asks for the node's name: an id may be a slip of the hand.
func fenceConfirm(c *call, cl *api.Client, sure bool) error {
	r, err := cl.Nodes().Get(c, c.args[0], nil)
	if err != nil {
		return err
	}
	if !sure {
		fmt.Fprintf(c.env.Stderr, "Node %s is %s. Is its machine switched off for certain? Type the node's name: ", r.Node.Name, r.Node.Status)
		var answer string
		if _, err := fmt.Fscanln(c.env.Stdin, &answer); err != nil || answer != r.Node.Name {
			return errors.New("nothing was changed; -yes answers the question")
		}
	}
	r, err = write(c, func(o *api.WriteOptions) (*api.NodeResponse, error) {
		return cl.Nodes().Fence(c, &api.NodeFence{Key: r.Node.ID.String()}, o)
	})
	if err != nil {
		return err
	}
	return c.out.show(r, func() error {
		c.out.say("node %s is lost: %s", r.Node.Name, r.Node.StatusNote)
		return nil
	})
}

func raftList(c *call, cl *api.Client) error {
	r, err := cl.Operator().RaftList(c, nil)
	if err != nil {
		return err
	}
	return c.out.show(r.Items, func() error {
		t := c.out.table("NAME", "ROLE", "HEALTH", "LAST INDEX", "TERM", "ADDRESS", "VERSION", "ID")
		for _, s := range r.Items {
			health := "healthy"
			if !s.Healthy {
				health = first(s.Status, "unknown")
				if health == "alive" {
					health = "behind"
				}
			}
			t.row(orDash(s.Name), serverRole(c.out, s), c.out.state(health), uintText(s.LastIndex), uintText(s.LastTerm), s.Address, orDash(s.Version), s.ID.String())
		}
		return t.write("No servers.")
	})
}

// raftServer finds a server of Raft by name, id, or the beginning of its id.
func raftServer(c *call, cl *api.Client, key string) (*api.Server, error) {
	r, err := cl.Operator().RaftList(c, nil)
	if err != nil {
		return nil, err
	}
	var found []*api.Server
	for _, s := range r.Items {
		if s.Name == key || s.ID.String() == key {
			return s, nil
		}
		if strings.HasPrefix(s.ID.String(), key) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("there is no server %q in Raft; `novacron operator raft list` shows those there are", key)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%q is the beginning of several ids", key)
}

// schemaSpec is a verb that changes the schema; the version is the argument or a
// default made of the present state.
func schemaSpec(verb, synopsis string, version func(*api.SchemaStatus) uint32, finalize bool) *spec {
	return &spec{
		name: "operator schema " + verb, args: "[VERSION]", max: 1, synopsis: synopsis,
		examples: []string{"novacron operator schema " + verb, "novacron operator schema " + verb + " 2"},
		build: simple(with(func(c *call, cl *api.Client) error {
			s, err := cl.Operator().SchemaStatus(c, nil)
			if err != nil {
				return err
			}
			to := version(s)
			if len(c.args) == 1 {
				n, err := strconv.ParseUint(c.args[0], 10, 32)
				if err != nil {
					return usagef("%q is not a version", c.args[0])
				}
				to = uint32(n)
			}
			r, err := write(c, func(o *api.WriteOptions) (*api.SchemaStatus, error) {
				return cl.Operator().SchemaChange(c, &api.SchemaChange{Version: to, Finalize: finalize}, o)
			})
			if err != nil {
				return err
			}
			return showSchema(c, r)
		})),
	}
}

func showSchema(c *call, s *api.SchemaStatus) error {
	return c.out.show(s, func() error {
		f := c.out.fields()
		f.add("Active", fmt.Sprint(s.Active))
		f.add("Newest", fmt.Sprint(s.Newest))
		f.add("Finalized", fmt.Sprint(s.Finalized))
		f.add("Ready to finalize", yes(s.Ready))
		f.add("Why", s.Why)
		f.write()
		c.out.section("Steps")
		t := c.out.table("VERSION", "NAME", "APPLIED")
		for _, st := range s.Steps {
			t.row(fmt.Sprint(st.Version), st.Name, clock(st.Applied))
		}
		if err := t.write("None."); err != nil {
			return err
		}
		c.out.section("Binaries")
		t = c.out.table("NAME", "ROLE", "KNOWS UP TO")
		for _, m := range s.Members {
			t.row(m.Name, m.Role, fmt.Sprint(m.Max))
		}
		return t.write("None.")
	})
}

func schedulerSet(f *flags) func(*call) error {
	algo := f.String("algorithm", "", "`name`: binpack or spread")
	cpu := f.Float64("cpu-ratio", 0, "promise this many times the CPU of nodes that say nothing else")
	mem := f.Float64("memory-ratio", 0, "promise this many times the memory of nodes that say nothing else")
	expect := f.Int("expect", -1, "place nothing before this `number` of servers vote")
	moves := f.Int("migrations", -1, "move this `number` of VMs at once (0: the default, 8)")
	nodeMoves := f.Int("node-migrations", -1, "let a node take part in this `number` of moves at once (0: the default, 2)")
	return with(func(c *call, cl *api.Client) error {
		r, err := cl.Operator().SchedulerGet(c, nil)
		if err != nil {
			return err
		}
		req := &api.SchedulerConfigApply{Config: r.Config, CheckIndex: &r.Config.ModifyIndex}
		req.Config.Algorithm = first(*algo, req.Config.Algorithm)
		if *cpu != 0 {
			req.Config.CPURatio = *cpu
		}
		if *mem != 0 {
			req.Config.MemoryRatio = *mem
		}
		if *expect >= 0 {
			req.Config.Expect = int32(*expect)
		}
		if *moves >= 0 {
			req.Config.Migrations = int32(*moves)
		}
		if *nodeMoves >= 0 {
			req.Config.NodeMigrations = int32(*nodeMoves)
		}
		if r, err = write(c, func(o *api.WriteOptions) (*api.SchedulerConfigResponse, error) {
			return cl.Operator().SchedulerSet(c, req, o)
		}); err != nil {
			return err
		}
		return showScheduler(c, r)
	})
}

func showScheduler(c *call, r *api.SchedulerConfigResponse) error {
	return c.out.show(r.Config, func() error {
		s := r.Config
		f := c.out.fields()
		f.add("Algorithm", first(s.Algorithm, "binpack"))
		f.add("CPU ratio", fmt.Sprint(ratio(s.CPURatio, 4)))
		f.add("Memory ratio", fmt.Sprint(ratio(s.MemoryRatio, 1)))
		f.add("Expect", fmt.Sprintf("%d servers", s.Expect))
		f.add("Migrations", fmt.Sprintf("%v at once, %v for each node", ratio(float64(s.Migrations), 8), ratio(float64(s.NodeMigrations), 2)))
		for _, b := range r.CPUBaselines {
			f.add("CPU baseline", fmt.Sprintf("%s (%s)", b.V, first(b.K, "any")))
		}
		f.write()
		return nil
	})
}

func showRecovery(c *call, r *api.Recovery) error {
	return c.out.show(r, func() error {
		if !r.Active {
			c.out.say("The region is not in recovery.")
			return nil
		}
		c.out.say("The region is in %s: nothing is started or stopped until these nodes have reported or are known to be off:", c.out.state("recovery"))
		for _, n := range r.Waiting {
			c.out.say("  %s", n)
		}
		return nil
	})
}
