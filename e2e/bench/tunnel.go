package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
)

// pages are kinds of guest memory, in pieces that a hypervisor would write.
var pages = []struct {
	name string
	make func() []byte
}{
	{"mostly zero", func() []byte { return memoryLike(10) }},
	{"compressible", func() []byte { return memoryLike(0) }},
	{"random", func() []byte {
		b := make([]byte, sampleSize)
		rand.NewChaCha8([32]byte{1}).Read(b)
		return b
	}},
}

const (
	sampleSize = 64 << 20
	pageSize   = 4 << 10
	writeSize  = 64 << 10
	gbit       = 1e9 / 8 // bytes in a second
)

// memoryLike is a sample of pages of pointers and small numbers, of which zstd's
// fastest level leaves about a third; of each 12 MiB the first zero MiB are zero.
func memoryLike(zero int) []byte {
	b := make([]byte, sampleSize)
	r := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(b); at += pageSize {
		if at>>20%12 < zero {
			continue
		}
		var near [16]uint64 // few objects are pointed at from one page
		for i := range near {
			near[i] = 0x7f3a<<32 | uint64(r.Uint32())&^15
		}
		for i := 0; i < pageSize; i += 32 {
			binary.LittleEndian.PutUint64(b[at+i:], near[r.IntN(len(near))])
			binary.LittleEndian.PutUint64(b[at+i+8:], uint64(r.IntN(64)))
			binary.LittleEndian.PutUint64(b[at+i+16:], uint64(r.Uint32()))
		}
	}
	return b
}

// way is one way to carry bytes over loopback.
type way struct {
	name string
	// open returns a writer of its one end; what is written there reaches sink.
	open func(ctx context.Context, sink func(net.Conn)) (net.Conn, func() error, error)
}

// benchTunnel measures what a migration's tunnel carries beside plain copies
// over loopback. Both ends, the writer and the reader are in this process, so
// its CPU time is that of two hosts.
func benchTunnel(ctx context.Context, b *bench) error {
	t, err := newTunnels(ctx, b)
	if err != nil {
		return err
	}
	defer t.close()
	total := pick(b, 512<<20, 1<<30)
	rounds := pick(b, 1, 3)
	fmt.Printf("   one stream of %d MiB between two agents on loopback (both ends in this process), medians of %d alternating rounds\n", total>>20, rounds)
	fmt.Println("   tcp: a bare connection; tls: with the agents' certificates; none, zstd, auto: the tunnel, between UNIX sockets")
	ways := []way{{"tcp", t.tcp}, {"tls", t.tls}}
	for _, m := range []migrate.Compression{migrate.None, migrate.Zstd, migrate.Auto} {
		ways = append(ways, way{string(m), t.through(m, 0)})
	}
	if err := t.table(ctx, ways, total, rounds); err != nil {
		return err
	}
	fmt.Println("   the same under a cap of 1 Gbit/s (125 MB/s), as on such a link")
	ways = nil
	for _, m := range []migrate.Compression{migrate.None, migrate.Zstd, migrate.Auto} {
		ways = append(ways, way{string(m), t.through(m, gbit)})
	}
	return t.table(ctx, ways, total, 1)
}

// table measures every way with every kind of page.
func (t *tunnels) table(ctx context.Context, ways []way, total, rounds int) error {
	fmt.Printf("   %-14s", "")
	for _, w := range ways {
		fmt.Printf(" %18s", w.name)
	}
	fmt.Printf("   MiB/s, CPU s/GiB\n")
	for _, p := range pages {
		sample := p.make()
		rate, cpu := make([][]float64, len(ways)), make([][]float64, len(ways))
		for round := range rounds {
			for i := range ways {
				if round%2 == 1 {
					i = len(ways) - 1 - i
				}
				r, c, err := carry(ctx, ways[i], sample, total)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", ways[i].name, p.name, err)
				}
				rate[i], cpu[i] = append(rate[i], r), append(cpu[i], c)
			}
		}
		fmt.Printf("   %-14s", p.name)
		for i := range ways {
			fmt.Printf(" %9.0f %8.2f", median(rate[i]), median(cpu[i]))
		}
		fmt.Println()
	}
	return nil
}

// carry sends total bytes one way and returns MiB in a second and CPU seconds
// for a GiB.
func carry(ctx context.Context, w way, sample []byte, total int) (rate, cpu float64, err error) {
	arrived := make(chan int64, 1)
	c, end, err := w.open(ctx, func(c net.Conn) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, writeSize))
		c.Close()
		arrived <- n
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	begin, used := time.Now(), cpuTime()
	for sent := 0; sent < total; sent += writeSize {
		at := sent % len(sample)
		if _, err := c.Write(sample[at : at+writeSize]); err != nil {
			return 0, 0, err
		}
	}
	c.(interface{ CloseWrite() error }).CloseWrite()
	if n := <-arrived; n != int64(total) {
		return 0, 0, fmt.Errorf("%d of %d bytes arrived", n, total)
	}
	took := time.Since(begin)
	return float64(total>>20) / took.Seconds(), (cpuTime() - used).Seconds() / (float64(total) / (1 << 30)), nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// tunnels are two agents' ports and hosts of migrations.
