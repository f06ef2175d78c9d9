package fsm

import (
	"slices"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func ptr[T any](v T) *T { return &v }

func TestVMIsCreatedWithItsVolumes(t *testing.T) {
	w := region(t, 1)
	a := w.ok(&VMApply{ID: id('m', 1), Spec: specOf("web", api.Disk{Name: "root", Image: "debian"}, local("data")), VolumeIDs: volumeIDs(1, 2)}).(*api.VMApplied)
	must.True(t, a.Created)
	must.Eq(t, api.PowerRunning, a.VM.Power)
	must.Eq(t, 1, a.VM.SpecVersion)
	must.Eq(t, a.VM, w.s().VMByName("default", "web"))

	vols := w.s().DiskVolumes(a.VM)
	must.Len(t, 2, vols)
	must.Eq(t, "web-root", vols[0].Name)
	must.Eq(t, 2*api.GiB, vols[0].Size, must.Sprint("not smaller than its image"))
	must.Eq(t, api.VolumePending, vols[0].State)
	must.True(t, vols[0].NodeID.IsZero(), must.Sprint("local volumes get a node with the placement"))
	must.True(t, vols[1].Owned)
}

func TestVMApplyIsRefused(t *testing.T) {
	w := region(t, 1)
	w.vm(1)
	apply := func(change func(*VMApply)) *VMApply {
		c := &VMApply{ID: id('m', 2), Spec: specOf("other")}
		change(c)
		return c
	}
	disk := func(d api.Disk) func(*VMApply) {
		return func(c *VMApply) { c.Spec.Disks, c.VolumeIDs = []api.Disk{d}, volumeIDs(2, 1) }
	}
	for name, tc := range map[string]struct {
		code api.Code
		cmd  *VMApply
	}{
		"no such namespace":      {api.CodeNotFound, apply(func(c *VMApply) { c.Spec.Namespace = "nope" })},
		"no such network":        {api.CodeNotFound, apply(func(c *VMApply) { c.Spec.NICs[0].Network = "nope" })},
		"no such image":          {api.CodeNotFound, apply(disk(api.Disk{Name: "a", Image: "nope"}))},
		"no such kernel":         {api.CodeNotFound, apply(func(c *VMApply) { c.Spec.Boot = &api.BootSpec{Kernel: "nope"} })},
		"no such volume":         {api.CodeNotFound, apply(disk(api.Disk{Name: "a", Volume: "nope"}))},
		"an id twice":            {api.CodeExists, apply(func(c *VMApply) { c.ID = id('m', 1) })},
		"must not exist":         {api.CodeExists, apply(func(c *VMApply) { c.Spec.Name = "vm-1"; c.CheckIndex = ptr(uint64(0)) })},
		"changed meanwhile":      {api.CodeConflict, apply(func(c *VMApply) { c.Spec.Name = "vm-1"; c.CheckIndex = ptr(uint64(1)) })},
		"gone meanwhile":         {api.CodeConflict, apply(func(c *VMApply) { c.CheckIndex = ptr(uint64(7)) })},
		"a name with a slash":    {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Name = "../etc" })},
		"no cores":               {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.CPU.Cores = 0 })},
		"negative memory":        {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Memory = -1 })},
		"control characters":     {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Description = "a\x00b" })},
		"two lines":              {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.CPU.Model = "a\nb" })},
		"unsorted labels":        {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Labels = api.Pairs{{K: "b"}, {K: "a"}} })},
		"a disk without source":  {api.CodeInvalid, apply(disk(api.Disk{Name: "a"}))},
		"a disk of two sources":  {api.CodeInvalid, apply(disk(api.Disk{Name: "a", Volume: "v", Size: 1}))},
		"no id for the volume":   {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Disks = []api.Disk{local("a")} })},
		"an unknown HA policy":   {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.HA.Policy = "maybe" })},
		"an unknown constraint":  {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Constraints = []api.Constraint{{Attribute: "a", Operator: "~"}} })},
		"an unknown power state": {api.CodeInvalid, apply(func(c *VMApply) { c.Power = "warp" })},
		"an extreme affinity":    {api.CodeInvalid, apply(func(c *VMApply) { c.Spec.Affinities = []api.Affinity{{Weight: 101}} })},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			must.NotEq(t, "", w.refused(tc.code, tc.cmd).Message)
		})
	}
}

