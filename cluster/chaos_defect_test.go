package cluster

import (
	"github.com/hashicorp/raft"
)

// defect is a fault of the product itself, put in to see that a checker finds it.
type defect struct {
	onDisk   func(*host)
	onConfig func(*Config)
}

func (d defect) disk(h *host) {
	if d.onDisk != nil {
		d.onDisk(h)
	}
}

func (d defect) config(c *Config) {
	if d.onConfig != nil {
		d.onConfig(c)
	}
}

// longest returns the longest synced log of the servers.
func longest(hosts []*host) []*raft.Log {
	var best []*raft.Log
	for _, h := range hosts {
		if e := h.disk.entries(); len(e) > len(best) {
			best = e
		}
	}
	return best
}
