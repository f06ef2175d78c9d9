package fsm

import "github.com/novacron/novacron/api"

// VolumeCreate records a standalone volume. It answers *api.Volume.
type VolumeCreate struct {
	Volume api.Volume `msg:"volume,omitempty"` // with its ID
}

// CommandID is 14.
func (c *VolumeCreate) CommandID() uint16 { return cmdVolumeCreate }

// Validate checks the fields.
func (c *VolumeCreate) Validate() error {
	var k checker
	v := &c.Volume
	k.id("id", v.ID)
	k.name("namespace", v.Namespace)
	k.name("name", v.Name)
	k.optName("pool", v.Pool)
	k.oneOf("format", v.Format, "", "qcow2", "raw")
	least := api.Bytes(1)
	if !v.Image.IsZero() {
		least = 0
	}
	k.size("size", v.Size, least)
	k.pairs("labels", v.Labels)
	if !v.VMID.IsZero() || v.Owned {
		k.fail("vm_id", "a standalone volume is attached by a VM's spec")
	}
	return k.done()
}

func (c *VolumeCreate) apply(tx *Txn) (any, error) {
	v := c.Volume
	if err := tx.needNamespace(v.Namespace); err != nil {
		return nil, err
	}
	if tx.s.Volume(v.ID) != nil || tx.s.VolumeByName(v.Namespace, v.Name) != nil {
		return nil, api.Errorf(api.CodeExists, "volume %q exists already", v.Name)
	}
	if err := tx.fillVolume(&v, nil); err != nil {
		return nil, err
	}
	if !v.NodeID.IsZero() {
		if err := tx.volumeFits(&v, v.NodeID); err != nil {
			return nil, err
		}
	}
	volumeDef.put(tx, &v)
	tx.made(v.ID, "")
	return &v, nil
}

// fillVolume completes a new volume: pool, format, and the size of its image.
func (tx *Txn) fillVolume(v *api.Volume, im *api.Image) error {
	v.Pool = poolName(v.Pool)
	if v.Format == "" {
		v.Format = "qcow2"
	}
	if im == nil && !v.Image.IsZero() {
		if im = tx.s.Image(v.Image); im == nil {
			return api.Errorf(api.CodeNotFound, "image %s not found", v.Image)
		}
	}
	if im != nil {
		if im.State == api.ImageDeleting {
			return api.Errorf(api.CodeState, "image %q is being deleted", im.Name)
		}
		v.Image = im.ID
		v.Size = max(v.Size, im.VirtualSize, im.Size)
		if v.Size == 0 {
			return api.Errorf(api.CodeState, "the size of image %q is not known yet", im.Name)
		}
	}
	v.State, v.Error, v.Used = api.VolumePending, "", 0
	v.CreateTime, v.CreateIndex, v.ModifyIndex = tx.now, tx.index, tx.index
	return nil
}

// volumeFits checks that a node has the volume's pool and room in it.
func (tx *Txn) volumeFits(v *api.Volume, node api.ID) error {
	n := tx.s.Node(node)
	if n == nil {
		return api.Errorf(api.CodeNotFound, "node %s not found", node)
	}
	np := NodePoolOf(n, v.Pool)
	if np == nil || np.Error != "" {
		return api.Errorf(api.CodeNoNode, "node %s has no usable pool %q", n.Name, v.Pool)
	}
	owner := node
	if np.Shared {
		owner = api.ID{}
	}
	need := v.Size
	if v.NodeID == owner && tx.s.Volume(v.ID) != nil {
		need = 0 // it is counted there already
	}
	if need > PoolLimit(tx.s, np)-tx.s.Promised(owner, v.Pool) {
		return api.Errorf(api.CodePoolFull, "pool %q of node %s has no room for %s", v.Pool, n.Name, v.Size)
	}
	return nil
}

// VolumeAssign gives a volume that is on no node the node that makes it, or
// that deletes it. It answers *api.Volume.
type VolumeAssign struct {
	ID     api.ID `msg:"id,omitempty"`
	NodeID api.ID `msg:"node_id,omitempty"`
}

