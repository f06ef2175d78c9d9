package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.etcd.io/bbolt"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestReportsAreBatchedAndResent(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.do(func() { b.srv.refuse = api.Errorf(api.CodeNoLeader, "no leader") })
		b.srv.order(vm1)
		b.srv.order(vm2)
		b.srv.order(vm1, func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })
		must.MapEmpty(t, b.srv.vms)
		b.srv.do(func() { b.srv.refuse, b.srv.reports = nil, nil })
		b.sleep(10 * time.Second)
		b.expect(vm1, api.StateStopped) // the newest wins: what was between is never sent
		b.expect(vm2, api.StateRunning)
		must.SliceLen(t, 1, b.srv.reports)
		must.SliceLen(t, 2, b.srv.reports[0].VMs)
		n := len(b.srv.reports)
		b.sleep(time.Hour)
		must.Eq(t, n, len(b.srv.reports)) // nothing new, nothing sent
	})
}

func TestSeqRisesInASession(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerPaused })
		var last uint64
		for _, r := range b.srv.reports {
			must.Eq(t, b.srv.registers[0].SessionID, r.SessionID)
			for _, v := range r.VMs {
				must.Greater(t, last, v.Seq)
				last = v.Seq
			}
		}
		b.restart()
		must.NotEq(t, b.srv.registers[0].SessionID, b.srv.registers[1].SessionID)
	})
}

func TestManyReportsAreSplit(t *testing.T) {
	c := &Client{vms: map[api.ID]*vm{}}
	c.reports = newReporter(c)
	for i := range 1000 {
		c.reports.vm(api.VMReport{VMID: api.ID{byte(i >> 8), byte(i)}})
	}
	first := c.reports.batch()
	must.SliceLen(t, reportMost, first.VMs)
	c.reports.vm(api.VMReport{VMID: first.VMs[0].VMID}) // changed while it is under way
	c.reports.acked(first)
	must.SliceLen(t, 1000-reportMost+1, c.reports.batch().VMs)
}

func TestBeats(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		var acks int
		b.change = func(c *Config) {
			c.OnBeat = func(sent time.Duration, _ *api.NodeBeaten) { acks++; must.Positive(t, sent) }
		}
		b.start()
		b.srv.order(vm1)
		b.sleep(30 * time.Second)
		must.Between(t, 8, len(b.srv.beats), 12)
		must.Eq(t, len(b.srv.beats), acks)
		last := b.srv.beats[len(b.srv.beats)-1]
		must.Eq(t, "boot-1", last.BootID)
		must.Eq(t, 1, last.Stats.VMs)
		must.Eq(t, 0.5, last.Stats.Load1)
		must.True(t, b.c.Health().OK)

		// A server that fails is left for another one, on a new connection.
		b.srv.do(func() { b.srv.down["s1:1"] = true; b.srv.calls = nil; clear(b.srv.redials) })
		b.sleep(10 * time.Second)
		must.Eq(t, 1, b.srv.redials["s1:1"])
		must.True(t, b.c.Health().OK)

		// When all fail the node says so; what runs, runs.
		b.srv.do(func() { b.srv.down["s2:1"], b.srv.down["s3:1"] = true, true })
		b.srv.cut()
		b.sleep(10 * time.Second)
		must.StrContains(t, b.c.Health().Message, "no server has acknowledged")
		must.NotEq(t, 0, b.pid(vm1))
		b.srv.do(func() { clear(b.srv.down) })
		b.sleep(20 * time.Second)
		must.True(t, b.c.Health().OK, must.Sprint(b.c.Health().Message))

		// A server that does not know the session gets everything again.
		n := len(b.srv.registers)
		b.srv.do(func() { b.srv.forgot = true; clear(b.srv.vms) })
		b.sleep(10 * time.Second)
		must.Eq(t, n+1, len(b.srv.registers))
		b.expect(vm1, api.StateRunning)
	})
}

func TestRegistersAgainWhenTheMachineChanges(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		n := b.srv.registers[0].Node
		must.Eq(t, "sim", n.Drivers[0].Name)
		must.True(t, n.Drivers[0].Healthy)
		must.Eq(t, 100*api.GiB, n.Pools[0].Capacity)
		must.Eq(t, []string{"br0"}, n.Networks)
		b.srv.volume(testVolume(1)) // a little less free space is no news
		b.sleep(10 * time.Minute)
		must.SliceLen(t, 1, b.srv.registers)
		b.srv.do(func() { b.facts = api.Pairs{{K: "kernel.version", V: "6.1"}} })
		b.sleep(time.Minute)
		must.SliceLen(t, 2, b.srv.registers)
		// At once on request; and it is tried until it works.
		b.srv.do(func() {
			b.facts = b.facts.Set("kernel.version", "6.2")
			for _, a := range b.srv.addrs {
				b.srv.down[a] = true
			}
		})
		b.c.Refresh()
		b.sleep(5 * time.Second)
		b.srv.do(func() { clear(b.srv.down) })
		b.sleep(15 * time.Second)
		must.SliceLen(t, 3, b.srv.registers)
		v, _ := b.srv.registers[2].Node.Attributes.Get("kernel.version")
		must.Eq(t, "6.2", v)
	})
}

