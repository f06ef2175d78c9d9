package fsm

import (
	"fmt"
	"slices"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestClusterIsInitialisedOnce(t *testing.T) {
	w := region(t, 0)
	must.Eq(t, "r1", w.s().RegionName())
	must.Eq(t, id('c', 1), w.s().ClusterID())
	must.Eq(t, id('c', 2), w.s().RegionID())
	must.Eq(t, "pem", string(w.s().CA().Public))
	must.NotNil(t, w.s().Namespace("default"))
	must.Eq(t, 1, w.s().SchedulerConfig().Expect)
	w.ok(&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2)})
	w.refused(api.CodeExists, &ClusterInit{ClusterID: id('c', 9), Region: "r1", RegionID: id('c', 2)})
	w.refused(api.CodeInvalid, &ClusterInit{})

	w.ok(&KeyringPut{Key: KeyRecord{Name: KeyCA, Version: 2, Sealed: []byte("new")}})
	w.refused(api.CodeConflict, &KeyringPut{Key: KeyRecord{Name: KeyCA, Version: 1}})
	must.Eq(t, "new", string(w.s().Key(KeyCA).Sealed))
	must.Len(t, 1, slices.Collect(w.s().Keys()))
}

func TestSchedulerConfig(t *testing.T) {
	w := region(t, 0)
	c := w.ok(&SchedulerSet{Config: api.SchedulerConfig{Algorithm: "spread", CPURatio: 2}}).(*api.SchedulerConfig)
	must.Eq(t, *c, w.s().SchedulerConfig())
	must.Eq(t, w.index, w.s().TableIndex(TableMeta))
	w.refused(api.CodeConflict, &SchedulerSet{CheckIndex: ptr(uint64(1))})
	w.refused(api.CodeInvalid, &SchedulerSet{Config: api.SchedulerConfig{Algorithm: "dice"}})
}

func TestNamespaces(t *testing.T) {
	w := region(t, 0)
	n := w.ok(&NamespaceApply{Namespace: api.Namespace{Name: "dev"}, CheckIndex: ptr(uint64(0))}).(*api.Namespace)
	m := w.ok(&NamespaceApply{Namespace: api.Namespace{Name: "dev", Description: "x"}, CheckIndex: &n.ModifyIndex}).(*api.Namespace)
	must.Eq(t, n.CreateIndex, m.CreateIndex)
	must.Len(t, 2, slices.Collect(w.s().Namespaces()))
	w.refused(api.CodeInvalid, &NamespaceApply{Namespace: api.Namespace{Name: "a b"}})
	w.refused(api.CodeProtected, &NamespaceDelete{Name: "default"})
	w.refused(api.CodeNotFound, &NamespaceDelete{Name: "nope"})
	w.refused(api.CodeConflict, &NamespaceDelete{Name: "dev", CheckIndex: 1})

	spec := specOf("a", local("root"))
	spec.Namespace = "dev"
	w.ok(&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 1)})
	must.Len(t, 1, slices.Collect(w.s().VMsIn("dev")))
	w.refused(api.CodeInUse, &NamespaceDelete{Name: "dev"})
	w.ok(&VMDelete{ID: id('m', 1)})
	w.ok(&VolumeCreate{Volume: api.Volume{ID: id('V', 1), Namespace: "dev", Name: "v", Size: 1}})
	w.refused(api.CodeInUse, &NamespaceDelete{Name: "dev"})
	w.ok(&VolumeDelete{ID: id('V', 1)})
	w.ok(&ImageCreate{Image: api.Image{ID: id('i', 2), Namespace: "dev", Name: "i", Kind: "disk", Format: "raw", SHA256: fmt.Sprintf("%064x", 2), State: api.ImagePending}})
	w.refused(api.CodeInUse, &NamespaceDelete{Name: "dev"})
	w.ok(&ImageDelete{ID: id('i', 2)})
	w.ok(&NamespaceDelete{Name: "dev"})
	must.Nil(t, w.s().Namespace("dev"))
}