func TestVMSpecHasHistoryAndCanBeReverted(t *testing.T) {
	w := region(t, 1)
	vm := w.vm(1)
	first := vm.Spec
	same := w.ok(&VMApply{ID: id('m', 9), Spec: first}).(*api.VMApplied)
	must.False(t, same.Changed, must.Sprint("the same spec changes nothing"))

	for i := range keepVersions + 5 {
		spec := first
		spec.Description = string(rune('a' + i))
		a := w.ok(&VMApply{ID: id('m', 9), Spec: spec, CheckIndex: &vm.ModifyIndex}).(*api.VMApplied)
		must.True(t, a.Changed)
		vm = a.VM
		must.Eq(t, id('m', 1), vm.ID, must.Sprint("the id of an existing VM stays"))
	}
	versions := slices.Collect(w.s().VMVersions(vm.ID))
	must.Len(t, keepVersions+1, versions)
	must.Eq(t, vm.SpecVersion, versions[keepVersions].Version)
	must.Eq(t, vm.Spec, versions[keepVersions].Spec)

	w.refused(api.CodeNotFound, &VMRevert{ID: vm.ID, Version: 1})
	w.refused(api.CodeConflict, &VMRevert{ID: vm.ID, Version: 10, CheckIndex: ptr(uint64(1))})
	old := w.s().VMVersion(vm.ID, 10)
	a := w.ok(&VMRevert{ID: vm.ID, Version: 10}).(*api.VMApplied)
	must.Eq(t, old.Spec, a.VM.Spec)
	must.Eq(t, vm.SpecVersion+1, a.VM.SpecVersion)
}

func TestVMDisksFollowTheSpec(t *testing.T) {
	w := region(t, 2)
	w.ok(&VolumeCreate{Volume: api.Volume{ID: id('V', 1), Namespace: "default", Name: "mine", Size: api.GiB, NodeID: id('n', 1)}})
	w.ok(&VolumeCreate{Volume: api.Volume{ID: id('V', 2), Namespace: "default", Name: "far", Size: api.GiB, NodeID: id('n', 2)}})

	// Existing local volumes on two nodes can never run together.
	both := &VMApply{ID: id('m', 1), Spec: specOf("vm-1", api.Disk{Name: "a", Volume: "mine"}, api.Disk{Name: "b", Volume: "far"}), VolumeIDs: volumeIDs(1, 2)}
	w.refused(api.CodeState, both)

	w.vm(1, api.Disk{Name: "a", Volume: "mine"}, local("root"))
	must.Eq(t, id('m', 1), w.s().Volume(id('V', 1)).VMID)
	w.refused(api.CodeInUse, &VolumeDelete{ID: id('V', 1)})
	w.refused(api.CodeInUse, &VMApply{ID: id('m', 2), Spec: specOf("vm-2", api.Disk{Name: "a", Volume: "mine"}), VolumeIDs: volumeIDs(2, 1)})
	must.Eq(t, api.CodePlacement, w.place(w.item(PlacePlace, 1, 2)).Err.Code, must.Sprint("its volume is on node 1"))
	p := w.placed(1, 1)
	must.Eq(t, id('n', 1), w.s().VolumeByName("default", "vm-1-root").NodeID)
	w.report(1, 1, p.Epoch, api.StateRunning)

	spec := w.s().VM(id('m', 1)).Spec
	grown := spec
	grown.Disks = slices.Clone(spec.Disks)
	grown.Disks[1].Size *= 2
	w.refused(api.CodeUnsupported, &VMApply{ID: id('m', 1), Spec: grown, VolumeIDs: volumeIDs(1, 2)})

	// A disk more is made where the VM is, if there is room.
	more := spec
	more.Disks = append(slices.Clone(spec.Disks), api.Disk{Name: "big", Size: 200 * api.GiB})
	w.refused(api.CodePoolFull, &VMApply{ID: id('m', 1), Spec: more, VolumeIDs: volumeIDs(3, 3)})
	more.Disks[2].Size = api.GiB
	w.ok(&VMApply{ID: id('m', 1), Spec: more, VolumeIDs: volumeIDs(3, 3)})
	must.Eq(t, id('n', 1), w.s().VolumeByName("default", "vm-1-big").NodeID)

	// A disk less only when it is not in use.
	w.refused(api.CodeState, &VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 2)})
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.report(1, 1, p.Epoch, api.StateStopped)
	less := spec
	less.Disks = spec.Disks[1:]
	less.Disks[0].Keep = true
	w.ok(&VMApply{ID: id('m', 1), Spec: less, VolumeIDs: volumeIDs(1, 1)})
	must.Eq(t, api.VolumeDeleting, w.s().VolumeByName("default", "vm-1-big").State)
	must.True(t, w.s().Volume(id('V', 1)).VMID.IsZero(), must.Sprint("an existing volume is free again"))
	must.False(t, w.s().VolumeByName("default", "vm-1-root").Owned, must.Sprint("keep takes effect"))
}

