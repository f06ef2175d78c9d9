package guard

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/novacron/novacron/api"
)

// SocketName is the guard's socket in its folder.
const SocketName = "guard.sock"

// A message is a big-endian length of 4 bytes and JSON. Requests are small;
// answers hold up to MaxArmed VMs and MaxProofs proofs.
const (
	maxRequest = 16 << 10
	maxAnswer  = 4 << 20
)

// ArmRequest asks the guard to kill a VM at the deadline.
type ArmRequest struct {
	Target
	// UUID, if set, must stand on the command line of the process.
	UUID api.ID `json:"uuid,omitzero"`
}

// The classes of hosts: with a watchdog that outlives the guard, and lease-only.
const (
	ClassWatchdog  = "A"
	ClassLeaseOnly = "B"
)

// Status is what a guard tells of itself. Durations named by an instant are boot times.
type Status struct {
	PID     int           `json:"pid"`
	Started time.Duration `json:"started"`
	Now     time.Duration `json:"now"`
	BootID  api.ID        `json:"boot_id"`
	// Class is ClassWatchdog or ClassLeaseOnly.
	Class    string        `json:"class"`
	Watchdog *WatchdogInfo `json:"watchdog,omitempty"`
	// Deadline is the end of the lease, 0 if there never was one.
	Deadline time.Duration `json:"deadline"`
	// Lease and Kill are T and K.
	Lease  time.Duration `json:"lease"`
	Kill   time.Duration `json:"kill"`
	Armed  []Armed       `json:"armed,omitempty"`
	Proofs []Proof       `json:"proofs,omitempty"`
	// Warnings are what this guard was not allowed: locked memory, real-time.
	Warnings []string `json:"warnings,omitempty"`
}

type op string

const (
	opArm    op = "arm"
	opDisarm op = "disarm"
	opStatus op = "status"
)

type request struct {
	ID  uint64      `json:"id"`
	Op  op          `json:"op"`
	Arm *ArmRequest `json:"arm,omitempty"` // for opDisarm: VM and epoch
}

type answer struct {
	ID       uint64        `json:"id"`
	Error    *api.Error    `json:"error,omitempty"`
	Deadline time.Duration `json:"deadline,omitempty"` // opArm
	Status   *Status       `json:"status,omitempty"`
}

// readFrame reads one message of at most limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// writeFrame writes one message.
func writeFrame(w io.Writer, v any, limit int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > limit {
		return fmt.Errorf("a message of %d bytes", len(b))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// parseRequest reads a request; what it does not know it refuses, because it may
// change what is to be killed.
func parseRequest(b []byte) (request, error) {
	var r request
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return request{}, err
	}
	if d.More() {
		return request{}, errors.New("more than one value")
	}
	switch {
	case r.Op == opStatus && r.Arm == nil, r.Op == opArm && r.Arm != nil, r.Op == opDisarm && r.Arm != nil:
		return r, nil
	}
	return request{}, fmt.Errorf("no request is called %q", r.Op)
}
