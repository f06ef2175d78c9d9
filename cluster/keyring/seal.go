package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeySize is the size of the root key and of the gossip key in bytes.
const KeySize = 32

// sealV1 begins what Seal writes: AES-256-GCM, a random nonce of 12 bytes.
const sealV1 = 1

// RootKey seals what the servers keep in Raft. It stands in a file of its own
// on servers only and is in no snapshot. It prints as "[redacted]".
type RootKey struct{ b [KeySize]byte }

// NewRootKey makes a root key.
func NewRootKey() RootKey {
	var k RootKey
	rand.Read(k.b[:])
	return k
}

// RootKeyFrom takes the 32 bytes that a server receives when it joins.
func RootKeyFrom(b []byte) (RootKey, error) {
	var k RootKey
	if len(b) != KeySize {
		return k, fmt.Errorf("a root key has %d bytes, not %d", KeySize, len(b))
	}
	copy(k.b[:], b)
	if k == (RootKey{}) {
		return k, errors.New("a root key of zeros")
	}
	return k, nil
}

// Bytes returns the key itself, for a joining server and for an export.
func (k RootKey) Bytes() []byte { return k.b[:] }

// String hides the key.
func (k RootKey) String() string { return "[redacted]" }

// GoString hides the key.
func (k RootKey) GoString() string { return "[redacted]" }

// MarshalText hides the key.
func (k RootKey) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// SaveRootKey writes the key to a new file of mode 0600, in whole or not at all,
// and refuses to replace one.
func SaveRootKey(path string, k RootKey) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".root-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the root key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(k.b[:]) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write the root key: %w", err)
	}
	// Link, unlike Rename, fails when the name exists.
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("write the root key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// CreateRootKey makes a key and saves it.
func CreateRootKey(path string) (RootKey, error) {
	k := NewRootKey()
	if err := SaveRootKey(path, k); err != nil {
		return RootKey{}, err
	}
	return k, nil
}

// LoadRootKey reads a key. It refuses a file that others than its owner may
// read or write, and one that is not a regular file.
func LoadRootKey(path string) (RootKey, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return RootKey{}, fmt.Errorf("read the root key: %w", err)
	}
	if !st.Mode().IsRegular() {
		return RootKey{}, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return RootKey{}, fmt.Errorf("%s has mode %04o: a root key is for its owner only (0600)", path, st.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return RootKey{}, fmt.Errorf("read the root key: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return RootKey{}, fmt.Errorf("%s does not hold a root key", path)
	}
	return RootKeyFrom(raw)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts plain. The additional data names its place (for example
// "ca/<cluster-id>"): it is not stored, and Open needs the same.
func (k RootKey) Seal(plain, aad []byte) ([]byte, error) {
	g, err := k.gcm()
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+g.NonceSize(), 1+g.NonceSize()+len(plain)+g.Overhead())
	out[0] = sealV1
	rand.Read(out[1:])
	return g.Seal(out, out[1:], plain, aad), nil
}

// ErrSealed is returned by Open for everything that is not exactly what Seal
// made with this key and this additional data.
var ErrSealed = errors.New("cannot be opened: another key, another place, or damaged")

// Open decrypts what Seal made.
func (k RootKey) Open(sealed, aad []byte) ([]byte, error) {
	g, err := k.gcm()
	if err != nil {
		return nil, err
	}
	if len(sealed) < 1+g.NonceSize()+g.Overhead() || sealed[0] != sealV1 {
		return nil, ErrSealed
	}
	plain, err := g.Open(nil, sealed[1:1+g.NonceSize()], sealed[1+g.NonceSize():], aad)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

func (k RootKey) gcm() (cipher.AEAD, error) {
	b, err := aes.NewCipher(k.b[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// NewGossipKey makes the key that encrypts gossip: 32 bytes, AES-256.
func NewGossipKey() []byte {
	b := make([]byte, KeySize)
	rand.Read(b)
	return b
}
