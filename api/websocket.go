package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"
)

//msgp:ignore Console webSocket frame

// consoleProtocol is the subprotocol of consoles: binary frames are data, text
// frames from the viewer are {"rows":24,"cols":80}.
const consoleProtocol = "nova-console"

// The opcodes of RFC 6455.
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xa
)

const (
	maxFrame        = 1 << 20
	closeNormal     = 1000
	closeGoingAway  = 1001
	closeProtocol   = 1002
	closeNoStatus   = 1005
	closeTooBig     = 1009
	webSocketMagic  = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	maxControlFrame = 125
)

// webSocket is the client's end of a WebSocket (RFC 6455): enough for consoles,
// without extensions. One goroutine may read while others write.
type webSocket struct {
	conn  net.Conn
	r     *bufio.Reader
	stop  func() bool
	ctx   context.Context
	write sync.Mutex
	sent  bool // a close frame
}

// dialWebSocket opens a WebSocket with the client's address and token. The end
// of ctx ends it.
func (c *Client) dialWebSocket(ctx context.Context, r *request, protocol string) (*webSocket, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	ws := &webSocket{conn: conn, ctx: ctx}
	ws.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := ws.handshake(ctx, c, r, protocol); err != nil {
		ws.stop()
		_ = conn.Close()
		if e := (*Error)(nil); errors.As(err, &e) {
			return nil, e
		}
		return nil, c.unreachable(ctx, err)
	}
	return ws, nil
}

