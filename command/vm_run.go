package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/novacron/novacron/api"
)

// maxSpec bounds what is read as a specification, bytes.
const maxSpec = api.MaxSpecText + 1

func vmRunSpecs() []*spec {
	return []*spec{
		{
			name: "vm run", args: "FILE", min: 1, max: 1, synopsis: "create or change VMs from a specification",
			long:     "Sends the file (- is standard input) to the servers, which parse it; shows what\nwould change, applies exactly that, and waits until the VMs run. A change that\nneeds a restart of the guest takes effect at the next stop and start.",
			examples: []string{"novacron vm run web.hcl", "novacron vm run web.hcl -var memory=2GiB -detach", "novacron vm run web.hcl -plan"},
			build:    vmRun,
		},
		{
			name: "vm plan", args: "FILE", min: 1, max: 1, synopsis: "show what vm run would do, and where",
			long:     "Changes nothing. The exit code is 0 when nothing would change and 3 when\nsomething would.",
			examples: []string{"novacron vm plan web.hcl", "novacron vm plan web.hcl -o json"},
			build: func(f *flags) func(*call) error {
				vars := f.pairs("var", "set a variable of the specification, `key=value`; may be repeated")
				return with(func(c *call, cl *api.Client) error { return vmPlan(c, cl, *vars) })
			},
		},
		{
			name: "vm validate", args: "FILE", min: 1, max: 1, synopsis: "check a specification without using it",
			examples: []string{"novacron vm validate web.hcl"},
			build: func(f *flags) func(*call) error {
				vars := f.pairs("var", "set a variable of the specification, `key=value`; may be repeated")
				return with(func(c *call, cl *api.Client) error {
					specs, err := parseSpec(c, cl, *vars)
					if err != nil {
						return err
					}
					return c.out.show(specs, func() error {
						for _, s := range specs {
							c.out.say("%s: valid", s.Name)
						}
						return nil
					})
				})
			},
		},
	}
}

// parseSpec reads the file of the first argument and has the server parse it.
func parseSpec(c *call, cl *api.Client, vars api.Pairs) ([]*api.VMSpec, error) {
	name := c.args[0]
	var in io.Reader = c.env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSpec))
	if err != nil {
		return nil, err
	}
	req := &api.ParseRequest{Text: string(text), Format: "hcl", File: name, Variables: vars}
	if strings.HasSuffix(name, ".json") || name == "-" && strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
		req.Format = "json"
	}
	// A specification that names no namespace is of the one in use; "*" is for
	// reads.
	if x, err := c.conn.resolve(c.env); err == nil && x.Namespace == "*" {
		cl = cl.WithNamespace("")
	}
	got, err := cl.VMs().Parse(c, req)
	if err != nil {
		return nil, err
	}
	return got.Specs, nil
}

func vmPlan(c *call, cl *api.Client, vars api.Pairs) error {
	specs, err := parseSpec(c, cl, vars)
	if err != nil {
		return err
	}
	plans := make([]*api.VMPlanned, len(specs))
	changes := false
	for i, s := range specs {
		if plans[i], err = cl.VMs().Plan(c, &api.VMPlan{Spec: *s}, nil); err != nil {
			return err
		}
		changes = changes || plans[i].Create || len(plans[i].Diff) > 0
	}
	err = c.out.show(plans, func() error {
		for i, p := range plans {
			showPlan(c.out, specs[i], p)
		}
		return nil
	})
	if err == nil && changes {
		return &exitCode{code: exitChanges}
	}
	return err
}

