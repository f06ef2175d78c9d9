package guard

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// fakeWatchdog is a Watchdog that kills "the host" when it is not petted: it calls
// bite. Its timeout is real time.
type fakeWatchdog struct {
	mu     sync.Mutex
	info   WatchdogInfo
	refuse error
	timer  *time.Timer
	bite   func()
	pets   int
}

func (f *fakeWatchdog) Open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil || f.info.Open {
		return f.refuse
	}
	f.info.Open = true
	f.timer = time.AfterFunc(f.info.Timeout, f.bite)
	return nil
}

func (f *fakeWatchdog) Pet() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pets++
	f.timer.Reset(f.info.Timeout)
	return nil
}

func (f *fakeWatchdog) Release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.info.Open && !f.info.NoWayOut {
		f.timer.Stop()
		f.info.Open = false
	}
	return nil
}

func (f *fakeWatchdog) Info() WatchdogInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.info
}

// pipeWatchdog is a watchdog at the other end of a pipe: the test plays the
// hardware. It writes o, p or V.
type pipeWatchdog struct {
	f    *os.File
	open bool
}

func (p *pipeWatchdog) say(c string) error {
	_, err := p.f.WriteString(c)
	return err
}

func (p *pipeWatchdog) Open() error        { p.open = true; return p.say("o") }
func (p *pipeWatchdog) Pet() error         { return p.say("p") }
func (p *pipeWatchdog) Release() error     { p.open = false; return p.say("V") }
func (p *pipeWatchdog) Info() WatchdogInfo { return WatchdogInfo{Identity: "pipe", Open: p.open} }

// fakeFile is the kernel's side of a watchdog device.
type fakeFile struct {
	options uint32
	granted time.Duration // 0: as asked for
	failing error
	said    []string
	running bool
	magic   bool
}

func (f *fakeFile) Support() (string, uint32, error) { return "fake", f.options, nil }

func (f *fakeFile) SetTimeout(t time.Duration) (time.Duration, error) {
	if f.granted != 0 {
		t = f.granted
	}
	return t, f.failing
}

func (f *fakeFile) KeepAlive() error {
	f.said, f.magic = append(f.said, "keepalive"), false
	return nil
}

func (f *fakeFile) Write(b []byte) (int, error) {
	f.magic = string(b) == "V"
	return len(b), nil
}

func (f *fakeFile) Close() error {
	f.running = f.running && !f.magic && f.options&unix.WDIOF_MAGICCLOSE != 0
	return nil
}

func device(f *fakeFile, noWayOut bool) *Device {
	d := NewDevice("/dev/none", 10*time.Second)
	d.info.NoWayOut = noWayOut
	d.open = func(string) (watchdogFile, error) { f.running = true; return f, nil }
	return d
}

func TestADeviceIsStoppedByTheMagicCloseOnly(t *testing.T) {
	f := &fakeFile{options: unix.WDIOF_MAGICCLOSE}
	d := device(f, false)
	must.ErrorIs(t, d.Pet(), os.ErrClosed)
	must.NoError(t, d.Open())
	must.NoError(t, d.Open())
	must.NoError(t, d.Pet())
	must.Eq(t, []string{"keepalive", "keepalive"}, f.said)
	must.Eq(t, WatchdogInfo{Identity: "fake", Timeout: 10 * time.Second, Open: true}, d.Info())
	must.NoError(t, d.Release())
	must.False(t, f.running)
	must.False(t, d.Info().Open)
	must.NoError(t, d.Release())
}

func TestADeviceWithoutAWayOutStaysOpen(t *testing.T) {
	f := &fakeFile{options: unix.WDIOF_MAGICCLOSE}
	d := device(f, true)
	must.NoError(t, d.Open())
	must.NoError(t, d.Release())
	must.True(t, d.Info().Open)
	must.NoError(t, d.Pet(), must.Sprint("so it can be petted"))

	f = &fakeFile{options: unix.WDIOF_MAGICCLOSE, granted: time.Minute}
	d = device(f, true)
	must.ErrorContains(t, d.Open(), "its timeout is 1m0s, not 10s")
	must.ErrorContains(t, d.Open(), "its timeout is 1m0s, not 10s")
	must.True(t, d.Info().Open, must.Sprint("it protects nothing, and must be petted all the same"))
}

func TestADeviceThatProtectsNothingIsRefusedAndStopped(t *testing.T) {
	for _, w := range []struct {
		f    *fakeFile
		want string
	}{
		{&fakeFile{}, "does not outlive the guard"},
		{&fakeFile{options: unix.WDIOF_MAGICCLOSE, granted: 30 * time.Second}, "its timeout is 30s, not 10s"},
		{&fakeFile{options: unix.WDIOF_MAGICCLOSE, failing: errors.New("no such ioctl")}, "no such ioctl"},
	} {
		d := device(w.f, false)
		must.ErrorContains(t, d.Open(), w.want)
		must.False(t, w.f.running, must.Sprint(w.want))
		must.False(t, d.Info().Open)
	}
}

func TestADeviceThatIsNoDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "watchdog")
	must.ErrorIs(t, NewDevice(path, time.Second).Open(), os.ErrNotExist)
	must.NoError(t, os.WriteFile(path, nil, 0o600))
	must.ErrorContains(t, NewDevice(path, time.Second).Open(), "no character device")
	must.Error(t, NewDevice("/dev/null", time.Second).Open(), must.Sprint("a device that is no watchdog"))
}

func TestNoWayOutIsAskedOfSysfsAndAssumed(t *testing.T) {
	sys := t.TempDir()
	must.True(t, noWayOut(sys, "/dev/watchdog"))
	must.NoError(t, os.MkdirAll(filepath.Join(sys, "watchdog0"), 0o700))
	for text, want := range map[string]bool{"0\n": false, "1\n": true, "?": true} {
		must.NoError(t, os.WriteFile(filepath.Join(sys, "watchdog0", "nowayout"), []byte(text), 0o600))
		must.Eq(t, want, noWayOut(sys, "/dev/watchdog"))
		must.Eq(t, want, noWayOut(sys, "/dev/watchdog0"))
		must.True(t, noWayOut(sys, "/dev/watchdog1"))
	}
}
