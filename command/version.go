package command

import (
	"fmt"
	"runtime"
)

func versionSpecs() []*spec {
	return []*spec{{
		name: "version", synopsis: "print the version of this binary", local: true,
		examples: []string{"novacron version", "novacron version -o json"},
		build: simple(func(c *call) error {
			v := map[string]string{"version": Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return c.out.show(v, func() error {
				_, err := fmt.Fprintf(c.out, "novacron %s (%s, %s)\n", v["version"], v["go"], v["platform"])
				return err
			})
		}),
	}}
}
