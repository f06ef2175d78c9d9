package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tinylib/msgp/msgp"
	"go.etcd.io/bbolt"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

// journalFormat is raised when an older binary could misread the journal.
const journalFormat = 1

var (
	bucketMeta   = []byte("meta")
	bucketVMs    = []byte("vms")
	bucketOrders = []byte("orders")
	bucketDisks  = []byte("volumes")
	keyNode      = []byte("node")
	keyPool      = []byte("pool/") // and its name
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// journal is what the agent remembers on disk. Each write is durable when it
// returns; writes that come at the same time share one fsync. Every value has a
// checksum; a journal that does not read back whole is refused.
type journal struct {
	db *bbolt.DB

	mu      sync.Mutex
	next    *journalBatch
	noted   *meta // goes with the next write
	carried bool  // what was noted is in the write that is under way
	writing sync.Mutex
}

type journalBatch struct {
	ops  []func(*bbolt.Tx) error
	done chan struct{}
	err  error
}

func errJournal(path string, err error) error {
	return api.Errorf(api.CodeJournal, "the journal %s cannot be used: %v", path, err).
		WithHint("the agent does not start without knowing what it did before; its guests run on. " +
			"Restore the file, or move it away to begin anew: running guests are then adopted by the servers' orders")
}

// openJournal opens or makes the journal in dir and reads all of it.
func openJournal(dir string, node api.ID, noSync bool) (j *journal, m meta, recs []record, err error) {
	path := filepath.Join(dir, "journal.db")
	defer func() {
		if err != nil {
			err = errJournal(path, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, m, nil, err
	}
	db, err := openBolt(path, noSync)
	if err != nil {
		return nil, m, nil, err
	}
	j = &journal{db: db}
	if m, recs, err = j.load(node); err != nil {
		db.Close()
		return nil, m, nil, err
	}
	return j, m, recs, nil
}

// openBolt opens the file; bbolt panics on some kinds of damage.
func openBolt(path string, noSync bool) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType, NoSync: noSync,
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, errors.New("another agent has it open")
	}
	return db, err
}

func (j *journal) load(node api.ID) (m meta, recs []record, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	err = j.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketVMs, bucketOrders, bucketDisks} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		m = meta{Format: journalFormat, NodeID: node}
		if v := tx.Bucket(bucketMeta).Get(keyNode); v != nil {
			m = meta{}
			if err := unseal(v, &m); err != nil {
				return fmt.Errorf("node record: %w", err)
			}
		}
		switch {
		case m.Format > journalFormat:
			return fmt.Errorf("it has format %d, this binary knows %d", m.Format, journalFormat)
		case m.NodeID != node:
			return fmt.Errorf("it belongs to node %s, this is node %s", m.NodeID, node)
		}
		err := tx.Bucket(bucketVMs).ForEach(func(k, v []byte) error {
			var r record
			if err := unseal(v, &r); err != nil {
				return fmt.Errorf("record %x: %w", k, err)
			}
			recs = append(recs, r)
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(bucketOrders).ForEach(func(k, v []byte) error {
			if err := unseal(v, &api.Order{}); err != nil {
				return fmt.Errorf("order %x: %w", k, err)
			}
			return nil
		})
		if err == nil {
			err = loadPools(tx)
		}
		if err != nil {
			return err
		}
		m.Sessions++
		return put(tx, bucketMeta, keyNode, &m)
	})
	return m, recs, err
}

// seal encodes a value behind its checksum.
func seal(v msgp.Marshaler) ([]byte, error) {
	b, err := v.MarshalMsg(make([]byte, 4, 512))
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b, nil
}

func unseal(b []byte, v msgp.Unmarshaler) error {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return errors.New("the checksum is wrong")
	}
	rest, err := v.UnmarshalMsg(b[4:])
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	return err
}

func put(tx *bbolt.Tx, bucket, key []byte, v msgp.Marshaler) error {
	b, err := seal(v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, b)
}

