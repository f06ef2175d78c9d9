package scheduler

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// request is what one VM or volume asks for, bound to its class.
type request struct {
	vm     *api.VM // nil for a volume
	class  *class
	pin    int32  // the only node that will do, or -1 for any
	broken string // why no node will ever do until something is changed
	why    string // the check that broke it, or that pins
	rules  rules
	// cordoned nodes will do too: somebody named the node.
	cordoned bool
}

// unpinned: any node will do.
const unpinned = -1

// requestOf binds a VM to its class and its rules.
func (e *engine) requestOf(vm *api.VM, vols []*api.Volume) request {
	r := request{vm: vm, pin: unpinned}
	var on api.ID
	for k, v := range vols {
		switch {
		case v == nil:
			r.broken, r.why = fmt.Sprintf("disk %q has no volume", vm.Spec.Disks[k].Name), FailVolume
			return r
		case v.State == api.VolumeDeleting:
			r.broken, r.why = fmt.Sprintf("volume %q is being deleted", v.Name), FailVolume
			return r
		case v.NodeID.IsZero():
		case on.IsZero():
			on = v.NodeID
			i, ok := e.cols.index[on]
			if !ok {
				r.broken, r.why = fmt.Sprintf("volume %q is on node %s, which is gone", v.Name, on.Short()), FailVolume
				return r
			}
			r.pin, r.why = i, FailVolume
		case on != v.NodeID:
			r.broken, r.why = fmt.Sprintf("its volumes are on different nodes: %q is not where the others are", v.Name), FailVolume
			return r
		}
	}
	r.class, r.broken = e.classOf(vm, vols, fsm.AskOf(&vm.Spec, vols))
	if r.broken != "" {
		r.why = FailSpec
		return r
	}
	r.rules = e.rulesOf(vm)
	return r
}

// classOf returns the class of a VM that asks for so much, or the reason why it
// can have none.
func (e *engine) classOf(vm *api.VM, vols []*api.Volume, ask fsm.Ask) (*class, string) {
	spec := &vm.Spec
	b := appendText(e.scratch[:0], "vm")
	b = appendCount(b, len(spec.Datacenters))
	for _, d := range spec.Datacenters {
		b = appendText(b, d)
	}
	b = appendCount(b, len(spec.Constraints))
	for i := range spec.Constraints {
		c := &spec.Constraints[i]
		b = appendText(appendText(appendText(b, c.Attribute), c.Operator), c.Value)
	}
	b = appendText(appendText(appendText(b, string(spec.Firmware)), spec.CPU.Model), guardKey(spec))
	b = appendCount(b, len(spec.NICs))
	for i := range spec.NICs {
		b = appendText(b, spec.NICs[i].Network)
	}
	for _, v := range vols {
		b = appendText(b, v.Pool)
	}
	cut := len(b)
	b = binary.AppendVarint(binary.AppendVarint(b, int64(ask.CPU)), int64(ask.Memory))
	b = appendCount(b, len(ask.Disk))
	for _, d := range ask.Disk {
		b = binary.AppendVarint(appendText(b, d.Pool), int64(d.Bytes))
	}
	var images []*api.Image
	want := func(im *api.Image, name string) string {
		switch {
		case im == nil:
			return fmt.Sprintf("image %s does not exist", name)
		case !available(im):
			return fmt.Sprintf("no node holds the content of image %q yet", im.Name)
		}
		images = append(images, im)
		b = append(b, im.ID[:]...)
		return ""
	}
	for _, v := range vols {
		if v.State == api.VolumePending && !v.Image.IsZero() {
			if broken := want(e.state.Image(v.Image), v.Image.Short()); broken != "" {
				return nil, broken
			}
		}
	}
	if boot := spec.Boot; boot != nil {
		for _, name := range []string{boot.Kernel, boot.Initrd} {
			if name == "" {
				continue
			}
			if broken := want(e.state.ImageFor(vm.Namespace, name), fmt.Sprintf("%q", name)); broken != "" {
				return nil, broken
			}
		}
	}
	e.scratch = b
	e.tick++
	if c := e.classes[string(b)]; c != nil {
		c.used, c.filter.used = e.tick, e.tick
		return c, ""
	}
	c := &class{key: string(b), filter: e.filterOf(b[:cut], spec, vols), used: e.tick}
	c.need = Shape{int64(ask.CPU), int64(ask.Memory)}
	for _, d := range ask.Disk {
		c.disks = append(c.disks, e.diskNeedOf(d.Pool, int64(d.Bytes)))
	}
	for _, im := range images {
		c.images = append(c.images, e.imageNeedOf(im))
	}
	e.shelve(c)
	return c, ""
}

