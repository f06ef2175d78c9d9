package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// AdminSocket is the name of the UNIX socket in the data folder on which only
// root, or the user of the server itself, may make the first token:
// POST /v1/tokens/bootstrap answers api.TokenCreated, errors are api.Error. GET
// /v1/operator/keyring answers api.RootKeyExport.
const AdminSocket = "novacron.sock"

// admin serves the socket. Who connects is told by the kernel (SO_PEERCRED).
type admin struct {
	srv  *http.Server
	done chan struct{}
}

type peerUID struct{}

func (s *Server) newAdmin(ctx context.Context, dir string) (*admin, error) {
	path := filepath.Join(dir, AdminSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, api.Errorf(api.CodeConfig, "admin socket: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	mux := http.NewServeMux()
	serve := func(pattern string, answer func(context.Context) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			uid, ok := r.Context().Value(peerUID{}).(uint32)
			if !ok || (uid != 0 && int(uid) != os.Getuid()) {
				adminAnswer(w, nil, api.Errorf(api.CodeForbidden, "only root may do this"))
				return
			}
			v, err := answer(r.Context())
			adminAnswer(w, v, err)
		})
	}
	serve("POST /v1/tokens/bootstrap", func(ctx context.Context) (any, error) { return s.BootstrapToken(ctx) })
	serve("GET /v1/operator/keyring", func(context.Context) (any, error) {
		s.log.Warn("the root key is exported")
		return &api.RootKeyExport{ClusterID: s.id.ClusterID, Region: s.id.Region, RootKey: hex.EncodeToString(s.id.RootKey.Bytes())}, nil
	})
	a := &admin{done: make(chan struct{}), srv: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if uid, err := peerOf(c); err == nil {
				return context.WithValue(ctx, peerUID{}, uid)
			}
			return ctx
		},
	}}
	go func() {
		defer close(a.done)
		_ = a.srv.Serve(ln) // always ends with ErrServerClosed or with the listener
	}()
	return a, nil
}

// peerOf asks the kernel which user is at the other end.
func peerOf(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a UNIX socket")
	}
	raw, err := u.SyscallConn()
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

func adminAnswer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e := asError(err)
		w.WriteHeader(e.Status())
		v = e
	}
	_ = json.NewEncoder(w).Encode(v)
}

// asError makes an api.Error of any error.
func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeDeadline, "the deadline passed")
	case errors.Is(err, context.Canceled):
		return api.Errorf(api.CodeCanceled, "canceled")
	}
	return api.Errorf(api.CodeInternal, "%v", err)
}

// close ends the socket and waits for what it serves.
func (a *admin) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := a.srv.Shutdown(ctx)
	if err != nil {
		err = a.srv.Close()
	}
	<-a.done
	return err
}
