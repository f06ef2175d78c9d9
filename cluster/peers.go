package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

const (
	// doubtAfter is the silence after which a node has missed a beat: from then on
	// the word of its peers that they do not reach it makes it suspect at once.
	doubtAfter = heartbeat * 4 / 3
	// poolMembers is how many addresses a node is told to enter the pool with.
	poolMembers = 16
)

// What a suspect node's peers say of it, at the end of its note.
const (
	peersSeeIt = "; its peers still see it"
	nobodySees = "; nobody sees it"
)

// peerKey is the key of the pool of a region's nodes. It is derived, so that a
// node cannot enter the pool of the servers.
func peerKey(gossip []byte, region string) []byte {
	h := hmac.New(sha256.New, gossip)
	h.Write([]byte("nodes of region " + region))
	return h.Sum(nil)
}

// peerPool tells a node how to enter the pool; nil when the servers have no key.
func (s *Server) peerPool(st *fsm.State, node api.ID) *api.PeerPool {
	if len(s.id.GossipKey) == 0 {
		return nil
	}
	p := &api.PeerPool{Key: peerKey(s.id.GossipKey, s.id.Region)}
	for n := range st.Nodes() {
		if n.ID != node && n.Status == api.NodeReady && n.GossipAddress != "" {
			if p.Members = append(p.Members, n.GossipAddress); len(p.Members) == poolMembers {
				break
			}
		}
	}
	return p
}

// peersSay counts the nodes that the leader hears and that are in the pool, by
// whether they see a node.
func (t *leases) peersSay(node api.ID) (fails, sees int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	for id, c := range t.contacts {
		if id == node || c.peers == nil || c.leaving || now-c.seen > doubtAfter {
			continue
		}
		if slices.Contains(c.peers.Failed, node) {
			fails++
		} else if c.peers.Alive > 0 {
			sees++
		}
	}
	return fails, sees
}

// verdict is what its peers say of a silent node. It is a hint: it only shortens
// the way to suspect, and is never evidence.
func (s *Server) verdict(n *api.Node) (note string, failed bool) {
	if n.GossipAddress == "" {
		return "", false
	}
	switch fails, sees := s.leases.peersSay(n.ID); {
	case fails+sees == 0:
		return "", false
	case sees > fails:
		return peersSeeIt, false
	default:
		return nobodySees, true
	}
}

// suspects fills in what is to become of a node that has missed a beat; false when
// it is not suspect.
func (s *Server) suspects(n *api.Node, silent time.Duration, item *fsm.NodeStatusItem) bool {
	note, failed := s.verdict(n)
	if silent <= suspectAfter && !failed {
		return false
	}
	if n.Status != api.NodeSuspect || note != "" && !strings.HasSuffix(n.StatusNote, note) {
		item.Status, item.Note = api.NodeSuspect, silence(silent)+note
	}
	return true
}

// silence is how a silent node's note begins.
func silence(d time.Duration) string {
	return "no heartbeat for " + d.Round(100*time.Millisecond).String()
}
