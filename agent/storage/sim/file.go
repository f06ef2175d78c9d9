package sim

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// kept is a pool as its file holds it.
type kept struct {
	UUID    api.ID            `json:"uuid"`
	Volumes map[api.ID]volume `json:"volumes"`
}

// Open makes a pool that a file remembers, so that its volumes are there again
// when the process is started anew.
func Open(name string, capacity api.Bytes, shared bool, file string) (*Pool, error) {
	p := New(name, capacity)
	p.shared, p.file = shared, file
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, errors.Join(os.MkdirAll(filepath.Dir(file), 0o711), p.keep())
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeStorage, "pool %s: %s: %v", name, file, err)
	}
	p.uuid = k.UUID
	for id, v := range k.Volumes {
		p.volumes[id] = v
	}
	return p, nil
}

// keep writes the file of a pool that has one; the lock is held, or nobody else
// has the pool yet.
func (p *Pool) keep() error {
	if p.file == "" {
		return nil
	}
	b, err := json.Marshal(kept{UUID: p.uuid, Volumes: p.volumes})
	if err != nil {
		return err
	}
	tmp := p.file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.file)
}

type volume struct {
	Size   api.Bytes      `json:"size"`
	Handle storage.Handle `json:"handle"`
}
