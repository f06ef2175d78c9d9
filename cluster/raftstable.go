package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// The keys under which hashicorp/raft keeps its vote.
var (
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	bucketStable    = []byte("stable")
)

// errKeyNotFound has the text that hashicorp/raft compares with: the one place
// where an error text is part of an interface.
var errKeyNotFound = errors.New("not found")

// stableStore keeps Raft's term and vote in an own small bbolt file.
//
// hashicorp/raft writes a vote in two steps, term then candidate. A crash in
// between would leave the new term beside the candidate of an older one, and a
// request of that candidate would then be granted without looking at its log.
// So writing the term deletes the candidate in the same transaction.
type stableStore struct {
	db    *bbolt.DB
	watch *watchdog
}

var _ raft.StableStore = (*stableStore)(nil)

// openStable opens or makes the file. Writes that take longer than the
// watchdog's limit halt the server.
func openStable(path string, w *watchdog) (*stableStore, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketStable)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &stableStore{db: db, watch: w}, nil
}

// Close closes the file.
func (s *stableStore) Close() error { return s.db.Close() }

// Set stores a value.
func (s *stableStore) Set(key, val []byte) error {
	return s.watch.run("write vote", func() error {
		return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketStable).Put(key, val) })
	})
}

// Get returns a copy of a value, or errKeyNotFound.
func (s *stableStore) Get(key []byte) ([]byte, error) {
	var out []byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketStable).Get(key)
		if v == nil {
			return errKeyNotFound
		}
		out = append([]byte{}, v...)
		return nil
	})
	return out, err
}

// SetUint64 stores a number; the vote's term takes the candidate with it.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	return s.watch.run("write term", func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucketStable)
			if string(key) == string(keyLastVoteTerm) {
				if err := b.Delete(keyLastVoteCand); err != nil {
					return err
				}
			}
			return b.Put(key, binary.BigEndian.AppendUint64(nil, val))
		})
	})
}

// GetUint64 returns a number, 0 and errKeyNotFound when it was never set.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("stable store: %q holds %d bytes, want 8", key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
