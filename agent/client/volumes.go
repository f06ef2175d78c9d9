package client

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// volumeTask is the newest order for a volume that stands alone or is to go.
type volumeTask struct {
	mu      sync.Mutex
	volume  *api.Volume
	images  []*api.Image
	running bool
	timer   *time.Timer
	delay   time.Duration
	done    api.VolumeReport // the outcome, once there is one
}

// volumeOrders takes in a batch's volumes and images.
func (c *Client) volumeOrders(b *api.OrderBatch) {
	for _, i := range b.Images {
		if i.State == api.ImageDeleting {
			c.spawn(func() { c.removeImage(i) })
		} else if have, err := c.cfg.Images.Stat(i.SHA256); err == nil && have.Spec == image.SpecOf(i) {
			c.nameImage(i)
		}
	}
	for _, v := range b.Volumes {
		if v.State == api.VolumeReady {
			continue
		}
		c.mu.Lock()
		t := c.volumes[v.ID]
		if t == nil {
			t = &volumeTask{}
			c.volumes[v.ID] = t
		}
		c.mu.Unlock()
		t.mu.Lock()
		if t.volume == nil || t.volume.State != v.State || t.done.State == "" {
			t.delay, t.done = 0, api.VolumeReport{}
		}
		t.volume, t.images = v, b.Images
		c.startVolume(t)
		t.mu.Unlock()
	}
}

// startVolume begins work on a volume unless it goes on already; t is locked.
func (c *Client) startVolume(t *volumeTask) {
	if t.timer != nil { // it is tried now
		t.timer.Stop()
		t.timer = nil
	}
	if !t.running {
		t.running = c.spawn(func() { c.volumeWork(t) })
	}
}

// volumeWork does what is ordered, once; a failure is reported and tried again later.
func (c *Client) volumeWork(t *volumeTask) {
	t.mu.Lock()
	v, images := t.volume, t.images
	t.mu.Unlock()
	r, err := c.volumeOnce(v, images)
	if err != nil {
		c.log.Warn("volume not done", "volume", v.ID, "name", v.Name, "state", v.State, "error", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = false
	if t.volume.State != v.State { // ordered otherwise in the meantime
		c.startVolume(t)
		return
	}
	if err == nil {
		t.done = r
		return
	}
	t.delay = min(max(2*t.delay, time.Second), time.Minute)
	t.timer = time.AfterFunc(jitter(t.delay), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		c.startVolume(t)
	})
}

var errInUse = errors.New("a guest on this node still holds it")

func (c *Client) volumeOnce(v *api.Volume, images []*api.Image) (r api.VolumeReport, err error) {
	r = api.VolumeReport{ID: v.ID, State: api.VolumeReady}
	p := c.cfg.Pools[v.Pool]
	if p == nil {
		err = api.Errorf(api.CodeStorage, "this node has no pool %q", v.Pool)
		c.badVolume(v, err)
		return r, err
	}
	switch {
	case v.State == api.VolumeDeleting:
		if c.holds(v.VMID) {
			return r, errInUse
		}
		if err := c.deleteVolume(c.ctx, p, v); err != nil {
			return r, err
		}
		r.State = api.VolumeAbsent
		c.reports.volume(r)
		return r, c.unpin(v.ID)
	case v.Owned: // made when its VM is prepared; perhaps the servers missed the report
		if _, err := p.Open(c.ctx, v); errors.Is(err, fs.ErrNotExist) {
			was, err := c.journal.hasVolume(v.ID)
			if was {
				err = errGone(v)
				c.badVolume(v, err)
			}
			r.State = ""
			return r, err
		} else if err != nil {
			return r, err
		}
		if used, err := p.Used(c.ctx, v); err == nil {
			r.Used = used
		}
		c.reports.volume(r)
		return r, nil
	}
	_, err = c.ensureVolume(c.ctx, v, images)
	return r, err
}

// holds reports whether a VM may have a domain here: what is not known may.
func (c *Client) holds(id api.ID) bool {
	c.mu.Lock()
	v := c.vms[id]
	_, orphan := c.orphans[id]
	c.mu.Unlock()
	if v == nil {
		return orphan || c.hold.Load()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.m.Alive || v.m.dom.kind != domAbsent
}

// forgetVolume drops a volume whose end the servers know.
func (c *Client) forgetVolume(id api.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.volumes[id]; t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.done.State == api.VolumeAbsent && !t.running {
			delete(c.volumes, id)
		}
	}
}

// resendVolumes reports the outcomes again.
func (c *Client) resendVolumes() {
	c.mu.Lock()
	tasks := make([]*volumeTask, 0, len(c.volumes))
	for _, t := range c.volumes {
		tasks = append(tasks, t)
	}
	c.mu.Unlock()
	for _, t := range tasks {
		t.mu.Lock()
		if t.done.State != "" {
			c.reports.volume(t.done)
		}
		t.mu.Unlock()
	}
}

// purgeEvery is how often volumes that were set aside are looked through.
const purgeEvery = time.Hour

// purge removes volumes that were set aside for long enough.
func (c *Client) purge() {
	for {
		for name, p := range c.cfg.Pools {
			if err := c.purgePool(p); err != nil && c.ctx.Err() == nil {
				c.log.Warn("what was set aside could not be removed", "pool", name, "error", err)
			}
		}
		if !c.sleep(purgeEvery) {
			return
		}
	}
}

// purgePool removes what was set aside in a pool, and lets go of the images that
// it was made of. A volume may have come back meanwhile.
func (c *Client) purgePool(p storage.Pool) error {
	gone, err := p.Purge(c.ctx, time.Now())
	if len(gone) == 0 {
		return err
	}
	here, e := p.List(c.ctx)
	if e != nil {
		return errors.Join(err, e)
	}
	for _, id := range gone {
		if !slices.Contains(here, id) {
			err = errors.Join(err, c.unpin(id))
		}
	}
	return err
}

// stopVolumes ends the timers.
func (c *Client) stopVolumes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.volumes {
		t.mu.Lock()
		if t.timer != nil {
			t.timer.Stop()
		}
		t.mu.Unlock()
	}
}
