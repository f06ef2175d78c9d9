package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	httpapi "github.com/novacron/novacron/agent/http"
	"github.com/novacron/novacron/agent/spec"
	"github.com/novacron/novacron/api"
)

// front is the API's listener.
type front struct {
	ln         net.Listener
	srv        *http.Server // nil until it serves
	url        string
	advertised string // host:port, told to others
	served     chan struct{}
	cancel     context.CancelFunc // ends streams and consoles
	cert       atomic.Pointer[tls.Certificate]
}

// listenHTTP takes the API's port, before anything else starts: the others are
// told its address.
func (a *Agent) listenHTTP(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", a.cfg.httpBind())
	if err != nil {
		return api.Errorf(api.CodeConfig, "HTTP: %v", err).WithHint("another agent may be running here; ports.http and -http-addr move this one")
	}
	f := &front{ln: ln, served: make(chan struct{})}
	a.front = f
	host, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return err
	}
	f.advertised = ln.Addr().String()
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if f.advertised, err = a.cfg.advertised(ln.Addr()); err != nil {
			a.log.Warn("the address of the API is not told to others", "error", err)
			f.advertised = ""
		}
		host = "127.0.0.1"
	}
	scheme := "https"
	if a.cfg.Dev {
		scheme = "http"
	}
	f.url = scheme + "://" + net.JoinHostPort(host, port)
	return nil
}

// serveHTTP serves the API: HTTPS with the node's certificate, or with one of
// the operator's; plain HTTP only for -dev, on loopback.
func (a *Agent) serveHTTP() error {
	f, ln := a.front, a.front.ln
	if !a.cfg.Dev {
		conf, err := a.httpTLS(f)
		if err != nil {
			return err
		}
		ln = tls.NewListener(ln, conf)
	}
	handler := httpapi.New(httpapi.Config{
		Backend: a.caller(), Logger: a.log.Logger, Self: a.Self, Health: a.Health, Metrics: a.metrics, Parse: spec.Parse, Debug: true,
	})
	base, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.srv = &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	a.wg.Go(func() {
		defer close(f.served)
		if err := f.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			a.fail(err)
		}
	})
	return nil
}

// httpTLS chooses the certificate.
func (a *Agent) httpTLS(f *front) (*tls.Config, error) {
	if a.cfg.HTTP.CertFile != "" {
		if err := f.loadCertificate(a.cfg.HTTP); err != nil {
			return nil, err
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert.Load(), nil },
		}, nil
	}
	if a.server != nil {
		return a.server.TLS().HTTPConfig(), nil
	}
	return a.peer.tls.HTTPConfig(), nil
}

// loadCertificate reads the operator's certificate; also on reload.
func (f *front) loadCertificate(c *HTTP) error {
	crt, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return api.Errorf(api.CodeConfig, "http.cert_file and key_file: %v", err)
	}
	f.cert.Store(&crt)
	return nil
}

// drain is how long requests may go on when the API ends.
const drain = 3 * time.Second

// close ends the API: streams at once, requests within drain.
func (f *front) close() error {
	if f.srv == nil {
		return f.ln.Close()
	}
	f.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err := f.srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = f.srv.Close()
	}
	<-f.served
	return err
}

// Self describes the agent.
func (a *Agent) Self() api.AgentSelf {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := api.AgentSelf{
		ID: a.id.NodeID, Name: a.id.Name, Region: a.id.Region, Datacenter: a.cfg.Datacenter, Version: a.opts.Version,
		Server: a.server != nil, Client: a.client != nil, Config: a.cfg.Pairs(),
	}
	stats := map[string]string{
		"goroutines": strconv.Itoa(runtime.NumGoroutine()), "go": runtime.Version(), "hypervisor": a.Hypervisor(),
	}
	if a.server != nil {
		stats["leader"] = strconv.FormatBool(a.server.IsLeader())
		stats["applied_index"] = strconv.FormatUint(a.server.FSM().State().Index(), 10)
		stats["gossip"] = a.server.GossipAddr()
	}
	s.Stats = api.PairsOf(stats)
	return s
}

// Health says whether the halves do their work.
func (a *Agent) Health() api.AgentHealth {
	h := api.AgentHealth{OK: true}
	if a.server != nil {
		d := a.serverHealth()
		h.Server, h.OK = &d, d.OK
	}
	if a.client != nil {
		d := a.client.Health()
		h.Client, h.OK = &d, h.OK && d.OK
	}
	return h
}

func (a *Agent) serverHealth() api.HealthDetail {
	if a.server.IsLeader() {
		return api.HealthDetail{OK: true, Message: "leads the region"}
	}
	if addr, ok := a.server.Leader(); ok {
		return api.HealthDetail{OK: true, Message: "follows " + addr}
	}
	return api.HealthDetail{Message: "no leader is known"}
}

// loopback reports whether a host:port is on this machine only.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}
