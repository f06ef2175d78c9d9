package fsm

import (
	"encoding/hex"
	"slices"

	"github.com/novacron/novacron/api"
)

// ImageCreate records an image whose content is on its way. It answers
// *api.Image.
type ImageCreate struct {
	Image api.Image `msg:"image,omitempty"`
}

// CommandID is 18.
func (c *ImageCreate) CommandID() uint16 { return cmdImageCreate }

// Validate checks the fields.
func (c *ImageCreate) Validate() error {
	var k checker
	im := &c.Image
	k.id("id", im.ID)
	k.name("namespace", im.Namespace)
	k.name("name", im.Name)
	k.oneOf("kind", im.Kind, "disk", "kernel", "initrd")
	k.oneOf("format", im.Format, "qcow2", "raw")
	k.size("size", im.Size, 0)
	k.size("virtual_size", im.VirtualSize, 0)
	k.pairs("labels", im.Labels)
	k.oneOf("state", string(im.State), string(api.ImagePending), string(api.ImageReady))
	if b, err := hex.DecodeString(im.SHA256); err != nil || len(b) != 32 {
		k.fail("sha256", "is not 64 hex digits")
	}
	if len(im.Sources) != 0 {
		k.fail("sources", "stands in orders only")
	}
	return k.done()
}

func (c *ImageCreate) apply(tx *Txn) (any, error) {
	im := c.Image
	if err := tx.needNamespace(im.Namespace); err != nil {
		return nil, err
	}
	if tx.s.Image(im.ID) != nil || tx.s.ImageByName(im.Namespace, im.Name) != nil {
		return nil, api.Errorf(api.CodeExists, "image %q exists already", im.Name)
	}
	im.Replicas = sortedIDs(im.Replicas)
	im.CreateTime, im.CreateIndex, im.ModifyIndex = tx.now, tx.index, tx.index
	imageDef.put(tx, &im)
	tx.made(im.ID, "")
	return &im, nil
}

// sortedIDs returns the ids in order and once each; nil when there are none.
func sortedIDs(ids []api.ID) []api.ID {
	if len(ids) == 0 {
		return nil
	}
	out := slices.Clone(ids)
	slices.SortFunc(out, cmpID)
	return slices.Compact(out)
}

// ImageReplicas says which nodes hold the content of an image, or no longer do.
// It answers *api.Image, or nothing when the image is gone.
type ImageReplicas struct {
	ID     api.ID   `msg:"id,omitempty"`
	Add    []api.ID `msg:"add,omitempty"`
	Remove []api.ID `msg:"remove,omitempty"`
	// Size and VirtualSize when they are known only now.
	Size        api.Bytes `msg:"size,omitempty"`
	VirtualSize api.Bytes `msg:"virtual_size,omitempty"`
}

// CommandID is 19.
func (c *ImageReplicas) CommandID() uint16 { return cmdImageReplicas }

// Validate checks the fields.
func (c *ImageReplicas) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.size("size", c.Size, 0)
	k.size("virtual_size", c.VirtualSize, 0)
	return k.done()
}

func (c *ImageReplicas) apply(tx *Txn) (any, error) {
	im := tx.s.Image(c.ID)
	if im == nil {
		return nil, api.Errorf(api.CodeNotFound, "image %s not found", c.ID)
	}
	return nilless(tx.replicas(im, c.Add, c.Remove, c.Size, c.VirtualSize)), nil
}

// replicas changes who holds an image; an image being deleted goes with its
// last replica. It returns the image as it is then.
func (tx *Txn) replicas(old *api.Image, add, remove []api.ID, size, virtual api.Bytes) *api.Image {
	im := *old
	held := append(slices.Clone(old.Replicas), add...)
	held = slices.DeleteFunc(held, func(id api.ID) bool { return slices.Contains(remove, id) })
	im.Replicas = sortedIDs(held)
	if im.State == api.ImageDeleting && len(im.Replicas) == 0 {
		imageDef.del(tx, im.ID)
		return nil
	}
	if im.State == api.ImagePending && len(im.Replicas) > 0 {
		im.State = api.ImageReady
	}
	if size > 0 {
		im.Size = size
	}
	if virtual > 0 {
		im.VirtualSize = virtual
	}
	if slices.Equal(im.Replicas, old.Replicas) && im.State == old.State && im.Size == old.Size && im.VirtualSize == old.VirtualSize {
		return old
	}
	im.ModifyIndex = tx.index
	imageDef.put(tx, &im)
	return &im
}

// ImageDelete orders the nodes to drop an image that nothing uses. It answers
// nothing.
type ImageDelete struct {
	ID         api.ID `msg:"id,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
}

// CommandID is 20.
func (c *ImageDelete) CommandID() uint16 { return cmdImageDelete }

// Validate checks nothing: the image is looked up.
func (c *ImageDelete) Validate() error { return nil }

func (c *ImageDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	im := tx.s.Image(c.ID)
	if im == nil {
		return nil, api.Errorf(api.CodeNotFound, "image %s not found", c.ID)
	}
	if err := sameIndex(c.CheckIndex, im.ModifyIndex, "image "+im.Name); err != nil {
		return nil, err
	}
	for v := range tx.s.VolumesFrom(im.ID) {
		return nil, inUse("image", im.Name, "volume "+v.Namespace+"/"+v.Name)
	}
	for vm := range tx.s.VMs() {
		if usesImage(tx.s, vm, im) {
			return nil, inUse("image", im.Name, "VM "+vm.Namespace+"/"+vm.Name)
		}
	}
	if len(im.Replicas) == 0 {
		imageDef.del(tx, im.ID)
		return nil, nil
	}
	n := *im
	n.State, n.ModifyIndex = api.ImageDeleting, tx.index
	imageDef.put(tx, &n)
	return nil, nil
}

// usesImage reports whether a VM boots an image as kernel or initrd.
func usesImage(s *State, vm *api.VM, im *api.Image) bool {
	b := vm.Spec.Boot
	if b == nil || b.Kernel != im.Name && b.Initrd != im.Name {
		return false
	}
	return s.ImageFor(vm.Namespace, im.Name) == im
}
