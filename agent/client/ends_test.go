package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

var content = bytes.Repeat([]byte("kernel of a small guest. "), 40000)

func testImage(kind string) *api.Image {
	sum := sha256.Sum256(content)
	return &api.Image{
		ID: api.ID{0xee}, Name: "img", Kind: kind, Format: "raw", Size: api.Bytes(len(content)), SHA256: hex.EncodeToString(sum[:]), State: api.ImageReady,
	}
}

func testVolume(id byte) *api.Volume {
	return &api.Volume{ID: api.ID{0xd0, id}, Name: "disk", Pool: "default", Size: api.MiB, Format: "qcow2", State: api.VolumePending}
}

// withPeer makes another node that serves an image over real endpoints.
func (b *bed) withPeer(i *api.Image) {
	cache, err := image.Open(b.t.TempDir(), image.Options{})
	must.NoError(b.t, err)
	_, err = cache.Put(b.t.Context(), image.SpecOf(i), bytes.NewReader(content))
	must.NoError(b.t, err)
	other := &Client{cfg: Config{Images: cache}}
	mux := rpc.NewMux(rpc.Options{Router: rpc.Alone("r")})
	other.Register(mux)
	mem := rpc.NewMemory()
	port, err := mem.Listen("n2:1", api.CertName{Region: "r", Role: api.RoleClient, NodeID: api.ID{0xbb}}, mux)
	must.NoError(b.t, err)
	pool := rpc.NewPool(mem.Transport("n1:1", api.CertName{Region: "r", Role: api.RoleClient, NodeID: node1}))
	b.t.Cleanup(func() {
		pool.Close()
		port.Close()
		must.NoError(b.t, cache.Close())
	})
	b.srv.do(func() {
		b.peers["n2:1"] = pool.Member("n2:1")
		b.peers["dead:1"] = &member{newCluster(b), "dead:1"}
	})
}

func TestEverythingIsPreparedFirst(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		disk, kernel := testImage("disk"), testImage("kernel")
		disk.SHA256, disk.Name = kernel.SHA256, "base"
		b.withPeer(kernel)
		kernel.Sources = []string{"n1:1", "dead:1", "n2:1"}
		b.start()
		v := testVolume(1)
		b.srv.order(vm1, func(o *api.Order) {
			o.Spec.Boot = &api.BootSpec{Kernel: "img", Cmdline: "console=ttyS0"}
			o.Spec.Disks = []api.Disk{{Name: "root"}}
			o.Spec.NICs = []api.NIC{{Network: "lan"}, {Network: "nat", MAC: "52:54:00:00:00:01"}}
			o.Spec.CloudInit = &api.CloudInit{UserData: []byte("#cloud-config\n")}
			o.Spec.Firmware = api.FirmwareUEFI
			o.Volumes = []*api.Volume{v}
			o.Networks = []*api.Network{{Name: "lan", Type: "bridge", Bridge: "br0"}, {Name: "nat", Type: "nat"}}
			o.Images = []*api.Image{kernel}
		})
		b.sleep(5 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
		must.Eq(t, kernel.Size, b.srv.imgs[kernel.ID].Size)
		must.Eq(t, []string{kernel.SHA256}, b.images.Pinned(vm1))
		seed, err := os.ReadFile(filepath.Join(b.c.vmDir(vm1), "seed.iso"))
		must.NoError(t, err)
		must.Eq(t, "#cloud-config\n", string(seed))

		// Leases are read and reported.
		b.nets.Lease("52:54:00:00:00:01", "10.76.0.9")
		b.sleep(11 * time.Second)
		must.Eq(t, []string{"10.76.0.9"}, b.report(vm1).Addresses)

		// Gone for good: pins and folder go; the volume by its own order, and
		// never while the guest may run.
		gone := *v
		gone.State, gone.VMID = api.VolumeDeleting, vm1
		b.srv.volume(&gone)
		b.sleep(time.Minute)
		must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
		b.srv.bury(vm1, true)
		b.sleep(2 * time.Minute)
		must.Eq(t, api.VolumeAbsent, b.srv.vols[v.ID].State)
		must.SliceEmpty(t, b.images.Pinned(vm1))
		must.MapEmpty(t, b.c.volumes)

		// And the image with it.
		dead := *kernel
		dead.State = api.ImageDeleting
		b.srv.do(func() {
			b.srv.images = []*api.Image{&dead} // for a stream that begins just then
			b.srv.send(&api.OrderBatch{Generation: 1, Index: b.srv.index, Images: []*api.Image{&dead, &dead}})
		})
		b.rest()
		must.True(t, b.srv.imgs[kernel.ID].Absent)
		must.SliceEmpty(t, b.images.List())
	})
}