// showPlan writes a plan for people.
func showPlan(o *output, s *api.VMSpec, p *api.VMPlanned) {
	switch {
	case p.Create:
		o.say("%s VM %s/%s will be created", o.paint("32", "+"), s.Namespace, s.Name)
	case len(p.Diff) == 0:
		o.say("  VM %s/%s: no changes", s.Namespace, s.Name)
	default:
		o.say("%s VM %s/%s will be changed", o.paint("33", "~"), s.Namespace, s.Name)
	}
	for _, d := range p.Diff {
		restart := ""
		if d.RestartNeeded && !p.Create {
			restart = o.dim("  (at the next start)")
		}
		switch {
		case d.Old == "":
			o.say("    %s %s: %s%s", o.paint("32", "+"), d.Field, clip(d.New, 200), restart)
		case d.New == "":
			o.say("    %s %s: %s%s", o.paint("31", "-"), d.Field, clip(d.Old, 200), restart)
		default:
			o.say("    %s %s: %s -> %s%s", o.paint("33", "~"), d.Field, clip(d.Old, 100), clip(d.New, 100), restart)
		}
	}
	if p.RestartNeeded {
		o.say("    The guest keeps its old specification until it is stopped and started.")
	}
	if p.Explanation != nil {
		showExplanation(o, p.Explanation, false)
	}
	for _, w := range p.Warnings {
		o.say("    %s %s", o.paint("33", "Warning:"), w)
	}
}

// showExplanation says where a VM goes and why, or why it fits nowhere.
func showExplanation(o *output, e *api.Explanation, every bool) {
	if !e.Chosen.IsZero() {
		o.say("    Node: %s (score %.2f, %s)", first(e.Node, e.Chosen.Short()), e.Score, e.Algo)
	} else {
		o.say("    Node: %s", o.paint("33", "none fits now; it would wait"))
	}
	for _, k := range e.Counts {
		o.say("      %s refused: %s", plural(int(k.Nodes), "node"), k.Failed)
	}
	if len(e.Nodes) > 0 && (every || e.Chosen.IsZero()) {
		for _, n := range e.Nodes {
			if n.Fits {
				o.say("      %s fits (score %.2f)", n.Node, n.Score)
			} else {
				o.say("      %s: %s", n.Node, first(n.Reason, n.Failed))
			}
		}
	}
}

func vmRun(f *flags) func(*call) error {
	vars := f.pairs("var", "set a variable of the specification, `key=value`; may be repeated")
	planOnly := f.Bool("plan", false, "only show the plan, as vm plan")
	check := f.check("VM")
	w := f.waitFlags()
	return with(func(c *call, cl *api.Client) error {
		if *planOnly {
			return vmPlan(c, cl, *vars)
		}
		specs, err := parseSpec(c, cl, *vars)
		if err != nil {
			return err
		}
		if *check != nil && len(specs) != 1 {
			return usagef("-check-index is for one VM; the file has %d", len(specs))
		}
		var done []*api.VMApplied
		for _, s := range specs {
			a, err := runOne(c, cl, s, *check, w)
			if err != nil {
				return err
			}
			done = append(done, a)
		}
		return c.out.show(done, func() error { return nil })
	})
}

// runOne plans one VM, applies exactly that plan, and waits.
func runOne(c *call, cl *api.Client, s *api.VMSpec, check *uint64, w *waitFlags) (*api.VMApplied, error) {
	plan, err := cl.VMs().Plan(c, &api.VMPlan{Spec: *s}, nil)
	if err != nil {
		return nil, err
	}
	if c.out.people() {
		showPlan(c.out, s, plan)
	}
	req := &api.VMApply{Spec: *s, CheckIndex: &plan.CheckIndex}
	if check != nil {
		req.CheckIndex = check
	}
	a, err := write(c, func(o *api.WriteOptions) (*api.VMApplied, error) { return cl.VMs().Apply(c, req, o) })
	if err != nil {
		return nil, err
	}
	for _, warning := range a.Warnings {
		if len(plan.Warnings) == 0 {
			c.out.say("    %s %s", c.out.paint("33", "Warning:"), warning)
		}
	}
	if err := w.wait(c, cl, a.VM, untilDesired); err != nil {
		return nil, err
	}
	verb := "is up to date"
	if a.Created {
		verb = "is created"
	} else if a.Changed {
		verb = "is changed"
	}
	end := fmt.Sprintf("VM %s %s", a.VM.Name, verb)
	if !*w.detach {
		end += " and " + string(a.VM.Power)
	}
	c.out.say("%s (id %s, version %d)", end, a.VM.ID, a.VM.SpecVersion)
	return a, nil
}
