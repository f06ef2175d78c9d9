package http

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"reflect"
	"sync"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// fake is a Backend that remembers what it was asked and answers what it was
// told to.
type fake struct {
	mu      sync.Mutex
	calls   []asked
	answers map[string]api.Message
	errs    map[string]error
	stream  map[string]func(*fakeStream) error
	hook    func(ctx context.Context, method string) // called before an answer
}

// asked is one call as it arrived.
type asked struct {
	method string
	req    api.Message
	call   api.Call
}

var _ Backend = (*fake)(nil)

func newFake() *fake {
	return &fake{answers: map[string]api.Message{}, errs: map[string]error{}, stream: map[string]func(*fakeStream) error{}}
}

// clone copies a message as a network would.
func clone(m api.Message) api.Message {
	b, err := m.MarshalMsg(nil)
	if err != nil {
		panic(err)
	}
	out := reflect.New(reflect.TypeOf(m).Elem()).Interface().(api.Message)
	if _, err := out.UnmarshalMsg(b); err != nil {
		panic(err)
	}
	return out
}

func copyTo(dst, src api.Message) error {
	if reflect.TypeOf(dst) != reflect.TypeOf(src) {
		return fmt.Errorf("the caller wants a %T, the answer is a %T", dst, src)
	}
	reflect.ValueOf(dst).Elem().Set(reflect.ValueOf(clone(src)).Elem())
	return nil
}

// answer says what a method answers, refuse with what it fails, streams what
// runs behind a stream; nil takes that back.
func (f *fake) answer(method string, m api.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[method] = m
}

func (f *fake) refuse(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[method] = err
}

func (f *fake) streams(method string, run func(*fakeStream) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream[method] = run
}

func (f *fake) note(ctx context.Context, method string, req api.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, asked{method, clone(req), api.CallFrom(ctx)})
}

func (f *fake) Call(ctx context.Context, method string, req, resp api.Message) error {
	f.note(ctx, method, req)
	if f.hook != nil {
		f.hook(ctx, method)
	}
	f.mu.Lock()
	err, a := f.errs[method], f.answers[method]
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if a != nil {
		return copyTo(resp, a)
	}
	return ctx.Err()
}

func (f *fake) Open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	f.note(ctx, method, req)
	f.mu.Lock()
	run := f.stream[method]
	f.mu.Unlock()
	if run == nil {
		return nil, api.Errorf(api.CodeNotFoundRoute, "there is no stream %s", method)
	}
	st := &fakeStream{ctx: ctx, in: make(chan api.Message), out: make(chan api.Message), end: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		st.err = run(st)
		close(st.end)
	}()
	return st, nil
}

// last returns the newest call.
func (f *fake) last(t *testing.T) asked {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	must.SliceNotEmpty(t, f.calls)
	return f.calls[len(f.calls)-1]
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// fakeStream is a stream inside the process. The run function of the fake is
// the server's side: it uses next and give.
type fakeStream struct {
	ctx    context.Context
	in     chan api.Message // from the caller
	out    chan api.Message // to the caller
	end    chan struct{}    // the server's side has returned
	closed chan struct{}    // the caller sends no more
	once   sync.Once
	err    error
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Send(m api.Message) error {
	select {
	case s.in <- clone(m):
		return nil
	case <-s.end:
		return io.EOF
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *fakeStream) Recv(m api.Message) error {
	select {
	case got := <-s.out:
		return copyTo(m, got)
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.end:
		if s.err != nil {
			return s.err
		}
		return io.EOF
	}
}

func (s *fakeStream) CloseSend() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// next returns what the caller sends, nil when it sends no more.
func (s *fakeStream) next() (api.Message, error) {
	select {
	case m := <-s.in:
		return m, nil
	case <-s.closed:
		return nil, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *fakeStream) give(m api.Message) error {
	select {
	case s.out <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// serve runs the API on a real connection.
func serve(t *testing.T, cfg Config) (*httptest.Server, *api.Client) {
	t.Helper()
	srv := httptest.NewServer(New(cfg))
	t.Cleanup(srv.Close)
	c, err := api.NewClient(api.ClientConfig{Address: srv.URL, Token: "nova.secret", CAHash: ""})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	return srv, c
}
