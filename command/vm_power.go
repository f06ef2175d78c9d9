package command

import (
	"github.com/novacron/novacron/api"
)

func vmPowerSpecs() []*spec {
	verb := func(action, synopsis, long, force string) *spec {
		return &spec{
			name: "vm " + action, args: "VM...", min: 1, max: -1, synopsis: synopsis, long: long,
			examples: []string{"novacron vm " + action + " web", "novacron vm " + action + " web db -detach"},
			build: func(f *flags) func(*call) error {
				forced := new(bool)
				if force != "" {
					forced = f.Bool("force", false, force)
				}
				check := f.check("VM")
				w := f.waitFlags()
				return with(func(c *call, cl *api.Client) error {
					for _, key := range c.args {
						if err := vmPower(c, cl, key, action, *forced, *check, w); err != nil {
							return err
						}
					}
					return nil
				})
			},
		}
	}
	return []*spec{
		verb(api.ActionStart, "start stopped VMs", "", ""),
		verb(api.ActionStop, "stop VMs", "Asks the guest to shut down (ACPI) and, after the specification's stop_timeout,\nforces it off. With -force it is forced off at once.", "force the guest off at once"),
		verb(api.ActionReboot, "reboot VMs", "Asks the guest to reboot; with -force it is reset instead.", "reset instead of asking the guest"),
		verb(api.ActionReset, "pull the reset line of VMs", "", ""),
		verb(api.ActionPause, "pause VMs", "The guest stands still and keeps its memory.", ""),
		verb(api.ActionResume, "resume paused VMs", "", ""),
	}
}

// vmPower orders one change of power and waits for it.
func vmPower(c *call, cl *api.Client, key, action string, force bool, check *uint64, w *waitFlags) error {
	req := &api.VMPower{Key: key, Action: action, Force: force, Check: check}
	got, err := write(c, func(o *api.WriteOptions) (*api.VMApplied, error) { return cl.VMs().Power(c, req, o) })
	if err != nil {
		return err
	}
	until := condition(untilDesired)
	if action == api.ActionReboot || action == api.ActionReset {
		until = untilBooted(got.VM.Reboots, got.VM.Resets)
	}
	if err := w.wait(c, cl, got.VM, until); err != nil {
		return err
	}
	for _, warning := range got.Warnings {
		c.out.say("%s %s", c.out.paint("33", "Warning:"), warning)
	}
	if *w.detach {
		c.out.say("%s: %s is ordered", got.VM.Name, action)
		return nil
	}
	c.out.say("%s: %s is done", got.VM.Name, action)
	return nil
}
