package client

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	reportGather = 10 * time.Millisecond  // how long reports gather after a quiet time
	reportBatch  = 200 * time.Millisecond // how long they gather after the last message
	reportMost   = 512                    // of one kind in one message
)

type attestation struct {
	vm    api.ID
	epoch api.Epoch
}

// reporter sends what the node sees. Of each VM, volume and image the newest
// report wins; each is sent until the servers have acknowledged it.
type reporter struct {
	c     *Client
	wake  chan struct{}
	hurry chan struct{} // what is due is not to wait for more: a guest stands still for it

	mu       sync.Mutex
	seq      uint64
	vms      map[api.ID]api.VMReport
	attested map[attestation]api.VMReport
	volumes  map[api.ID]api.VolumeReport
	images   map[api.ID]api.ImageReport
	moves    map[api.ID]movePart // by VM
}

// movePart is what is due of one VM's part in a migration.
type movePart struct {
	vm api.ID
	api.MoveReport
}

func newReporter(c *Client) *reporter {
	return &reporter{
		c: c, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), vms: map[api.ID]api.VMReport{}, attested: map[attestation]api.VMReport{},
		volumes: map[api.ID]api.VolumeReport{}, images: map[api.ID]api.ImageReport{}, moves: map[api.ID]movePart{},
	}
}

func (r *reporter) nextSeq() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	return r.seq
}

// stamp gives a report its time and its place in the session.
func (r *reporter) stamp(v api.VMReport) api.VMReport {
	v.Seq, v.Time = r.nextSeq(), api.TimeOf(time.Now())
	return v
}

// vm takes the newest report of a VM, and returns it with its number.
func (r *reporter) vm(v api.VMReport) api.VMReport {
	v = r.stamp(v)
	r.mu.Lock()
	r.vms[v.VMID] = v
	r.mu.Unlock()
	poke(r.wake)
	return v
}

// attest reports that a VM is absent at an epoch below the one that it has here.
func (r *reporter) attest(id api.ID, e api.Epoch) {
	v := r.stamp(api.VMReport{VMID: id, Epoch: e, State: api.StateAbsent})
	r.mu.Lock()
	r.attested[attestation{id, e}] = v
	r.mu.Unlock()
	poke(r.wake)
}

func (r *reporter) volume(v api.VolumeReport) {
	r.mu.Lock()
	r.volumes[v.ID] = v
	r.mu.Unlock()
	poke(r.wake)
}

// move takes the newest report of a VM's part in a migration.
func (r *reporter) move(vm api.ID, m api.MoveReport) {
	m.Seq, m.Time = r.nextSeq(), api.TimeOf(time.Now())
	r.mu.Lock()
	r.moves[vm] = movePart{vm, m}
	r.mu.Unlock()
	switch m.State {
	case api.EndSwitched, api.EndAbsent, api.EndComplete: // each waits for the other, and the guest for both
		poke(r.hurry)
	}
	poke(r.wake)
}

func (r *reporter) image(i api.ImageReport) {
	r.mu.Lock()
	r.images[i.ID] = i
	r.mu.Unlock()
	poke(r.wake)
}

// run sends batches until the client ends.
func (r *reporter) run() {
	var delay time.Duration
	var last time.Time
	for {
		select {
		case <-r.wake:
		case <-r.c.ctx.Done():
			return
		}
		if !r.gather(max(reportGather, reportBatch-time.Since(last)), delay) {
			return
		}
		last = time.Now()
		if err := r.send(r.c.ctx); err != nil {
			if r.c.ctx.Err() == nil {
				r.c.log.Warn("reports were not taken", "error", err)
			}
			delay = min(max(2*delay, 200*time.Millisecond), 5*time.Second)
			poke(r.wake)
			continue
		}
		delay = 0
	}
}

// gather waits for more to report, unless somebody is in a hurry, and then after a
// failure for as long as that asks for; false when the client ends.
func (r *reporter) gather(d, delay time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.hurry:
	case <-r.c.ctx.Done():
		return false
	}
	return delay == 0 || r.c.sleep(delay)
}

