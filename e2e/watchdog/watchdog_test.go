package watchdog

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/guard"
)

var _ guard.Watchdog = (*Pipe)(nil)

func TestItBitesWhenItIsNotPettedAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		began, bitten := time.Now(), time.Duration(0)
		go Watch(r, 10*time.Second, func() { bitten = time.Since(began) })
		say := func(c byte, after time.Duration) {
			time.Sleep(after)
			_, err := w.Write([]byte{c})
			must.NoError(t, err)
			synctest.Wait()
		}
		say(stopped, time.Hour)
		must.Zero(t, bitten, must.Sprint("it was not started"))
		for range 100 {
			say(petted, 9*time.Second)
		}
		must.Zero(t, bitten)
		say(stopped, 9*time.Second)
		say(petted, time.Hour)
		must.Zero(t, bitten, must.Sprint("it was stopped"))
		last := time.Since(began)
		time.Sleep(time.Minute)
		synctest.Wait()
		must.Eq(t, last+10*time.Second, bitten)
	})
}

func TestItEndsWithItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go Watch(r, time.Second, func() { t.Error("a host that is off was reset") })
		_, err := w.Write([]byte{petted})
		must.NoError(t, err)
		must.NoError(t, w.Close())
		time.Sleep(time.Hour)
	})
}

func TestAPipeSpeaksToTheDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "watchdog")
	must.ErrorIs(t, NewPipe(path, time.Second).Open(), fs.ErrNotExist)
	must.NoError(t, syscall.Mkfifo(path, 0o600))
	p := NewPipe(path, time.Second)
	must.ErrorIs(t, p.Open(), syscall.ENXIO, must.Sprint("nobody reads"))
	must.ErrorIs(t, p.Pet(), fs.ErrClosed)

	device, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer device.Close()
	must.NoError(t, p.Open())
	must.NoError(t, p.Open(), must.Sprint("open already is no error"))
	must.NoError(t, p.Pet())
	must.True(t, p.Info().Open)
	must.NoError(t, p.Release())
	must.NoError(t, p.Release())
	must.False(t, p.Info().Open)
	heard := make([]byte, 8)
	n, err := device.Read(heard)
	must.NoError(t, err)
	must.Eq(t, "ppV", string(heard[:n]))
}
