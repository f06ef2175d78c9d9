package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestAVMLives(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.working("n1")
	r.working("n2")
	plan := mustCall[api.VMPlanned](r, "VM.Plan", &api.VMPlan{Spec: testSpec("web")})
	must.True(t, plan.Create)
	must.False(t, plan.Explanation.Chosen.IsZero())
	must.Eq(t, 0, plan.CheckIndex)

	check := plan.CheckIndex
	made := mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web"), CheckIndex: &check})
	must.True(t, made.Created)
	st := r.vm("web", "running")
	must.SliceEmpty(t, st.Why)
	must.Len(t, 1, st.Volumes)
	must.SliceNotEmpty(t, st.Events)
	list := mustCall[api.VMListResponse](r, "VM.List", &api.ListRequest{QueryOptions: api.QueryOptions{Filter: `state == running`}})
	must.Len(t, 1, list.Items)
	must.Eq(t, st.Node, list.Items[0].Node)
	must.Len(t, 1, mustCall[api.PlacementListResponse](r, "Placement.List", &api.PlacementListRequest{NodeID: st.Placement.NodeID}).Items)

	// Power.
	for _, step := range []struct{ action, state string }{{"pause", "paused"}, {"resume", "running"}, {"stop", "stopped"}, {"start", "running"}} {
		mustCall[api.VMApplied](r, "VM.Power", &api.VMPower{Key: "web", Action: step.action})
		r.vm("web", step.state)
	}
	must.Eq(t, st.Placement.Epoch, r.vm("web", "running").Placement.Epoch, must.Sprint("stop and start keep owner and epoch"))

	// A changed spec, its difference, history and the way back.
	bigger := testSpec("web")
	bigger.Memory = 512 * api.MiB
	bigger.Description = "larger"
	plan = mustCall[api.VMPlanned](r, "VM.Plan", &api.VMPlan{Spec: bigger})
	must.False(t, plan.Create)
	must.True(t, plan.RestartNeeded)
	must.Eq(t, []api.FieldDiff{
		{Field: "description", New: "larger"},
		{Field: "memory", Old: "256 MiB", New: "512 MiB", RestartNeeded: true},
	}, plan.Diff)
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: bigger})
	hist := mustCall[api.VMHistoryResponse](r, "VM.History", &api.VMHistoryRequest{Key: "web"})
	must.Len(t, 2, hist.Items)
	must.Eq(t, 2, hist.Items[0].Version)
	back := mustCall[api.VMApplied](r, "VM.Revert", &api.VMRevert{Key: "web", Version: 1})
	must.Eq(t, 256*api.MiB, back.VM.Spec.Memory)
	must.Eq(t, 3, back.VM.SpecVersion)
	_, err := call[api.VMApplied](r, r.leader(), "VM.Revert", &api.VMRevert{Key: "web", Version: 77})
	must.ErrorIs(t, err, code(api.CodeNotFound))

	mustCall[api.WriteMeta](r, "VM.Delete", &api.DeleteRequest{Key: made.VM.ID.String()})
	r.vm("web", "")
	must.SliceEmpty(t, mustCall[api.VolumeListResponse](r, "Volume.List", &api.ListRequest{}).Items)
	r.converge()
}

