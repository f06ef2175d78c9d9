package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/novacron/novacron/api"
)

func vmConsoleSpecs() []*spec {
	return []*spec{
		{
			name: "vm console", args: "VM", min: 1, max: 1, synopsis: "connect to the serial console of a VM",
			long:     "In a terminal, keys go to the guest as they are; Ctrl-] ends the connection, and so\ndoes ~. at the beginning of a line. Without a terminal, standard input is sent to\nthe guest and what it writes comes out; -for ends that after a time. When the VM is\nmoved, the console follows it.",
			examples: []string{"novacron vm console web", "novacron vm console web -for 6s", "echo uptime | novacron vm console web -for 3s"},
			build:    vmConsole,
		},
		{
			name: "vm stats", args: "VM", min: 1, max: 1, synopsis: "show what a guest uses",
			examples: []string{"novacron vm stats web", "novacron vm stats web -watch"},
			build:    vmStats,
		},
	}
}

func vmConsole(f *flags) func(*call) error {
	length := f.Duration("for", 0, "end after `time`")
	return with(func(c *call, cl *api.Client) error {
		ctx, cancel := context.WithCancel(c)
		defer cancel()
		if *length > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(ctx, *length)
			defer stop()
		}
		// The terminal may be raw: a line begins with a carriage return.
		con, err := dial(ctx, cl, c.args[0], func(text string) { fmt.Fprintf(c.env.Stderr, "\r\n[%s: %s]\r\n", c.args[0], text) })
		if err != nil {
			return err
		}
		defer func() { _ = con.Close() }()
		if in, ok := c.env.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) && *length == 0 {
			return rawConsole(ctx, cancel, c, con, in)
		}
		// The reader of standard input may block for ever: it ends with the
		// process, or when its input does.
		go func() { _, _ = io.Copy(con, c.env.Stdin) }()
		return consoleEnd(ctx, c, con.copyTo(c.env.Stdout, func() {}))
	})
}

// consoleEnd says how a console ended; the end that was asked for is none.
func consoleEnd(ctx context.Context, c *call, err error) error {
	if c.Err() == nil && ctx.Err() != nil || err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if c.Err() != nil {
		return c.Err()
	}
	return err
}

// rawConsole connects a terminal.
func rawConsole(ctx context.Context, cancel context.CancelFunc, c *call, con *link, in *os.File) error {
	fd := int(in.Fd())
	fmt.Fprintln(c.env.Stderr, "Connected. Ctrl-] ends the connection, ~. at the beginning of a line as well.")
	old, err := term.MakeRaw(fd)
	if err != nil {
		return err
	}
	defer func() {
		_ = term.Restore(fd, old)
		fmt.Fprintln(c.env.Stderr, "\nDisconnected.")
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	resized <- syscall.SIGWINCH // tell the size at the start
	sized := make(chan struct{})
	go func() {
		defer close(sized)
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
				if w, h, err := term.GetSize(fd); err == nil {
					con.Resize(h, w)
				}
			}
		}
	}()
	defer func() { cancel(); <-sized }()
	// As above, the reader of the terminal may outlive the connection.
	go func() {
		defer cancel()
		_, _ = io.Copy(con, &escape{r: in})
	}()
	return consoleEnd(ctx, c, con.copyTo(c.env.Stdout, func() {
		select {
		case resized <- syscall.SIGWINCH: // the new connection does not know the size
		default:
		}
	}))
}

// escape reads keys until Ctrl-], or "~." at the beginning of a line.
type escape struct {
	r     io.Reader
	state int // 0: at the beginning of a line, 1: after a ~ there, 2: elsewhere
	done  bool
}

const ctrlBracket = 0x1d

// Read returns the keys that are for the guest.
func (e *escape) Read(p []byte) (int, error) {
	if e.done {
		return 0, io.EOF
	}
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	buf := make([]byte, len(p)/2) // a ~ that was held back needs room
	n, err := e.r.Read(buf)
	out := p[:0]
	for _, b := range buf[:n] {
		if b == ctrlBracket || e.state == 1 && b == '.' {
			e.done = true
			if len(out) > 0 {
				return len(out), nil
			}
			return 0, io.EOF
		}
		if e.state == 1 {
			out = append(out, '~')
		}
		switch {
		case e.state == 0 && b == '~':
			e.state = 1
			continue
		case b == '\r' || b == '\n':
			e.state = 0
		default:
			e.state = 2
		}
		out = append(out, b)
	}
	return len(out), err
}

func vmStats(f *flags) func(*call) error {
	watch := f.Bool("watch", false, "show a new sample every two seconds")
	every := f.Duration("every", 2*time.Second, "`time` between samples with -watch")
	return with(func(c *call, cl *api.Client) error {
		var before *api.VMStats
		for {
			r, err := cl.VMs().Stats(c, c.args[0], nil)
			if err != nil && *watch && c.Err() != nil {
				return nil // interrupted while it asked
			}
			if err != nil {
				return err
			}
			if err := showStats(c, r.Stats, before); err != nil || !*watch {
				return err
			}
			before = r.Stats
			sleep(c, *every)
			if c.Err() != nil {
				return nil
			}
		}
	})
}

// showStats writes a sample; with one before it, rates and the share of CPU.
func showStats(c *call, s, before *api.VMStats) error {
	percent, dt := s.CPUPercent, 0.0
	if before != nil && s.Time > before.Time {
		dt = float64(s.Time-before.Time) / 1e9
		percent = float64(s.CPUTime-before.CPUTime) / 1e9 / dt * 100
	}
	if !c.out.people() {
		return c.out.line(s, "")
	}
	if c.env.Terminal && before != nil {
		fmt.Fprint(c.out, "\x1b[2J\x1b[H")
	}
	rss := "-"
	if s.MemoryRSS > 0 {
		rss = bar(float64(s.MemoryRSS), float64(s.Memory), 20) + "  " + s.MemoryRSS.String() + " of " + s.Memory.String()
	}
	fl := c.out.fields()
	fl.add("Time", clock(s.Time))
	fl.add("CPU", fmt.Sprintf("%s  %s used so far by %s", bar(percent, 100*float64(s.VCPUs), 20), s.CPUTime.D().Round(time.Millisecond), plural(int(s.VCPUs), "core")))
	fl.add("Memory", rss)
	if s.GuestUptime > 0 {
		fl.add("Up", span(s.GuestUptime.D()))
	}
	fl.write()
	if len(s.Disks)+len(s.NICs) == 0 {
		return nil
	}
	fmt.Fprintln(c.out)
	t := c.out.table("DEVICE", "READ", "WRITTEN", "READS", "WRITES", "RATE", "ERRORS")
	for i, d := range append(append([]api.IOStats(nil), s.Disks...), s.NICs...) {
		rate := "-"
		if old := ioBefore(before, i, d.Name); old != nil && dt > 0 {
			rate = bytesText(int64(float64(d.ReadBytes+d.WriteBytes-old.ReadBytes-old.WriteBytes)/dt)) + "/s"
		}
		t.row(d.Name, d.ReadBytes.String(), d.WriteBytes.String(), fmt.Sprint(d.ReadOps), fmt.Sprint(d.WriteOps), rate, fmt.Sprint(d.Errors))
	}
	return t.write("")
}

// ioBefore finds a device in an earlier sample.
func ioBefore(s *api.VMStats, i int, name string) *api.IOStats {
	if s == nil {
		return nil
	}
	list := append(append([]api.IOStats(nil), s.Disks...), s.NICs...)
	if i < len(list) && list[i].Name == name {
		return &list[i]
	}
	return nil
}
