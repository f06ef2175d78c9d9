package http

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestEventsAreStreamed(t *testing.T) {
	t.Parallel()
	f := newFake()
	refuse, more := make(chan struct{}), make(chan struct{})
	f.streams("Event.Stream", func(s *fakeStream) error {
		for _, b := range []*api.EventBatch{
			{Index: 5, Gap: true, First: 4}, {Index: 6, Heartbeat: true}, {Index: 7, Events: []*api.Event{{Index: 7, Topic: "vm", Type: "created", Key: "a"}}},
		} {
			if err := s.give(b); err != nil {
				return err
			}
		}
		select {
		case <-refuse:
			return api.Errorf(api.CodeForbidden, "the token was revoked")
		case <-more:
			return nil
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	})
	_, c := serve(t, Config{Backend: f})
	st, err := c.Events().Stream(t.Context(), &api.EventRequest{Namespace: "*", Topics: []string{"vm", "node:a"}, Index: 3, Snapshot: true})
	must.NoError(t, err)
	must.Eq(t, any(&api.EventRequest{Namespace: "*", Topics: []string{"vm", "node:a"}, Index: 3, Snapshot: true}), any(f.last(t).req))
	b, err := st.Next()
	must.NoError(t, err)
	must.True(t, b.Gap)
	must.Eq(t, 4, b.First)
	b, err = st.Next() // the heartbeat is passed over
	must.NoError(t, err)
	must.Eq(t, 7, b.Index)
	must.Eq(t, "created", b.Events[0].Type)
	must.Eq(t, 7, st.Index())
	close(refuse)
	_, err = st.Next()
	must.Eq(t, api.CodeForbidden, api.CodeOf(err))
	must.NoError(t, st.Close())

	// The end of the server's side is the end, and resuming is up to the caller.
	refuse = make(chan struct{})
	st, err = c.Events().Stream(t.Context(), nil)
	must.NoError(t, err)
	for range 2 {
		_, err = st.Next()
		must.NoError(t, err)
	}
	close(more)
	_, err = st.Next()
	must.ErrorIs(t, err, io.EOF)
	must.NoError(t, st.Close())

	// A refusal before the first word has its own status.
	f.streams("Event.Stream", func(*fakeStream) error { return api.Errorf(api.CodeUnauthenticated, "no token") })
	_, err = c.Events().Stream(t.Context(), nil)
	must.Eq(t, api.CodeUnauthenticated, api.CodeOf(err))
	f.streams("Event.Stream", nil)
	_, err = c.Events().Stream(t.Context(), nil)
	must.Eq(t, api.CodeNotFoundRoute, api.CodeOf(err))
}

func TestIdleEventStreamsBeat(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.streams("Event.Stream", func(s *fakeStream) error { <-s.ctx.Done(); return s.ctx.Err() })
	srv, c := serve(t, Config{Backend: f, Heartbeat: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	st, err := c.Events().Stream(ctx, &api.EventRequest{Index: 9})
	must.NoError(t, err)
	next := make(chan error)
	go func() { _, err := st.Next(); next <- err }()
	cancel()
	must.Eq(t, api.CodeCanceled, api.CodeOf(<-next))

	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v1/events?index=9", nil)
	must.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	must.NoError(t, err)
	defer resp.Body.Close()
	must.Eq(t, mimeNDJSON, resp.Header.Get("Content-Type"))
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	must.NoError(t, err)
	must.Eq(t, `{"index":9,"heartbeat":true}`, strings.TrimSpace(line))
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.streams("Event.Stream", func(s *fakeStream) error {
		_ = s.give(&api.EventBatch{Index: 12, Events: []*api.Event{{Index: 12, Topic: "vm"}}})
		_ = s.give(&api.EventBatch{Index: 13, Heartbeat: true})
		return api.Errorf(api.CodeNoLeader, "lost\nit")
	})
	srv, _ := serve(t, Config{Backend: f})
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v1/events?topic=vm", nil)
	must.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", "11")
	resp, err := http.DefaultClient.Do(req)
	must.NoError(t, err)
	defer resp.Body.Close()
	must.Eq(t, mimeSSE, resp.Header.Get("Content-Type"))
	all, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	pieces := strings.Split(strings.TrimSpace(string(all)), "\n\n")
	must.Len(t, 3, pieces)
	must.True(t, strings.HasPrefix(pieces[0], "id: 12\ndata: {"))
	must.Eq(t, ": heartbeat", pieces[1])
	must.True(t, strings.HasPrefix(pieces[2], "event: error\ndata: {\"error\":{\"code\":\"NOVA-6001\""))
	must.Eq(t, 11, f.last(t).req.(*api.EventRequest).Index)
}

// consoleFake answers for a VM whose console says hello and echoes; "exit"
// ends it, "fail" ends it with an error.
func consoleFake(id api.ID) (*fake, chan *api.Chunk) {
	f := newFake()
	sizes := make(chan *api.Chunk, 10)
	f.answer("VM.Get", &api.VMResponse{VM: &api.VM{ID: id, Namespace: "team-a", Name: "web"}})
	f.streams("VM.Console", func(s *fakeStream) error {
		if err := s.give(&api.Chunk{Data: []byte("hello ")}); err != nil {
			return err
		}
		for {
			m, err := s.next()
			if err != nil || m == nil {
				return err
			}
			c := m.(*api.Chunk)
			switch {
			case c.Rows != 0:
				sizes <- c
				continue
			case string(c.Data) == "exit":
				return nil
			case string(c.Data) == "fail":
				return api.Errorf(api.CodeConsole, "the guest went away")
			}
			if err := s.give(c); err != nil {
				return err
			}
		}
	})
	return f, sizes
}

func readN(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	must.NoError(t, err)
	return string(b)
}

func TestConsoleInBothDirections(t *testing.T) {
	t.Parallel()
	id := api.NewID()
	f, sizes := consoleFake(id)
	_, c := serve(t, Config{Backend: f})
	con, err := c.VMs().Console(t.Context(), "web", &api.QueryOptions{Namespace: "team-a"})
	must.NoError(t, err)
	call := f.last(t)
	must.Eq(t, "VM.Console", call.method)
	must.Eq(t, id.String(), call.req.(*api.GetRequest).Key)
	must.Eq(t, "team-a", call.req.(*api.GetRequest).Namespace)
	must.Eq(t, "nova.secret", call.call.Token)
	must.Eq(t, "hello ", readN(t, con, 6))
	big := bytes.Repeat([]byte("x"), 100_000)
	wrote := make(chan error, 1)
	go func() { _, err := con.Write(big); wrote <- err }()
	must.Eq(t, string(big), readN(t, con, len(big)))
	must.NoError(t, <-wrote)
	must.NoError(t, con.Resize(24, 80))
	size := <-sizes
	must.Eq(t, 24, size.Rows)
	must.Eq(t, 80, size.Cols)
	_, err = con.Write([]byte("exit"))
	must.NoError(t, err)
	_, err = con.Read(make([]byte, 1))
	must.ErrorIs(t, err, io.EOF)
	_ = con.Close()

	con, err = c.VMs().Console(t.Context(), "web", nil)
	must.NoError(t, err)
	must.Eq(t, "hello ", readN(t, con, 6))
	_, err = con.Write([]byte("fail"))
	must.NoError(t, err)
	_, err = con.Read(make([]byte, 1))
	must.Eq(t, api.CodeConsole, api.CodeOf(err))
	must.StrContains(t, err.Error(), "the guest went away")
	_ = con.Close()

	// Close ends a Read that waits; so does the context.
	for _, end := range []func(*api.Console, context.CancelFunc){
		func(c *api.Console, _ context.CancelFunc) { _ = c.Close() },
		func(_ *api.Console, cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		con, err = c.VMs().Console(ctx, "web", nil)
		must.NoError(t, err)
		must.Eq(t, "hello ", readN(t, con, 6))
		done := make(chan error)
		go func() { _, err := con.Read(make([]byte, 1)); done <- err }()
		end(con, cancel)
		must.ErrorIs(t, <-done, io.EOF)
		_, err = con.Write([]byte("x"))
		must.Error(t, err)
		must.Error(t, con.Resize(1, 1))
		cancel()
	}
}

func TestConsoleRefusals(t *testing.T) {
	t.Parallel()
	id := api.NewID()
	f, _ := consoleFake(id)
	_, c := serve(t, Config{Backend: f, ConsoleMax: 1})
	// W19: one too many.
	con, err := c.VMs().Console(t.Context(), "web", nil)
	must.NoError(t, err)
	_, err = c.VMs().Console(t.Context(), "web", nil)
	must.Eq(t, api.CodeConsole, api.CodeOf(err))
	_, err = con.Write([]byte("exit"))
	must.NoError(t, err)
	_, err = io.ReadAll(con)
	must.NoError(t, err)
	_ = con.Close()
	// What the server refuses comes as what it is.
	f.streams("VM.Console", func(*fakeStream) error { return api.Errorf(api.CodeUnplaced, "it is on no node") })
	must.Eq(t, api.CodeUnplaced, eventually(t, func() error { _, err := c.VMs().Console(t.Context(), "web", nil); return err }, api.CodeConsole))
	f.refuse("VM.Get", api.Errorf(api.CodeForbidden, "no"))
	_, err = c.VMs().Console(t.Context(), "web", nil)
	must.Eq(t, api.CodeForbidden, api.CodeOf(err))
	_, err = c.VMs().ConsoleTicket(t.Context(), "web", nil)
	must.Eq(t, api.CodeForbidden, api.CodeOf(err))
}

// eventually repeats a call as long as it fails with the code given, and
// returns the first other code.
func eventually(t *testing.T, call func() error, not api.Code) api.Code {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if code := api.CodeOf(call()); code != not {
			return code
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			return not
		}
	}
}

func TestConsoleTickets(t *testing.T) {
	t.Parallel()
	id := api.NewID()
	f, _ := consoleFake(id)
	srv, c := serve(t, Config{Backend: f, Origins: []string{"https://ui.example.org"}})
	dial := func(ticket, origin string) (*websocket.Conn, int) {
		protocols := []string{"nova-console"}
		if ticket != "" {
			protocols = append(protocols, "nova.ticket."+ticket)
		}
		h := http.Header{}
		if origin != "" {
			h.Set("Origin", origin)
		}
		ws, resp, err := websocket.Dial(t.Context(), srv.URL+"/v1/vm/web/console", &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: h})
		if err != nil {
			must.NotNil(t, resp)
			return nil, resp.StatusCode
		}
		return ws, resp.StatusCode
	}
	tk, err := c.VMs().ConsoleTicket(t.Context(), "web", nil)
	must.NoError(t, err)
	must.Eq(t, id, tk.VMID)
	ws, code := dial(tk.Ticket, srv.URL)
	must.Eq(t, 101, code)
	must.Eq(t, "nova-console", ws.Subprotocol())
	must.Eq(t, "nova.secret", f.last(t).call.Token)
	_, data, err := ws.Read(t.Context())
	must.NoError(t, err)
	must.Eq(t, "hello ", string(data))
	must.NoError(t, ws.Close(websocket.StatusNormalClosure, ""))

	_, code = dial(tk.Ticket, srv.URL) // W4: used
	must.Eq(t, 401, code)
	_, code = dial("nonsense", srv.URL)
	must.Eq(t, 401, code)
	for _, origin := range []string{"https://evil.example", "null", "http://" + strings.TrimPrefix(srv.URL, "http://") + ".evil.example"} { // W1, W2
		_, code = dial("", origin)
		must.Eq(t, 403, code, must.Sprint(origin))
	}
	ws, code = dial("", "https://ui.example.org")
	must.Eq(t, 101, code)
	_ = ws.CloseNow()
	tk, err = c.VMs().ConsoleTicket(t.Context(), "web", nil)
	must.NoError(t, err)
	f.answer("VM.Get", &api.VMResponse{VM: &api.VM{ID: api.NewID(), Name: "web"}}) // W6: it is another VM now
	_, code = dial(tk.Ticket, "")
	must.Eq(t, 403, code)
	f.answer("VM.Get", &api.VMResponse{})
	_, err = c.VMs().ConsoleTicket(t.Context(), "web", nil)
	must.Eq(t, api.CodeNotFound, api.CodeOf(err))
	// Without the subprotocol it is not our console.
	_, resp, err := websocket.Dial(t.Context(), srv.URL+"/v1/vm/web/console", nil)
	must.Error(t, err)
	must.Eq(t, 400, resp.StatusCode)
}

func TestTicketsAreFewAndShort(t *testing.T) {
	t.Parallel()
	tks := newTickets()
	secret, err := tks.issue(ticket{expires: time.Now().Add(-time.Nanosecond)})
	must.NoError(t, err)
	_, ok := tks.redeem(secret) // W5
	must.False(t, ok)
	for range maxTickets {
		_, err = tks.issue(ticket{expires: time.Now().Add(time.Hour)})
		must.NoError(t, err)
	}
	_, err = tks.issue(ticket{expires: time.Now().Add(time.Hour)})
	must.Eq(t, api.CodeRateLimited, api.CodeOf(err))
	for k, v := range tks.by { // they all run out
		v.expires = time.Now().Add(-time.Hour)
		tks.by[k] = v
	}
	_, err = tks.issue(ticket{expires: time.Now().Add(time.Hour)})
	must.NoError(t, err)
	must.MapLen(t, 1, tks.by)
}

func TestConsoleViewersThatMisbehave(t *testing.T) {
	t.Parallel()
	id := api.NewID()
	f, _ := consoleFake(id)
	srv, _ := serve(t, Config{Backend: f, ConsoleMax: 100})
	idle, _ := serve(t, Config{Backend: f, ConsoleIdle: time.Millisecond})
	open := func(url string) *websocket.Conn {
		ws, _, err := websocket.Dial(t.Context(), url+"/v1/vm/web/console", &websocket.DialOptions{Subprotocols: []string{"nova-console"}})
		must.NoError(t, err)
		return ws
	}
	drain := func(ws *websocket.Conn) websocket.StatusCode {
		for {
			if _, _, err := ws.Read(t.Context()); err != nil {
				return websocket.CloseStatus(err)
			}
		}
	}
	for _, text := range []string{"hello", `{"rows":0,"cols":80}`, `{"rows":1e9,"cols":80}`, `{"rows":24,"cols":80,"x":1}`, strings.Repeat(" ", 300)} {
		ws := open(srv.URL)
		must.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(text)))
		must.Eq(t, closeError, drain(ws), must.Sprint(text))
	}
	ws := open(srv.URL) // W10: a message too long
	_ = ws.Write(t.Context(), websocket.MessageBinary, make([]byte, consoleMessage+1))
	must.Eq(t, websocket.StatusMessageTooBig, drain(ws))
	must.Eq(t, closeError, drain(open(idle.URL)))
	// A viewer that is cut off does not leave its stream behind.
	ws = open(srv.URL)
	_ = ws.CloseNow()
}

