//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// noisy starts a guest with a local disk full of noise beside its own, so that much
// is to be copied and nothing makes it less.
func noisy(t *testing.T, ctx context.Context, name string, noise api.Bytes) *api.VMStatusResponse {
	t.Helper()
	b := make([]byte, noise)
	rand.Read(b)
	path := filepath.Join(t.TempDir(), "noise.raw")
	must.NoError(t, os.WriteFile(path, b, 0o600))
	cli(t, ctx, "image", "upload", "-name", "noise", "-format", "raw", path)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := cluster.CLI(ctx, "image", "delete", "noise"); err != nil {
			t.Error(err)
		}
	})
	return run(t, ctx, name, "disk \"data\" {\n    image  = \"noise\"\n    format = \"raw\"\n  }\n")
}

// wire samples what a host sends.
type wire struct {
	stop func()
	mu   sync.Mutex
	at   []time.Time
	sent []int64
}

const wireTick = 20 * time.Millisecond

// watchWire samples until the test ends, or stop is called.
func watchWire(t *testing.T, ctx context.Context, h *lab.Host) *wire {
	w := &wire{}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	wg.Go(func() {
		tick := time.NewTicker(wireTick)
		defer tick.Stop()
		for ctx.Err() == nil {
			n, err := h.Sent()
			if err != nil {
				t.Error(err)
				return
			}
			w.mu.Lock()
			w.at, w.sent = append(w.at, time.Now()), append(w.sent, n)
			w.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return w
}

// rate is what was sent in a second, on the average of the last d.
func (w *wire) rate(d time.Duration) api.Bytes {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.at) - 1
	if last < 1 {
		return 0
	}
	i, _ := slices.BinarySearchFunc(w.at, w.at[last].Add(-d), time.Time.Compare)
	i = min(i, last-1)
	return api.Bytes(float64(w.sent[last]-w.sent[i]) / w.at[last].Sub(w.at[i]).Seconds())
}

// flows is when the last piece of more than least bytes was sent in a tick.
func (w *wire) flows(least int64) (last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.at); i++ {
		if w.sent[i]-w.sent[i-1] > least {
			last = w.at[i]
		}
	}
	return last
}

// sending waits until a move has sent so much.
func sending(t *testing.T, ctx context.Context, name string, done api.Bytes) {
	t.Helper()
	must.NoError(t, lab.Until(ctx, func() error {
		var r api.MigrationResponse
		if err := cluster.JSON(ctx, &r, "migration", "status", name); err != nil {
			return err
		}
		if !r.Migration.Phase.Active() {
			t.Fatalf("the move is %s: %v", r.Migration.Phase, r.Why)
		}
		if r.Progress == nil || r.Progress.Done < done {
			return fmt.Errorf("less than %s was sent: %s %+v", done, r.Migration.Phase, r.Progress)
		}
		return nil
	}))
}

// How long a cancel takes is shown. The bound is for a machine with much else to
// do; that the tunnel itself ends within a second is tested where time is simulated
// (agent/migrate).
func TestACancelEndsTheDataFlow(t *testing.T) {
	const bound = 20 * time.Second
	ctx := limit(t, 8*time.Minute)
	const noise = 16 * api.MiB
	s := noisy(t, ctx, "hasty", noise)
	born := nonce(t, ctx, "hasty")
	source := host(t, s.Node)
	for what, done := range map[string]api.Bytes{"while disks are copied": api.MiB, "while memory is copied": noise + 2*api.MiB} {
		cli(t, ctx, "vm", "migrate", "-detach", "-bandwidth", "1MiB", "-compress", "none", "hasty")
		sending(t, ctx, "hasty", done)
		w := watchWire(t, ctx, source)
		must.NoError(t, lab.Until(ctx, func() error {
			if got := w.rate(time.Second); got < api.MiB/2 {
				return fmt.Errorf("%s/s are sent", got)
			}
			return nil
		}))
		begin := time.Now()
		cli(t, ctx, "migration", "cancel", "hasty")
		answered := time.Since(begin)
		var job time.Duration
		must.NoError(t, lab.Until(ctx, func() error {
			out, err := source.Run(ctx, "virsh", "-q", "-c", "qemu:///system", "domjobinfo", "nova-"+s.VM.ID.String())
			if err == nil && strings.Contains(out, "None") {
				job = time.Since(begin)
				return nil
			}
			return fmt.Errorf("libvirt still works on it: %s (%v)", out, err)
		}))
		m := moved(t, ctx, "hasty")
		must.Eq(t, api.MigrationAborted, m.Phase)
		w.stop()
		flowed, over := w.flows(16<<10).Sub(begin), m.EndTime.Time().Sub(begin)
		t.Logf("canceled %s: answered after %s, the data flow had ended after %s, libvirt's job after %s, the migration after %s", what,
			answered.Round(time.Millisecond), flowed.Round(time.Millisecond), job.Round(time.Millisecond), over.Round(time.Millisecond))
		for _, d := range []time.Duration{answered, flowed, job, over} {
			must.Less(t, bound, d)
		}
		now := await(t, ctx, "hasty", api.StateRunning)
		must.Eq(t, s.Node, now.Node)
		must.Eq(t, born, nonce(t, ctx, "hasty"))
		leftovers(t, ctx, elsewhere(s.Node), s.VM.ID)
	}
}

// The rate of a move follows what is set, for disks too, and so does the downtime
// that libvirt allows.
func TestTheLimitsOfARunningMoveChange(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	const noise = 96 * api.MiB
	s := noisy(t, ctx, "limited", noise)
	born := nonce(t, ctx, "limited")
	source := host(t, s.Node)
	rate := func(w *wire, what string, ok func(api.Bytes) bool) time.Duration {
		t.Helper()
		begin := time.Now()
		must.NoError(t, lab.Until(ctx, func() error {
			if got := w.rate(time.Second); !ok(got) {
				return fmt.Errorf("%s/s are sent, which is not %s", got, what)
			}
			return nil
		}))
		t.Logf("%s: %s/s after %s", what, w.rate(time.Second), time.Since(begin).Round(time.Millisecond))
		return time.Since(begin)
	}
	slow := func(b api.Bytes) bool { return b > api.MiB/4 && b < 3*api.MiB/2 }
	w := watchWire(t, ctx, source)
	cli(t, ctx, "vm", "migrate", "-detach", "-bandwidth", "1MiB", "-compress", "none", "limited")
	sending(t, ctx, "limited", api.MiB)
	rate(w, "about 1 MiB/s", slow)
	cli(t, ctx, "migration", "update", "limited", "-bandwidth", "4MiB")
	rate(w, "clearly more", func(b api.Bytes) bool { return b > 2*api.MiB })
	cli(t, ctx, "migration", "update", "limited", "-bandwidth", "1MiB", "-max-downtime", "2500ms")
	rate(w, "about 1 MiB/s again", slow)
	must.NoError(t, lab.Until(ctx, func() error {
		out, err := source.Run(ctx, "virsh", "-q", "-c", "qemu:///system", "migrate-getmaxdowntime", "nova-"+s.VM.ID.String())
		if err == nil && strings.TrimSpace(out) != "2500" {
			err = fmt.Errorf("libvirt allows %s ms", out)
		}
		return err
	}))
	refused(t, ctx, api.CodeInvalid, "migration", "update", "limited", "-bandwidth", "1KiB")
	var r api.MigrationResponse
	must.NoError(t, cluster.JSON(ctx, &r, "migration", "status", "limited"))
	must.Eq(t, api.MigrationCopying, r.Migration.Phase)
	must.Less(t, noise, r.Progress.Done, must.Sprint("all that was while disks were copied"))
	must.Eq(t, api.MiB, r.Migration.Options.Bandwidth)
	must.Eq(t, api.Duration(2500*time.Millisecond), r.Migration.Options.MaxDowntime)

	cli(t, ctx, "migration", "update", "limited", "-bandwidth", "0")
	must.Eq(t, api.MigrationDone, moved(t, ctx, "limited").Phase)
	w.stop()
	must.Eq(t, elsewhere(s.Node), await(t, ctx, "limited", api.StateRunning).Node)
	must.Eq(t, born, nonce(t, ctx, "limited"))
	refused(t, ctx, api.CodeState, "migration", "update", "limited", "-bandwidth", "1MiB")

	t.Log("cold, back to where it was")
	cli(t, ctx, "vm", "stop", "limited")
	await(t, ctx, "limited", api.StateStopped)
	w = watchWire(t, ctx, host(t, elsewhere(s.Node)))
	cli(t, ctx, "vm", "migrate", "-detach", "-bandwidth", "1MiB", "limited")
	sending(t, ctx, "limited", api.MiB)
	rate(w, "about 1 MiB/s", slow)
	cli(t, ctx, "migration", "update", "limited", "-bandwidth", "4MiB")
	rate(w, "clearly more", func(b api.Bytes) bool { return b > 2*api.MiB })
	refused(t, ctx, api.CodeState, "migration", "update", "limited", "-max-downtime", "1s")
	cli(t, ctx, "migration", "update", "limited", "-bandwidth", "0")
	must.Eq(t, api.MigrationDone, moved(t, ctx, "limited").Phase)
	must.Eq(t, s.Node, await(t, ctx, "limited", api.StateStopped).Node)
}
