package event

import (
	"encoding/json"
	"sync"

	"github.com/novacron/novacron/api"
)

// Event is an event as the ring holds it: its payload is made when it is first
// delivered. Most events are read by nobody, on all servers of a region, and
// JSON takes longer than the change that it tells of.
type Event struct {
	*api.Event // without a payload until Whole
	size       int

	once sync.Once
	body any
}

// Lazy returns an event with body as its payload, which is none when body is
// nil. Neither may be changed afterwards.
func Lazy(e *api.Event, body any) *Event {
	out := &Event{Event: e, body: body}
	out.size = 160 + len(e.Payload) + len(e.Message) + len(e.Key) + len(e.Namespace)
	for _, s := range e.Related {
		out.size += 16 + len(s)
	}
	// An estimate for the noun and for its JSON, of which one is held.
	if s, ok := body.(interface{ Msgsize() int }); ok {
		out.size += s.Msgsize()
	}
	return out
}

// Whole returns the event with its payload. It may be called by many at the
// same time; only this makes the payload safe to read.
func (e *Event) Whole() *api.Event {
	e.once.Do(func() {
		if e.body == nil {
			return
		}
		// Our nouns always encode.
		if b, err := json.Marshal(e.body); err == nil {
			e.Payload = b
		}
		e.body = nil // from now on the JSON is held instead
	})
	return e.Event
}

func whole(events []*Event) []*api.Event {
	var out []*api.Event
	for _, e := range events {
		out = append(out, e.Whole())
	}
	return out
}
