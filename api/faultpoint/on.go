//go:build faultpoints

package faultpoint

import (
	"os"
	"path/filepath"
	"time"
)

// dir is where points are armed: NOVACRON_FAULTPOINTS, a folder.
var dir = os.Getenv("NOVACRON_FAULTPOINTS")

// Reach blocks its caller for as long as the file of the point's name is in the
// folder. That it is there is told by a second file, NAME.reached, which is
// removed when the caller goes on.
func Reach(point string) {
	armed := filepath.Join(dir, point)
	if dir == "" || !exists(armed) {
		return
	}
	reached := armed + ".reached"
	if err := os.WriteFile(reached, nil, 0o600); err != nil {
		return
	}
	defer os.Remove(reached)
	for exists(armed) {
		time.Sleep(10 * time.Millisecond)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