func TestRegistrationIsTriedUntilItWorks(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.srv.do(func() { b.srv.down["s1:1"], b.srv.down["s2:1"], b.srv.down["s3:1"] = true, true, true })
		b.start()
		b.sleep(time.Minute)
		must.StrContains(t, b.c.Health().Message, "not registered")
		b.srv.do(func() { clear(b.srv.down) })
		b.sleep(time.Minute)
		must.True(t, b.c.Health().OK)
	})
}

func TestMachineWithoutABootID(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.do(func() { b.boot, b.facts = "", api.Pairs{{K: "a", V: "b"}} })
		b.sleep(2 * time.Minute)
		must.Eq(t, "boot-1", b.srv.registers[1].Node.BootID)
		b.cancel()
		must.NoError(t, <-b.ended)
		c, err := New(b.config())
		must.NoError(t, err)
		must.Eq(t, api.CodeConfig, api.CodeOf(c.Run(t.Context())))
		must.NoError(t, b.images.Close())
		must.NoError(t, b.driver.Close())
		b.c = nil
	})
}

func TestLeave(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		must.NoError(t, b.c.Leave(t.Context()))
		n := len(b.srv.beats)
		must.True(t, b.srv.beats[n-1].Leaving)
		b.sleep(time.Minute)
		must.Eq(t, n, len(b.srv.beats))
		b.stop()
		must.Eq(t, pid, b.pid(vm1))
	})
}

// The servers take a node that registers for one that is back.
func TestNoRegistrationComesAfterALeave(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.do(func() { b.srv.forgot, b.srv.late, b.srv.calls = true, 2*time.Second, nil })
		must.NoError(t, b.c.beat(t.Context())) // the registration that it asks for is under way
		time.Sleep(time.Second)
		must.NoError(t, b.c.Leave(t.Context()))
		b.sleep(time.Minute)
		must.True(t, b.srv.beats[len(b.srv.beats)-1].Leaving)
		must.StrContains(t, strings.Join(b.srv.calls, ","), "Register")
		last := ""
		for _, c := range b.srv.calls {
			if strings.HasSuffix(c, "Node.Register") || strings.HasSuffix(c, "Node.Beat") {
				last = c
			}
		}
		must.StrHasSuffix(t, "Node.Beat", last)
	})
}

func TestSilentStreamIsOpenedAnew(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.do(func() { b.srv.calls = nil; clear(b.srv.streams) }) // open, and never heard of again
		b.srv.do(func() { b.srv.index++; o := *order(b.srv.index); b.srv.orders[vm1] = &o })
		b.sleep(70 * time.Second)
		b.expect(vm1, api.StateRunning)
	})
}

func order(index api.Index) *api.Order {
	return &api.Order{VMID: vm1, Name: "a", Epoch: 1, Index: index, Desired: api.PowerRunning, SpecVersion: 1, Spec: spec()}
}

func TestStreamMustBeginFull(t *testing.T) {
	c := &Client{}
	err := c.apply(&api.OrderBatch{Generation: 1, Index: 1}, true, 1)
	must.Eq(t, api.CodeStale, api.CodeOf(err))
}

func TestServersLearnedAndTried(t *testing.T) {
	s := newServers([]string{"a", "b"}, nil, func(string) {})
	must.Eq(t, []string{"a", "b"}, s.list())
	s.good("b")
	must.Eq(t, []string{"b", "a"}, s.list())
	s.learn([]string{"c", "b", "d"})
	must.Eq(t, []string{"b", "c", "d", "a"}, s.list())
	s.learn(nil)
	s.bad("b", errors.New("gone"))
	must.Eq(t, []string{"c", "d", "b", "a"}, s.list())
	s.bad("a", api.Errorf(api.CodeNoLeader, "x"))
	must.False(t, elsewhere(api.Errorf(api.CodeNodeDenied, "denied")))
	must.True(t, elsewhere(api.Errorf(api.CodeNoLeader, "none")))
	none := newServers(nil, nil, func(string) {})
	must.Eq(t, api.CodeUnreachable, api.CodeOf(none.call(t.Context(), time.Second, "Node.Beat", nil, nil)))
}

