package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func eventRoutes() []Route {
	topic := Param{Name: "topic", Type: "string", Summary: "A topic such as vm, or topic:key such as vm:<id>; all when there is none.", Many: true}
	return []Route{
		{
			Name: "event.stream", Method: "GET", Path: "/v1/events", RPC: "Event.Stream", Capability: "event:read", Namespaced: true, Stream: true,
			Summary:  "Follow events: one JSON object for each line, or server-sent events when the caller accepts text/event-stream. A batch with gap says that events are missing before it; heartbeats come every few seconds.",
			Produces: mimeNDJSON, Response: api.EventBatch{}, handle: eventStream,
			Params: []Param{topic,
				{Name: "index", Type: "integer", Summary: "Resume after this index; from now on when it is not said. The header Last-Event-ID does the same."},
				{Name: "snapshot", Type: "boolean", Summary: "Begin with one event for each noun that exists."}},
		},
		{
			Name: "event.list", Method: "GET", Path: "/v1/events/list", RPC: "Event.List", Capability: "event:read", Query: true, Without: api.NotEvents, Namespaced: true,
			Summary: "List the newest events that the servers still hold; with an index those after it, waiting for the first.", Response: api.EventListResponse{},
			Params: []Param{topic,
				{Name: "related", Type: "string", Summary: "Only events about this noun."},
				paramLimit},
			handle: readOf[api.EventListRequest, api.EventListResponse](func(r *http.Request, l *api.EventListRequest) error {
				q := r.URL.Query()
				l.Topics, l.Related = q["topic"], q.Get("related")
				return limitOfEvents(r, l)
			}),
		},
	}
}

var paramLimit = Param{Name: "limit", Type: "integer", Summary: "At most so many, the newest (default 100)."}

func limitOfEvents(r *http.Request, l *api.EventListRequest) error {
	if q := r.URL.Query(); q.Has("limit") {
		n, err := strconv.ParseInt(q.Get("limit"), 10, 32)
		if err != nil {
			return badParam("limit", "%q is not a number", clip(q.Get("limit")))
		}
		l.Limit = int32(n)
	}
	return nil
}

// grace is how long the answer to a new stream waits for the server's first
// word, so that a refusal gets its own status.
const grace = 500 * time.Millisecond

// batches receives from a stream until it ends. The channel is closed after
// the error, if any, was delivered.
type received[T any] struct {
	msg *T
	err error
}

// receive starts the goroutine that receives; it ends with ctx. The caller
// drains what is returned, which waits for the goroutine.
func receive[T any, PT msg[T]](ctx context.Context, st api.Stream) <-chan received[T] {
	out := make(chan received[T])
	go func() {
		defer close(out)
		for {
			m := new(T)
			err := st.Recv(PT(m))
			if err != nil {
				m = nil
			}
			select {
			case out <- received[T]{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func eventStream(s *Server, w http.ResponseWriter, r *http.Request) error {
	req := &api.EventRequest{Namespace: r.URL.Query().Get("namespace"), Topics: r.URL.Query()["topic"]}
	var err error
	if req.Index, err = uintParam(r, "index"); err != nil {
		return err
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" && req.Index == 0 {
		if req.Index, err = strconv.ParseUint(last, 10, 64); err != nil {
			return badParam("Last-Event-ID", "%q is not an index", clip(last))
		}
	}
	if req.Snapshot, err = boolParam(r, "snapshot"); err != nil {
		return err
	}
	if err := prepare(req); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	st, err := s.cfg.Backend.Open(ctx, "Event.Stream", req)
	if err != nil {
		cancel()
		return err
	}
	in := receive[api.EventBatch](ctx, st)
	defer func() {
		cancel()
		for range in { //nolint:revive // waits for the goroutine
		}
	}()
	out := &eventWriter{w: w, rc: http.NewResponseController(w), sse: strings.Contains(r.Header.Get("Accept"), mimeSSE), index: req.Index}
	beat := time.NewTimer(grace)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-in:
			switch {
			case !ok:
				return nil
			case m.err == io.EOF:
				return out.begin()
			case m.err != nil && !out.begun:
				return m.err
			case m.err != nil:
				return out.fail(ctx, m.err, seenOf(r.Context()).id)
			}
			if err := out.batch(m.msg); err != nil {
				return nil // the caller went away
			}
		case <-beat.C:
			if err := out.heartbeat(); err != nil {
				return nil
			}
		}
		beat.Reset(s.cfg.Heartbeat)
	}
}

// eventWriter writes batches in one of the two forms.
type eventWriter struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	sse   bool
	begun bool
	index api.Index
}

func (e *eventWriter) begin() error {
	if e.begun {
		return nil
	}
	e.begun = true
	h := e.w.Header()
	h.Set("Content-Type", mimeNDJSON)
	if e.sse {
		h.Set("Content-Type", mimeSSE)
	}
	h.Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
	return e.flush()
}

func (e *eventWriter) flush() error {
	err := e.rc.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// put writes one piece; a reader that does not take it in time is let go.
func (e *eventWriter) put(piece string) error {
	if err := e.begin(); err != nil {
		return err
	}
	_ = e.rc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(e.w, piece); err != nil {
		return err
	}
	return e.flush()
}

func (e *eventWriter) batch(b *api.EventBatch) error {
	e.index = max(e.index, b.Index)
	if b.Heartbeat && e.sse {
		return e.heartbeat()
	}
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if e.sse {
		return e.put(fmt.Sprintf("id: %d\ndata: %s\n\n", e.index, data))
	}
	return e.put(string(data) + "\n")
}

func (e *eventWriter) heartbeat() error {
	if e.sse {
		return e.put(": heartbeat\n\n")
	}
	return e.put(fmt.Sprintf("{\"index\":%d,\"heartbeat\":true}\n", e.index))
}

// fail ends the stream with an error in its own form.
func (e *eventWriter) fail(ctx context.Context, err error, id string) error {
	if ctx.Err() != nil {
		return nil
	}
	ae := errorOf(err)
	ae.RequestID = id
	data, merr := json.Marshal(map[string]*api.Error{"error": ae})
	if merr != nil {
		return merr
	}
	if e.sse {
		_ = e.put(fmt.Sprintf("event: error\ndata: %s\n\n", data))
	} else {
		_ = e.put(string(data) + "\n")
	}
	return nil
}
