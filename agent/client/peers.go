package client

import (
	"slices"
	"sync"

	"github.com/novacron/novacron/api"
)

// Peers is the pool that the region's nodes form among themselves. What it shows
// is told to the servers on beats, as a hint.
type Peers interface {
	// Join enters the pool, or tries again with those who are not there.
	Join(key []byte, members []string) error
	// View is what the pool shows, nil when this node is in none.
	View() *api.PeerView
}

// peersAgain is after how many beats the servers are told again what has not
// changed: a new leader knows nothing.
const peersAgain = 5

// peerNews is what the servers were told of the pool.
type peerNews struct {
	mu    sync.Mutex
	last  *api.PeerView // acknowledged
	beats int           // acknowledged since then
}

// news returns what is to be told with the next beat; nil when it is known.
func (p *peerNews) news(pool Peers) *api.PeerView {
	if pool == nil {
		return nil
	}
	v := pool.View()
	p.mu.Lock()
	defer p.mu.Unlock()
	if v == nil || p.last != nil && p.beats < peersAgain && v.Alive == p.last.Alive && slices.Equal(v.Failed, p.last.Failed) {
		return nil
	}
	return v
}

// told notes an acknowledged beat and what it told.
func (p *peerNews) told(v *api.PeerView) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beats++
	if v != nil {
		p.last, p.beats = v, 0
	}
}

// joinPeers enters the pool. That this fails is no matter: nothing depends on it.
func (c *Client) joinPeers(p *api.PeerPool) {
	if c.cfg.Peers == nil || p == nil {
		return
	}
	if err := c.cfg.Peers.Join(p.Key, p.Members); err != nil {
		c.log.Warn("the pool of the region's nodes", "error", err)
	}
}
