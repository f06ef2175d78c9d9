package command

import (
	"context"
	"strings"

	"github.com/novacron/novacron/api"
)

// deleter is the delete call of a noun.
type deleter interface {
	Delete(ctx context.Context, d *api.DeleteRequest, o *api.WriteOptions) (*api.WriteMeta, error)
}

// deleteSpec is the verb delete of a noun that needs nothing more.
func deleteSpec(noun, synopsis string, of func(*api.Client) deleter) *spec {
	arg := strings.ToUpper(noun)
	return &spec{
		name: noun + " delete", args: arg + "...", min: 1, max: -1, synopsis: synopsis,
		examples: []string{"novacron " + noun + " delete NAME"},
		build: func(f *flags) func(*call) error {
			check := f.Uint64("check-index", 0, "delete only if the modify `index` is still this one")
			force := new(bool)
			switch noun {
			case "volume", "image":
				force = f.Bool("force", false, "delete even if it is still used where that is possible")
			case "node":
				force = f.Bool("force", false, "give up what only the node could have confirmed; it must never come back")
			}
			return with(func(c *call, cl *api.Client) error {
				for _, key := range c.args {
					req := &api.DeleteRequest{Key: key, CheckIndex: *check, Force: *force}
					if _, err := write(c, func(o *api.WriteOptions) (*api.WriteMeta, error) { return of(cl).Delete(c, req, o) }); err != nil {
						return err
					}
					c.out.say("%s %s is deleted", noun, key)
				}
				return nil
			})
		},
	}
}
