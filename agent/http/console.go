package http

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/novacron/novacron/api"
)

const (
	consoleProtocol = "nova-console"
	ticketProtocol  = "nova.ticket."
	// consoleMessage bounds one message of a viewer, consoleRate what a viewer
	// may send in a second.
	consoleMessage = 64 << 10
	consoleRate    = 1 << 20
	consolePing    = 20 * time.Second
	// closeError is the status of a close frame that carries "NOVA-nnnn text".
	closeError = websocket.StatusCode(4000)
)

// consoleVM finds the VM of a console in the caller's name.
func (s *Server) consoleVM(r *http.Request, key, namespace string) (*api.VM, error) {
	req, resp := &api.GetRequest{Key: key}, &api.VMResponse{}
	req.Namespace = namespace
	if err := prepare(req); err != nil {
		return nil, err
	}
	if namespace == "*" {
		return nil, badParam("namespace", "\"*\" is for lists: name one namespace")
	}
	if err := s.cfg.Backend.Call(r.Context(), "VM.Get", req, resp); err != nil {
		return nil, err
	}
	if resp.VM == nil {
		return nil, api.Errorf(api.CodeNotFound, "there is no VM %s", clip(key))
	}
	return resp.VM, nil
}

func consoleTicket(s *Server, w http.ResponseWriter, r *http.Request) error {
	if err := s.checkOrigin(r); err != nil {
		return err
	}
	vm, err := s.consoleVM(r, keyOf(r), r.URL.Query().Get("namespace"))
	if err != nil {
		return err
	}
	expires := time.Now().Add(ticketLife)
	secret, err := s.tickets.issue(ticket{call: api.CallFrom(r.Context()), namespace: vm.Namespace, vm: vm.ID, expires: expires})
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, &api.ConsoleTicket{Ticket: secret, VMID: vm.ID, Expires: api.TimeOf(expires)})
}

// checkOrigin lets through callers that are no browser, pages of this agent,
// and pages that the configuration names.
func (s *Server) checkOrigin(r *http.Request) error {
	list := r.Header.Values("Origin")
	if len(list) == 0 {
		return nil
	}
	if len(list) == 1 {
		u, err := url.Parse(list[0])
		if err == nil && u.Host != "" && (strings.EqualFold(u.Host, r.Host) || slices.ContainsFunc(s.cfg.Origins, func(o string) bool { return strings.EqualFold(o, list[0]) })) {
			return nil
		}
	}
	return api.Errorf(api.CodeForbidden, "pages of %q may not open consoles here", clip(list[0])).WithHint("the agent's configuration names the origins that may")
}

// protocols returns the subprotocols that the caller offers, and its ticket.
func protocols(r *http.Request) (offered []string, ticket string) {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			if t, ok := strings.CutPrefix(p, ticketProtocol); ok {
				ticket = t
				continue
			}
			offered = append(offered, p)
		}
	}
	return offered, ticket
}

// console connects a WebSocket with the stream of a VM's serial console.
func console(s *Server, w http.ResponseWriter, r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		return api.Errorf(api.CodeInvalid, "the console is a WebSocket").WithHint("use \"novacron vm console\", or send Upgrade: websocket")
	}
	if err := s.checkOrigin(r); err != nil {
		return err
	}
	offered, secret := protocols(r)
	if !slices.Contains(offered, consoleProtocol) {
		return api.Errorf(api.CodeInvalid, "the console speaks the subprotocol %s", consoleProtocol)
	}
	namespace := r.URL.Query().Get("namespace")
	var only api.ID
	if secret != "" {
		tk, ok := s.tickets.redeem(secret)
		if !ok {
			return api.Errorf(api.CodeUnauthenticated, "the console ticket is used, expired or unknown")
		}
		call := tk.call
		call.RequestID = api.CallFrom(r.Context()).RequestID
		r = r.WithContext(api.WithCall(r.Context(), call))
		only, namespace = tk.vm, tk.namespace
	}
	vm, err := s.consoleVM(r, keyOf(r), namespace)
	if err != nil {
		return err
	}
	if !only.IsZero() && vm.ID != only {
		return api.Errorf(api.CodeForbidden, "the console ticket is for another VM")
	}
	leave, err := s.open.enter(vm.ID)
	if err != nil {
		return err
	}
	defer leave()

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req := &api.GetRequest{Key: vm.ID.String()}
	req.Namespace = vm.Namespace
	st, err := s.cfg.Backend.Open(ctx, "VM.Console", req)
	if err != nil {
		return err
	}
	in := receive[api.Chunk](ctx, st)
	defer func() {
		cancel()
		for range in { //nolint:revive // waits for the goroutine
		}
	}()
	// A refusal still gets its own status; after that the first words wait.
	var first *api.Chunk
	select {
	case m := <-in:
		if m.err != nil {
			return cutOff(m.err)
		}
		first = m.msg
	case <-time.After(grace):
	case <-ctx.Done():
		return ctx.Err()
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{consoleProtocol},
		InsecureSkipVerify: true, // checkOrigin has done it
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		seenOf(r.Context()).wrote = true
		return nil // it has answered already
	}
	defer func() { _ = ws.CloseNow() }()
	s.pump(ctx, cancel, ws, st, in, first)
	return nil
}