func TestJournalThatCannotBeTrusted(t *testing.T) {
	open := func(dir string, node api.ID) error {
		j, _, _, err := openJournal(dir, node, true)
		if err == nil {
			must.NoError(t, j.close())
		}
		return err
	}
	fill := func(dir string) {
		j, _, _, err := openJournal(dir, node1, true)
		must.NoError(t, err)
		must.NoError(t, j.putVM(record{ID: vm1, Epoch: 3}, order(7)))
		must.NoError(t, j.putVolume(vm2, madeVolume{Pool: "default"}))
		must.NoError(t, j.putPool("default", node1))
		must.NoError(t, j.close())
	}
	edit := func(dir string, f func(tx *bbolt.Tx) error) {
		db, err := bbolt.Open(filepath.Join(dir, "journal.db"), 0o600, nil)
		must.NoError(t, err)
		must.NoError(t, db.Update(f))
		must.NoError(t, db.Close())
	}
	flip := func(bucket, key []byte) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			v := append([]byte(nil), tx.Bucket(bucket).Get(key)...)
			v[len(v)/2] ^= 1
			return tx.Bucket(bucket).Put(key, v)
		}
	}
	for name, spoil := range map[string]func(dir string) api.ID{
		"record":  func(dir string) api.ID { edit(dir, flip(bucketVMs, vm1[:])); return node1 },
		"order":   func(dir string) api.ID { edit(dir, flip(bucketOrders, vm1[:])); return node1 },
		"node":    func(dir string) api.ID { edit(dir, flip(bucketMeta, keyNode)); return node1 },
		"another": func(dir string) api.ID { return vm1 },
		"volume":  func(dir string) api.ID { edit(dir, flip(bucketDisks, vm2[:])); return node1 },
		"pool":    func(dir string) api.ID { edit(dir, flip(bucketMeta, poolKey("default"))); return node1 },
		"newer": func(dir string) api.ID {
			edit(dir, func(tx *bbolt.Tx) error {
				return put(tx, bucketMeta, keyNode, &meta{Format: journalFormat + 1, NodeID: node1})
			})
			return node1
		},
		"rubbish": func(dir string) api.ID {
			must.NoError(t, os.WriteFile(filepath.Join(dir, "journal.db"), make([]byte, 40000), 0o600))
			return node1
		},
		"short value": func(dir string) api.ID {
			edit(dir, func(tx *bbolt.Tx) error { return tx.Bucket(bucketVMs).Put(vm1[:], []byte{1}) })
			return node1
		},
		"no folder": func(dir string) api.ID {
			must.NoError(t, os.RemoveAll(dir))
			must.NoError(t, os.WriteFile(dir, nil, 0o600))
			return node1
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "client")
			fill(dir)
			must.NoError(t, open(dir, node1))
			err := open(dir, spoil(dir))
			must.Eq(t, api.CodeJournal, api.CodeOf(err))
			must.StrContains(t, err.Error(), "journal.db")
		})
	}
}

func TestJournalIsHeldByOneAgent(t *testing.T) {
	dir := t.TempDir()
	j, m, _, err := openJournal(dir, node1, true)
	must.NoError(t, err)
	defer j.close()
	must.Eq(t, 1, m.Sessions)
	_, _, _, err = openJournal(dir, node1, true)
	must.StrContains(t, err.Error(), "another agent")
}

func TestJournalRemembers(t *testing.T) {
	dir := t.TempDir()
	j, m, recs, err := openJournal(dir, node1, false)
	must.NoError(t, err)
	must.SliceEmpty(t, recs)
	var wg sync.WaitGroup
	for i := range 20 { // at once: they share their writes
		wg.Go(func() {
			id := api.ID{byte(i)}
			o := order(5)
			o.VMID = id
			if err := j.putVM(record{ID: id, Epoch: api.Epoch(i), State: api.StateRunning}, o); err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	m.Generation, m.Index = 3, 99
	must.NoError(t, j.putMeta(m))
	must.NoError(t, j.dropVM(api.ID{0}))
	must.NoError(t, j.close())
	j, m, recs, err = openJournal(dir, node1, false)
	must.NoError(t, err)
	must.SliceLen(t, 19, recs)
	must.Eq(t, 2, m.Sessions)
	must.Eq(t, 99, m.Index)
	o, err := j.order(api.ID{4})
	must.NoError(t, err)
	must.Eq(t, 5, o.Index)
	must.True(t, j.holds(o))
	o, err = j.order(api.ID{0})
	must.NoError(t, err)
	must.Nil(t, o)
	must.NoError(t, j.close())
	must.Eq(t, api.CodeJournal, api.CodeOf(j.putMeta(m))) // closed: said, not ignored
}

func TestNothingIsDoneThatWasNotWritten(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		must.NoError(t, b.c.journal.close())
		b.srv.order(vm1)
		b.sleep(time.Minute)
		must.Eq(t, 0, b.host.Len())
		must.StrContains(t, b.c.Health().Message, "journal")
	})
}
