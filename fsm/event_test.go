package fsm

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// told runs an act and returns "topic type: message" of each event.
func (w *world) told(act func()) []string {
	w.t.Helper()
	w.seen = nil
	act()
	var out []string
	for _, e := range EventsOf(w.seen, w.s()) {
		must.Eq(w.t, w.index, e.Index)
		must.Positive(w.t, e.Time)
		must.NotEq(w.t, "", e.Message)
		out = append(out, e.Topic+" "+e.Type+": "+e.Message)
	}
	return out
}

func TestEventsTellTheStoryOfAVM(t *testing.T) {
	w := region(t, 1)
	must.Eq(t, []string{"volume created: volume vm-1-root created", "vm created: VM vm-1 created"}, w.told(func() { w.vm(1, local("root")) }))
	must.Eq(t, []string{"volume updated: volume vm-1-root updated", "placement placed: VM vm-1 placed on node-1 at epoch 1"}, w.told(func() { w.placed(1, 1) }))
	state := func(s api.VMState, more ...func(*api.VMReport)) []string {
		return w.told(func() { w.report(1, 1, 1, s, more...) })
	}
	must.Eq(t, []string{"placement preparing: VM vm-1 preparing on node-1"}, state(api.StatePreparing))
	must.Eq(t, []string{"placement started: VM vm-1 running on node-1"}, state(api.StateRunning))
	must.Eq(t, []string{"placement failed: VM vm-1 failed on node-1: crash (qemu died)"}, state(api.StateFailed, func(r *api.VMReport) { r.Reason, r.Message = "crash", "qemu died" }))
	must.Eq(t, []string{"placement started: VM vm-1 running on node-1"}, state(api.StateRunning))
	must.Eq(t, []string{"placement restarted: VM vm-1 restarted in place on node-1"}, state(api.StateRunning, func(r *api.VMReport) { r.Restarts = 1 }))
	must.Eq(t, []string{"placement rebooted: VM vm-1 rebooted on node-1"}, state(api.StateRunning, func(r *api.VMReport) { r.Restarts, r.Reboots = 1, 1 }))
	must.Eq(t, []string{"placement updated: VM vm-1 on node-1: report"}, state(api.StateRunning, func(r *api.VMReport) { r.Restarts, r.Reboots, r.Addresses = 1, 1, []string{"10.0.0.1"} }))
	act := func(a string) []string { return w.told(func() { w.ok(&VMPower{ID: id('m', 1), Action: a}) }) }
	must.Eq(t, []string{"vm power: VM vm-1 is wanted paused", "placement ordered: node-1 ordered to have VM vm-1 paused"}, act("pause"))
	must.Eq(t, []string{"vm power: VM vm-1 is wanted running", "placement ordered: node-1 ordered to have VM vm-1 running"}, act("resume"))
	must.Eq(t, []string{"vm reboot: VM vm-1 is to be rebooted"}, act("reboot"))
	must.Eq(t, []string{"vm reset: VM vm-1 is to be reset"}, act("reset"))
	must.Eq(t, []string{"vm start: VM vm-1 is to be started"}, act("start"))
	must.Eq(t, []string{"vm updated: VM vm-1 has a new spec, version 2"}, w.told(func() {
		s := w.s().VM(id('m', 1)).Spec
		s.Description = "x"
		w.ok(&VMApply{ID: id('m', 1), Spec: s, VolumeIDs: volumeIDs(1, 1)})
	}))
	must.Eq(t, []string{"vm deleting: VM vm-1 is being deleted", "placement stop: node-1 ordered to stop VM vm-1 at epoch 1 or lower (deleted)", "placement unplaced: VM vm-1 taken from node-1"},
		w.told(func() { w.ok(&VMDelete{ID: id('m', 1)}) }))
	must.Eq(t, []string{"placement absent: node-1 confirmed that VM vm-1 is absent there", "volume deleting: volume vm-1-root is deleting"}, state(api.StateAbsent))
	must.Eq(t, []string{"volume deleted: volume vm-1-root deleted", "vm deleted: VM vm-1 deleted"}, w.told(func() { w.volumes(1, api.VolumeAbsent, volumeIDs(1, 1)...) }))
}

