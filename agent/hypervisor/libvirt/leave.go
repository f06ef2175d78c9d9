package libvirt

import (
	"encoding/xml"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// A guest that was moved away is gone from its host long before libvirt says so:
// libvirt looks only every 200 ms whether the process that it has told to end has
// done so, holds the domain's lock meanwhile, so that nothing can be asked of the
// domain, and tidies up then. All that time the guest runs nowhere. So the end of
// the process is watched for here.
//
// That a process has ended does not say why. Libvirt's own record of the domain
// does: it is written before what it tells is done, and is there until all is tidied
// up. A domain that is paused in the phase "confirm3" of a move out has been handed
// over: the destination has said that all of it is there, and libvirt does nothing
// any more but end the process, also after a restart of its own
// (qemuMigrationSrcConfirmPhase, qemuProcessRecoverMigrationOut). A guest that is to
// go on here has another phase ("confirm3_cancelled") before it does.

// domainStatus is what is read of libvirt's record.
type domainStatus struct {
	XMLName xml.Name `xml:"domstatus"`
	State   string   `xml:"state,attr"`
	PID     int      `xml:"pid,attr"`
	Job     struct {
		Async string `xml:"async,attr"`
		Phase string `xml:"phase,attr"`
	} `xml:"job"`
}

func (d *Driver) status(id api.ID) (s domainStatus, err error) {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(d.cfg.Socket), "qemu", domainName(id)+".xml"))
	if err == nil {
		err = xml.Unmarshal(b, &s)
	}
	return s, err
}

// handedOver: the domain of that process has left, and will not run here again.
func (s *domainStatus) handedOver(pid int) bool {
	return s.PID == pid && s.State == "paused" && s.Job.Async == "migration out" && s.Job.Phase == "confirm3"
}

// leaving calls gone when the process of a domain that is being moved away has
// ended, the domain was handed over, and no other process was started for it. What
// it returns ends the watch and waits for it. Where the process cannot be watched,
// gone is not called.
func (d *Driver) leaving(id api.ID, gone func()) (stop func()) {
	pid, _ := d.process(id)
	if pid == 0 || gone == nil {
		return func() {}
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		d.cfg.Logger.Debug("a process cannot be watched", "vm", id, "pid", pid, "error", err)
		return func() {}
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	// The number may have been given to another one before the descriptor was open.
	if again, _ := d.process(id); again != pid {
		process.Close()
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if ended(process) != nil {
			return
		}
		s, err := d.status(id)
		if err != nil || !s.handedOver(pid) {
			d.cfg.Logger.Debug("a process has ended during a move", "vm", id, "pid", pid, "state", s.State, "phase", s.Job.Phase, "error", err)
			return
		}
		if pids, err := d.scan(id, true); err == nil && len(pids) == 0 {
			gone()
		}
	}()
	return func() {
		process.Close()
		<-done
	}
}

// ended waits for the end of a pidfd's process; an error says that it was closed
// before.
func ended(process *os.File) error {
	c, err := process.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			failed = err
		}
		return n > 0 || failed != nil
	})
	return errors.Join(err, failed)
}
