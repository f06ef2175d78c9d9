package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// writeMatrix writes what came of each cell, for each pool: a row for each cut
// point, a column for each party. A cell that was not run says so.
func (r *Report) writeMatrix(b *strings.Builder) {
	type key struct {
		pool, party string
		point       int
	}
	was := map[key]map[string]int{}
	pools := map[string]bool{}
	for _, x := range r.Results {
		if x.Point == 0 {
			continue
		}
		k := key{x.Pool, x.Party, x.Point}
		if was[k] == nil {
			was[k] = map[string]int{}
		}
		was[k][x.verdict()]++
		pools[x.Pool] = true
	}
	there := map[key]bool{}
	for _, c := range AllCells() {
		there[key{"", c.Party, c.Point}] = true
	}
	for _, pool := range []string{local, shared} {
		if !pools[pool] {
			continue
		}
		fmt.Fprintf(b, "\nCells, pool %s:\n\n| point |", pool)
		for _, q := range parties {
			fmt.Fprintf(b, " %s |", q.Name)
		}
		b.WriteString("\n|--|" + strings.Repeat("--|", len(parties)) + "\n")
		for _, p := range points {
			fmt.Fprintf(b, "| %d %s |", p.Number, p.Name)
			for _, q := range parties {
				cell := "not run"
				if !there[key{"", q.Name, p.Number}] {
					cell = "-"
				}
				var said []string
				for _, v := range []string{"VIOLATED", "held", "void"} {
					if n := was[key{pool, q.Name, p.Number}][v]; n > 1 {
						said = append(said, fmt.Sprintf("%d %s", n, v))
					} else if n == 1 {
						said = append(said, v)
					}
				}
				if len(said) > 0 {
					cell = strings.Join(said, ", ")
				}
				fmt.Fprintf(b, " %s |", cell)
			}
			b.WriteString("\n")
		}
	}
}

// Merge makes one report of those in folders, in that order. Its results keep their
// seeds and are numbered anew; the report itself has the first one's seed.
func Merge(dirs []string) (*Report, error) {
	all := &Report{}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "report.json"))
		if err != nil {
			return nil, err
		}
		var r Report
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if all.Runs == 0 {
			all.Seed = r.Seed
		}
		for _, x := range r.Results {
			x.Notes = append(x.Notes, fmt.Sprintf("run %d of %s, seed %d", x.N, filepath.Base(dir), r.Seed))
			x.N = all.Runs + 1
			all.add(x)
		}
	}
	return all, nil
}
