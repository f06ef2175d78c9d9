package cluster

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// MemoryGossip is a gossip network inside one process, for tests and
// simulation: packets and streams without sockets. (memberlist's own mock
// blocks for ever on a node that is gone.)
type MemoryGossip struct {
	mu    sync.Mutex
	nodes map[string]*MemoryMember
	next  int
	way   func(from, to string) (time.Duration, bool)
}

// NewMemoryGossip returns an empty network.
func NewMemoryGossip() *MemoryGossip { return &MemoryGossip{nodes: map[string]*MemoryMember{}} }

// SetWay sets how long what is sent from one member's address to another's takes,
// and whether it arrives at all; nil means at once.
func (n *MemoryGossip) SetWay(f func(from, to string) (time.Duration, bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.way = f
}

func (n *MemoryGossip) delay(from, to string) (time.Duration, bool) {
	n.mu.Lock()
	f := n.way
	n.mu.Unlock()
	if f == nil {
		return 0, true
	}
	return f(from, to)
}

// Transport adds a member; its address is in a range that is never routed.
func (n *MemoryGossip) Transport() *MemoryMember {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	return n.at(net.IPv4(127, 64, byte(n.next>>8), byte(n.next)))
}

// Again adds a member at the address of one that was shut down.
func (n *MemoryGossip) Again(old *MemoryMember) *MemoryMember {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at(old.ip)
}

// at is called with the lock held.
func (n *MemoryGossip) at(ip net.IP) *MemoryMember {
	t := &MemoryMember{net: n, ip: ip, packets: make(chan *memberlist.Packet, 4096), streams: make(chan net.Conn), done: make(chan struct{})}
	n.nodes[t.Addr()] = t
	return t
}

func (n *MemoryGossip) find(addr string) *MemoryMember {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nodes[addr]
}

const memGossipPort = 7648

// MemoryMember is one member's transport; Addr is what others join.
type MemoryMember struct {
	net     *MemoryGossip
	ip      net.IP
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*MemoryMember)(nil)

// Addr is where other members find this one.
func (t *MemoryMember) Addr() string { return fmt.Sprintf("%s:%d", t.ip, memGossipPort) }

// FinalAdvertiseAddr returns the member's own address.
func (t *MemoryMember) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.ip.To4(), memGossipPort, nil
}

// WriteTo delivers a packet or, as a network would, loses it.
func (t *MemoryMember) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to := t.net.find(addr)
	delay, ok := t.net.delay(t.Addr(), addr)
	if to == nil || !ok || t.gone() {
		return now, nil
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: &net.UDPAddr{IP: t.ip, Port: memGossipPort}}
	arrive := func() {
		p.Timestamp = time.Now()
		select {
		case <-to.done:
		case to.packets <- p:
		default:
		}
	}
	if delay > 0 {
		time.AfterFunc(delay, arrive)
	} else {
		arrive()
	}
	return now, nil
}

// WriteToAddress is WriteTo.
func (t *MemoryMember) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh returns the packets that arrive.
func (t *MemoryMember) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout opens a stream.
func (t *MemoryMember) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := t.net.find(addr)
	if to == nil || t.gone() {
		return nil, fmt.Errorf("dial %s: no such member", addr)
	}
	mine, theirs := net.Pipe()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	there, ok := t.net.delay(t.Addr(), addr)
	back, heard := t.net.delay(addr, t.Addr())
	streams := to.streams
	if !ok || !heard {
		streams = nil // nobody hears the knock, or the answer to it
	} else if there+back > 0 {
		select {
		case <-time.After(there + back):
		case <-to.done:
		case <-timer.C:
			streams = nil
		}
	}
	select {
	case streams <- theirs:
		return mine, nil
	case <-to.done:
	case <-timer.C:
	}
	mine.Close()
	theirs.Close()
	return nil, fmt.Errorf("dial %s: the member does not answer", addr)
}

// DialAddressTimeout is DialTimeout.
func (t *MemoryMember) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// StreamCh returns the streams that others open.
func (t *MemoryMember) StreamCh() <-chan net.Conn { return t.streams }

func (t *MemoryMember) gone() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Shutdown takes the member off the network.
func (t *MemoryMember) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		t.net.mu.Lock()
		if t.net.nodes[t.Addr()] == t {
			delete(t.net.nodes, t.Addr())
		}
		t.net.mu.Unlock()
	})
	return nil
}