// write runs op in a transaction together with whatever else waits, and returns
// when it is on disk.
func (j *journal) write(op func(*bbolt.Tx) error) error {
	j.mu.Lock()
	b, leader := j.next, false
	if b == nil {
		b, leader = &journalBatch{done: make(chan struct{})}, true
		j.next = b
	}
	b.ops = append(b.ops, op)
	j.mu.Unlock()
	if !leader {
		<-b.done
		return b.err
	}
	j.writing.Lock() // while another batch is written, this one grows
	j.mu.Lock()
	j.next = nil
	noted := j.noted
	j.noted, j.carried = nil, noted != nil
	j.mu.Unlock()
	b.err = j.db.Update(func(tx *bbolt.Tx) error {
		if noted != nil {
			if err := put(tx, bucketMeta, keyNode, noted); err != nil {
				return err
			}
		}
		for _, op := range b.ops {
			if err := op(tx); err != nil {
				return err
			}
		}
		return nil
	})
	j.mu.Lock()
	if j.carried = false; b.err != nil && j.noted == nil {
		j.noted = noted
	}
	j.mu.Unlock()
	j.writing.Unlock()
	if b.err != nil {
		b.err = errJournal(j.db.Path(), b.err)
	}
	close(b.done)
	return b.err
}

// putVM writes a record, and the order that it follows from if there is a new one.
func (j *journal) putVM(r record, o *api.Order) error {
	return j.write(func(tx *bbolt.Tx) error {
		if err := put(tx, bucketVMs, r.ID[:], &r); err != nil {
			return err
		}
		if o == nil {
			return nil
		}
		return put(tx, bucketOrders, r.ID[:], o)
	})
}

// dropVM forgets a VM that was attested absent.
func (j *journal) dropVM(id api.ID) error {
	return j.write(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketVMs).Delete(id[:]); err != nil {
			return err
		}
		return tx.Bucket(bucketOrders).Delete(id[:])
	})
}

// putMeta writes what is remembered of the node.
func (j *journal) putMeta(m meta) error {
	j.note(m)
	return j.settle()
}

// note is putMeta with the next write, whatever that is of.
func (j *journal) note(m meta) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.noted = &m
}

// settle returns when what was noted is on disk.
func (j *journal) settle() error {
	j.mu.Lock()
	due, carried := j.noted != nil, j.carried
	j.mu.Unlock()
	if !due && carried {
		j.writing.Lock() // the write that is under way has it
		j.mu.Lock()
		due = j.noted != nil // and has failed
		j.mu.Unlock()
		j.writing.Unlock()
	}
	if !due {
		return nil
	}
	return j.write(func(*bbolt.Tx) error { return nil })
}

// order reads the newest order of a VM that was not a tombstone; nil: none.
func (j *journal) order(id api.ID) (o *api.Order, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketOrders).Get(id[:])
		if v == nil {
			return nil
		}
		o = &api.Order{}
		return unseal(v, o) // msgp copies: nothing points into the map
	})
	return o, err
}

// bridges names the bridges of the NAT networks that orders use.
func (j *journal) bridges() (out []string, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketOrders).ForEach(func(_, v []byte) error {
			var o api.Order
			if err := unseal(v, &o); err != nil {
				return err
			}
			for _, n := range o.Networks {
				out = append(out, network.BridgeName(n.Name))
			}
			return nil
		})
	})
	return out, err
}

// holds reports whether this very order is in the journal.
func (j *journal) holds(o *api.Order) (same bool) {
	b, err := seal(o)
	if err != nil {
		return false
	}
	err = j.db.View(func(tx *bbolt.Tx) error {
		same = bytes.Equal(b, tx.Bucket(bucketOrders).Get(o.VMID[:]))
		return nil
	})
	return same && err == nil
}

func (j *journal) close() error { return j.db.Close() }
