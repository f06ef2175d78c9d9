package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/novacron/novacron/api"
)

func vmSpecSpecs() []*spec {
	return []*spec{
		{
			name: "vm init", args: "[FILE]", max: 1, synopsis: "write a first specification to a file", local: true,
			long:     "Writes vm.hcl, or FILE, with explanations; an existing file is left alone.",
			examples: []string{"novacron vm init", "novacron vm init web.hcl"},
			build:    simple(vmInit),
		},
		{
			name: "vm inspect", args: "VM", min: 1, max: 1, synopsis: "print everything about a VM as JSON",
			examples: []string{"novacron vm inspect web", "novacron vm inspect web | jq .vm.spec"},
			build: simple(with(func(c *call, cl *api.Client) error {
				s, err := cl.VMs().Status(c, c.args[0], nil)
				if err != nil {
					return err
				}
				if c.out.people() {
					c.out.format = "json"
				}
				return c.out.show(s, nil)
			})),
		},
	}
}

const firstSpec = `# A virtual machine. Try it:   novacron vm plan %[1]s
# Then:                        novacron vm run %[1]s

vm "web" {
  description = "my first VM"
  memory      = "512MiB"

  cpu {
    cores = 1
  }

  # A disk. With image = "NAME" it is cloned from an uploaded image
  # (novacron image upload); without one it is empty.
  disk "root" {
    size = "4GiB"
  }

  # Uncomment for a network card on the network "default".
  # network "default" {}

  # What cloud-init does in the guest at its first start.
  # cloud_init {
  #   user_data = <<-EOT
  #     #cloud-config
  #     password: change-me
  #   EOT
  # }
}
`

func vmInit(c *call) error {
	name := "vm.hcl"
	if len(c.args) == 1 {
		name = c.args[0]
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; it was left alone", name)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, firstSpec, name)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	c.out.say("Wrote %s. Next: novacron vm plan %s", name, name)
	return nil
}

// flatten turns a value into its JSON leaves by path.
func flatten(v any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var tree any
	if json.Unmarshal(b, &tree) != nil {
		return nil
	}
	out := map[string]string{}
	flattenInto(out, "", tree)
	return out
}

func flattenInto(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			sub := k
			if path != "" {
				sub = path + "." + k
			}
			flattenInto(out, sub, e)
		}
	case []any:
		for i, e := range v {
			flattenInto(out, fmt.Sprintf("%s[%d]", path, i), e)
		}
	case float64:
		out[path] = fmt.Sprintf("%.10g", v)
	case nil:
	default:
		out[path] = fmt.Sprint(v)
	}
}