func TestUploadsThatAreNotWhole(t *testing.T) {
	t.Parallel()
	f := newFake()
	whole := make(chan bool, 10)
	f.streams("Image.Upload", func(s *fakeStream) error {
		for {
			m, err := s.next()
			if err != nil {
				whole <- false
				return err
			}
			if m == nil {
				whole <- true
				return nil
			}
		}
	})
	srv, _ := serve(t, Config{Backend: f})
	post := func(query string, body io.Reader) (int, *api.Error) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/v1/images?name=a&sha256="+strings.Repeat("a", 64)+query, body)
		must.NoError(t, err)
		req.Header.Set("Content-Type", mimeBinary)
		resp, err := http.DefaultClient.Do(req)
		must.NoError(t, err)
		defer resp.Body.Close()
		e := &api.Error{}
		must.NoError(t, json.NewDecoder(resp.Body).Decode(e))
		return resp.StatusCode, e
	}
	chunked := func(n int) io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, n))) }
	code, e := post("&size=10", chunked(11)) // U19: more than was said
	must.Eq(t, 413, code)
	must.Eq(t, api.CodeTooLarge, e.Code)
	must.False(t, <-whole)
	code, e = post("&size=10", chunked(9)) // less than was said
	must.Eq(t, 400, code)
	must.Eq(t, api.CodeSyntax, e.Code)
	must.False(t, <-whole)
	// Whole, but the server says nothing.
	code, e = post("", bytes.NewReader(make([]byte, 10)))
	must.Eq(t, 503, code)
	must.Eq(t, api.CodeUnreachable, e.Code)
	must.True(t, <-whole)
	f.streams("Image.Upload", nil)
	_, e = post("", bytes.NewReader(make([]byte, 10)))
	must.Eq(t, api.CodeNotFoundRoute, e.Code)
}
