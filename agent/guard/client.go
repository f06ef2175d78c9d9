package guard

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// Client is the agent's connection to the guard. Its end, told by Done, is the
// death of the guard (or its refusal to go on): from then on nobody watches, and
// the agent must stop beating for HA, dial again, and, if no guard answers
// within the kill budget, kill its armed VMs itself. Safe for several goroutines.
//
// A guard that is frozen closes nothing: call Status now and then with a deadline.
type Client struct {
	conn net.Conn
	send chan struct{} // holds one token: writes are one at a time
	done chan struct{}

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan answer // never iterated
	err     error
}

// Dial connects to the guard that works in a folder. An error is an *api.Error
// with CodeUnreachable if there is none.
func Dial(ctx context.Context, dir string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
	if err != nil {
		return nil, api.Errorf(api.CodeUnreachable, "no guard in %s: %v", dir, err).WithHint("is `novacron guard` running?")
	}
	c := &Client{conn: conn, send: make(chan struct{}, 1), done: make(chan struct{}), waiting: map[uint64]chan answer{}}
	go c.read()
	return c, nil
}

// Done is closed when the connection to the guard is lost or closed.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. What is armed stays armed.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Arm makes the guard kill a VM at the deadline, which it returns (boot time).
// Only then may the VM run. To arm what is armed changes nothing; a higher epoch
// or another cgroup of the same process takes the place of the old. Refusals
// are *api.Error: CodeState (no lease, or it is over), CodeStaleEpoch, CodeNotFound
// (no such process), CodeConflict (another process is armed), CodeInvalid,
// CodeUnsupported (no watchdog, though the host is of class A). After any other error
// the outcome is not known: arm again.
func (c *Client) Arm(ctx context.Context, r ArmRequest) (deadline time.Duration, err error) {
	a, err := c.do(ctx, request{Op: opArm, Arm: &r})
	return a.Deadline, err
}

// Disarm takes a VM back from the guard. It is done if nothing of the VM is armed;
// it is refused for another epoch than the armed one (CodeStaleEpoch), and once the
// deadline has passed (CodeState).
func (c *Client) Disarm(ctx context.Context, vm api.ID, epoch api.Epoch) error {
	_, err := c.do(ctx, request{Op: opDisarm, Arm: &ArmRequest{Target: Target{VM: vm, Epoch: epoch}}})
	return err
}

// Status tells what is armed, until when, and who is proven dead.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	a, err := c.do(ctx, request{Op: opStatus})
	if err == nil && a.Status == nil {
		err = api.Errorf(api.CodeInternal, "the guard sent no status")
	}
	return a.Status, err
}

func (c *Client) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return api.Errorf(api.CodeUnreachable, "the guard is gone: %v", c.err)
}

func (c *Client) do(ctx context.Context, r request) (answer, error) {
	reply := make(chan answer, 1)
	c.mu.Lock()
	c.last++
	r.ID = c.last
	c.waiting[r.ID] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
	}()
	select {
	case c.send <- struct{}{}:
	case <-c.done:
		return answer{}, c.lost()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	err := c.conn.SetWriteDeadline(time.Now().Add(frameWindow))
	if err == nil {
		err = writeFrame(c.conn, r, maxRequest)
	}
	<-c.send
	if err != nil { // half a message may be out: nothing more can be said here
		_ = c.conn.Close()
		<-c.done
		return answer{}, c.lost()
	}
	select {
	case a := <-reply:
		if a.Error != nil {
			return a, a.Error
		}
		return a, nil
	case <-c.done:
		return answer{}, c.lost()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// read hands answers to who waits for them, until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	for {
		b, err := readFrame(c.conn, maxAnswer)
		var a answer
		if err == nil {
			err = json.Unmarshal(b, &a)
		}
		c.mu.Lock()
		if err != nil {
			c.err = errors.Join(err, c.conn.Close())
			c.mu.Unlock()
			return
		}
		if w := c.waiting[a.ID]; w != nil {
			w <- a // holds one, and an id is answered once
			delete(c.waiting, a.ID)
		}
		c.mu.Unlock()
	}
}
