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

// voteFile keeps keys and values on a disk.
type voteFile interface {
	// put stores a value and, in the same transaction, deletes another key
	// unless that is nil.
	put(key, val, drop []byte) error
	// get returns a copy of a value, or errKeyNotFound.
	get(key []byte) ([]byte, error)
	Close() error
}

// stableStore keeps Raft's term and vote in an own small file.
//
// hashicorp/raft writes a vote in two steps, term then candidate. A crash in
// between would leave the new term beside the candidate of an older one, and a
// request of that candidate would then be granted without looking at its log.
// So writing the term deletes the candidate in the same transaction.
//
// Writes that take longer than the watchdog's limit, or fail, halt the server.
type stableStore struct {
	file  voteFile
	watch *watchdog
}

var _ raft.StableStore = (*stableStore)(nil)

// openVotes opens or makes the file.
func openVotes(path string) (voteFile, error) {
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
	return boltVotes{db}, nil
}

// boltVotes is a voteFile of bbolt.
type boltVotes struct{ *bbolt.DB }

func (v boltVotes) put(key, val, drop []byte) error {
	return v.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketStable)
		if drop != nil {
			if err := b.Delete(drop); err != nil {
				return err
			}
		}
		return b.Put(key, val)
	})
}

func (v boltVotes) get(key []byte) ([]byte, error) {
	var out []byte
	err := v.View(func(tx *bbolt.Tx) error {
		val := tx.Bucket(bucketStable).Get(key)
		if val == nil {
			return errKeyNotFound
		}
		out = append([]byte{}, val...)
		return nil
	})
	return out, err
}

// Set stores a value.
func (s *stableStore) Set(key, val []byte) error {
	return s.watch.run("write vote", func() error { return s.file.put(key, val, nil) })
}

// Get returns a copy of a value, or errKeyNotFound.
func (s *stableStore) Get(key []byte) ([]byte, error) { return s.file.get(key) }

// SetUint64 stores a number; the vote's term takes the candidate with it.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	var drop []byte
	if string(key) == string(keyLastVoteTerm) {
		drop = keyLastVoteCand
	}
	return s.watch.run("write term", func() error { return s.file.put(key, binary.BigEndian.AppendUint64(nil, val), drop) })
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
