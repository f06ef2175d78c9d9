package api

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// ID is a 16-byte identifier, written as a UUID (RFC 9562) in text and as 16
// raw bytes in Raft and in indexes.
type ID [16]byte

// NewID returns a random (version 4) ID. It must not be called in package fsm:
// IDs arrive there inside commands.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails since Go 1.24
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the UUID form, 36 characters.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// Short returns the first 8 characters, for tables meant for people.
func (id ID) Short() string { return id.String()[:8] }

// MarshalText writes the UUID form; the zero ID is the empty text.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText accepts exactly what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	p, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = p
	return nil
}

// ParseID parses the UUID form in lower or upper case.
func ParseID(s string) (ID, error) {
	var id ID
	bad := fmt.Errorf("%q is not an id: want a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8", s)
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, bad
	}
	at := 0
	for _, part := range []string{s[0:8], s[9:13], s[14:18], s[19:23], s[24:36]} {
		n, err := hex.Decode(id[at:], []byte(part))
		if err != nil {
			return ID{}, bad
		}
		at += n
	}
	return id, nil
}