type tunnels struct {
	dir      string
	src, dst tunnelEnd
}

type tunnelEnd struct {
	id   api.ID
	tls  *rpc.TLS
	cert tls.Certificate
	host *migrate.Host
	port *rpc.Port
	mux  *rpc.Mux
}

func newTunnels(ctx context.Context, b *bench) (*tunnels, error) {
	t := &tunnels{dir: filepath.Join(b.dir, "tunnel")}
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	if err != nil {
		return nil, err
	}
	for _, e := range []*tunnelEnd{&t.src, &t.dst} {
		if err := e.start(ctx, ca, filepath.Join(t.dir, api.NewID().Short())); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

func (e *tunnelEnd) start(ctx context.Context, ca *keyring.CA, dir string) error {
	e.id = api.NewID()
	key, csr, err := keyring.NewRequest()
	if err != nil {
		return err
	}
	cert, err := ca.Sign(csr, api.CertName{Region: "bench", Role: api.RoleClient, NodeID: e.id}, time.Now())
	if err != nil {
		return err
	}
	if e.cert, err = tls.X509KeyPair(cert, key); err != nil {
		return err
	}
	if e.tls, err = rpc.NewTLS(ca.CertPEM(), cert, key); err != nil {
		return err
	}
	if e.host, err = migrate.New(migrate.Config{Dir: dir, UID: -1, GID: -1, Dial: e.tls.DialTunnel}); err != nil {
		return err
	}
	e.mux = rpc.NewMux(rpc.Options{Router: rpc.Alone("bench")})
	e.port, err = rpc.Listen(ctx, "127.0.0.1:0", e.tls, rpc.PortOptions{Mux: e.mux, Tunnel: e.host.Tunnel})
	return err
}

func (t *tunnels) close() {
	for _, e := range []*tunnelEnd{&t.src, &t.dst} {
		if e.host != nil {
			e.host.Close()
		}
		if e.port != nil {
			e.port.Close()
		}
		if e.mux != nil {
			e.mux.Close()
		}
	}
}

// serveOnce gives the first connection of a listener to sink. end closes it.
func serveOnce(ln net.Listener, sink func(net.Conn)) (end func() error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := ln.Accept(); err == nil {
			sink(c)
		}
	})
	return func() error {
		ln.Close()
		wg.Wait()
		return nil
	}
}

func (t *tunnels) tcp(_ context.Context, sink func(net.Conn)) (net.Conn, func() error, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	end := serveOnce(ln, sink)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return c, func() error { c.Close(); return end() }, nil
}

func (t *tunnels) tls(_ context.Context, sink func(net.Conn)) (net.Conn, func() error, error) {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{t.dst.cert}, ClientAuth: tls.RequireAnyClientCert,
	})
	if err != nil {
		return nil, nil, err
	}
	end := serveOnce(ln, sink)
	// Who answers is this process.
	c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{t.src.cert}})
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return c, func() error { c.Close(); return end() }, nil
}

// through opens a migration and connects to its socket of memory.
func (t *tunnels) through(mode migrate.Compression, bandwidth api.Bytes) func(context.Context, func(net.Conn)) (net.Conn, func() error, error) {
	return func(ctx context.Context, sink func(net.Conn)) (_ net.Conn, _ func() error, err error) {
		id, token := api.NewID(), migrate.Token(append(make([]byte, 16), keyring.NewGossipKey()[:16]...))
		in, err := t.dst.host.Expect(migrate.ExpectOptions{Migration: id, From: t.src.id, Token: token})
		if err != nil {
			return nil, nil, err
		}
		out, err := t.src.host.Open(ctx, migrate.OpenOptions{
			Migration: id, To: t.dst.id, Address: t.dst.port.Addr().String(), Token: token, Compression: mode, Bandwidth: bandwidth,
		})
		if err != nil {
			return nil, nil, errors.Join(err, in.Close())
		}
		end := func() error { return errors.Join(out.Err(), in.Err(), out.Close(), in.Close()) }
		ln, err := net.Listen("unix", in.Memory())
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
		served := serveOnce(ln, sink)
		c, err := net.Dial("unix", out.Memory())
		if err != nil {
			return nil, nil, errors.Join(err, end(), served())
		}
		return c, func() error { c.Close(); return errors.Join(end(), served()) }, nil
	}
}