func TestPools(t *testing.T) {
	w := region(t, 1)
	p := w.ok(&PoolApply{Pool: api.Pool{Name: "default", Ratio: 2}}).(*api.Pool)
	must.Eq(t, "dir", p.Type, must.Sprint("what a node brought stays"))
	w.refused(api.CodeInUse, &PoolApply{Pool: api.Pool{Name: "default", Type: "sim"}})
	w.refused(api.CodeConflict, &PoolApply{Pool: api.Pool{Name: "default"}, CheckIndex: ptr(uint64(1))})
	w.refused(api.CodeInvalid, &PoolApply{Pool: api.Pool{Name: "x", Ratio: 1e9}})
	w.refused(api.CodeInUse, &PoolDelete{Name: "default"})
	w.ok(&PoolApply{Pool: api.Pool{Name: "spare"}})
	must.Len(t, 3, slices.Collect(w.s().Pools()))
	w.ok(&VolumeCreate{Volume: api.Volume{ID: id('V', 1), Namespace: "default", Name: "v", Size: 1, Pool: "spare"}})
	w.refused(api.CodeInUse, &PoolDelete{Name: "spare"})
	w.ok(&VolumeDelete{ID: id('V', 1)})
	w.refused(api.CodeConflict, &PoolDelete{Name: "spare", CheckIndex: 1})
	w.ok(&PoolDelete{Name: "spare"})
	w.refused(api.CodeNotFound, &PoolDelete{Name: "spare"})
}