func TestEventsOfTheOtherNouns(t *testing.T) {
	w := region(t, 1)
	status := func(s api.NodeStatus, note string) func() {
		return func() {
			w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: s, Note: note}}})
		}
	}
	for _, tc := range []struct {
		want string
		act  func()
	}{
		{"node suspect: node node-1 is suspect: missed beats", status(api.NodeSuspect, "missed beats")},
		{"node ready: node node-1 is ready", status(api.NodeReady, "")},
		{"node ineligible: node node-1 is ineligible", func() { w.ok(&NodeUpdate{ID: id('n', 1), Eligibility: api.Ineligible}) }},
		{"node unreachable: node node-1 is unreachable", func() {
			w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Unreachable: ptr("timeout")}}})
		}},
		{"node orphan: node-1 holds domain 6d000000, which is left alone: no VM of this id is known", func() { w.report(1, 9, 1, api.StateRunning) }},
		{"node orphan-gone: orphan 6d000000 is gone from node-1", func() { w.report(1, 9, 1, api.StateAbsent) }},
		{"pool updated: pool default updated", func() { w.ok(&PoolApply{Pool: api.Pool{Name: "default", Ratio: 2}}) }},
		{"network created: network x created", func() { w.ok(&NetworkApply{Network: api.Network{Name: "x", Type: "nat"}}) }},
		{"namespace created: namespace dev created", func() { w.ok(ns("dev")) }},
		{"namespace deleted: namespace dev deleted", func() { w.ok(&NamespaceDelete{Name: "dev"}) }},
		{"image updated: image debian updated", func() { w.ok(&ImageReplicas{ID: id('i', 1), Add: []api.ID{id('n', 1)}}) }},
		{"image deleting: image debian is deleting", func() { w.ok(&ImageDelete{ID: id('i', 1)}) }},
		{"operator scheduler: the scheduler's configuration was changed", func() { w.ok(&SchedulerSet{Config: api.SchedulerConfig{CPURatio: 2}}) }},
		{"operator created: denial of node 6e000000-0000-0000-0000-000000000009 created", func() { w.ok(&NodeDeny{NodeID: id('n', 9)}) }},
		{"operator recovery: recovery has begun: waiting for the nodes to report", func() { w.ok(&RecoveryBegin{}) }},
	} {
		must.SliceContains(t, w.told(tc.act), tc.want)
	}
	must.SliceContains(t, w.told(func() { w.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 1)}) }), "operator recovery: a node has reported")
	must.SliceContains(t, w.told(func() { w.ok(&RecoveryEnd{}) }), "operator recovery: recovery has ended")

	v := newWorld(t, version2())
	must.SliceContains(t, v.told(func() { v.ok(&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2)}) }), "operator initialised: region r1 initialised")
	must.SliceContains(t, v.told(func() { v.ok(&SchemaStep{Version: 2}) }), "operator schema: schema 2 is active")
	must.Eq(t, []string{"operator schema: schema 2 is finalized"}, v.told(func() { v.ok(&SchemaFinalize{Version: 2}) }))
	gen := v.told(func() { v.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 1), MaxGeneration: 8}) })
	must.SliceContains(t, gen, "operator generation: generation 9")
}

func TestEventsHoldNoSecrets(t *testing.T) {
	w := region(t, 0)
	hash := bytes.Repeat([]byte("H"), 32)
	got := w.told(func() {
		w.ok(&Bootstrap{Token: api.Token{Accessor: id('t', 1), Type: api.TokenManagement, Name: "first"}, Hash: hash})
	})
	must.Eq(t, []string{"token created: management token 74000000 created", "operator bootstrapped: the first management token was made"}, got)
	w.ok(&KeyringPut{Key: KeyRecord{Name: "gossip", Sealed: hash}})
	payloads := 0
	for _, e := range EventsOf(w.seen, w.s()) {
		b := e.Whole().Payload
		payloads += len(b)
		must.False(t, bytes.Contains(b, []byte("SEhI")), must.Sprint("the hash in base64"))
		must.False(t, bytes.Contains(b, hash))
	}
	must.Positive(t, payloads)
}

func TestEventSnapshotHasEveryNoun(t *testing.T) {
	w := busy(t)
	topics := map[string]int{}
	index := EventSnapshot(w.s(), func(e *api.Event) bool {
		must.Eq(t, "exists", e.Type)
		must.NotEq(t, api.TopicOperator, e.Topic, must.Sprint("no noun"))
		topics[e.Topic]++
		return true
	})
	must.Eq(t, w.index, index)
	for _, topic := range []string{api.TopicVM, api.TopicNode, api.TopicPlacement, api.TopicVolume, api.TopicPool, api.TopicImage, api.TopicNetwork, api.TopicNamespace, api.TopicToken} {
		must.Positive(t, topics[topic], must.Sprint(topic))
	}
	must.Positive(t, w.s().tombstones.len())
	must.Positive(t, w.s().orphans.len())
	must.Eq(t, w.s().placements.len(), topics[api.TopicPlacement], must.Sprint("no orders to stop"))
	must.Eq(t, w.s().nodes.len(), topics[api.TopicNode], must.Sprint("no orphans"))
	n := 0
	EventSnapshot(w.s(), func(*api.Event) bool { n++; return n < 3 })
	must.Eq(t, 3, n)
	must.Len(t, 3, slices.Collect(w.s().VMsFrom(id('m', 1))))
	must.Eq(t, 3, w.s().VMCount())
	for _, d := range defs {
		must.Positive(t, w.s().TableIndex(d.tableName()), must.Sprint(d.tableName()))
	}
	must.Eq(t, w.index, w.s().TableIndex("none"))
	must.False(t, strings.Contains(stateVerb(api.StateAbsent), "absent"))
}
