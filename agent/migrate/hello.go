package migrate

import (
	"encoding/binary"
	"fmt"

	"github.com/novacron/novacron/api"
)

// Token is the secret of one migration, which the source's tunnels show to the
// destination. It is random, and made for one migration.
type Token [32]byte

// String hides the token.
func (Token) String() string { return "[redacted]" }

// GoString hides the token.
func (Token) GoString() string { return "[redacted]" }

// Kind is what a stream carries.
type Kind uint8

// The kinds of streams.
const (
	Control Kind = 1 + iota // between the hypervisors themselves
	Memory                  // of the guest
	Disks                   // of the guest, as NBD
	kinds                   // how many there are, and 0
)

// String is the kind's name.
func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return [...]string{"", "control", "memory", "disks"}[k]
}

// socket is the name of the kind's socket in the folder of a migration.
func (k Kind) socket() string {
	return [...]string{"", "control.sock", "vm.mem.sock", "vm.nbd.sock"}[k]
}

// Compression says how memory and disks are packed.
type Compression string

// The ways to pack.
const (
	// None sends everything as it is.
	None Compression = "none"
	// Zstd packs whatever becomes smaller by it.
	Zstd Compression = "zstd"
	// Auto packs where that moves a stream faster, by measuring both from time
	// to time. It is the default.
	Auto Compression = "auto"
)

var modes = [...]Compression{None, Zstd, Auto}

func (c Compression) number() (byte, error) {
	if c == "" {
		c = Auto
	}
	for i, m := range modes {
		if m == c {
			return byte(i), nil
		}
	}
	return 0, api.Errorf(api.CodeInvalid, "compression %q is not one of none, zstd, auto", string(c))
}

// hello is what a dialer says first.
type hello struct {
	kind      Kind
	mode      Compression // of the session
	window    int         // credit that the dialer grants
	migration api.ID
	token     Token
}

const helloSize = 1 + 1 + sizeSize + 16 + 32

// frame encodes it. The mode must be one of the modes.
func (h *hello) frame() ([]byte, error) {
	mode, err := h.mode.number()
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerSize, headerSize+helloSize)
	putHeader(b, frameHello, helloSize)
	b = append(b, byte(h.kind), mode)
	b = binary.BigEndian.AppendUint32(b, uint32(h.window))
	b = append(b, h.migration[:]...)
	return append(b, h.token[:]...), nil
}

// parseHello decodes a hello's body, of helloSize bytes.
func parseHello(b []byte) (h hello, err error) {
	h.kind = Kind(b[0])
	if h.kind == 0 || h.kind >= kinds {
		return h, protocolError("stream of " + h.kind.String())
	}
	if int(b[1]) >= len(modes) {
		return h, protocolError("unknown compression")
	}
	h.mode = modes[b[1]]
	if h.window, err = checkWindow(binary.BigEndian.Uint32(b[2:])); err != nil {
		return h, err
	}
	copy(h.migration[:], b[2+sizeSize:])
	copy(h.token[:], b[2+sizeSize+16:])
	return h, nil
}

// checkWindow checks what the other end grants.
func checkWindow(n uint32) (int, error) {
	if n < minWindow || n > maxWindow {
		return 0, protocolError(fmt.Sprintf("window of %d bytes", n))
	}
	return int(n), nil
}