func TestNetworks(t *testing.T) {
	w := region(t, 0)
	n := w.ok(&NetworkApply{Network: api.Network{Name: "nat", Type: "nat", CIDR: "10.1.0.0/24", MTU: 1400}}).(*api.Network)
	w.ok(&NetworkApply{Network: api.Network{Name: "nat", Type: "nat", CIDR: "10.2.0.0/24"}, CheckIndex: &n.ModifyIndex})
	must.Eq(t, "10.2.0.0/24", w.s().Network("nat").CIDR)
	must.Len(t, 2, slices.Collect(w.s().Networks()))
	for _, bad := range []api.Network{{Name: "x", Type: "vxlan"}, {Name: "x", Type: "bridge", Bridge: "br/../0"}, {Name: "x", Type: "nat", CIDR: "10.0.0.1"}, {Name: "x", Type: "nat", MTU: 3}} {
		w.refused(api.CodeInvalid, &NetworkApply{Network: bad})
	}
	w.refused(api.CodeExists, &NetworkApply{Network: api.Network{Name: "nat", Type: "nat"}, CheckIndex: ptr(uint64(0))})
	// Two NAT networks never overlap: hosts have an address in each.
	for _, cidr := range []string{"10.2.0.0/24", "10.2.0.128/25", "10.0.0.0/8"} {
		w.refused(api.CodeInUse, &NetworkApply{Network: api.Network{Name: "other", Type: "nat", CIDR: cidr}})
	}
	w.ok(&NetworkApply{Network: api.Network{Name: "other", Type: "nat", CIDR: "10.3.0.0/24", Isolated: true}})
	w.refused(api.CodeInUse, &NetworkApply{Network: api.Network{Name: "nat", Type: "nat", CIDR: "10.3.0.0/24"}})
	w.ok(&NetworkApply{Network: api.Network{Name: "nat", Type: "nat", CIDR: "10.2.0.0/25"}})
	w.ok(&NetworkDelete{Name: "other"})

	w.vm(1)
	w.refused(api.CodeInUse, &NetworkDelete{Name: "lan"})
	// What a VM is on stays where it is; the rest may change.
	w.refused(api.CodeInUse, &NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br1"}})
	w.refused(api.CodeInUse, &NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24"}})
	w.ok(&NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0", MTU: 9000, Description: "d"}})
	w.refused(api.CodeConflict, &NetworkDelete{Name: "nat", CheckIndex: 1})
	w.ok(&NetworkDelete{Name: "nat"})
	w.refused(api.CodeNotFound, &NetworkDelete{Name: "nat"})
}

func TestTokens(t *testing.T) {
	w := region(t, 0)
	hash := func(n byte) []byte { h := make([]byte, 32); h[0] = n; return h }
	join := api.Token{Accessor: id('t', 1), Type: api.TokenJoin, Role: "client", Uses: 2}
	w.ok(&TokenCreate{Token: join, Hash: hash(1)})
	must.Eq(t, id('t', 1), w.s().TokenByHash(hash(1)).Token.Accessor)
	must.Nil(t, w.s().TokenByHash(hash(9)))
	w.refused(api.CodeExists, &TokenCreate{Token: join, Hash: hash(2)})
	w.refused(api.CodeInvalid, &TokenCreate{Token: join, Hash: []byte("short")})
	w.refused(api.CodeInvalid, &TokenCreate{Token: api.Token{Accessor: id('t', 2), Type: api.TokenManagement, Expires: 1}, Hash: hash(2)})
	w.refused(api.CodeInvalid, &TokenCreate{Token: api.Token{Accessor: id('t', 2), Type: "root"}, Hash: hash(2)})
	w.refused(api.CodeInvalid, &TokenCreate{Token: api.Token{Accessor: id('t', 2), Type: api.TokenNode}, Hash: hash(2)})

	use := &TokenUse{Accessor: id('t', 1), Role: "client", NodeID: id('n', 1)}
	w.refused(api.CodeJoinRefused, &TokenUse{Accessor: id('t', 1), Role: "server"})
	w.refused(api.CodeJoinRefused, &TokenUse{Accessor: id('t', 8)})
	must.Eq(t, 2, w.ok(use).(*api.Token).Uses)
	must.Eq(t, 1, w.s().Token(id('t', 1)).Token.Uses)
	w.ok(&NodeDeny{NodeID: id('n', 1)})
	w.refused(api.CodeNodeDenied, use)
	w.ok(&NodeDeny{NodeID: id('n', 1), Allow: true})
	w.ok(use)
	w.refused(api.CodeJoinRefused, use)
	must.Len(t, 0, slices.Collect(w.s().Tokens()))

	w.ok(&TokenCreate{Token: api.Token{Accessor: id('t', 3), Type: api.TokenJoin, Role: "server", Expires: w.now + 5_000_000}, Hash: hash(3)})
	w.ok(&TokenUse{Accessor: id('t', 3)})
	w.now += 10_000_000
	w.refused(api.CodeTokenExpired, &TokenUse{Accessor: id('t', 3)})

	boot := &Bootstrap{Token: api.Token{Accessor: id('t', 4), Type: api.TokenManagement}, Hash: hash(4)}
	must.False(t, w.s().Bootstrapped())
	w.refused(api.CodeInvalid, &Bootstrap{Token: join, Hash: hash(5)})
	w.ok(boot)
	must.True(t, w.s().Bootstrapped())
	w.refused(api.CodeBootstrapped, boot)
	w.ok(&TokenDelete{Accessor: id('t', 4)})
	w.refused(api.CodeNotFound, &TokenDelete{Accessor: id('t', 4)})
	w.refused(api.CodeBootstrapped, boot)
}

func TestImages(t *testing.T) {
	w := region(t, 2)
	im := api.Image{ID: id('i', 2), Namespace: "default", Name: "kernel", Kind: "kernel", Format: "raw", SHA256: fmt.Sprintf("%064x", 2), State: api.ImagePending}
	w.ok(&ImageCreate{Image: im})
	w.refused(api.CodeExists, &ImageCreate{Image: im})
	bad := im
	bad.SHA256 = "xyz"
	w.refused(api.CodeInvalid, &ImageCreate{Image: bad})
	got := w.ok(&ImageReplicas{ID: im.ID, Add: []api.ID{id('n', 2), id('n', 1)}, Size: 5, VirtualSize: 9}).(*api.Image)
	must.Eq(t, api.ImageReady, got.State)
	must.Eq(t, []api.ID{id('n', 1), id('n', 2)}, got.Replicas)
	must.Eq(t, 9, got.VirtualSize)
	w.refused(api.CodeNotFound, &ImageReplicas{ID: id('i', 9)})
	must.Eq(t, got, w.s().ImageFor("other", "kernel"), must.Sprint("images of the default namespace are for all"))
	must.Len(t, 2, slices.Collect(w.s().ImagesIn("default")))

	spec := specOf("a", api.Disk{Name: "root", Image: "debian"})
	spec.Boot = &api.BootSpec{Kernel: "kernel"}
	w.ok(&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 1)})
	w.refused(api.CodeInUse, &ImageDelete{ID: id('i', 1)})
	w.refused(api.CodeInUse, &ImageDelete{ID: im.ID})
	w.ok(&VMDelete{ID: id('m', 1)})
	w.refused(api.CodeConflict, &ImageDelete{ID: im.ID, CheckIndex: 1})
	w.ok(&ImageDelete{ID: im.ID})
	must.Eq(t, api.ImageDeleting, w.s().Image(im.ID).State)
	w.refused(api.CodeState, &VMApply{ID: id('m', 1), Spec: specOf("a", api.Disk{Name: "root", Image: "kernel"}), VolumeIDs: volumeIDs(1, 1)})
	img := func(n int, absent bool) {
		w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', n), SessionID: id('s', n), Images: []api.ImageReport{{ID: im.ID, Absent: absent}, {ID: id('i', 1)}}}}})
	}
	img(1, true)
	img(1, false)
	must.Eq(t, []api.ID{id('n', 2)}, w.s().Image(im.ID).Replicas, must.Sprint("no new replicas of what goes"))
	img(2, true)
	must.Nil(t, w.s().Image(im.ID))
	w.refused(api.CodeNotFound, &ImageDelete{ID: im.ID})
	must.Len(t, 2, w.s().Image(id('i', 1)).Replicas)
}

func TestVolumes(t *testing.T) {
	w := region(t, 2)
	v := api.Volume{ID: id('V', 1), Namespace: "default", Name: "data", Size: api.GiB}
	got := w.ok(&VolumeCreate{Volume: v}).(*api.Volume)
	must.Eq(t, "default", got.Pool)
	must.Eq(t, "qcow2", got.Format)
	w.refused(api.CodeExists, &VolumeCreate{Volume: v})
	mk := func(change func(*api.Volume)) *VolumeCreate {
		x := api.Volume{ID: id('V', 2), Namespace: "default", Name: "other", Size: api.GiB}
		change(&x)
		return &VolumeCreate{Volume: x}
	}
	w.refused(api.CodeInvalid, mk(func(v *api.Volume) { v.Size = 0 }))
	w.refused(api.CodeInvalid, mk(func(v *api.Volume) { v.VMID = id('m', 1) }))
	w.refused(api.CodeNotFound, mk(func(v *api.Volume) { v.Namespace = "nope" }))
	w.refused(api.CodeNotFound, mk(func(v *api.Volume) { v.Image = id('i', 9) }))
	w.refused(api.CodeNotFound, mk(func(v *api.Volume) { v.NodeID = id('n', 9) }))
	w.refused(api.CodePoolFull, mk(func(v *api.Volume) { v.NodeID, v.Size = id('n', 1), api.TiB }))
	w.refused(api.CodeNoNode, mk(func(v *api.Volume) { v.NodeID, v.Pool = id('n', 1), "nope" }))
	must.Eq(t, 2*api.GiB, w.ok(mk(func(v *api.Volume) { v.Size, v.Image = 0, id('i', 1) })).(*api.Volume).Size)

	w.refused(api.CodeNotFound, &VolumeAssign{ID: id('V', 9), NodeID: id('n', 1)})
	w.refused(api.CodePlacement, &VolumeAssign{ID: id('V', 1), NodeID: id('n', 9)})
	w.ok(&NodeUpdate{ID: id('n', 2), Eligibility: api.Ineligible})
	w.refused(api.CodePlacement, &VolumeAssign{ID: id('V', 1), NodeID: id('n', 2)})
	w.ok(&VolumeAssign{ID: id('V', 1), NodeID: id('n', 1)})
	w.ok(&VolumeAssign{ID: id('V', 1), NodeID: id('n', 1)})
	w.refused(api.CodePlacement, &VolumeAssign{ID: id('V', 1), NodeID: id('n', 2)})

	w.volumes(2, api.VolumeReady, id('V', 1))
	must.Eq(t, api.VolumePending, w.s().Volume(id('V', 1)).State, must.Sprint("another node's word"))
	w.volumes(1, api.VolumeAbsent, id('V', 1))
	must.Eq(t, api.VolumePending, w.s().Volume(id('V', 1)).State)
	w.volumes(1, api.VolumeReady, id('V', 1), id('V', 99))
	must.Eq(t, api.MiB, w.s().Volume(id('V', 1)).Used)
	w.volumes(1, api.VolumeAbsent, id('V', 1))
	must.Eq(t, api.VolumeFailed, w.s().Volume(id('V', 1)).State)
	w.refused(api.CodeConflict, &VolumeDelete{ID: id('V', 1), CheckIndex: 1})
	w.ok(&VolumeDelete{ID: id('V', 1)})
	w.ok(&VolumeDelete{ID: id('V', 1)})
	must.Eq(t, api.VolumeDeleting, w.s().Volume(id('V', 1)).State)
	w.volumes(1, api.VolumeFailed, id('V', 1))
	must.Eq(t, api.VolumeDeleting, w.s().Volume(id('V', 1)).State)
	must.Len(t, 1, slices.Collect(w.s().VolumesOn(id('n', 1))))
	w.volumes(1, api.VolumeAbsent, id('V', 1))
	must.Nil(t, w.s().Volume(id('V', 1)))
	w.refused(api.CodeNotFound, &VolumeDelete{ID: id('V', 1)})
	must.Len(t, 1, slices.Collect(w.s().Volumes()))
	must.Len(t, 1, slices.Collect(w.s().VolumesIn("default")))
	must.Len(t, 1, slices.Collect(w.s().VolumesFrom(id('i', 1))))
}
