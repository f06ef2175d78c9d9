package guard

import (
	"io"
	"sync"
	"time"
)

// logLines is how many lines wait for a slow reader before lines are lost.
const logLines = 256

// asyncWriter writes lines from a goroutine of its own: a reader of the log that
// does not read must not hold up a kill.
type asyncWriter struct {
	lines chan []byte
	done  chan struct{}
	once  sync.Once
}

func newAsyncWriter(w io.Writer) *asyncWriter {
	a := &asyncWriter{lines: make(chan []byte, logLines), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		for b := range a.lines {
			_, _ = w.Write(b) // a log that cannot be written has nowhere to say so
		}
	}()
	return a
}

// Write queues a line, or loses it. Not after Close.
func (a *asyncWriter) Write(b []byte) (int, error) {
	line := append([]byte(nil), b...)
	select {
	case a.lines <- line:
	default:
	}
	return len(b), nil
}

// Close waits up to a second for the lines that are queued.
func (a *asyncWriter) Close() error {
	a.once.Do(func() { close(a.lines) })
	select {
	case <-a.done:
	case <-time.After(time.Second):
	}
	return nil
}
