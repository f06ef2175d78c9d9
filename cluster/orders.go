package cluster

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

const (
	ordersKeepalive = 10 * time.Second
	ordersMinWait   = 2 * time.Second // how long a stream waits for this server to catch up
	ordersPerBatch  = 256
	ordersBytes     = 2 << 20 // of one batch: far below rpc.MaxMessage
)

// orderHub tells the streams of orders what changed. The commit hook calls it,
// so it only marks; the streams read the newest state themselves.
type orderHub struct {
	mu   sync.Mutex
	subs map[api.ID]map[*orderSub]struct{} // by node
}

// orderSub is one stream: what of its node is out of date.
type orderSub struct {
	node    api.ID
	wake    chan struct{} // buffered by one
	vms     map[api.ID]struct{}
	moves   map[api.ID]struct{}
	all     bool // look at every VM of the node, and at every move
	volumes bool
	full    bool // begin anew: restored, or recovery began or ended
}

func newOrderHub() *orderHub { return &orderHub{subs: map[api.ID]map[*orderSub]struct{}{}} }

func (h *orderHub) subscribe(node api.ID) *orderSub {
	sub := &orderSub{node: node, wake: make(chan struct{}, 1), vms: map[api.ID]struct{}{}, moves: map[api.ID]struct{}{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[node] == nil {
		h.subs[node] = map[*orderSub]struct{}{}
	}
	h.subs[node][sub] = struct{}{}
	return sub
}

func (h *orderHub) drop(sub *orderSub) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs[sub.node], sub)
	if len(h.subs[sub.node]) == 0 {
		delete(h.subs, sub.node)
	}
}

// mark changes the streams of a node (all nodes for the zero id); locked.
func (h *orderHub) mark(node api.ID, fn func(*orderSub)) {
	one := func(subs map[*orderSub]struct{}) {
		for sub := range subs {
			fn(sub)
			select {
			case sub.wake <- struct{}{}:
			default:
			}
		}
	}
	if !node.IsZero() {
		one(h.subs[node])
		return
	}
	for _, subs := range h.subs {
		one(subs)
	}
}

// commit marks what the changes of one entry touch.
func (h *orderHub) commit(s *fsm.State, changes []fsm.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) == 0 {
		return
	}
	vm := func(id api.ID) func(*orderSub) { return func(sub *orderSub) { sub.vms[id] = struct{}{} } }
	for i, c := range changes {
		h.markMoves(s, &changes[i])
		for _, v := range []any{c.Old, c.New} {
			switch v := v.(type) {
			case *api.Placement:
				h.mark(v.NodeID, vm(v.VMID))
			case *api.Tombstone:
				h.mark(v.NodeID, vm(v.VMID))
			case *api.VM:
				if p := s.Placement(v.ID); p != nil {
					h.mark(p.NodeID, vm(v.ID))
				}
			case *api.Volume:
				if !v.NodeID.IsZero() {
					h.mark(v.NodeID, func(sub *orderSub) { sub.volumes = true })
				}
				if p := s.Placement(v.VMID); p != nil {
					h.mark(p.NodeID, vm(v.VMID))
				}
			case *api.Network:
				h.mark(api.ID{}, func(sub *orderSub) { sub.all = true })
			case *api.Image:
				h.mark(api.ID{}, func(sub *orderSub) { sub.all, sub.volumes = true, true })
			}
		}
		if old, ok := c.Old.(*fsm.MetaRecord); ok {
			if next, ok := c.New.(*fsm.MetaRecord); ok && old.Generation == next.Generation && (old.Recovery == nil) == (next.Recovery == nil) {
				continue
			}
			h.mark(api.ID{}, func(sub *orderSub) { sub.full = true })
		}
	}
}

// restored makes every stream begin anew.
func (h *orderHub) restored() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mark(api.ID{}, func(sub *orderSub) { sub.full = true })
}

// take returns what is out of date and marks it as seen.
func (h *orderHub) take(sub *orderSub) (vms, moves map[api.ID]struct{}, all, volumes, full bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	vms, moves, all, volumes, full = sub.vms, sub.moves, sub.all, sub.volumes, sub.full
	sub.vms, sub.moves, sub.all, sub.volumes, sub.full = map[api.ID]struct{}{}, map[api.ID]struct{}{}, false, false, false
	return
}

