package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/novacron/novacron/api"
)

// lost is a call that the transport could not finish. sent says whether the
// other side may have begun it.
type lost struct {
	sent  bool
	addr  string
	cause error
}

func (l *lost) Error() string { return fmt.Sprintf("%s: %v", l.addr, l.cause) }
func (l *lost) Unwrap() error { return l.cause }

// public turns a lost call into what callers see.
func (l *lost) public(k Kind) *api.Error {
	if l.sent && k.writes() {
		return api.Errorf(api.CodeUnknown, "the connection to %s was lost before the answer came", l.addr).
			WithHint("look at the state, or repeat with the same idempotency key")
	}
	return api.Errorf(api.CodeUnreachable, "%s cannot be reached", l.addr)
}

// ended returns the coded error of a context that is over, or nil.
func ended(ctx context.Context) *api.Error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeDeadline, "the deadline passed")
	default:
		return api.Errorf(api.CodeCanceled, "the call was canceled")
	}
}

// outward makes the one error that a caller gets, stamped with the request id.
// An error without a code is logged in full and leaves as NOVA-6000.
func outward(ctx context.Context, log *slog.Logger, c *call, err error) *api.Error {
	if err == nil {
		return nil
	}
	var e *api.Error
	var l *lost
	switch {
	case errors.As(err, &l):
		log.Info("call lost", "method", c.md.Name, "request_id", c.hdr.RequestID, "sent", l.sent, "error", l.Error())
		e = stamp(l.public(c.md.Kind), c.hdr.RequestID)
	case errors.As(err, &e):
		e = stamp(e, c.hdr.RequestID)
	case errors.Is(err, context.DeadlineExceeded):
		e = stamp(api.Errorf(api.CodeDeadline, "the deadline passed"), c.hdr.RequestID)
	case errors.Is(err, context.Canceled):
		e = stamp(api.Errorf(api.CodeCanceled, "the call was canceled"), c.hdr.RequestID)
	default:
		log.Error("internal error", "method", c.md.Name, "request_id", c.hdr.RequestID, "caller", c.id.String(), "error", err.Error())
		e = stamp(api.Errorf(api.CodeInternal, "internal error").WithHint("the server's log has the cause under the request id"), c.hdr.RequestID)
	}
	return e
}

func stamp(e *api.Error, id string) *api.Error {
	if e.RequestID != "" {
		return e
	}
	c := *e
	c.RequestID = id
	return &c
}

// maxErrorBytes bounds an error in a trailer.
const maxErrorBytes = 12 << 10

// packError encodes an error for a trailer; details that do not fit are left out.
func packError(e *api.Error) []byte {
	for {
		b, err := e.MarshalMsg(nil)
		if err == nil && len(b) <= maxErrorBytes {
			return b
		}
		c := *e
		if n := len(e.Details) / 2; n > 0 {
			c.Details = e.Details[:n:n]
		} else if len(e.Details) > 0 {
			c.Details = nil
		} else {
			c.Message, c.Hint = clip(e.Message, 2048), clip(e.Hint, 2048)
		}
		e = &c
	}
}

func unpackError(b []byte) *api.Error {
	e := new(api.Error)
	if err := decode(b, e); err != nil || e.Code == 0 {
		return api.Errorf(api.CodeInternal, "the other side's error does not decode")
	}
	return e
}
