package api

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/shoenig/test/must"
)

// wsServer answers the handshake of one console and hands the connection to
// the test.
func wsServer(t *testing.T, accept func(key string) string) (*Client, <-chan net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	conns := make(chan net.Conn, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				_ = conn.Close()
				continue
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: nova-console\r\nSec-WebSocket-Accept: "+accept(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
			conns <- conn
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	c, err := NewClient(ClientConfig{Address: "http://" + ln.Addr().String()})
	must.NoError(t, err)
	return c, conns
}

func rightKey(key string) string {
	sum := sha1.Sum([]byte(key + webSocketMagic))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestWebSocketHandshakeIsChecked(t *testing.T) {
	t.Parallel()
	c, _ := wsServer(t, func(string) string { return "nonsense" })
	_, err := c.VMs().Console(t.Context(), "web", nil)
	must.Eq(t, CodeUnreachable, CodeOf(err))
}

func TestWebSocketFrames(t *testing.T) {
	t.Parallel()
	long := func(op byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{0x80 | op, 127}, n) }
	closeFrame := func(code uint16, why string) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{0x88, byte(2 + len(why))}, code), why...)
	}
	for name, r := range map[string]struct {
		sent []byte
		got  string
		err  error
	}{
		"binary":                  {[]byte{0x82, 2, 'h', 'i', 0x88, 0}, "hi", io.EOF},
		"in fragments":            {[]byte{0x02, 1, 'a', 0x89, 1, 'p', 0x00, 1, 'b', 0x80, 1, 'c', 0x88, 0}, "abc", io.EOF},
		"text is not data":        {[]byte{0x81, 2, '{', '}', 0x82, 1, 'x', 0x88, 0}, "x", io.EOF},
		"16 bit length":           {append([]byte{0x82, 126, 0, 130}, make([]byte, 130)...), string(make([]byte, 130)), &Error{Code: CodeUnreachable}},
		"pong":                    {[]byte{0x8a, 0, 0x88, 0}, "", io.EOF},
		"normal close":            {closeFrame(1000, "bye"), "", io.EOF},
		"going away":              {closeFrame(1001, ""), "", io.EOF},
		"close with a code":       {closeFrame(4000, "NOVA-4004 the guest went away"), "", &Error{Code: CodeConsole}},
		"close with another code": {closeFrame(4000, "NOVA-2001 no"), "", &Error{Code: CodeForbidden}},
		"close with another word": {closeFrame(1011, "NOVAthing\xff"), "", &Error{Code: CodeConsole}},
		"W10 1 TiB":               {long(opBinary, 1<<40), "", &Error{Code: CodeConsole}},
		"W11 fragments without an end": {func() []byte {
			var b []byte
			b = append(b, 0x02, 0)
			for range 20 {
				b = append(append(b, 0x00, 127), binary.BigEndian.AppendUint64(nil, 100_000)...)
				b = append(b, make([]byte, 100_000)...)
			}
			return b
		}(), "", &Error{Code: CodeConsole}},
		"masked by the server":     {[]byte{0x82, 0x81, 1, 2, 3, 4, 'x'}, "", &Error{Code: CodeConsole}},
		"reserved bits":            {[]byte{0xc2, 0}, "", &Error{Code: CodeConsole}},
		"unknown frame":            {[]byte{0x83, 0}, "", &Error{Code: CodeConsole}},
		"unknown control":          {[]byte{0x8b, 0}, "", &Error{Code: CodeConsole}},
		"long ping":                {[]byte{0x89, 126, 0, 200}, "", &Error{Code: CodeConsole}},
		"ping in fragments":        {[]byte{0x09, 0}, "", &Error{Code: CodeConsole}},
		"continuation of nothing":  {[]byte{0x80, 0}, "", &Error{Code: CodeConsole}},
		"data inside a message":    {[]byte{0x02, 1, 'a', 0x82, 1, 'b'}, "", &Error{Code: CodeConsole}},
		"broken off":               {[]byte{0x82, 5, 'a'}, "", &Error{Code: CodeUnreachable}},
		"broken off in the length": {[]byte{0x82, 127, 0}, "", &Error{Code: CodeUnreachable}},
		"broken off in 16 bits":    {[]byte{0x82, 126, 0}, "", &Error{Code: CodeUnreachable}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, conns := wsServer(t, rightKey)
			con, err := c.VMs().Console(t.Context(), "web", nil)
			must.NoError(t, err)
			defer con.Close()
			conn := <-conns
			drained := make(chan struct{})
			go func() { defer close(drained); _, _ = io.Copy(io.Discard, conn) }()
			go func() {
				_, _ = conn.Write(r.sent)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			var got []byte
			buf := make([]byte, 7)
			for err == nil {
				var n int
				n, err = con.Read(buf)
				got = append(got, buf[:n]...)
			}
			must.Eq(t, r.got, string(got))
			must.True(t, errors.Is(err, r.err), must.Sprintf("%v", err))
			_ = con.Close()
			<-drained
			_ = conn.Close()
		})
	}
}

func TestWebSocketWritesMaskedFrames(t *testing.T) {
	t.Parallel()
	c, conns := wsServer(t, rightKey)
	con, err := c.VMs().Console(t.Context(), "web", nil)
	must.NoError(t, err)
	conn := <-conns
	defer conn.Close()
	for _, n := range []int{5, 300} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i)
		}
		_, err = con.Write(data)
		must.NoError(t, err)
		head := make([]byte, 2)
		_, err = io.ReadFull(conn, head)
		must.NoError(t, err)
		must.Eq(t, 0x82, head[0])
		must.True(t, head[1]&0x80 != 0)
		size := int(head[1] & 0x7f)
		if size == 126 {
			_, err = io.ReadFull(conn, head)
			must.NoError(t, err)
			size = int(binary.BigEndian.Uint16(head))
		}
		must.Eq(t, n, size)
		body := make([]byte, 4+n)
		_, err = io.ReadFull(conn, body)
		must.NoError(t, err)
		for i := range n {
			must.Eq(t, data[i], body[4+i]^body[i&3])
		}
	}
	must.NoError(t, con.Close())
	_, err = con.Write([]byte("x"))
	must.ErrorIs(t, err, io.EOF)
}
