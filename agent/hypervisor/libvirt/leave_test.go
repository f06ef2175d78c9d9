package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// TestAProcessThatEndsDuringAMove: that it has ended is told only where libvirt has
// written before that the guest was handed over.
func TestAProcessThatEndsDuringAMove(t *testing.T) {
	for _, c := range []struct {
		name, status string // with the process's number
		gone         bool
	}{
		{"handed over", `<domstatus state='paused' reason='migration' pid='%d'><job type='none' async='migration out' phase='confirm3' flags='0x0'/></domstatus>`, true},
		{"it was to go on", `<domstatus state='paused' reason='migration' pid='%d'><job type='none' async='migration out' phase='confirm3_cancelled' flags='0x0'/></domstatus>`, false},
		{"it went on", `<domstatus state='running' reason='migration canceled' pid='%d'><job type='none' async='migration out' phase='confirm3_cancelled' flags='0x0'/></domstatus>`, false},
		{"it is not known yet", `<domstatus state='paused' reason='migration' pid='%d'><job type='none' async='migration out' phase='perform3_done' flags='0x0'/></domstatus>`, false},
		{"copied", `<domstatus state='running' reason='booted' pid='%d'><job type='none' async='migration out' phase='perform3' flags='0x0'/></domstatus>`, false},
		{"no move", `<domstatus state='running' reason='booted' pid='%d'/>`, false},
		{"another process", `<domstatus state='paused' reason='migration' pid='1%d'><job type='none' async='migration out' phase='confirm3' flags='0x0'/></domstatus>`, false},
		{"half a record", `<domstatus state='paused' reason='migration' pid='%d'><job type='none' async='migration out' phase='confirm3'`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newDaemon(t)
			d := f.driver()
			t.Cleanup(func() { must.NoError(t, d.Close()) })
			looked := make(chan struct{}, 1)
			d.cfg.Logger = slog.New(tells{slog.DiscardHandler, "a process has ended during a move", looked})
			id := api.NewID()
			dir := filepath.Join(filepath.Dir(f.socket), "qemu")
			must.NoError(t, os.MkdirAll(dir, 0o755))
			p := exec.Command("sh", "-c", "read x", "-uuid", id.String())
			in, err := p.StdinPipe()
			must.NoError(t, err)
			must.NoError(t, p.Start())
			pid := p.Process.Pid
			must.NoError(t, os.WriteFile(filepath.Join(dir, domainName(id)+".pid"), fmt.Append(nil, pid), 0o644))
			gone := make(chan struct{}, 1)
			stop := d.leaving(id, func() { gone <- struct{}{} })
			select {
			case <-gone:
				t.Fatal("it is there still")
			default:
			}
			must.NoError(t, os.WriteFile(filepath.Join(dir, domainName(id)+".xml"), fmt.Appendf(nil, c.status, pid), 0o600))
			must.NoError(t, in.Close())
			_ = p.Wait()
			select {
			case <-gone:
				must.True(t, c.gone)
			case <-looked:
				must.False(t, c.gone)
			case <-time.After(10 * time.Second):
				t.Fatal("the end was not seen")
			}
			stop()
			must.Eq(t, 0, len(gone))
		})
	}
}

// tells is a log that tells when something is said.
type tells struct {
	slog.Handler
	what string
	said chan<- struct{}
}

func (h tells) Enabled(context.Context, slog.Level) bool { return true }

func (h tells) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.what {
		h.said <- struct{}{}
	}
	return nil
}

func TestAWatchOfAProcessEnds(t *testing.T) {
	f := newDaemon(t)
	d := f.driver()
	t.Cleanup(func() { must.NoError(t, d.Close()) })
	id := api.NewID()
	d.leaving(id, func() { t.Error("there is no process") })()
	p := exec.Command("sh", "-c", "read x", "-uuid", id.String())
	in, err := p.StdinPipe()
	must.NoError(t, err)
	must.NoError(t, p.Start())
	d.leaving(id, func() { t.Error("it has not ended") })()
	must.NoError(t, in.Close())
	_ = p.Wait()
}