func TestWhatCannotBePrepared(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(b *bed, o *api.Order)
		want  string
	}{
		"network": {func(_ *bed, o *api.Order) { o.Spec.NICs = []api.NIC{{Network: "lan"}} }, "NOVA-5100"},
		"bridge": {func(_ *bed, o *api.Order) {
			o.Spec.NICs = []api.NIC{{Network: "lan"}}
			o.Networks = []*api.Network{{Name: "lan", Type: "bridge", Bridge: "br9"}}
		}, "NOVA-5100"},
		"volumes": {func(_ *bed, o *api.Order) { o.Spec.Disks = []api.Disk{{Name: "root"}} }, "NOVA-5000"},
		"pool": {func(_ *bed, o *api.Order) {
			v := testVolume(1)
			v.Pool = "other"
			o.Spec.Disks, o.Volumes = []api.Disk{{Name: "root"}}, []*api.Volume{v}
		}, "NOVA-5000"},
		"full pool": {func(_ *bed, o *api.Order) {
			v := testVolume(1)
			v.Size = 200 * api.GiB
			o.Spec.Disks, o.Volumes = []api.Disk{{Name: "root"}}, []*api.Volume{v}
		}, "NOVA-5001"},
		"image unknown": {func(_ *bed, o *api.Order) {
			v := testVolume(1)
			v.Image = api.ID{1}
			o.Spec.Disks, o.Volumes = []api.Disk{{Name: "root"}}, []*api.Volume{v}
		}, "NOVA-5003"},
		"image nowhere": {func(_ *bed, o *api.Order) {
			o.Spec.Boot, o.Images = &api.BootSpec{Kernel: "img"}, []*api.Image{testImage("kernel")}
		}, "NOVA-5003"},
		"kernel unknown": {func(_ *bed, o *api.Order) { o.Spec.Boot = &api.BootSpec{Kernel: "img"} }, "NOVA-5003"},
		"machine":        {func(_ *bed, o *api.Order) { o.Spec.CPU.Cores = 0 }, "NOVA-1000"},
	} {
		t.Run(name, func(t *testing.T) {
			inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
				b.start()
				b.srv.order(vm1, func(o *api.Order) { c.spoil(b, o) })
				b.expect(vm1, api.StatePreparing)
				must.Eq(t, reasonPrepare, b.report(vm1).Reason)
				must.StrContains(t, b.report(vm1).Message, c.want)
				// A better order helps at once; so does the same one with news.
				b.srv.order(vm1, func(o *api.Order) { o.Spec, o.Volumes, o.SpecVersion = spec(), nil, 2 })
				b.expect(vm1, api.StateRunning)
			})
		})
	}
}

func TestSameOrderWithNewsIsTaken(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		i := testImage("kernel")
		b.srv.order(vm1, func(o *api.Order) { o.Spec.Boot, o.Images = &api.BootSpec{Kernel: "img"}, []*api.Image{i} })
		b.expect(vm1, api.StatePreparing)
		b.withPeer(i)
		found := *i
		found.Sources = []string{"n2:1"}
		b.srv.do(func() {
			o := *b.srv.orders[vm1] // of the same index
			o.Images = []*api.Image{&found}
			b.srv.orders[vm1] = &o
			b.srv.send(&api.OrderBatch{Generation: 1, Index: b.srv.index, Orders: []*api.Order{&o}})
		})
		b.sleep(30 * time.Second)
		b.expect(vm1, api.StateRunning)
	})
}

