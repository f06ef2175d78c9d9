package command

import (
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func vmSpecs() []*spec {
	return append([]*spec{
		{
			name: "vm list", synopsis: "list VMs", max: 0,
			examples: []string{"novacron vm list", "novacron vm list -namespace '*' -filter 'state == \"running\"'", "novacron vm list -o json | jq -r '.[].name'"},
			build:    vmList,
		},
		{
			name: "vm events", args: "VM", min: 1, max: 1, synopsis: "show what happened to a VM",
			examples: []string{"novacron vm events web", "novacron vm events web -follow", "novacron vm events web -filter 'type == \"failed\"' -limit 5"},
			build:    vmEvents,
		},
		{
			name: "vm delete", args: "VM...", min: 1, max: -1, synopsis: "delete VMs with the volumes that are their own",
			long:     "The guest is shut down (with -force at once), then its own volumes are removed.\nVolumes marked keep, and volumes that were there before, stay.",
			examples: []string{"novacron vm delete web", "novacron vm delete web db -force -detach"},
			build:    vmDelete,
		},
	}, append(append(append(vmRunSpecs(), vmPowerSpecs()...), vmStatusSpecs()...), append(vmSpecSpecs(), vmConsoleSpecs()...)...)...)
}

func vmList(f *flags) func(*call) error {
	l := f.listFlags()
	return with(func(c *call, cl *api.Client) error {
		vms, err := all(cl.VMs().All(c, &l.q))
		if err != nil {
			return err
		}
		return c.out.show(vms, func() error {
			wide := false
			for _, v := range vms {
				wide = wide || v.Namespace != api.DefaultNamespace
			}
			t := c.out.table("NAME", "STATE", "NODE", "CPU", "MEMORY", "ADDRESSES", "CREATED", "REASON")
			for _, v := range vms {
				name := v.Name
				if wide {
					name = v.Namespace + "/" + v.Name
				}
				t.row(name, c.out.state(v.State), orDash(v.Node), v.CPU.String(), v.Memory.String(), orDash(strings.Join(v.Addresses, " ")), age(v.CreateTime, time.Now()), clip(v.Reason, 60))
			}
			return t.write("No VMs. `novacron vm init` writes a first specification.")
		})
	})
}

// clip shortens text for a table.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func vmEvents(f *flags) func(*call) error {
	follow := f.Bool("follow", false, "go on with what happens from now on")
	limit, filter := eventFlags(f)
	return with(func(c *call, cl *api.Client) error {
		vm, err := cl.VMs().Get(c, c.args[0], nil)
		if err != nil {
			return err
		}
		if *follow && *filter != "" {
			return usagef("-filter is for the events that were; it does not go with -follow")
		}
		past, err := cl.VMs().Events(c, vm.VM.ID.String(), &api.EventListRequest{
			QueryOptions: api.QueryOptions{Namespace: vm.VM.Namespace, Filter: *filter}, Limit: int32(*limit),
		})
		if err != nil {
			return err
		}
		if !*follow {
			return showEvents(c, past.Items)
		}
		for _, e := range past.Items {
			if err := showEvent(c, e); err != nil {
				return err
			}
		}
		id := vm.VM.ID.String()
		req := &api.EventRequest{Namespace: vm.VM.Namespace, Index: past.Index}
		return followEvents(c, cl, req, func(e *api.Event) bool {
			for _, r := range e.Related {
				if r == id {
					return true
				}
			}
			return e.Key == id
		})
	})
}

func vmDelete(f *flags) func(*call) error {
	force := f.Bool("force", false, "do not let the guest shut down first")
	check := f.Uint64("check-index", 0, "delete only if the modify `index` is still this one")
	w := f.waitFlags()
	return with(func(c *call, cl *api.Client) error {
		for _, key := range c.args {
			vm, err := cl.VMs().Get(c, key, nil)
			if err != nil {
				return err
			}
			req := &api.DeleteRequest{Namespace: vm.VM.Namespace, Key: vm.VM.ID.String(), CheckIndex: *check, Force: *force}
			if _, err := write(c, func(o *api.WriteOptions) (*api.WriteMeta, error) { return cl.VMs().Delete(c, req, o) }); err != nil {
				return err
			}
			if err := w.wait(c, cl, vm.VM, untilGone); err != nil {
				return err
			}
			if *w.detach {
				c.out.say("%s is being deleted", vm.VM.Name)
			} else {
				c.out.say("%s is deleted", vm.VM.Name)
			}
		}
		return nil
	})
}
