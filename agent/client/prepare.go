package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// prepare makes everything that a VM needs before it can start: its networks,
// its images, its volumes, its seed. All of it is idempotent.
func (c *Client) prepare(id api.ID) (*hypervisor.Machine, error) {
	o, err := c.journal.order(id)
	if err != nil {
		return nil, err
	}
	if o == nil || o.Spec == nil {
		return nil, api.Errorf(api.CodeJournal, "the journal holds no order for this VM")
	}
	return c.prepareOrder(o, c.ensureVolume)
}

// volumeMaker opens a volume, or makes it.
type volumeMaker func(ctx context.Context, v *api.Volume, images []*api.Image) (storage.Handle, error)

func (c *Client) prepareOrder(o *api.Order, volume volumeMaker) (*hypervisor.Machine, error) {
	id := o.VMID
	dir := c.vmDir(id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	s := o.Spec
	m := &hypervisor.Machine{
		ID: id, Namespace: o.Namespace, Name: o.Name, CPU: s.CPU, Memory: s.Memory, Firmware: s.Firmware,
		Serial: !s.Console.NoSerial, VNC: s.Console.VNC,
	}
	if s.Firmware == api.FirmwareUEFI {
		m.NVRAM = filepath.Join(dir, "nvram.fd")
	}
	if err := c.prepareNICs(o, m); err != nil {
		return nil, err
	}
	if err := c.prepareBoot(o, m); err != nil {
		return nil, err
	}
	if err := c.prepareDisks(o, m, volume); err != nil {
		return nil, err
	}
	if s.CloudInit != nil {
		m.Seed = filepath.Join(dir, "seed.iso")
		if err := c.makeSeed(o, m); err != nil {
			return nil, err
		}
	}
	return m, m.Validate()
}

func (c *Client) vmDir(id api.ID) string { return filepath.Join(c.cfg.Dir, "vms", id.String()) }

// cleanup removes what prepare made for a VM that is absent for good; its
// volumes go by their own orders.
func (c *Client) cleanup(id api.ID) error {
	err := os.RemoveAll(c.vmDir(id))
	return errors.Join(err, c.unpin(id), c.forgetShared(id))
}

func (c *Client) prepareNICs(o *api.Order, m *hypervisor.Machine) error {
	for i, nic := range o.Spec.NICs {
		n := networkOf(o, nic.Network)
		if n == nil {
			return api.Errorf(api.CodeNetwork, "the order does not say what network %q is", nic.Network)
		}
		bridge, release, err := c.ensureNetwork(c.ctx, n)
		if err != nil {
			return err
		}
		release() // the order keeps it, in the journal or of a move
		mac := nic.MAC
		if mac == "" {
			mac = network.MAC(o.VMID, i)
		}
		m.NICs = append(m.NICs, hypervisor.MachineNIC{MAC: mac, Model: nic.Model, Bridge: bridge, MTU: n.MTU})
	}
	return nil
}

func networkOf(o *api.Order, name string) *api.Network {
	for _, n := range o.Networks {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// prepareBoot fetches kernel and initrd and keeps them for the VM.
func (c *Client) prepareBoot(o *api.Order, m *hypervisor.Machine) (err error) {
	b := o.Spec.Boot
	if b == nil || b.Kernel == "" {
		return nil
	}
	m.Cmdline = b.Cmdline
	if m.Kernel, err = c.bootImage(o, b.Kernel, image.KindKernel); err != nil || b.Initrd == "" {
		return err
	}
	m.Initrd, err = c.bootImage(o, b.Initrd, image.KindInitrd)
	return err
}

func (c *Client) bootImage(o *api.Order, name, kind string) (string, error) {
	for _, i := range o.Images {
		if i.Name == name && i.Kind == kind {
			info, err := c.ensureImage(i, o.VMID)
			return info.Path, err
		}
	}
	return "", api.Errorf(api.CodeImageMissing, "the order does not say what %s %q is", kind, name)
}

func (c *Client) prepareDisks(o *api.Order, m *hypervisor.Machine, volume volumeMaker) error {
	if len(o.Volumes) != len(o.Spec.Disks) {
		return api.Errorf(api.CodeStorage, "the order has %d volumes for %d disks", len(o.Volumes), len(o.Spec.Disks))
	}
	for i, d := range o.Spec.Disks {
		h, err := volume(c.ctx, o.Volumes[i], o.Images)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		m.Disks = append(m.Disks, hypervisor.MachineDisk{
			Name: d.Name, Path: h.Path, Format: h.Format, Bus: d.Bus, ReadOnly: d.ReadOnly, Shared: h.Shared, Boot: d.Boot,
			Backing: h.Backing, BackingFormat: h.BackingFormat,
		})
	}
	return nil
}

// makeSeed writes the seed anew for each start, whole or not at all.
func (c *Client) makeSeed(o *api.Order, m *hypervisor.Machine) error {
	tmp := m.Seed + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s := &Seed{ID: o.VMID, Name: o.Name, Spec: o.Spec}
	for _, n := range m.NICs {
		s.MACs = append(s.MACs, n.MAC)
	}
	if err := c.cfg.MakeSeed(tmp, s); err != nil {
		return err
	}
	return os.Rename(tmp, m.Seed)
}

// ensureVolume opens a volume, or makes it from its image or empty.
func (c *Client) ensureVolume(ctx context.Context, v *api.Volume, images []*api.Image) (storage.Handle, error) {
	p := c.cfg.Pools[v.Pool]
	if p == nil {
		return storage.Handle{}, api.Errorf(api.CodeStorage, "this node has no pool %q", v.Pool)
	}
	h, err := p.Open(ctx, v)
	if errors.Is(err, fs.ErrNotExist) {
		if err = c.mayCreate(v); err == nil {
			h, err = c.createVolume(ctx, p, v, images)
		}
	}
	if err == nil {
		err = c.remember(v, h)
	}
	if err != nil {
		if ctx.Err() != nil {
			return h, err
		}
		c.badVolume(v, err)
		return h, err
	}
	r := api.VolumeReport{ID: v.ID, State: api.VolumeReady}
	if used, err := p.Used(ctx, v); err == nil {
		r.Used = used
	}
	c.mu.Lock()
	again := c.bad[v.ID]
	delete(c.bad, v.ID)
	c.mu.Unlock()
	if again || v.State != api.VolumeReady { // else it is known already
		c.reports.volume(r)
	}
	return h, nil
}

// badVolume reports a volume that cannot be used now.
func (c *Client) badVolume(v *api.Volume, err error) {
	c.mu.Lock()
	c.bad[v.ID] = true
	c.mu.Unlock()
	c.reports.volume(api.VolumeReport{ID: v.ID, State: api.VolumeFailed, Error: err.Error()})
}

func (c *Client) createVolume(ctx context.Context, p storage.Pool, v *api.Volume, images []*api.Image) (storage.Handle, error) {
	if v.Image.IsZero() {
		return p.Create(ctx, v, nil)
	}
	i, err := c.volumeImage(v, images)
	if err != nil {
		return storage.Handle{}, err
	}
	h, err := p.Create(ctx, v, &storage.Source{Path: i.Path, Format: i.Format, VirtualSize: i.VirtualSize})
	if err == nil && h.Shared { // whole in itself, and another node may delete it
		err = c.cfg.Images.Unpin(i.SHA256, v.ID)
	}
	return h, err
}

func (c *Client) volumeImage(v *api.Volume, images []*api.Image) (image.Info, error) {
	for _, i := range images {
		if i.ID == v.Image {
			return c.ensureImage(i, v.ID)
		}
	}
	return image.Info{}, api.Errorf(api.CodeImageMissing, "the order does not say what image %s of volume %s is", v.Image.Short(), v.Name)
}

// ensureImage has an image in the cache, pinned for an owner, fetched from the
// nodes that hold it when it is not here.
func (c *Client) ensureImage(i *api.Image, owner api.ID) (image.Info, error) {
	info, err := c.cfg.Images.Stat(i.SHA256)
	if err != nil {
		if info, err = c.fetch(i); err != nil {
			return info, err
		}
	}
	if info.Spec != image.SpecOf(i) {
		return info, api.Errorf(api.CodeImageBad, "image %s is here as %s %s", i.Name, info.Format, info.Kind)
	}
	c.nameImage(i)
	return info, c.cfg.Images.Pin(i.SHA256, owner)
}

func (c *Client) fetch(i *api.Image) (image.Info, error) {
	if !c.fetches.acquire(c.ctx) {
		return image.Info{}, c.ctx.Err()
	}
	defer c.fetches.release()
	var sources []image.Source
	for _, addr := range i.Sources {
		if addr != c.cfg.Node.Address {
			sources = append(sources, c.peerSource(addr, i))
		}
	}
	c.log.Info("fetching an image", "image", i.Name, "size", i.Size, "sources", len(sources))
	return c.cfg.Images.Fetch(c.ctx, image.SpecOf(i), sources...)
}

// peerSource reads an image from the agent at an address.
func (c *Client) peerSource(addr string, i *api.Image) image.Source {
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		ctx, cancel := context.WithCancel(ctx)
		s, err := c.cfg.Peer(addr).Open(ctx, "Agent.ImageGet", &api.ImageFetch{ID: i.ID, SHA256: i.SHA256, Offset: offset})
		if err != nil {
			cancel()
			return nil, err
		}
		return &chunkReader{s: s, close: cancel}, nil
	}
}

// chunkReader reads the bytes of a stream of chunks.
type chunkReader struct {
	s     api.Stream
	close context.CancelFunc
	rest  []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var ch api.Chunk
		if err := r.s.Recv(&ch); err != nil {
			return 0, err
		}
		r.rest = ch.Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *chunkReader) Close() error {
	r.close()
	return nil
}
