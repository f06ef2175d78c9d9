//go:build mutant

package mutant

import (
	"os"
	"sync/atomic"
)

var active atomic.Pointer[Name]

func init() { Set(Name(os.Getenv("NOVA_MUTANT"))) }

// On reports whether a mutant is on.
func On(n Name) bool { return *active.Load() == n }

// Set turns one mutant on and every other off; "" turns all off. It begins with
// what NOVA_MUTANT names.
func Set(n Name) { active.Store(&n) }