func TestAStatusSaysWhy(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	must.Eq(t, []string{"no node has registered"}, r.vm("web", "pending").Why)

	n := r.newNode("n1").ready()
	huge := testSpec("huge")
	huge.Memory = 512 * api.GiB
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: huge})
	st := r.vm("huge", "pending")
	must.StrContains(t, st.Why[0], "no node fits: memory removes 1 node")
	must.Len(t, 1, st.Pending.Nodes)

	var p *api.Placement
	eventually(t, "placed", func() bool { p = r.vm("web", "pending").Placement; return p != nil })
	say := func(v api.VMReport) {
		t.Helper()
		v.VMID, v.Epoch, v.Seq = p.VMID, p.Epoch, n.seq.Add(1)
		must.NoError(t, n.report([]api.VMReport{v}))
	}
	say(api.VMReport{State: api.StateFailed, Reason: "no-kvm", Message: "no /dev/kvm"})
	must.StrContains(t, r.vm("web", "failed").Why[0], "no-kvm no /dev/kvm")
	say(api.VMReport{State: api.StateUnknown})
	must.StrContains(t, r.vm("web", "unknown").Why[0], "cannot tell")
	say(api.VMReport{State: api.StateStopped, Reason: "guest-shutdown", Version: 1})
	must.StrContains(t, r.vm("web", "stopped").Why[0], "ended by itself: guest-shutdown")

	say(api.VMReport{State: api.StateRunning, Version: 1})
	more := testSpec("web")
	more.CPU.Cores = 2
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: more})
	st = r.vm("web", "running")
	must.True(t, st.RestartNeeded)
	must.StrContains(t, st.Why[0], "version 2 takes effect")
	say(api.VMReport{State: api.StateRunning, Version: 2})
	must.False(t, r.vm("web", "running").RestartNeeded)

	mustCall[api.VMApplied](r, "VM.Power", &api.VMPower{Key: "web", Action: "stop"})
	must.StrContains(t, r.vm("web", "running").Why[0], "asked to shut down")
	mustCall[api.WriteMeta](r, "VM.Delete", &api.DeleteRequest{Key: "web"})
	must.StrContains(t, r.vm("web", "deleting").Why[0], "waits until node n1")
}

func TestWhatOnlyTheNodeKnowsIsAskedThere(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.working("n1")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	vm := r.vm("web", "running").VM
	stats := mustCall[api.VMStatsResponse](r, "VM.Stats", &api.GetRequest{Key: "web"})
	must.Eq(t, vm.ID, stats.Stats.VMID)

	r.converge()
	for _, m := range r.servers {
		ctx, cancel := context.WithCancel(r.as())
		var con api.Stream
		eventually(t, "the console is open", func() bool {
			var err error
			if con, err = m.Mux().Open(ctx, "VM.Console", &api.GetRequest{Key: "web"}); !leaderLost(err) {
				must.NoError(t, err)
			}
			return err == nil
		})
		for _, text := range []string{"hello", "world"} {
			must.NoError(t, con.Send(&api.Chunk{Data: []byte(text)}))
			c := &api.Chunk{}
			must.NoError(t, con.Recv(c))
			must.Eq(t, text, string(c.Data))
		}
		must.NoError(t, con.Send(&api.Chunk{Data: []byte("bye")}))
		must.ErrorIs(t, con.Recv(&api.Chunk{}), io.EOF, must.Sprint("the console ends with its guest"))
		cancel()
	}
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("off"), Power: api.PowerStopped})
	_, err := call[api.VMStatsResponse](r, r.leader(), "VM.Stats", &api.GetRequest{Key: "off"})
	must.ErrorIs(t, err, code(api.CodeUnplaced))
}

// upload sends an image and returns the answer; again when there was no leader.
func (r *region) upload(m *machine, name string, content []byte, change func(*api.ImageUpload)) (resp *api.ImageResponse, err error) {
	r.t.Helper()
	eventually(r.t, "the upload has an outcome", func() bool {
		resp, err = r.uploadOnce(m, name, content, change)
		return api.CodeOf(err) != api.CodeNoLeader
	})
	return resp, err
}

func (r *region) uploadOnce(m *machine, name string, content []byte, change func(*api.ImageUpload)) (*api.ImageResponse, error) {
	sum := sha256.Sum256(content)
	req := &api.ImageUpload{Name: name, Kind: "disk", Format: "raw", Size: api.Bytes(len(content)), SHA256: hex.EncodeToString(sum[:])}
	if change != nil {
		change(req)
	}
	ctx, cancel := context.WithCancel(r.as())
	defer cancel()
	st, err := m.Mux().Open(ctx, "Image.Upload", req)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(content); i += 1000 {
		if err := st.Send(&api.Chunk{Data: content[i:min(i+1000, len(content))]}); err != nil {
			break // Recv says why
		}
	}
	_ = st.CloseSend()
	resp := &api.ImageResponse{}
	return resp, st.Recv(resp)
}