var ordersSeed = maphash.MakeSeed()

// orderStream is the state of one stream.
type orderStream struct {
	s      *Server
	sub    *orderSub
	stream api.Stream
	sent   map[api.ID]uint64 // VM → what was last ordered
	sentM  map[api.ID]uint64 // migration → its part that was last sent
	sentV  uint64            // the volumes and images last sent
}

// nodeOrders streams a node's orders: first all of them, then changes. Absence
// means nothing; a stop is a tombstone.
func (s *Server) nodeOrders(ctx context.Context, req *api.OrdersRequest, stream api.Stream) error {
	if err := ownNode(ctx, req.NodeID); err != nil {
		return err
	}
	if s.fsm.State().Index() < req.MinIndex {
		wait, cancel := context.WithTimeout(ctx, ordersMinWait)
		_, err := s.fsm.WaitIndex(wait, req.MinIndex)
		cancel()
		if err != nil {
			return api.Errorf(api.CodeStale, "this server is at index %d, the node has seen %d", s.fsm.State().Index(), req.MinIndex).
				WithHint("ask another server")
		}
	}
	o := &orderStream{s: s, sub: s.orders.subscribe(req.NodeID), stream: stream, sent: map[api.ID]uint64{}, sentM: map[api.ID]uint64{}}
	defer s.orders.drop(o.sub)
	if err := o.full(); err != nil {
		return err
	}
	alive := time.NewTicker(ordersKeepalive)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-alive.C:
			if _, ok := s.Leader(); !ok && s.lastContact() > ordersKeepalive {
				return api.Errorf(api.CodeNoLeader, "this server has lost its leader").WithHint("ask another server")
			}
			st := s.fsm.State()
			if err := stream.Send(o.batch(st)); err != nil {
				return err
			}
		case <-o.sub.wake:
			if err := o.changes(); err != nil {
				return err
			}
		}
	}
}

// ownNode compares the node in a request with the caller's certificate.
func ownNode(ctx context.Context, node api.ID) error {
	if id := rpc.IdentityFrom(ctx); id == nil || id.NodeID != node || node.IsZero() {
		return api.Errorf(api.CodeWrongRole, "the certificate is not that of node %s", node)
	}
	return nil
}

func (o *orderStream) batch(st *fsm.State) *api.OrderBatch {
	return &api.OrderBatch{Generation: st.Generation(), Index: st.Index(), Recovery: st.Recovery() != nil}
}

// orderParts sends what it is given in batches of a bounded size.
type orderParts struct {
	o    *orderStream
	st   *fsm.State
	b    *api.OrderBatch
	size int
	err  error // the first; nothing is sent after it
}

func (o *orderStream) parts(st *fsm.State) *orderParts {
	return &orderParts{o: o, st: st, b: o.batch(st)}
}

// room begins the next batch if something of a size does not fit into this one.
func (p *orderParts) room(size int) {
	if p.size > 0 && (p.size+size > ordersBytes || len(p.b.Orders) >= ordersPerBatch) {
		p.flush()
	}
	p.size += size
}

func (p *orderParts) order(ord *api.Order) {
	p.room(ord.Msgsize())
	p.b.Orders = append(p.b.Orders, ord)
}

func (p *orderParts) move(m *api.MoveOrder) {
	p.room(m.Msgsize())
	p.b.Moves = append(p.b.Moves, m)
}

// volumes adds volumes, each in one batch with the image that it is cloned from,
// and the other images.
func (p *orderParts) volumes(vs []*api.Volume, ims []*api.Image) {
	used := map[api.ID]bool{}
	for _, v := range vs {
		p.room(v.Msgsize() + orderImageSize)
		p.b.Volumes = append(p.b.Volumes, v)
		if i := slices.IndexFunc(ims, func(im *api.Image) bool { return im.ID == v.Image }); i >= 0 {
			used[v.Image] = true
			p.b.Images = addImage(p.b.Images, ims[i])
		}
	}
	for _, im := range ims {
		if !used[im.ID] {
			p.room(im.Msgsize())
			p.b.Images = addImage(p.b.Images, im)
		}
	}
}

