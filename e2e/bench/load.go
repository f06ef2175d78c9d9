package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what one load measured.
type result struct {
	rate     float64 // per second
	p50, p99 time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%8.0f/s  p50 %-9s p99 %-9s", r.rate, r.p50.Round(10*time.Microsecond), r.p99.Round(10*time.Microsecond))
}

// load runs work from n goroutines for d, after a warm-up of a fifth of d.
// work gets the worker's number and a count that rises by one each time.
func load(n int, d time.Duration, work func(worker, i int) error) (result, error) {
	if _, err := burst(n, d/5, work, 1<<30); err != nil {
		return result{}, err
	}
	return burst(n, d, work, 0)
}

func burst(n int, d time.Duration, work func(worker, i int) error, offset int) (result, error) {
	var wg sync.WaitGroup
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	begin := time.Now()
	for w := range n {
		wg.Go(func() {
			for i := offset; time.Since(begin) < d; i++ {
				t := time.Now()
				if err := work(w, i); err != nil {
					errs[w] = err
					return
				}
				took[w] = append(took[w], time.Since(t))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	all := slices.Concat(took...)
	for _, err := range errs {
		if err != nil {
			return result{}, err
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return result{}, fmt.Errorf("nothing was done in %s", d)
	}
	return result{
		rate: float64(len(all)) / elapsed.Seconds(),
		p50:  percentile(all, 50), p99: percentile(all, 99),
	}, nil
}

// percentile of sorted values, by rank.
func percentile[T any](sorted []T, p int) T { return sorted[(p*len(sorted)+99)/100-1] }

// median of an odd or even number of values.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// loadAverage is this machine's, for the record.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// alternate measures two sides in turns, A B, B A, A B, ...: whatever else the
// machine does meets both.
func alternate(ctx context.Context, rounds int, measure func(side int) (result, error)) (sides [2][]result, err error) {
	for i := range rounds {
		for _, side := range [][]int{{0, 1}, {1, 0}}[i%2] {
			if err := ctx.Err(); err != nil {
				return sides, err
			}
			r, err := measure(side)
			if err != nil {
				return sides, err
			}
			sides[side] = append(sides[side], r)
		}
	}
	return sides, nil
}

// middle takes the medians of several results, each figure by itself.
func middle(rs []result) result {
	var rate, p50, p99 []float64
	for _, r := range rs {
		rate, p50, p99 = append(rate, r.rate), append(p50, float64(r.p50)), append(p99, float64(r.p99))
	}
	return result{median(rate), time.Duration(median(p50)), time.Duration(median(p99))}
}
