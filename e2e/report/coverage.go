package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// covered merges the coverage data below dir (each folder holds what one kind of
// run wrote) and returns the percentage of statements that ran at least once.
// Generated code does not count.
func covered(dir string) (float64, error) {
	folders, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return 0, err
	}
	blocks := map[string]block{}
	for _, f := range folders {
		if data, _ := filepath.Glob(filepath.Join(f, "covmeta.*")); len(data) == 0 {
			continue
		}
		out := f + ".txt"
		cmd := exec.Command("go", "tool", "covdata", "textfmt", "-i="+f, "-o="+out)
		if text, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("covdata: %w: %s", err, text)
		}
		if err := merge(out, blocks); err != nil {
			return 0, err
		}
	}
	var all, ran int
	for _, b := range blocks {
		all += b.statements
		if b.ran {
			ran += b.statements
		}
	}
	if all == 0 {
		return 0, fmt.Errorf("no data below %s", dir)
	}
	return 100 * float64(ran) / float64(all), nil
}

type block struct {
	statements int
	ran        bool
}

// merge adds a profile in Go's text format ("file:range statements count").
func merge(path string, blocks map[string]block) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		line := in.Text()
		// What tests the product is not the product.
		if strings.HasPrefix(line, "mode:") || strings.Contains(line, "_gen.go:") || strings.Contains(line, "/e2e/") {
			continue
		}
		var where string
		var statements, count int
		if _, err := fmt.Sscanf(line, "%s %d %d", &where, &statements, &count); err != nil {
			return fmt.Errorf("%s: %q: %w", path, line, err)
		}
		blocks[where] = block{statements, count > 0 || blocks[where].ran}
	}
	return in.Err()
}
