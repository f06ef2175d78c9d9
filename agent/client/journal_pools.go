package client

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/novacron/novacron/api"
)

// loadPools reads everything that is kept of pools and volumes, to know that it
// can be read.
func loadPools(tx *bbolt.Tx) error {
	err := tx.Bucket(bucketDisks).ForEach(func(k, v []byte) error {
		if err := unseal(v, &madeVolume{}); err != nil {
			return fmt.Errorf("volume %x: %w", k, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c := tx.Bucket(bucketMeta).Cursor()
	for k, v := c.Seek(keyPool); bytes.HasPrefix(k, keyPool); k, v = c.Next() {
		if err := unseal(v, &poolMark{}); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}

func poolKey(name string) []byte { return append(bytes.Clone(keyPool), name...) }

// pool returns the uuid that a pool had when it was first seen, zero for a new one.
func (j *journal) pool(name string) (api.ID, error) {
	var m poolMark
	err := j.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketMeta).Get(poolKey(name)); v != nil {
			return unseal(v, &m)
		}
		return nil
	})
	return m.UUID, err
}

func (j *journal) putPool(name string, uuid api.ID) error {
	return j.write(func(tx *bbolt.Tx) error { return put(tx, bucketMeta, poolKey(name), &poolMark{UUID: uuid}) })
}

// hasVolume reports whether a volume was here.
func (j *journal) hasVolume(id api.ID) (bool, error) {
	m, err := j.volume(id)
	return m.Pool != "", err
}

// volume returns what is remembered of a volume, nothing for one that never was here.
func (j *journal) volume(id api.ID) (m madeVolume, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketDisks).Get(id[:]); v != nil {
			return unseal(v, &m)
		}
		return nil
	})
	return m, err
}

func (j *journal) putVolume(id api.ID, m madeVolume) error {
	return j.write(func(tx *bbolt.Tx) error { return put(tx, bucketDisks, id[:], &m) })
}

// dropVolumes forgets volumes that are gone for good.
func (j *journal) dropVolumes(ids ...api.ID) error {
	if len(ids) == 0 {
		return nil
	}
	return j.write(func(tx *bbolt.Tx) error {
		for _, id := range ids {
			if err := tx.Bucket(bucketDisks).Delete(id[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
