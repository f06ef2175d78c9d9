package api

import (
	"context"

	"github.com/tinylib/msgp/msgp"
)

// Message is anything that travels by RPC or through Raft: a pointer to a type
// with generated msgpack methods.
type Message interface {
	msgp.Marshaler
	msgp.Unmarshaler
	msgp.Sizer
}

//msgp:ignore Call Stream

// Call is what accompanies a request but is not part of it. It travels in the
// context inside a process and in metadata between processes.
type Call struct {
	Token     string // the caller's secret, never logged
	RequestID string
	Region    string // empty: the region of whoever is asked
	// IdempotencyKey makes a write safe to repeat for 10 minutes.
	IdempotencyKey string
}

type callKey struct{}

// WithCall puts c into the context.
func WithCall(ctx context.Context, c Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// CallFrom returns the Call in the context, or a zero one.
func CallFrom(ctx context.Context) Call {
	c, _ := ctx.Value(callKey{}).(Call)
	return c
}

// Stream is one side of a two-way sequence of messages. Recv returns io.EOF
// when the other side has finished. It ends when its context ends.
type Stream interface {
	Context() context.Context
	Send(Message) error
	Recv(Message) error
	// CloseSend says that this side sends no more.
	CloseSend() error
}

// Chunk carries raw bytes on a Stream: console data, image content, snapshots.
type Chunk struct {
	Data []byte `json:"data,omitempty" msg:"data,omitempty"`
	// Resize is set on console streams when the viewer's terminal changes.
	Rows int32 `json:"rows,omitempty" msg:"rows,omitempty"`
	Cols int32 `json:"cols,omitempty" msg:"cols,omitempty"`
}