func (ws *webSocket) handshake(ctx context.Context, c *Client, r *request, protocol string) error {
	if c.base.Scheme == "https" {
		cfg := c.tls.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		t := tls.Client(ws.conn, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
		ws.conn = t
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(r), nil)
	if err != nil {
		return err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", key)
	req.Header.Set("Sec-WebSocket-Protocol", protocol)
	req.Header.Set("User-Agent", c.agent)
	if c.token != "" {
		req.Header.Set(HeaderToken, c.token)
	}
	if err := req.Write(ws.conn); err != nil {
		return err
	}
	ws.r = bufio.NewReaderSize(ws.conn, 16<<10)
	resp, err := http.ReadResponse(ws.r, req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return errorOf(resp)
	}
	sum := sha1.Sum([]byte(key + webSocketMagic))
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") ||
		resp.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) ||
		resp.Header.Get("Sec-WebSocket-Protocol") != protocol {
		return Errorf(CodeUnreachable, "the answer to the WebSocket handshake is not one")
	}
	return nil
}

// readMessage returns the next data message. It answers pings, and returns
// io.EOF or an *Error when the other side closes.
func (ws *webSocket) readMessage() (op byte, data []byte, err error) {
	for {
		f, err := ws.readFrame()
		if err != nil {
			return 0, nil, ws.broken(err)
		}
		switch {
		case f.op == opPing:
			if err := ws.writeFrame(opPong, f.data); err != nil {
				return 0, nil, ws.broken(err)
			}
		case f.op == opPong:
		case f.op == opClose:
			return 0, nil, ws.closedBy(f.data)
		case f.op == opContinue && op == 0, f.op != opContinue && op != 0:
			return 0, nil, ws.fail(closeProtocol, "frames out of order")
		case len(data)+len(f.data) > maxFrame:
			return 0, nil, ws.fail(closeTooBig, "message too big")
		default:
			if f.op != opContinue {
				op = f.op
			}
			data = append(data, f.data...)
			if f.fin {
				return op, data, nil
			}
		}
	}
}

type frame struct {
	fin  bool
	op   byte
	data []byte
}

func (ws *webSocket) readFrame() (frame, error) {
	var h [8]byte
	if _, err := io.ReadFull(ws.r, h[:2]); err != nil {
		return frame{}, err
	}
	f := frame{fin: h[0]&0x80 != 0, op: h[0] & 0x0f}
	n := uint64(h[1] & 0x7f)
	control := f.op&0x8 != 0
	switch {
	case h[0]&0x70 != 0 || h[1]&0x80 != 0: // extensions, or a masked frame from a server
		return f, ws.fail(closeProtocol, "reserved bits")
	case f.op > opPong || f.op > opBinary && !control:
		return f, ws.fail(closeProtocol, "unknown frame")
	case control && (n > maxControlFrame || !f.fin):
		return f, ws.fail(closeProtocol, "control frame too long")
	}
	switch n {
	case 126:
		if _, err := io.ReadFull(ws.r, h[:2]); err != nil {
			return f, err
		}
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		if _, err := io.ReadFull(ws.r, h[:8]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(h[:8])
	}
	if n > maxFrame {
		return f, ws.fail(closeTooBig, "message too big")
	}
	f.data = make([]byte, n)
	_, err := io.ReadFull(ws.r, f.data)
	return f, err
}

// writeFrame sends one masked frame.
func (ws *webSocket) writeFrame(op byte, data []byte) error {
	b := make([]byte, 0, len(data)+14)
	b = append(b, 0x80|op)
	switch n := len(data); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	var mask [4]byte
	rand.Read(mask[:])
	b = append(b, mask[:]...)
	for i, x := range data {
		b = append(b, x^mask[i&3])
	}
	ws.write.Lock()
	defer ws.write.Unlock()
	if ws.sent {
		return net.ErrClosed
	}
	ws.sent = op == opClose
	_, err := ws.conn.Write(b)
	return err
}

// fail closes because the other side broke the protocol.
func (ws *webSocket) fail(code uint16, why string) error {
	_ = ws.writeFrame(opClose, append(binary.BigEndian.AppendUint16(nil, code), why...))
	return Errorf(CodeConsole, "the console sent something that is not WebSocket: %s", why)
}

// closedBy says why the other side closed: "NOVA-4004 message" is an error.
func (ws *webSocket) closedBy(data []byte) error {
	code := uint16(closeNoStatus)
	var why string
	if len(data) >= 2 {
		code, why = binary.BigEndian.Uint16(data), string(data[2:])
	}
	_ = ws.writeFrame(opClose, data[:min(len(data), 2)])
	var c Code
	if word, rest, ok := strings.Cut(why, " "); ok && strings.HasPrefix(word, "NOVA-") && c.UnmarshalText([]byte(word)) == nil {
		return Errorf(c, "%s", rest)
	}
	if code == closeNormal || code == closeGoingAway || code == closeNoStatus {
		return io.EOF
	}
	if !utf8.ValidString(why) {
		why = ""
	}
	return Errorf(CodeConsole, "the console was closed: %s", strings.TrimSpace(fmt.Sprintf("%d %s", code, why)))
}

func (ws *webSocket) broken(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(ws.ctx.Err(), context.Canceled), errors.Is(err, net.ErrClosed):
		return io.EOF
	case ws.ctx.Err() != nil:
		return Errorf(CodeDeadline, "the console's deadline passed")
	}
	return Errorf(CodeUnreachable, "the console broke off: %s", clip(err.Error()))
}

func (ws *webSocket) close() error {
	ws.stop()
	_ = ws.writeFrame(opClose, binary.BigEndian.AppendUint16(nil, closeNormal))
	return ws.conn.Close()
}

// Console is an open serial console: what the guest writes can be read, what is
// written reaches the guest. One goroutine may read while others write.
type Console struct {
	ws   *webSocket
	rest []byte
}

var _ io.ReadWriteCloser = (*Console)(nil)

// Read returns output of the guest. It returns io.EOF when the console was
// closed, and an *Error when something went wrong.
func (c *Console) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		op, data, err := c.ws.readMessage()
		if err != nil {
			return 0, err
		}
		if op == opBinary {
			c.rest = data
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write sends input to the guest.
func (c *Console) Write(p []byte) (int, error) {
	const most = 32 << 10
	sent := 0
	for sent < len(p) {
		part := p[sent:min(sent+most, len(p))]
		if err := c.ws.writeFrame(opBinary, part); err != nil {
			return sent, c.ws.broken(err)
		}
		sent += len(part)
	}
	return sent, nil
}

// Resize tells the guest's side how large the viewer's terminal is.
func (c *Console) Resize(rows, cols int) error {
	if err := c.ws.writeFrame(opText, fmt.Appendf(nil, `{"rows":%d,"cols":%d}`, rows, cols)); err != nil {
		return c.ws.broken(err)
	}
	return nil
}

// Close closes the console; a Read that waits returns.
func (c *Console) Close() error { return c.ws.close() }