// CommandID is 35.
func (c *VolumeAssign) CommandID() uint16 { return cmdVolumeAssign }

// Validate checks the ids.
func (c *VolumeAssign) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.id("node_id", c.NodeID)
	return k.done()
}

func (c *VolumeAssign) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	v := tx.s.Volume(c.ID)
	if v == nil {
		return nil, api.Errorf(api.CodeNotFound, "volume %s not found", c.ID)
	}
	if v.NodeID == c.NodeID {
		return v, nil
	}
	if !v.NodeID.IsZero() {
		return nil, api.Errorf(api.CodePlacement, "volume %q is on node %s already", v.Name, v.NodeID)
	}
	n := tx.s.Node(c.NodeID)
	if n == nil || n.Status != api.NodeReady {
		return nil, api.Errorf(api.CodePlacement, "node %s is not ready", c.NodeID)
	}
	if v.State != api.VolumeDeleting {
		if n.Eligibility != api.Eligible || n.Unreachable != "" {
			return nil, api.Errorf(api.CodePlacement, "node %s is not eligible", n.Name)
		}
		if err := tx.volumeFits(v, c.NodeID); err != nil {
			return nil, err
		}
	}
	w := *v
	w.NodeID, w.ModifyIndex = c.NodeID, tx.index
	volumeDef.put(tx, &w)
	tx.made(w.ID, "")
	return &w, nil
}

// VolumeDelete orders a volume that no VM uses to be removed. It answers
// nothing.
type VolumeDelete struct {
	ID         api.ID `msg:"id,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
}

// CommandID is 15.
func (c *VolumeDelete) CommandID() uint16 { return cmdVolumeDelete }

// Validate checks nothing: the volume is looked up.
func (c *VolumeDelete) Validate() error { return nil }

func (c *VolumeDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	v := tx.s.Volume(c.ID)
	if v == nil {
		return nil, api.Errorf(api.CodeNotFound, "volume %s not found", c.ID)
	}
	if err := sameIndex(c.CheckIndex, v.ModifyIndex, "volume "+v.Name); err != nil {
		return nil, err
	}
	if !v.VMID.IsZero() {
		by := "VM " + v.VMID.String()
		if vm := tx.s.VM(v.VMID); vm != nil {
			by = "VM " + vm.Name
		}
		return nil, inUse("volume", v.Name, by)
	}
	tx.dropVolume(v)
	return nil, nil
}

// dropVolume removes a volume that was never made, and orders the removal of
// one that may have been.
func (tx *Txn) dropVolume(v *api.Volume) {
	if v.State == api.VolumePending && v.NodeID.IsZero() {
		volumeDef.del(tx, v.ID)
		return
	}
	if v.State == api.VolumeDeleting {
		return
	}
	w := *v
	w.State, w.Error, w.ModifyIndex = api.VolumeDeleting, "", tx.index
	volumeDef.put(tx, &w)
}

// volumeReport follows what a node says of a volume.
func (tx *Txn) volumeReport(node api.ID, r *api.VolumeReport) {
	v := tx.s.Volume(r.ID)
	if v == nil {
		return
	}
	pool := tx.s.Pool(v.Pool)
	shared := pool != nil && pool.Shared
	if v.NodeID != node && !(shared && v.NodeID.IsZero()) {
		return // somebody else's, or a superseded binding
	}
	w := *v
	switch r.State {
	case api.VolumeReady, api.VolumeFailed:
		w.Used = r.Used
		if v.State != api.VolumeDeleting {
			w.State = r.State
		}
		w.Error = r.Error
	case api.VolumeAbsent:
		if v.State == api.VolumeDeleting {
			volumeDef.del(tx, v.ID)
			tx.finishDelete(v.VMID)
			return
		}
		if v.State == api.VolumePending {
			return
		}
		w.State, w.Error = api.VolumeFailed, "the node says that it is gone"
	default:
		return
	}
	if w.State == v.State && w.Used == v.Used && w.Error == v.Error {
		return
	}
	w.ModifyIndex = tx.index
	volumeDef.put(tx, &w)
}
