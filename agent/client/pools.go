package client

import (
	"context"
	"errors"
	"io/fs"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// recognize compares a pool with the one that had its name before: a folder
// whose disk is not mounted looks like a new and empty pool.
func (c *Client) recognize(pool string, uuid api.ID) error {
	if uuid.IsZero() {
		return nil
	}
	was, err := c.journal.pool(pool)
	switch {
	case err != nil:
	case was.IsZero():
		err = c.journal.putPool(pool, uuid)
		c.journalError(err)
	case was != uuid:
		err = api.Errorf(api.CodeStorage, "pool %s is not the one that was here before: its uuid is %s, it was %s", pool, uuid, was).
			WithHint("mount what belongs there and restart the agent; if it was replaced on purpose, write the old uuid into its .novacron-pool")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.foreign[pool]; err != nil && !known {
		c.log.Error("nothing is made in this pool", "pool", pool, "error", err)
	}
	if err == nil {
		delete(c.foreign, pool)
	} else {
		c.foreign[pool] = err
	}
	return err
}

// trusted returns why nothing may be concluded from what is not in a pool.
func (c *Client) trusted(pool string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign[pool]
}

// mayCreate refuses to make a volume that was here before, empty, in its place.
// What the servers hold to be ready counts as seen: once they are told that it
// is gone, only the journal knows.
func (c *Client) mayCreate(v *api.Volume) error {
	was, err := c.journal.hasVolume(v.ID)
	if err == nil && !was && v.State == api.VolumeReady {
		was, err = true, c.journal.putVolume(v.ID, madeVolume{Pool: v.Pool})
	}
	if err != nil {
		return err
	}
	if was {
		return errGone(v)
	}
	return c.trusted(v.Pool)
}

func errGone(v *api.Volume) error {
	return api.Errorf(api.CodeStorage, "volume %s (%s) is gone from pool %s", v.Name, v.ID, v.Pool).
		WithHint("bring the pool's disk back; to begin with an empty one, delete the volume")
}

// remember keeps it that a volume was here.
func (c *Client) remember(v *api.Volume, h storage.Handle) error {
	if was, err := c.journal.hasVolume(v.ID); was || err != nil {
		return err
	}
	return c.journal.putVolume(v.ID, madeVolume{Pool: v.Pool, Shared: h.Shared})
}

// deleteVolume removes a volume. That it is not there means nothing in a pool
// that is not the one it was in.
func (c *Client) deleteVolume(ctx context.Context, p storage.Pool, v *api.Volume) error {
	if strange := c.trusted(v.Pool); strange != nil {
		if _, err := p.Open(ctx, v); errors.Is(err, fs.ErrNotExist) {
			return strange
		}
	}
	if err := p.Delete(ctx, v); err != nil {
		return err
	}
	return c.journal.dropVolumes(v.ID)
}

// forgetShared drops what is remembered of the volumes that a VM leaves behind
// in shared pools: another node may delete them.
func (c *Client) forgetShared(id api.ID) error {
	o, err := c.journal.order(id)
	if err != nil || o == nil {
		return err
	}
	var left []api.ID
	for _, v := range o.Volumes {
		if m, err := c.journal.volume(v.ID); err != nil {
			return err
		} else if m.Shared {
			left = append(left, v.ID)
		}
	}
	return c.journal.dropVolumes(left...)
}