// flush sends everything that is due.
func (r *reporter) flush(ctx context.Context) error { return r.send(ctx) }

// send sends batches until nothing is due.
func (r *reporter) send(ctx context.Context) error {
	for {
		req := r.batch()
		if req == nil {
			return nil
		}
		known := r.c.known() // a report of a session that is not known is passed over
		if err := r.c.servers.call(ctx, callTimeout, "Node.Report", req, &api.WriteMeta{}); err != nil {
			return err
		}
		if known {
			r.c.unarmed(req.VMs)
		}
		r.acked(req)
	}
}

// unarmed tells the VMs of which the servers know now that they are not armed.
func (c *Client) unarmed(reports []api.VMReport) {
	for _, r := range reports {
		v := c.find(r.VMID)
		if v == nil || r.Armed {
			continue
		}
		v.mu.Lock()
		told := v.m.Told
		v.mu.Unlock()
		if told {
			v.post(event{kind: evUnarmed, seq: r.Seq, epoch: r.Epoch})
		}
	}
}

// batch collects what is due, oldest first; nil: nothing. It stays due until acked.
func (r *reporter) batch() *api.NodeReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.vms)+len(r.attested)+len(r.volumes)+len(r.images)+len(r.moves) == 0 {
		return nil
	}
	req := &api.NodeReport{NodeID: r.c.cfg.Node.ID, SessionID: r.c.session}
	for _, v := range r.attested {
		req.VMs = append(req.VMs, v)
	}
	for _, v := range r.vms {
		req.VMs = append(req.VMs, v)
	}
	slices.SortFunc(req.VMs, func(a, b api.VMReport) int { return int(int64(a.Seq - b.Seq)) })
	for _, v := range r.volumes {
		req.Volumes = append(req.Volumes, v)
	}
	slices.SortFunc(req.Volumes, func(a, b api.VolumeReport) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for _, i := range r.images {
		req.Images = append(req.Images, i)
	}
	slices.SortFunc(req.Images, func(a, b api.ImageReport) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for _, m := range r.moves {
		req.Moves = append(req.Moves, m.MoveReport)
	}
	slices.SortFunc(req.Moves, func(a, b api.MoveReport) int { return int(int64(a.Seq - b.Seq)) })
	req.Moves = req.Moves[:min(len(req.Moves), reportMost)]
	req.VMs = req.VMs[:min(len(req.VMs), reportMost)]
	req.Volumes = req.Volumes[:min(len(req.Volumes), reportMost)]
	req.Images = req.Images[:min(len(req.Images), reportMost)]
	return req
}

// acked takes off what the servers have, unless it changed in the meantime.
func (r *reporter) acked(req *api.NodeReport) {
	r.mu.Lock()
	for _, v := range req.VMs {
		if r.vms[v.VMID].Seq == v.Seq {
			delete(r.vms, v.VMID)
		}
		if k := (attestation{v.VMID, v.Epoch}); r.attested[k].Seq == v.Seq {
			delete(r.attested, k)
		}
	}
	for _, v := range req.Volumes {
		if r.volumes[v.ID] == v {
			delete(r.volumes, v.ID)
		}
	}
	for _, i := range req.Images {
		if r.images[i.ID] == i {
			delete(r.images, i.ID)
		}
	}
	var settled []movePart
	for _, m := range req.Moves {
		for vm, p := range r.moves {
			if p.Migration == m.Migration && p.Seq == m.Seq {
				delete(r.moves, vm)
				if m.Clean {
					settled = append(settled, p)
				}
			}
		}
	}
	r.mu.Unlock()
	for _, p := range settled {
		if v := r.c.find(p.vm); v != nil {
			v.post(event{kind: evMoveKnown, move: &moveOrder{id: p.Migration}})
		}
	}
	for _, v := range req.VMs {
		if v.State == api.StateAbsent {
			r.c.forget(v.VMID, v.Epoch)
		}
	}
	for _, v := range req.Volumes {
		if v.State == api.VolumeAbsent {
			r.c.forgetVolume(v.ID)
		}
	}
}