// volumeClass is the class of a standalone volume: the node whose pool has the
// largest part free.
func (e *engine) volumeClass(v *api.Volume) *class {
	b := appendText(appendText(e.scratch[:0], "volume"), v.Pool)
	cut := len(b)
	gone := v.State == api.VolumeDeleting // any node that has the pool can remove it
	if !gone {
		b = binary.AppendVarint(b, int64(v.Size))
		b = append(b, v.Image[:]...)
	}
	e.scratch = b
	e.tick++
	if c := e.classes[string(b)]; c != nil {
		c.used, c.filter.used = e.tick, e.tick
		return c
	}
	c := &class{key: string(b), filter: e.filterOf(b[:cut], &api.VMSpec{}, []*api.Volume{v}), used: e.tick, volume: true}
	if !gone {
		c.disks = []diskNeed{e.diskNeedOf(v.Pool, int64(v.Size))}
	}
	if im := e.state.Image(v.Image); im != nil && !gone {
		c.images = []imageNeed{e.imageNeedOf(im)}
	}
	e.shelve(c)
	return c
}

// stayClass is the class of VMs that start again where they are.
func (e *engine) stayClass(need Shape) *class {
	b := appendText(e.scratch[:0], "stay")
	cut := len(b)
	b = binary.AppendVarint(binary.AppendVarint(b, need.CPU), need.Memory)
	e.scratch = b
	e.tick++
	if c := e.classes[string(b)]; c != nil {
		c.used, c.filter.used = e.tick, e.tick
		return c
	}
	f := e.filters[string(b[:cut])]
	if f == nil {
		f = &filter{any: true}
		e.fileFilter(b[:cut], f)
	}
	c := &class{key: string(b), filter: f, need: need, used: e.tick, stay: true}
	e.shelve(c)
	return c
}

func (e *engine) diskNeedOf(pool string, need int64) diskNeed {
	return diskNeed{pool: pool, col: e.cols.disk(pool), need: need}
}

func (e *engine) imageNeedOf(im *api.Image) imageNeed {
	n := imageNeed{id: im.ID, size: int64(max(im.Size, 1))}
	n.holds = n.holds.grow(len(e.cols.ids))
	for _, id := range im.Replicas {
		if i, ok := e.cols.index[id]; ok {
			n.holds.put(i, true)
		}
	}
	return n
}

// filterOf returns the filter of a key, compiled and evaluated once.
func (e *engine) filterOf(key []byte, spec *api.VMSpec, vols []*api.Volume) *filter {
	if f := e.filters[string(key)]; f != nil {
		f.used = e.tick
		return f
	}
	var pools []needPool
	for _, v := range vols {
		p := e.state.Pool(v.Pool)
		need := needPool{name: v.Pool, shared: p != nil && p.Shared}
		if !slices.Contains(pools, need) {
			pools = append(pools, need)
		}
	}
	f := newFilter(spec, pools, e.state.Network)
	f.guard, f.leaseOnly = guardKey(spec) != "", e.state.HAConfig().Fencing == api.FencingLeaseOnly
	e.fileFilter(key, f)
	return f
}

// fileFilter evaluates a filter and puts it into the cache.
func (e *engine) fileFilter(key []byte, f *filter) {
	f.live, f.used = true, e.tick
	f.pass = f.pass.grow(len(e.cols.ids))
	for i, n := range e.cols.nodes {
		if n != nil && passes(f, n) {
			f.pass.put(int32(i), true)
		}
	}
	if len(e.filters) >= maxFilters {
		shed(e.filters, func(f *filter) uint64 { return f.used }, func(f *filter) { f.live = false })
		for k, c := range e.classes {
			if !c.filter.live {
				delete(e.classes, k)
			}
		}
	}
	e.filters[string(key)] = f
}

// guardKey tells the VMs that need a guard from the others.
func guardKey(spec *api.VMSpec) string {
	if spec.HA.Policy == api.HARestart {
		return api.HARestart
	}
	return ""
}

// maxFilters and maxCells bound the caches: filters by number, classes by the
// scores that they hold in all.
const (
	maxFilters = 1024
	maxCells   = 1 << 23
)

// shelve puts a class into the cache.
func (e *engine) shelve(c *class) {
	if len(e.classes) >= max(16, maxCells/max(1, len(e.cols.ids))) {
		shed(e.classes, func(c *class) uint64 { return c.used }, nil)
	}
	e.classes[c.key] = c
}

// shed removes the half of a cache that was not used for longest.
func shed[T any](m map[string]T, used func(T) uint64, dropped func(T)) {
	ticks := make([]uint64, 0, len(m))
	for _, v := range m {
		ticks = append(ticks, used(v))
	}
	slices.Sort(ticks)
	median := ticks[len(ticks)/2]
	for k, v := range m {
		if used(v) < median {
			delete(m, k)
			if dropped != nil {
				dropped(v)
			}
		}
	}
}

func appendCount(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }
