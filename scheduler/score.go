package scheduler

import "github.com/novacron/novacron/api"

// Shape is an amount of the two dimensions that scores look at, in
// thousandths of a core and in bytes.
type Shape struct {
	CPU    int64
	Memory int64
}

// Score ranks the nodes that a request fits on. It must be a pure function of
// its arguments between two calls of Engine.Reset: the engine keeps what it
// returns until the node changes.
type Score interface {
	// Name is what users write in the scheduler's configuration.
	Name() string
	// Rate returns 0 (worst) to 1 (best) for placing need on a node that can
	// give out capacity in all and has free left before the placement.
	Rate(capacity, free, need Shape) float64
}

// The names of the scores; the first is the default.
const (
	AlgorithmBinpack = "binpack"
	AlgorithmSpread  = "spread"
)

// ScoreOf returns the score of a name; empty means binpack. It reports false
// for a name that is not known.
func ScoreOf(name string) (Score, bool) {
	switch name {
	case "", AlgorithmBinpack:
		return Binpack{}, true
	case AlgorithmSpread:
		return SpreadOut{}, true
	}
	return nil, false
}

// scoreOf is ScoreOf for a replicated configuration: a name that this binary
// does not know (a newer one wrote it) falls back to the default.
func scoreOf(c api.SchedulerConfig) Score {
	s, ok := ScoreOf(c.Algorithm)
	if !ok {
		return Binpack{}
	}
	return s
}

// Binpack fills the fullest node first (best fit over CPU and memory).
type Binpack struct{}

var _ Score = Binpack{}

// Name returns "binpack".
func (Binpack) Name() string { return AlgorithmBinpack }

// Rate is the part of the node that is used after the placement.
func (Binpack) Rate(capacity, free, need Shape) float64 {
	return 1 - left(capacity, free, need)
}

// SpreadOut takes the emptiest node first.
type SpreadOut struct{}

var _ Score = SpreadOut{}

// Name returns "spread".
func (SpreadOut) Name() string { return AlgorithmSpread }

// Rate is the part of the node that is free after the placement.
func (SpreadOut) Rate(capacity, free, need Shape) float64 {
	return left(capacity, free, need)
}

// left is the mean part of CPU and memory that is free after the placement.
func left(capacity, free, need Shape) float64 {
	return (part01(free.CPU-need.CPU, capacity.CPU) + part01(free.Memory-need.Memory, capacity.Memory)) / 2
}

func part01(n, of int64) float64 {
	if of <= 0 || n <= 0 {
		return 0
	}
	if n >= of {
		return 1
	}
	return float64(n) / float64(of)
}