// orderImageSize is what an image may add beside a volume.
const orderImageSize = 16 << 10

// flush sends the batch unless it says nothing.
func (p *orderParts) flush() {
	if p.err == nil && (p.b.Full || len(p.b.Orders)+len(p.b.Moves)+len(p.b.Volumes)+len(p.b.Images) > 0) {
		p.err = p.o.stream.Send(p.b)
	}
	p.b, p.size = p.o.batch(p.st), 0
}

// full sends everything. The first batch says so; what does not fit into it goes
// on in others, as changes do: of no batch does it mean anything what is absent.
func (o *orderStream) full() error {
	o.s.orders.take(o.sub)
	st := o.s.fsm.State()
	b := o.parts(st)
	b.b.Full = true
	clear(o.sent)
	o.fullMoves(st, b)
	for t := range st.TombstonesOn(o.sub.node) {
		b.order(stopOrder(t))
	}
	for p := range st.PlacementsOn(o.sub.node) {
		if ord := o.s.orderOf(st, p); ord != nil && b.err == nil {
			o.sent[p.VMID] = orderSum(ord)
			b.order(ord)
		}
	}
	vs, ims := o.s.volumesFor(st, o.sub.node)
	o.sentV = volumesSum(vs, ims)
	b.volumes(vs, ims)
	b.flush()
	return b.err
}

// changes sends what is out of date.
func (o *orderStream) changes() error {
	vms, moves, all, volumes, full := o.s.orders.take(o.sub)
	if full {
		return o.full()
	}
	st := o.s.fsm.State()
	if all {
		for p := range st.PlacementsOn(o.sub.node) {
			vms[p.VMID] = struct{}{}
		}
		for id := range o.sentM {
			moves[id] = struct{}{}
		}
	}
	b := o.parts(st)
	// Who is to take a VM over learns it with the order at the latest.
	o.moveChanges(st, moves, b)
	ids := make([]api.ID, 0, len(vms))
	for id := range vms {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, c api.ID) int { return slices.Compare(a[:], c[:]) })
	for _, id := range ids {
		// A stop comes before what replaces it.
		if t := st.Tombstone(o.sub.node, id); t != nil {
			b.order(stopOrder(t))
		}
		p := st.Placement(id)
		if p == nil || p.NodeID != o.sub.node {
			delete(o.sent, id)
		} else if ord := o.s.orderOf(st, p); ord != nil {
			if sum := orderSum(ord); sum != o.sent[id] {
				o.sent[id] = sum
				b.order(ord)
			}
		}
		if b.err != nil {
			return b.err
		}
	}
	if volumes {
		v, im := o.s.volumesFor(st, o.sub.node)
		if sum := volumesSum(v, im); sum != o.sentV {
			o.sentV = sum
			b.volumes(v, im)
		}
	}
	b.flush()
	return b.err
}

func stopOrder(t *api.Tombstone) *api.Order {
	return &api.Order{VMID: t.VMID, Namespace: t.Namespace, Name: t.VMName, Epoch: t.Epoch, Index: t.CreateIndex, Stop: true, Force: t.Force}
}

