package image

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"

	"github.com/novacron/novacron/api"
)

// Name remembers, across restarts, that an image of the servers has this
// content. It reports whether that is news.
func (c *Cache) Name(sha string, id api.ID) (fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.images[sha]
	if !ok {
		return false, fmt.Errorf("image %.12s: %w", sha, fs.ErrNotExist)
	}
	if slices.Contains(e.info.Names, id) {
		return false, nil
	}
	return true, c.rename(e, append(slices.Clone(e.info.Names), id))
}

// Drop forgets an image of the servers, and removes the content with its last
// one; content that is pinned then is api.CodeInUse, and stays as it is.
func (c *Cache) Drop(sha string, id api.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.images[sha]
	if !ok {
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(e.info.Names), func(n api.ID) bool { return n == id })
	switch {
	case len(left) == 0:
		return c.remove(sha)
	case len(left) == len(e.info.Names):
		return nil
	}
	return c.rename(e, left)
}

// rename writes the meta file with other names; the lock is held.
func (c *Cache) rename(e *entry, names []api.ID) error {
	info := e.info
	info.Names = names
	b, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := c.writeMeta(info.SHA256, b); err != nil {
		return err
	}
	_ = c.root.Chtimes(metaName(info.SHA256), info.LastUsed, info.LastUsed)
	e.info = info
	return nil
}
