package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	// consoleLook is how often a move is looked at while the console waits for it,
	// consoleWait how long at most.
	consoleLook = 200 * time.Millisecond
	consoleWait = 2 * time.Minute
	// consoleTries is how often the console is opened at the new node.
	consoleTries = 10
)

// link is a console that follows its VM: when the connection ends because the VM
// is moved, another one to its new node takes its place.
type link struct {
	ctx    context.Context
	cl     *api.Client
	key    string
	notice func(string)

	mu    sync.Mutex
	con   *api.Console
	next  chan struct{} // closed when another connection took con's place
	owner api.ID        // node of the connection; zero when the VM cannot be looked at
}

// dial opens the console of a VM.
func dial(ctx context.Context, cl *api.Client, key string, notice func(string)) (*link, error) {
	l := &link{ctx: ctx, cl: cl, key: key, notice: notice, next: make(chan struct{})}
	// Whoever may use the console and not see the VM has a console that does not
	// follow.
	if s, err := cl.VMs().Status(ctx, key, nil); err == nil && s.Placement != nil {
		l.key, l.owner = s.VM.ID.String(), s.Placement.NodeID
	}
	var err error
	l.con, err = cl.VMs().Console(ctx, key, nil)
	return l, err
}

func (l *link) now() (*api.Console, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.con, l.next
}

// Write sends keys to the guest. While the VM is on the way they wait.
func (l *link) Write(p []byte) (int, error) {
	for {
		con, next := l.now()
		n, err := con.Write(p)
		if err == nil {
			return n, nil
		}
		select {
		case <-next:
		case <-l.ctx.Done():
			return n, err
		}
	}
}

// Resize tells the size of the terminal; an error means nothing: the next
// connection is told anew.
func (l *link) Resize(rows, cols int) {
	con, _ := l.now()
	_ = con.Resize(rows, cols)
}

// Close ends the connection.
func (l *link) Close() error {
	con, _ := l.now()
	return con.Close()
}

// copyTo copies what the guest writes until the console ends for another reason
// than a move. again is called with each connection after the first.
func (l *link) copyTo(w io.Writer, again func()) error {
	for {
		con, _ := l.now()
		_, err := io.Copy(w, con)
		if l.ctx.Err() != nil {
			return err
		}
		node, moved := l.moved()
		if !moved {
			return err
		}
		l.notice("moved to " + node + ": connecting again")
		if e := l.reopen(); e != nil {
			return errors.Join(err, e)
		}
		_ = con.Close()
		again()
	}
}

// moved waits for a move that is under way, and reports whether the VM runs on
// another node than the connection led to.
func (l *link) moved() (node string, ok bool) {
	if l.owner.IsZero() {
		return "", false
	}
	ctx, cancel := context.WithTimeout(l.ctx, consoleWait)
	defer cancel()
	told := false
	for ctx.Err() == nil {
		s, err := l.cl.VMs().Status(ctx, l.key, nil)
		if err != nil || s.Placement == nil {
			return "", false
		}
		p := s.Placement
		if p.NodeID != l.owner && (p.State == api.StateRunning || p.State == api.StatePaused && p.Desired == api.PowerPaused) {
			l.owner = p.NodeID
			return first(s.Node, p.NodeID.Short()), true
		}
		if !l.moving(ctx) && p.NodeID == l.owner {
			return "", false
		}
		if !told {
			l.notice("the VM is being moved")
			told = true
		}
		sleep(ctx, consoleLook)
	}
	return "", false
}

// moving reports whether the VM is being moved.
func (l *link) moving(ctx context.Context) bool {
	r, err := l.cl.Migrations().Get(ctx, l.key, nil)
	return err == nil && r.Migration.Phase.Active() && r.Migration.Phase != api.MigrationQueued
}

// reopen connects to the VM where it is now.
func (l *link) reopen() error {
	for try := 1; ; try++ {
		con, err := l.cl.VMs().Console(l.ctx, l.key, nil)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.con = con
			close(l.next)
			l.next = make(chan struct{})
			return nil
		}
		if try == consoleTries || l.ctx.Err() != nil {
			return fmt.Errorf("the console at the new node: %w", err)
		}
		sleep(l.ctx, consoleLook)
	}
}
