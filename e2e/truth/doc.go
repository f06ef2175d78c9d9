// Package truth knows which QEMU process ran which VM when, on all hosts of a
// lab, without asking NovaCron. The hosts share one kernel, so CLOCK_BOOTTIME is
// one clock for all of them and the checks are exact.
//
// A recorder appends one line for each change to truth.log:
//
//	boottime_ns host boot_id vm epoch RUN|PAUSE|STOP pid
//
// RUN and PAUSE are those of the virtual CPUs, by the time stamps of QEMU's own
// events (QMP RESUME and STOP, which libvirt passes on); where an event was lost
// with a libvirtd, by libvirt's state, looked at ten times a second. STOP is the
// end of the process, by its pidfd. The epoch is the domain's metadata's; 0 is not known.
//
// The checks are pure functions over records.
//
// What does not belong: causing faults.
package truth
