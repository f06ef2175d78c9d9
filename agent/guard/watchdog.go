package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Watchdog resets the host when it is not petted for its timeout.
type Watchdog interface {
	// Open starts it, with its timeout; open already is no error.
	Open() error
	// Pet starts its timeout anew.
	Pet() error
	// Release stops it, which is only right while nothing is armed. One that cannot be
	// stopped stays open, and Info says so: then the guard must go on petting it.
	Release() error
	// Info describes it.
	Info() WatchdogInfo
}

// WatchdogInfo describes a watchdog.
type WatchdogInfo struct {
	Identity string        `json:"identity,omitempty"`
	Timeout  time.Duration `json:"timeout"` // T_wd
	// NoWayOut: once open it cannot be stopped.
	NoWayOut bool `json:"nowayout,omitempty"`
	// Open: it runs.
	Open bool `json:"open,omitempty"`
}

// watchdogFile is what Linux offers of an open /dev/watchdog.
type watchdogFile interface {
	// Support returns identity and options (WDIOF_*).
	Support() (string, uint32, error)
	// SetTimeout sets the timeout and returns what the device made of it.
	SetTimeout(time.Duration) (time.Duration, error)
	KeepAlive() error
	// Write of "V" lets the next Close stop it ("magic close").
	Write([]byte) (int, error)
	Close() error
}

// Device is a hardware watchdog, /dev/watchdog.
type Device struct {
	path string
	info WatchdogInfo
	open func(path string) (watchdogFile, error)
	f    watchdogFile
	// unfit is why it protects nothing, of one that could not be closed again.
	unfit error
}

// NewDevice describes the watchdog at a path and does not touch it yet. timeout
// is rounded down to seconds.
func NewDevice(path string, timeout time.Duration) *Device {
	d := &Device{path: path, open: openWatchdog}
	d.info = WatchdogInfo{Timeout: timeout.Truncate(time.Second), NoWayOut: noWayOut("/sys/class/watchdog", path)}
	return d
}

// noWayOut asks sysfs. What cannot be known is taken as true: to pet a watchdog
// too long is harmless, to close one that runs on resets the host.
func noWayOut(sys, path string) bool {
	name := filepath.Base(path)
	if name == "watchdog" {
		name = "watchdog0"
	}
	b, err := os.ReadFile(filepath.Join(sys, name, "nowayout"))
	return err != nil || strings.TrimSpace(string(b)) != "0"
}

// Open starts the watchdog. One that the kernel would stop when the guard is
// killed, or with a longer timeout than asked for, protects nothing and is refused.
func (d *Device) Open() error {
	if d.f != nil {
		return d.unfit
	}
	f, err := d.open(d.path)
	if err != nil {
		return err
	}
	identity, options, err := f.Support()
	if err == nil && options&unix.WDIOF_MAGICCLOSE == 0 && !d.info.NoWayOut {
		err = errors.New("it stops when its file is closed, so it does not outlive the guard")
	}
	var got time.Duration
	if err == nil {
		if got, err = f.SetTimeout(d.info.Timeout); err == nil && (got <= 0 || got > d.info.Timeout) {
			err = fmt.Errorf("its timeout is %s, not %s", got, d.info.Timeout)
		}
	}
	if err == nil {
		err = f.KeepAlive()
	}
	if err != nil && !d.info.NoWayOut {
		_, werr := f.Write([]byte("V"))
		return fmt.Errorf("%s: %w", d.path, errors.Join(err, werr, f.Close()))
	}
	if err != nil {
		d.unfit = fmt.Errorf("%s: %w", d.path, err)
	}
	d.f, d.info.Identity, d.info.Open = f, identity, true
	if got > 0 {
		d.info.Timeout = got
	}
	return d.unfit
}

// Pet starts the timeout anew.
func (d *Device) Pet() error {
	if d.f == nil {
		return fs.ErrClosed
	}
	return d.f.KeepAlive()
}

// Release stops the watchdog by the magic close, unless it has no way out.
func (d *Device) Release() error {
	if d.f == nil || d.info.NoWayOut {
		return nil
	}
	if _, err := d.f.Write([]byte("V")); err != nil {
		return err
	}
	f := d.f
	d.f, d.info.Open = nil, false
	return f.Close()
}

// Info describes it.
func (d *Device) Info() WatchdogInfo { return d.info }

// watchdogFD is a real device.
type watchdogFD struct{ fd int }

func openWatchdog(path string) (watchdogFile, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is no character device", path)
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return watchdogFD{fd}, nil
}

func (w watchdogFD) Support() (string, uint32, error) {
	i, err := unix.IoctlGetWatchdogInfo(w.fd)
	if err != nil {
		return "", 0, os.NewSyscallError("WDIOC_GETSUPPORT", err)
	}
	return unix.ByteSliceToString(i.Identity[:]), i.Options, nil
}

func (w watchdogFD) SetTimeout(t time.Duration) (time.Duration, error) {
	if err := unix.IoctlSetPointerInt(w.fd, unix.WDIOC_SETTIMEOUT, int(t/time.Second)); err != nil {
		return 0, os.NewSyscallError("WDIOC_SETTIMEOUT", err)
	}
	n, err := unix.IoctlGetUint32(w.fd, unix.WDIOC_GETTIMEOUT)
	return time.Duration(n) * time.Second, os.NewSyscallError("WDIOC_GETTIMEOUT", err)
}

func (w watchdogFD) KeepAlive() error {
	return os.NewSyscallError("WDIOC_KEEPALIVE", unix.IoctlWatchdogKeepalive(w.fd))
}

func (w watchdogFD) Write(b []byte) (int, error) { return unix.Write(w.fd, b) }
func (w watchdogFD) Close() error                { return unix.Close(w.fd) }