func TestStandaloneVolumes(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.volume(testVolume(1))
		must.Eq(t, api.VolumeReady, b.srv.vols[api.ID{0xd0, 1}].State)
		must.Eq(t, api.MiB, b.srv.vols[api.ID{0xd0, 1}].Used)

		b.pool.SetFault(func(verb string, _ api.ID) error {
			if verb == "create" || verb == "delete" {
				return api.Errorf(api.CodeStorage, "broken")
			}
			return nil
		})
		b.srv.volume(testVolume(2))
		must.Eq(t, api.VolumeFailed, b.srv.vols[api.ID{0xd0, 2}].State)
		v := testVolume(1)
		v.State = api.VolumeDeleting
		b.srv.volume(v)
		must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
		b.pool.SetFault(nil)
		b.sleep(time.Minute)
		must.Eq(t, api.VolumeReady, b.srv.vols[api.ID{0xd0, 2}].State)
		must.Eq(t, api.VolumeAbsent, b.srv.vols[v.ID].State)

		// An owned volume is its VM's; only its report is made good.
		own := testVolume(3)
		own.Owned, own.VMID = true, vm1
		b.srv.volume(own)
		must.MapNotContainsKey(t, b.srv.vols, own.ID)
		_, err := b.pool.Create(t.Context(), own, nil)
		must.NoError(t, err)
		b.srv.volume(own)
		must.Eq(t, api.VolumeReady, b.srv.vols[own.ID].State)

		other := testVolume(4)
		other.Pool = "other"
		b.srv.volume(other)
		must.Eq(t, api.VolumeFailed, b.srv.vols[other.ID].State)
		// From an image, which nobody holds yet.
		img := testImage("disk")
		b.srv.do(func() { b.srv.images = []*api.Image{img} })
		clone := testVolume(5)
		clone.Image, clone.Format, clone.Size = img.ID, "raw", 2*api.MiB
		b.srv.volume(clone)
		must.Eq(t, api.VolumeFailed, b.srv.vols[clone.ID].State)
		must.StrContains(t, b.srv.vols[clone.ID].Error, "NOVA-5003")
	})
}

