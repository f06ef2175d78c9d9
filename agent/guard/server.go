package guard

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

const (
	maxConns    = 16
	frameWindow = 10 * time.Second // to send the rest of a request, to take an answer
)

// call is a request on its way to the loop. A nil Request: the agent is gone.
type call struct {
	req   *request
	reply chan answer
}

// server hands requests from the socket to the loop, one goroutine for each
// connection. It ends with Close, which waits for all of them.
type server struct {
	ln    *net.UnixListener
	calls chan<- call
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	slots chan struct{}
}

// checkDir refuses a folder that others than root, or this user, can reach.
func checkDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return api.Errorf(api.CodeConfig, "%s must be a folder of its own user only (mode 0700)", dir)
	}
	return nil
}

func newServer(ctx context.Context, dir string, calls chan<- call) (*server, error) {
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s := &server{ln: ln, calls: calls, slots: make(chan struct{}, maxConns)}
	s.ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(s.accept)
	return s, nil
}

// Close ends the connections and waits for them.
func (s *server) Close() error {
	s.stop()
	err := s.ln.Close()
	s.wg.Wait()
	return err
}

func (s *server) accept() {
	for {
		c, err := s.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: those that are open go on
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
			s.wg.Go(func() {
				defer func() { <-s.slots }()
				s.serve(c)
			})
		default:
			_ = c.Close() // too many: that is the answer
		}
	}
}

// serve reads requests until the other end closes or breaks the protocol.
func (s *server) serve(c *net.UnixConn) {
	undo := context.AfterFunc(s.ctx, func() { _ = c.Close() })
	defer func() {
		undo()
		_ = c.Close()
	}()
	if uid, err := peerUID(c); err != nil || uid != 0 && int(uid) != os.Geteuid() {
		_ = s.answer(c, answer{Error: api.Errorf(api.CodeForbidden, "only root may do this")})
		return
	}
	in := bufio.NewReaderSize(c, 4096)
	armed := false
	defer func() {
		if armed {
			s.call(nil)
		}
	}()
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		if c.SetReadDeadline(time.Now().Add(frameWindow)) != nil {
			return
		}
		b, err := readFrame(in, maxRequest)
		if err != nil || c.SetReadDeadline(time.Time{}) != nil {
			return
		}
		req, err := parseRequest(b)
		if err != nil {
			_ = s.answer(c, answer{Error: api.Errorf(api.CodeInvalid, "%v", err)})
			return
		}
		armed = armed || req.Op == opArm
		a, ok := s.call(&req)
		if !ok || s.answer(c, a) != nil {
			return
		}
	}
}

// call asks the loop.
func (s *server) call(req *request) (answer, bool) {
	k := call{req: req, reply: make(chan answer, 1)}
	select {
	case s.calls <- k:
	case <-s.ctx.Done():
		return answer{}, false
	}
	if req == nil {
		return answer{}, true
	}
	select {
	case a := <-k.reply:
		a.ID = req.ID
		return a, true
	case <-s.ctx.Done():
		return answer{}, false
	}
}

func (s *server) answer(c *net.UnixConn, a answer) error {
	if err := c.SetWriteDeadline(time.Now().Add(frameWindow)); err != nil {
		return err
	}
	return writeFrame(c, a, maxAnswer)
}

// peerUID asks the kernel which user is at the other end.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}