func TestVMPower(t *testing.T) {
	w := region(t, 1)
	w.vm(1, local("root"))
	m := id('m', 1)
	p := w.placed(1, 1)
	must.Eq(t, api.PowerRunning, p.Desired)
	w.report(1, 1, p.Epoch, api.StateRunning)

	w.ok(&VMPower{ID: m, Action: "pause"})
	must.Eq(t, api.PowerPaused, w.s().Placement(m).Desired)
	w.refused(api.CodeState, &VMPower{ID: m, Action: "reboot"})
	w.ok(&VMPower{ID: m, Action: "resume"})
	must.False(t, w.ok(&VMPower{ID: m, Action: "resume"}).(*api.VMApplied).Changed)
	must.Eq(t, 0, w.s().VM(m).Resumes)
	// What the hypervisor paused is wanted running already: the order is counted.
	w.report(1, 1, p.Epoch, api.StatePaused, func(r *api.VMReport) { r.Reason = "io-error" })
	must.True(t, w.ok(&VMPower{ID: m, Action: "resume"}).(*api.VMApplied).Changed)
	must.Eq(t, 1, w.s().VM(m).Resumes)
	must.Eq(t, api.PowerRunning, w.s().VM(m).Power)
	w.report(1, 1, p.Epoch, api.StateRunning)
	w.ok(&VMPower{ID: m, Action: "reboot"})
	w.ok(&VMPower{ID: m, Action: "reset"})
	must.Eq(t, 1, w.s().VM(m).Reboots)
	must.Eq(t, 1, w.s().VM(m).Resets)

	// A stop keeps the placement and its disk, and frees CPU and memory when
	// the node says that it has stopped.
	w.ok(&VMPower{ID: m, Action: "stop"})
	must.Eq(t, api.PowerStopped, w.s().Placement(m).Desired)
	must.Eq(t, api.Cores(2), w.s().Used(id('n', 1)).CPU)
	must.True(t, w.ok(&VMPower{ID: m, Action: "stop", Force: true}).(*api.VMApplied).Changed)
	must.True(t, w.s().VM(m).ForceStop)
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Eq(t, api.Resources{}, w.s().Used(id('n', 1)))
	must.Eq(t, 10*api.GiB, w.s().Promised(id('n', 1), "default"))
	w.refused(api.CodeState, &VMPower{ID: m, Action: "pause"})

	// A start waits for the scheduler to admit it: same node, same epoch.
	w.ok(&VMPower{ID: m, Action: "start"})
	must.Eq(t, 1, w.s().VM(m).Starts)
	must.Eq(t, api.PowerStopped, w.s().Placement(m).Desired)
	r := w.place(w.item(PlaceAdmit, 1, 1))
	must.Nil(t, r.Err)
	must.Eq(t, p.Epoch, r.Epoch)
	must.Eq(t, api.PowerRunning, w.s().Placement(m).Desired)
	must.Eq(t, api.Cores(2), w.s().Used(id('n', 1)).CPU)
	must.NotNil(t, w.place(w.item(PlaceAdmit, 1, 1)).Err, must.Sprint("only once"))
}

// X13: one MAC address, one VM of a network.
func TestMACAddressesAreOfOneVM(t *testing.T) {
	w := region(t, 1)
	w.ok(&NetworkApply{Network: api.Network{Name: "wan", Type: "bridge", Bridge: "br1"}})
	w.ok(&NamespaceApply{Namespace: api.Namespace{Name: "dev"}})
	const mac = "52:54:00:00:00:01"
	with := func(name, ns, network string) *VMApply {
		s := specOf(name)
		s.Namespace, s.NICs = ns, []api.NIC{{Network: network, MAC: mac}}
		return &VMApply{ID: id('m', int(w.index)+10), Spec: s}
	}
	vm := w.ok(with("a", "default", "lan")).(*api.VMApplied).VM
	must.StrContains(t, w.refused(api.CodeInUse, with("b", "default", "lan")).Message, "VM a")
	must.StrNotContains(t, w.refused(api.CodeInUse, with("b", "dev", "lan")).Message, "VM a")
	w.ok(with("b", "default", "wan"))
	w.refused(api.CodeInUse, with("b", "default", "lan"))
	s := vm.Spec
	s.Description = "its own is no other's"
	w.ok(&VMApply{ID: vm.ID, Spec: s})
	s.NICs = []api.NIC{{Network: "lan"}}
	w.ok(&VMApply{ID: vm.ID, Spec: s})
	w.ok(with("c", "dev", "lan"))
	w.refused(api.CodeInUse, &VMRevert{ID: vm.ID, Version: 1})
}