func TestAnImageLivesOnTwoNodes(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	content := make([]byte, 4321)
	_, err := r.upload(r.leader(), "debian", content, nil)
	must.ErrorIs(t, err, code(api.CodeNoNode))

	a := r.newNode("n1").ready()
	resp, err := r.upload(r.follower(), "debian", content, nil)
	must.NoError(t, err)
	im := resp.Image
	must.Eq(t, []api.ID{a.node.ID}, im.Replicas)
	must.Eq(t, api.ImageReady, im.State)
	must.Eq(t, api.Bytes(2*4321), im.VirtualSize)
	_, err = r.upload(r.leader(), "debian", content, nil)
	must.ErrorIs(t, err, code(api.CodeExists))

	// A second node gets its copy.
	b := r.newNode("n2").ready()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.leader().dutyImages(ctx) }()
	eventually(t, "two copies", func() bool {
		got := mustCall[api.ImageResponse](r, "Image.Get", &api.GetRequest{Key: "debian"})
		return len(got.Image.Replicas) == 2
	})
	cancel()
	must.NoError(t, <-done)
	must.True(t, b.holds(im.SHA256))

	two, err := r.upload(r.leader(), "other", []byte("other"), nil)
	must.NoError(t, err)
	must.Len(t, 2, two.Image.Replicas)
	must.Len(t, 2, mustCall[api.ImageListResponse](r, "Image.List", &api.ListRequest{QueryOptions: api.QueryOptions{Namespace: "*"}}).Items)

	down, err := r.follower().Mux().Open(r.as(), "Image.Download", &api.GetRequest{Key: im.ID.String()})
	must.NoError(t, err)
	var got []byte
	must.NoError(t, copyChunks(down, func(c *api.Chunk) error { got = append(got, c.Data...); return nil }))
	must.Eq(t, content, got)
	mustCall[api.WriteMeta](r, "Image.Delete", &api.DeleteRequest{Key: "debian"})
	must.Eq(t, api.ImageDeleting, mustCall[api.ImageResponse](r, "Image.Get", &api.GetRequest{Key: "debian"}).Image.State)
}

func TestAnImageMustBeWhatItIsSaidToBe(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.newNode("n1").ready()
	for _, c := range []func(*api.ImageUpload){
		func(u *api.ImageUpload) { u.Size++ },
		func(u *api.ImageUpload) { u.Size-- },
		func(u *api.ImageUpload) { u.SHA256 = hex.EncodeToString(make([]byte, 32)) },
	} {
		_, err := r.upload(r.leader(), "bad", make([]byte, 2500), c)
		must.ErrorIs(t, err, code(api.CodeImageBad))
	}
	_, err := r.upload(r.leader(), "Bad Name", []byte("x"), nil)
	must.ErrorIs(t, err, code(api.CodeInvalid))
	_, err = r.upload(r.leader(), "bad", []byte("x"), func(u *api.ImageUpload) { u.Namespace = "none" })
	must.ErrorIs(t, err, code(api.CodeNotFound))
	must.SliceEmpty(t, mustCall[api.ImageListResponse](r, "Image.List", &api.ListRequest{}).Items)
}

func TestACopyOfAnImageThatStandsStillIsGivenUp(t *testing.T) {
	r := newWorld(t).region("eu", 1, func(c *Config) { c.imageStall, c.imageFinish = 50*time.Millisecond, 50*time.Millisecond })
	r.newNode("n1").ready()
	im, err := r.upload(r.leader(), "debian", make([]byte, 1000), nil)
	must.NoError(t, err)
	b := r.newNode("n2")
	b.stuck = true
	b.ready()
	st := r.leader().fsm.State()
	err = r.leader().copyImage(t.Context(), st, im.Image, st.NodeByName("n2"))
	must.ErrorIs(t, err, code(api.CodeDeadline))
}
