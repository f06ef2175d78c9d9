package http

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	// chunkSize is what one message of a stream carries of a body.
	chunkSize = 256 << 10
	// refusal is how long an upload waits for a word against it before it reads
	// the body.
	refusal = 100 * time.Millisecond
	// patience is how long the other side of a transfer may do nothing.
	patience = time.Minute
)

// upload sends the body of a request as chunks behind the first message, and
// receives the answer. size is the number of bytes that must come, -1 when it
// is not known. When the body breaks off the stream is canceled, never closed,
// so that half a body is not taken for a whole one.
func upload[R any, PR msg[R]](s *Server, w http.ResponseWriter, r *http.Request, first api.Message, size int64) (*R, error) {
	ctx, cancel := context.WithCancel(r.Context())
	st, err := s.cfg.Backend.Open(ctx, s.routeOf(r).RPC, first)
	if err != nil {
		cancel()
		return nil, err
	}
	answer := receive[R, PR](ctx, st)
	defer func() {
		cancel()
		for range answer { //nolint:revive // waits for the goroutine
		}
	}()
	// Nothing of the body was read, so a caller that expects "100 Continue" has
	// sent nothing yet: a refusal that comes now saves it the trouble.
	select {
	case m := <-answer:
		return m.msg, early(m.err)
	case <-time.After(refusal):
	}
	sent := make(chan error, 1)
	go func() { sent <- sendBody(ctx, http.NewResponseController(w), r.Body, st, size) }()
	select {
	case err := <-sent:
		if err != nil && err != errGuestGone {
			return nil, err
		}
		m, ok := <-answer
		if !ok {
			return nil, context.Cause(ctx)
		}
		return m.msg, early(m.err)
	case m, ok := <-answer:
		cancel()
		<-sent
		if !ok {
			return nil, context.Cause(ctx)
		}
		return m.msg, early(m.err)
	}
}

// sendBody sends a body as chunks. It returns nil when all of it was sent, and
// errGuestGone when the stream takes no more.
func sendBody(ctx context.Context, rc *http.ResponseController, body io.Reader, st api.Stream, size int64) error {
	var sent int64
	for end := false; !end; {
		if ctx.Err() == nil {
			_ = rc.SetReadDeadline(time.Now().Add(patience))
		}
		buf, err := fill(body)
		sent += int64(len(buf))
		switch {
		case size >= 0 && sent > size:
			return api.Errorf(api.CodeTooLarge, "the body is longer than the %d bytes announced", size)
		case err == io.EOF:
			end = true
		case err != nil:
			return api.Errorf(api.CodeSyntax, "the body broke off after %d bytes", sent)
		}
		if len(buf) > 0 {
			if err := st.Send(&api.Chunk{Data: buf}); err != nil {
				// Take some more, or the caller is cut off before it reads why.
				_ = rc.SetReadDeadline(time.Now().Add(2 * time.Second))
				_, _ = io.CopyN(io.Discard, body, 16<<20)
				return errGuestGone
			}
		}
	}
	if size >= 0 && sent != size {
		return api.Errorf(api.CodeSyntax, "the body has %d bytes instead of %d", sent, size)
	}
	_ = rc.SetReadDeadline(time.Time{})
	if err := st.CloseSend(); err != nil {
		return errGuestGone
	}
	return nil
}

// early is cutOff for an error that may be nil.
func early(err error) error {
	if err == nil {
		return nil
	}
	return cutOff(err)
}

// fill reads one chunk, into memory that is the chunk's own: a stream inside a
// process passes it on as it is. io.EOF means that the body ended as it should.
func fill(r io.Reader) ([]byte, error) {
	buf, n := make([]byte, chunkSize), 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return buf[:n], err
		}
	}
	return buf, nil
}

// download writes the chunks of a stream as the body of the answer. An error
// after the first byte breaks the connection.
func (s *Server) download(w http.ResponseWriter, st api.Stream, size int64) error {
	var c api.Chunk
	rc := http.NewResponseController(w)
	err := st.Recv(&c)
	if err != nil && err != io.EOF {
		return err
	}
	w.Header().Set("Content-Type", mimeBinary)
	w.Header().Set("Accept-Ranges", "none")
	if size > 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(http.StatusOK)
	for ; err == nil; err = st.Recv(&c) {
		_ = rc.SetWriteDeadline(time.Now().Add(patience))
		if _, werr := w.Write(c.Data); werr != nil {
			return api.Errorf(api.CodeCanceled, "the caller went away")
		}
		c = api.Chunk{}
	}
	_ = rc.SetWriteDeadline(time.Time{})
	if err != io.EOF {
		return err
	}
	return nil
}