func TestVMProtectionRefusesDeleteAndReset(t *testing.T) {
	w := region(t, 1)
	spec := specOf("vm-1")
	spec.Protection = true
	w.ok(&VMApply{ID: id('m', 1), Spec: spec})
	w.refused(api.CodeProtected, &VMDelete{ID: id('m', 1)})
	w.refused(api.CodeProtected, &VMPower{ID: id('m', 1), Action: "reset"})
}

func TestVMNeverPlacedIsDeletedAtOnce(t *testing.T) {
	w := region(t, 1)
	w.vm(1, local("root"), shared("data"))
	w.refused(api.CodeConflict, &VMDelete{ID: id('m', 1), CheckIndex: 1})
	w.ok(&VMDelete{ID: id('m', 1)})
	must.Nil(t, w.s().VM(id('m', 1)))
	must.Eq(t, 0, w.s().volumes.len())
	w.refused(api.CodeNotFound, &VMDelete{ID: id('m', 1)})
}

func TestVMDeleteWaitsForTheNode(t *testing.T) {
	w := region(t, 1)
	vm := w.vm(1, local("root"), shared("data"), api.Disk{Name: "keep", Size: api.GiB, Keep: true})
	spec := vm.Spec
	spec.Description = "changed"
	w.ok(&VMApply{ID: vm.ID, Spec: spec, VolumeIDs: volumeIDs(1, 3)})
	p := w.placed(1, 1)
	v := volumeIDs(1, 3)
	w.volumes(1, api.VolumeReady, v...)
	w.report(1, 1, p.Epoch, api.StateRunning)

	w.ok(&VMDelete{ID: vm.ID})
	must.True(t, w.s().VM(vm.ID).Deleting)
	must.Nil(t, w.s().Placement(vm.ID))
	stone := w.s().Tombstone(id('n', 1), vm.ID)
	must.Eq(t, p.Epoch, stone.Epoch)
	must.False(t, stone.Force)
	must.Eq(t, api.VolumeReady, w.s().Volume(v[0]).State, must.Sprint("its disks are in use until the node attests"))

	w.refused(api.CodeState, &VMPower{ID: vm.ID, Action: "start"})
	w.refused(api.CodeState, &VMApply{ID: id('m', 2), Spec: specOf("vm-1")})
	w.ok(&VMDelete{ID: vm.ID, Force: true})
	must.True(t, w.s().Tombstone(id('n', 1), vm.ID).Force, must.Sprint("a second delete can force"))

	w.report(1, 1, p.Epoch-1, api.StateAbsent)
	must.NotNil(t, w.s().Tombstone(id('n', 1), vm.ID), must.Sprint("an attestation of an older epoch says nothing"))
	w.report(1, 1, p.Epoch, api.StateAbsent)
	must.Nil(t, w.s().Tombstone(id('n', 1), vm.ID))
	must.Eq(t, api.VolumeDeleting, w.s().Volume(v[0]).State)
	must.Eq(t, api.VolumeDeleting, w.s().Volume(v[1]).State)
	must.Eq(t, id('n', 1), w.s().Volume(v[1]).NodeID, must.Sprint("a node is told to remove a shared volume"))
	must.True(t, w.s().Volume(v[2]).VMID.IsZero())

	w.volumes(1, api.VolumeAbsent, v[0])
	must.NotNil(t, w.s().VM(vm.ID))
	w.volumes(1, api.VolumeAbsent, v[1])
	must.Nil(t, w.s().VM(vm.ID))
	must.Eq(t, 0, w.s().versions.len())
	must.Eq(t, api.VolumeReady, w.s().Volume(v[2]).State, must.Sprint("a kept volume stays"))
}

func TestVMDisksStayUntilEveryNodeHasAttested(t *testing.T) {
	w := region(t, 2)
	vm := w.vm(1, shared("root"))
	p := w.placed(1, 1)
	w.released(1, 1)
	q := w.placed(1, 2)
	v := volumeIDs(1, 1)[0]
	w.volumes(2, api.VolumeReady, v)
	w.ok(&VMDelete{ID: vm.ID})
	must.Len(t, 2, slices.Collect(w.s().TombstonesOf(vm.ID)))
	w.report(2, 1, q.Epoch, api.StateAbsent)
	must.Eq(t, api.VolumeReady, w.s().Volume(v).State, must.Sprint("node 1 may hold it still"))
	w.report(1, 1, p.Epoch, api.StateAbsent)
	must.Eq(t, api.VolumeDeleting, w.s().Volume(v).State)
	w.volumes(1, api.VolumeAbsent, v)
	must.Nil(t, w.s().VM(vm.ID))
}
