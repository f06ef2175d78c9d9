package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// servers knows the servers of the region and which of them answered last.
type servers struct {
	dial   func(addr string) rpc.Caller
	redial func(addr string)

	mu    sync.Mutex
	first []string // of the configuration: always tried, last
	addrs []string // as the servers told; the good one is in front
}

func newServers(first []string, dial func(string) rpc.Caller, redial func(string)) *servers {
	return &servers{dial: dial, redial: redial, first: slices.Clone(first)}
}

// list returns all addresses, the one that answered last in front.
func (s *servers) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.addrs)
	for _, a := range s.first {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// learn takes over what a server says of the others.
func (s *servers) learn(addrs []string) {
	if len(addrs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var good string
	if len(s.addrs) > 0 {
		good = s.addrs[0]
	}
	s.addrs = slices.Clone(addrs)
	if i := slices.Index(s.addrs, good); i > 0 {
		s.addrs = slices.Insert(slices.Delete(s.addrs, i, i+1), 0, good)
	}
}

// good remembers who answered.
func (s *servers) good(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.addrs) > 0 && s.addrs[0] == addr {
		return
	}
	s.addrs = slices.Insert(slices.DeleteFunc(s.addrs, func(a string) bool { return a == addr }), 0, addr)
}

// bad puts a server at the end. When it was the connection that failed, the next
// call to it uses a new one.
func (s *servers) bad(addr string, err error) {
	s.mu.Lock()
	if i := slices.Index(s.addrs, addr); i >= 0 {
		s.addrs = append(slices.Delete(s.addrs, i, i+1), addr)
	} else if i := slices.Index(s.first, addr); i >= 0 {
		s.first = append(slices.Delete(s.first, i, i+1), addr)
	}
	s.mu.Unlock()
	if broken(err) {
		s.redial(addr)
	}
}

// broken reports whether the connection may be at fault, not the server.
func broken(err error) bool {
	var e *api.Error
	if !errors.As(err, &e) {
		return true
	}
	return e.Code == api.CodeUnreachable || e.Code == api.CodeUnknown || e.Code == api.CodeDeadline
}

// elsewhere reports whether an error may be this server's own, so that another
// one is worth a try. What a node sends may be sent twice.
func elsewhere(err error) bool {
	var e *api.Error
	if !errors.As(err, &e) {
		return true // the transport's
	}
	switch e.Code {
	case api.CodeUnreachable, api.CodeNoLeader, api.CodeUnknown, api.CodeStale, api.CodeDeadline, api.CodeCanceled,
		api.CodeInternal, api.CodeRateLimited, api.CodeNotServer, api.CodeNoRegion, api.CodeNotFoundRoute:
		return true
	}
	return false
}

// call asks the servers in turn until one answers; each has its share of time.
func (s *servers) call(ctx context.Context, each time.Duration, method string, req, resp api.Message) error {
	var last error
	for _, addr := range s.list() {
		cctx, cancel := context.WithTimeout(ctx, each)
		err := s.dial(addr).Call(cctx, method, req, resp)
		cancel()
		if err == nil {
			s.good(addr)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		last = err
		if !elsewhere(err) {
			return err
		}
		s.bad(addr, err)
	}
	if last == nil {
		last = api.Errorf(api.CodeUnreachable, "no server is known")
	}
	return last
}