// orderOf makes the order of a placement; nil if its VM is gone.
func (s *Server) orderOf(st *fsm.State, p *api.Placement) *api.Order {
	vm := st.VM(p.VMID)
	if vm == nil {
		return nil
	}
	o := &api.Order{
		VMID: vm.ID, Namespace: vm.Namespace, Name: vm.Name, Epoch: p.Epoch, Index: max(vm.ModifyIndex, p.ModifyIndex),
		Force: vm.ForceStop, Desired: p.Desired, Reboots: vm.Reboots, Resets: vm.Resets, Starts: vm.Starts, Resumes: vm.Resumes,
		SpecVersion: vm.SpecVersion, Spec: &vm.Spec, Volumes: st.DiskVolumes(vm),
	}
	if p.CPUModel != "" && p.CPUModel != vm.Spec.CPU.Model {
		spec := vm.Spec // the node is told what the servers have settled
		spec.CPU.Model, o.Spec = p.CPUModel, &spec
	}
	image := func(name string) {
		if im := st.ImageFor(vm.Namespace, name); name != "" && im != nil {
			o.Images = addImage(o.Images, s.withSources(st, im))
		}
	}
	o.Volumes = slices.DeleteFunc(o.Volumes, func(v *api.Volume) bool { return v == nil })
	for _, v := range o.Volumes {
		if im := st.Image(v.Image); im != nil {
			o.Images = addImage(o.Images, s.withSources(st, im))
		}
	}
	if b := vm.Spec.Boot; b != nil {
		image(b.Kernel)
		image(b.Initrd)
	}
	for _, nic := range vm.Spec.NICs {
		if n := st.Network(nic.Network); n != nil && !slices.Contains(o.Networks, n) {
			o.Networks = append(o.Networks, n)
		}
	}
	return o
}

func addImage(list []*api.Image, im *api.Image) []*api.Image {
	if slices.ContainsFunc(list, func(o *api.Image) bool { return o.ID == im.ID }) {
		return list
	}
	return append(list, im)
}

// withSources fills in where the image's content can be fetched.
func (s *Server) withSources(st *fsm.State, im *api.Image) *api.Image {
	c := *im
	c.Sources = nil
	for _, id := range im.Replicas {
		if n := st.Node(id); n != nil && n.Status != api.NodeLost && n.Status != api.NodeLeft {
			c.Sources = append(c.Sources, n.Address)
		}
	}
	return &c
}

// volumesFor lists the volumes of a node that are not ready or are to go, the
// images that they are cloned from, and the images whose copies are to go.
func (s *Server) volumesFor(st *fsm.State, node api.ID) (vs []*api.Volume, ims []*api.Image) {
	for v := range st.VolumesOn(node) {
		if v.State == api.VolumeReady {
			continue
		}
		vs = append(vs, v)
		if im := st.Image(v.Image); im != nil && v.State != api.VolumeDeleting {
			ims = addImage(ims, s.withSources(st, im))
		}
	}
	for im := range st.Images() {
		if im.State == api.ImageDeleting && slices.Contains(im.Replicas, node) {
			ims = addImage(ims, s.withSources(st, im))
		}
	}
	return vs, ims
}

// orderSum tells whether an order asks for something else than the last one:
// indexes, and what only hints, do not count.
func orderSum(o *api.Order) uint64 {
	var h maphash.Hash
	h.SetSeed(ordersSeed)
	w := func(vs ...uint64) {
		for _, v := range vs {
			maphash.WriteComparable(&h, v)
		}
	}
	flag := func(b bool) uint64 {
		if b {
			return 1
		}
		return 0
	}
	w(uint64(o.Epoch), o.Reboots, o.Resets, o.Starts, o.Resumes, o.SpecVersion, flag(o.Force))
	h.WriteString(string(o.Desired))
	if o.Spec != nil {
		h.WriteString(o.Spec.CPU.Model)
	}
	for _, v := range o.Volumes {
		h.Write(v.ID[:])
		w(uint64(v.Size))
	}
	for _, n := range o.Networks {
		h.WriteString(n.Name)
		w(n.ModifyIndex)
	}
	for _, im := range o.Images {
		h.Write(im.ID[:])
		h.WriteString(string(im.State))
		w(uint64(min(len(im.Sources), 1)))
	}
	return h.Sum64()
}

func volumesSum(vs []*api.Volume, ims []*api.Image) uint64 {
	var h maphash.Hash
	h.SetSeed(ordersSeed)
	for _, v := range slices.SortedFunc(slices.Values(vs), func(a, b *api.Volume) int { return cmp.Compare(string(a.ID[:]), string(b.ID[:])) }) {
		h.Write(v.ID[:])
		h.WriteString(string(v.State))
	}
	for _, im := range ims {
		h.Write(im.ID[:])
		h.WriteString(string(im.State))
		maphash.WriteComparable(&h, min(len(im.Sources), 1))
	}
	return h.Sum64()
}