func TestEndpoints(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		mux := rpc.NewMux(rpc.Options{Router: rpc.Alone("r")})
		b.c.Register(mux)
		mem := rpc.NewMemory()
		port, err := mem.Listen("n1:1", api.CertName{Region: "r", Role: api.RoleClient, NodeID: node1}, mux)
		must.NoError(t, err)
		defer port.Close()
		pool := rpc.NewPool(mem.Transport("s1:1", api.CertName{Region: "r", Role: api.RoleServer, NodeID: api.ID{0x11}}))
		defer pool.Close()
		n := pool.Node(node1, "n1:1")
		ctx := t.Context()

		must.NoError(t, n.Call(ctx, "Agent.Ping", &api.Empty{}, &api.Empty{}))
		var st api.VMStatsResponse
		must.NoError(t, n.Call(ctx, "Agent.VMStats", &api.GetRequest{Key: vm1.String()}, &st))
		must.Eq(t, vm1, st.Stats.VMID)
		must.Eq(t, api.CodeState, api.CodeOf(n.Call(ctx, "Agent.VMStats", &api.GetRequest{Key: vm2.String()}, &st)))
		must.Eq(t, api.CodeInvalid, api.CodeOf(n.Call(ctx, "Agent.VMStats", &api.GetRequest{Key: "vm"}, &st)))
		b.host.SetDown(true)
		must.Eq(t, api.CodeHypervisorUnknown, api.CodeOf(n.Call(ctx, "Agent.VMStats", &api.GetRequest{Key: vm1.String()}, &st)))
		b.host.SetDown(false)

		// The console speaks both ways, and ends with the guest.
		con, err := n.Open(ctx, "Agent.Console", &api.GetRequest{Key: vm1.String()})
		must.NoError(t, err)
		r := &chunkReader{s: con, close: func() {}}
		read := func(want string) {
			var got []byte
			for !bytes.Contains(got, []byte(want)) {
				p := make([]byte, 100)
				k, err := r.Read(p)
				must.NoError(t, err)
				got = append(got, p[:k]...)
			}
		}
		read("login: ")
		must.NoError(t, con.Send(&api.Chunk{Data: []byte("root")}))
		read("root")
		b.host.PowerOff(vm1)
		_, err = io.ReadAll(r)
		must.NoError(t, err)
		con, err = n.Open(ctx, "Agent.Console", &api.GetRequest{Key: vm2.String()})
		if err == nil {
			err = con.Recv(&api.Chunk{})
		}
		must.Eq(t, api.CodeState, api.CodeOf(err))

		// An image goes in and comes out again.
		i := testImage("kernel")
		put, err := n.Open(ctx, "Agent.ImagePut", &api.ImageUpload{ID: i.ID, Name: "img", Kind: "kernel", Format: "raw", Size: i.Size, SHA256: i.SHA256})
		must.NoError(t, err)
		for part := range chunks(content, 200_000) {
			must.NoError(t, put.Send(&api.Chunk{Data: part}))
		}
		must.NoError(t, put.CloseSend())
		var ir api.ImageResponse
		must.NoError(t, put.Recv(&ir))
		must.Eq(t, []api.ID{node1}, ir.Image.Replicas)
		b.rest()
		must.Eq(t, i.Size, b.srv.imgs[i.ID].Size)
		get, err := n.Open(ctx, "Agent.ImageGet", &api.ImageFetch{ID: i.ID, SHA256: i.SHA256, Offset: 1000})
		must.NoError(t, err)
		got, err := io.ReadAll(&chunkReader{s: get, close: func() {}})
		must.NoError(t, err)
		must.True(t, bytes.Equal(content[1000:], got))
		for _, q := range []*api.ImageFetch{{SHA256: "00"}, {SHA256: i.SHA256, Offset: -1}} {
			get, err := n.Open(ctx, "Agent.ImageGet", q)
			if err == nil {
				err = get.Recv(&api.Chunk{})
			}
			must.Error(t, err)
			must.NotEq(t, io.EOF, err)
		}
		// After a new registration the image is named again.
		b.srv.do(func() { clear(b.srv.imgs); b.srv.forgot = true })
		b.sleep(10 * time.Second)
		must.MapContainsKey(t, b.srv.imgs, i.ID)
	})
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			k := min(n, len(b))
			if !yield(b[:k]) {
				return
			}
			b = b[k:]
		}
	}
}

func TestCloseWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, dir: t.TempDir(), host: sim.NewHost(sim.Options{}), nets: network.NewSim(), peers: map[string]rpc.Caller{}}
		b.srv = newCluster(b)
		b.driver = sim.New(b.host)
		var err error
		b.images, err = image.Open(t.TempDir(), image.Options{})
		must.NoError(t, err)
		c, err := New(b.config())
		must.NoError(t, err)
		must.NoError(t, c.Close())
		must.NoError(t, c.Close())
		must.NoError(t, b.images.Close())
		must.NoError(t, b.driver.Close())
	})
}

func TestClassify(t *testing.T) {
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, api.Errorf(api.CodeHypervisorUnknown, "x")} {
		r, _ := classify(err)
		must.Eq(t, resUnknown, r)
	}
	r, m := classify(errors.New("no"))
	must.Eq(t, resFailed, r)
	must.Eq(t, "no", m)
	must.Eq(t, api.CodeHypervisor, api.CodeOf(public(errors.New("no"))))
	must.Eq(t, domUnknown, domOf(domainIn(api.StateUnknown)).kind)
	must.Eq(t, domDead, domOf(domainIn(api.StateFailed)).kind)
}
