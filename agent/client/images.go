package client

import (
	"errors"
	"io/fs"
	"time"

	"github.com/novacron/novacron/api"
)

// removeImage removes this node's copy of an image that is being deleted, once
// nothing here uses it any more. Content that another image shares stays.
func (c *Client) removeImage(i *api.Image) {
	c.mu.Lock()
	going := c.removing[i.ID]
	c.removing[i.ID] = true
	c.mu.Unlock()
	if going {
		return
	}
	defer func() {
		c.mu.Lock()
		delete(c.removing, i.ID)
		c.mu.Unlock()
	}()
	for {
		err := c.dropImage(i)
		if err == nil {
			return
		}
		c.log.Warn("image not removed", "image", i.Name, "error", err)
		if !c.sleep(jitter(maxDelay)) {
			return
		}
	}
}

// dropImage forgets an image. Reports leave in the order of what was done.
func (c *Client) dropImage(i *api.Image) error {
	c.imageMu.Lock()
	defer c.imageMu.Unlock()
	err := c.cfg.Images.Drop(i.SHA256, i.ID)
	if err == nil {
		c.reports.image(api.ImageReport{ID: i.ID, Absent: true})
	}
	return err
}

// nameImage remembers that an image has the content with a checksum, and tells
// the servers when that makes this node one that holds it.
func (c *Client) nameImage(i *api.Image) {
	c.imageMu.Lock()
	defer c.imageMu.Unlock()
	fresh, err := c.cfg.Images.Name(i.SHA256, i.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist): // not held
	case err != nil:
		c.log.Warn("the name of an image was not kept", "image", i.Name, "error", err)
	case fresh:
		c.reports.image(api.ImageReport{ID: i.ID, Size: i.Size})
	}
}

// resendImages reports what the cache holds, as far as its names are known.
func (c *Client) resendImages() {
	c.imageMu.Lock()
	defer c.imageMu.Unlock()
	for _, info := range c.cfg.Images.List() {
		for _, id := range info.Names {
			c.reports.image(api.ImageReport{ID: id, Size: info.Size})
		}
	}
}

// unpin lets go of every image that an owner holds.
func (c *Client) unpin(owner api.ID) error {
	var errs []error
	for _, sha := range c.cfg.Images.Pinned(owner) {
		errs = append(errs, c.cfg.Images.Unpin(sha, owner))
	}
	return errors.Join(errs...)
}

// collectImages removes what nothing uses: content that came in and of which the
// servers know no image, so that they count on no replica here.
func (c *Client) collectImages() {
	for c.sleep(jitter(min(c.cfg.ImageIdle, time.Hour))) {
		gone, err := c.cfg.Images.Collect(c.ctx, c.cfg.ImageIdle, func(sha string) bool {
			info, err := c.cfg.Images.Stat(sha)
			return err != nil || len(info.Names) > 0
		})
		for _, i := range gone {
			c.log.Info("removed an image that nothing uses", "sha256", i.SHA256, "size", i.Size)
		}
		if err != nil && c.ctx.Err() == nil {
			c.log.Warn("images that nothing uses were not removed", "error", err)
		}
	}
}