// pump moves bytes in both directions until one side ends.
func (s *Server) pump(ctx context.Context, cancel context.CancelFunc, ws *websocket.Conn, st api.Stream, in <-chan received[api.Chunk], first *api.Chunk) {
	ws.SetReadLimit(consoleMessage)
	active := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- fromViewer(ctx, ws, st, active) }()
	err, viewer := s.toViewer(ctx, ws, in, first, active, done)
	status, reason := websocket.StatusNormalClosure, ""
	if err != nil && err != io.EOF {
		e := errorOf(err)
		status, reason = closeError, cutText(e.Code.String()+" "+e.Message, 120)
	}
	_ = ws.Close(status, reason)
	cancel()
	if !viewer {
		<-done
	}
}

func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// toViewer sends what the guest writes, keeps the connection alive, and ends it
// when nobody uses it. It also returns whether the other direction has ended.
func (s *Server) toViewer(ctx context.Context, ws *websocket.Conn, in <-chan received[api.Chunk], first *api.Chunk, active <-chan struct{}, done <-chan error) (error, bool) {
	put := func(c *api.Chunk) error {
		if c == nil || len(c.Data) == 0 {
			return nil
		}
		wctx, stop := context.WithTimeout(ctx, patience)
		defer stop()
		return ws.Write(wctx, websocket.MessageBinary, c.Data)
	}
	if err := put(first); err != nil {
		return err, false
	}
	idle := time.NewTimer(s.cfg.ConsoleIdle)
	defer idle.Stop()
	ping := time.NewTicker(consolePing)
	defer ping.Stop()
	ended := false
	for {
		select {
		case m, ok := <-in:
			if !ok {
				return ctx.Err(), ended
			}
			if m.err != nil {
				return m.err, ended
			}
			if err := put(m.msg); err != nil {
				return err, ended
			}
			idle.Reset(s.cfg.ConsoleIdle)
		case <-active:
			idle.Reset(s.cfg.ConsoleIdle)
		case err := <-done:
			if ended = true; err != errGuestGone {
				return err, true
			}
		case <-ping.C:
			pctx, stop := context.WithTimeout(ctx, consolePing)
			err := ws.Ping(pctx)
			stop()
			if err != nil {
				return err, ended
			}
		case <-idle.C:
			return api.Errorf(api.CodeConsole, "the console was idle for %s", s.cfg.ConsoleIdle), ended
		}
	}
}

// errGuestGone says that nothing can be sent any more; why is what the other
// direction receives next.
var errGuestGone = errors.New("the stream takes no more")

// fromViewer sends what the viewer types. nil means that the viewer left.
func fromViewer(ctx context.Context, ws *websocket.Conn, st api.Stream, active chan<- struct{}) error {
	pace := rate.NewLimiter(consoleRate, consoleMessage)
	for {
		typ, data, err := ws.Read(ctx)
		if err != nil {
			if status := websocket.CloseStatus(err); status == websocket.StatusNormalClosure || status == websocket.StatusGoingAway || errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return api.Errorf(api.CodeConsole, "the viewer's connection broke off")
		}
		if err := pace.WaitN(ctx, max(len(data), 1)); err != nil {
			return nil
		}
		c := &api.Chunk{Data: data}
		if typ == websocket.MessageText {
			var size struct {
				Rows int32 `json:"rows"`
				Cols int32 `json:"cols"`
			}
			if err := api.DecodeJSON(bytes.NewReader(data), 256, &size); err != nil || size.Rows < 1 || size.Cols < 1 || size.Rows > 10000 || size.Cols > 10000 {
				return api.Errorf(api.CodeConsole, "a text frame is not {\"rows\":24,\"cols\":80}")
			}
			c = &api.Chunk{Rows: size.Rows, Cols: size.Cols}
		}
		if err := st.Send(c); err != nil {
			return errGuestGone
		}
		select {
		case active <- struct{}{}:
		default:
		}
	}
}
