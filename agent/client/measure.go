package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// The bounds of a measurement of the link to another node, so that it does not
// hurt what else goes over it.
const (
	linkBytes = 64 * api.MiB
	linkTime  = time.Second
	// linkPings come first, one after the other: the shortest is the round trip.
	linkPings = 5
	// linkKept is how long a result stands: who asks again is told the same.
	linkKept  = 30 * time.Second
	linkLimit = 10 * time.Second // for all of it, also at the other end
)

// linkMeter measures links, one at a time, and keeps what it found.
type linkMeter struct {
	turn chan struct{} // holds a value while one is measured from here
	in   chan struct{} // holds a value while one is measured to here

	mu   sync.Mutex
	kept map[api.ID]linkFound
}

type linkFound struct {
	at  time.Time
	was api.LinkMeasured
}

func newLinkMeter() linkMeter {
	return linkMeter{turn: make(chan struct{}, 1), in: make(chan struct{}, 1), kept: map[api.ID]linkFound{}}
}

// linkMeasure tells a server how fast the link from here to another node is.
func (c *Client) linkMeasure(ctx context.Context, q *api.LinkMeasure) (*api.LinkMeasured, error) {
	if q.To.IsZero() || q.Address == "" {
		return nil, api.Errorf(api.CodeInvalid, "the other node is missing")
	}
	l := &c.links
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	f, ok := l.kept[q.To]
	l.mu.Unlock()
	if age := time.Since(f.at); ok && age < linkKept {
		f.was.Age = api.Duration(age)
		return &f.was, nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	s, err := c.cfg.Peer(q.Address).Open(ctx, "Agent.LinkProbe", &api.Empty{})
	if err != nil {
		return nil, err
	}
	out, err := measure(s)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, f := range l.kept {
		if time.Since(f.at) >= linkKept {
			delete(l.kept, id)
		}
	}
	l.kept[q.To] = linkFound{at: time.Now(), was: *out}
	return out, nil
}

// measure sends pings, then as much as may be, and hears how much arrived.
func measure(s api.Stream) (*api.LinkMeasured, error) {
	out := &api.LinkMeasured{}
	var ch api.Chunk
	for range linkPings {
		begin := time.Now()
		if err := s.Send(&api.Chunk{Data: []byte{0}}); err != nil {
			return nil, refusal(s)
		}
		if err := s.Recv(&ch); err != nil {
			return nil, err
		}
		if d := api.Duration(time.Since(begin)); out.RoundTrip == 0 || d < out.RoundTrip {
			out.RoundTrip = max(d, 1)
		}
	}
	// What compresses well would flatter a link that compresses.
	data := make([]byte, chunkSize)
	x := uint64(0x9e3779b97f4a7c15)
	for i := 0; i < len(data); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(data[i:], x)
	}
	begin := time.Now()
	for out.Sent < linkBytes && time.Since(begin) < linkTime {
		if err := s.Send(&api.Chunk{Data: data}); err != nil {
			return nil, refusal(s)
		}
		out.Sent += api.Bytes(len(data))
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	ch = api.Chunk{}
	if err := s.Recv(&ch); err != nil {
		return nil, err
	}
	// The answer comes half a round trip after the last byte; the rest is the
	// time that the bytes took.
	took := time.Since(begin) - out.RoundTrip.D()/2
	if len(ch.Data) != 8 || api.Bytes(binary.BigEndian.Uint64(ch.Data)) != out.Sent || took <= 0 {
		return nil, api.Errorf(api.CodeUnreachable, "the other node did not get what was sent")
	}
	out.Rate = api.Bytes(float64(out.Sent) / took.Seconds())
	return out, nil
}

// refusal is why the other end has ended a stream: a send that fails does not say.
func refusal(s api.Stream) error {
	var ch api.Chunk
	for {
		if e := s.Recv(&ch); e != nil {
			return e
		}
	}
}

// linkProbe is the other end: it gives pings back, counts the rest, and says at
// the end how much it was.
func (c *Client) linkProbe(ctx context.Context, _ *api.Empty, s api.Stream) error {
	select {
	case c.links.in <- struct{}{}:
		defer func() { <-c.links.in }()
	default:
		return api.Errorf(api.CodeState, "another link to this node is being measured").WithHint("ask again in a moment")
	}
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	var sum api.Bytes
	for pings := 0; ctx.Err() == nil; {
		var ch api.Chunk
		err := s.Recv(&ch)
		switch {
		case errors.Is(err, io.EOF):
			return s.Send(&api.Chunk{Data: binary.BigEndian.AppendUint64(nil, uint64(sum))})
		case err != nil:
			return err
		case len(ch.Data) == 1 && pings < linkPings:
			pings++
			if err := s.Send(&ch); err != nil {
				return err
			}
		default:
			if sum += api.Bytes(len(ch.Data)); sum > linkBytes+chunkSize {
				return api.Errorf(api.CodeInvalid, "that is more than a measurement may send")
			}
		}
	}
	return context.Cause(ctx)
}
