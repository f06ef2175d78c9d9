package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/storage"
	simpool "github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
)

func (b *bed) volumesIn(p *simpool.Pool) []api.ID {
	ids, err := p.List(b.t.Context())
	must.NoError(b.t, err)
	return ids
}

// withDisk gives an order one disk.
func withDisk(v *api.Volume) func(*api.Order) {
	return func(o *api.Order) { o.Spec.Disks, o.Volumes = []api.Disk{{Name: "root"}}, []*api.Volume{v} }
}

// A disk that was lost is never made anew, empty, in its place.
func TestADiskThatIsGoneIsNotMadeAgain(t *testing.T) {
	for name, state := range map[string]api.VolumeState{
		"an order from before it was made": api.VolumePending, // the servers send no new one for that
		"the servers know that it is made": api.VolumeReady,
		"they were told that it is gone":   api.VolumeFailed,
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
					b.start()
					v := testVolume(1)
					b.srv.order(vm1, withDisk(v))
					b.expect(vm1, api.StateRunning)
					b.srv.order(vm1, func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })
					b.expect(vm1, api.StateStopped)
					must.NoError(t, b.pool.Delete(t.Context(), v)) // the pool's disk is not mounted
					if restart {
						b.restart()
					}
					again := *v
					again.State = state
					b.srv.order(vm1, withDisk(&again), func(o *api.Order) { o.Desired = api.PowerRunning })
					b.sleep(time.Minute)
					b.expect(vm1, api.StatePreparing)
					must.StrContains(t, b.report(vm1).Message, "is gone from pool default (NOVA-5000)")
					must.Eq(t, api.VolumeFailed, b.srv.vols[v.ID].State)
					must.SliceEmpty(t, b.volumesIn(b.pool))

					_, err := b.pool.Create(t.Context(), v, nil) // mounted again
					must.NoError(t, err)
					b.sleep(time.Minute)
					b.expect(vm1, api.StateRunning)
					must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
				})
			})
		}
	}
}

// A node whose journal is new believes the servers.
func TestADiskThatOnlyTheServersRemember(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		v := testVolume(1)
		v.State = api.VolumeReady
		b.srv.order(vm1, withDisk(v))
		b.expect(vm1, api.StatePreparing)
		failed := *v // what comes of the report
		failed.State = api.VolumeFailed
		b.srv.order(vm1, withDisk(&failed))
		b.srv.volume(&failed)
		b.sleep(5 * time.Minute)
		b.expect(vm1, api.StatePreparing)
		must.SliceEmpty(t, b.volumesIn(b.pool))
	})
}

func TestStandaloneVolumeThatIsGone(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		v := testVolume(1)
		b.srv.volume(v)
		must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
		must.NoError(t, b.pool.Delete(t.Context(), v))
		b.restart()
		for _, owned := range []bool{false, true} {
			b.srv.do(func() { clear(b.srv.vols) })
			again := *v
			again.State, again.Owned = api.VolumeFailed, owned
			b.srv.volume(&again)
			b.sleep(2 * time.Minute)
			must.Eq(t, api.VolumeFailed, b.srv.vols[v.ID].State)
			must.SliceEmpty(t, b.volumesIn(b.pool))
		}
		// Deleted, it is forgotten: one of that id may be made again.
		gone := *v
		gone.State = api.VolumeDeleting
		b.srv.volume(&gone)
		must.Eq(t, api.VolumeAbsent, b.srv.vols[v.ID].State)
		b.srv.volume(v)
		must.Eq(t, api.VolumeReady, b.srv.vols[v.ID].State)
	})
}

func TestAPoolThatIsNotTheOneOfBefore(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		kept := testVolume(1)
		b.srv.volume(kept)
		must.Eq(t, "", b.srv.registers[0].Node.Pools[0].Error)
		b.stop()
		right := b.pool
		b.pool = simpool.New("default", 100*api.GiB) // what is below a mount point
		b.start()
		must.StrContains(t, b.srv.registers[1].Node.Pools[0].Error, "is not the one that was here before")
		b.srv.volume(testVolume(2))
		must.Eq(t, api.VolumeFailed, b.srv.vols[api.ID{0xd0, 2}].State)
		b.srv.order(vm1, withDisk(testVolume(3)))
		b.expect(vm1, api.StatePreparing)
		gone := *kept
		gone.State = api.VolumeDeleting
		b.srv.volume(&gone)
		b.sleep(time.Minute)
		must.NotEq(t, api.VolumeAbsent, b.srv.vols[kept.ID].State) // it is not gone
		must.SliceEmpty(t, b.volumesIn(b.pool))

		b.stop()
		b.pool = right
		b.start()
		b.sleep(time.Minute)
		must.Eq(t, "", b.srv.registers[2].Node.Pools[0].Error)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, api.VolumeReady, b.srv.vols[api.ID{0xd0, 2}].State)
		must.Eq(t, api.VolumeAbsent, b.srv.vols[kept.ID].State)
	})
}

// What is remembered of a shared volume ends when its VM has left this node.
func TestSharedVolumeIsForgottenWithItsVM(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.pool = simpool.NewShared("default", api.TiB)
		b.change = func(c *Config) { c.Pools = map[string]storage.Pool{"default": b.pool} }
		b.start()
		v := testVolume(1)
		b.srv.order(vm1, withDisk(v))
		was, err := b.c.journal.hasVolume(v.ID)
		must.NoError(t, err)
		must.True(t, was)
		b.srv.bury(vm1, true)
		b.expect(vm1, api.StateAbsent)
		was, err = b.c.journal.hasVolume(v.ID)
		must.NoError(t, err)
		must.False(t, was)
	})
}
