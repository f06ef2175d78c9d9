package cluster

import (
	"context"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// X19: an id of another namespace finds nothing, and the answer is that for an id
// that nobody has.
func TestNounsOfOtherNamespacesAreNotThere(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	for _, ns := range []string{"red", "blue"} {
		mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: ns}})
	}
	spec := testSpec("web")
	spec.Namespace = "red"
	vm := mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec}).VM
	vol := mustCall[api.VolumeResponse](r, "Volume.Create", &api.VolumeCreate{Namespace: "red", Name: "data", Size: api.GiB}).Volume
	im := api.Image{ID: api.NewID(), Namespace: "red", Name: "debian", Kind: "disk", Format: "raw", Size: 1, VirtualSize: api.GiB, SHA256: strings.Repeat("ab", 32), State: api.ImageReady}
	_, err := r.leader().Apply(t.Context(), &fsm.ImageCreate{Image: im})
	must.NoError(t, err)

	s := r.leader().Server
	var grants []acl.Grant
	for _, c := range []acl.Capability{acl.ReadVM, acl.WriteVM, acl.PowerVM, acl.ConsoleVM, acl.ReadPlacement, acl.ReadVolume, acl.WriteVolume, acl.ReadImage, acl.WriteImage} {
		grants = append(grants, acl.Grant{Capability: c, Namespace: "blue"})
	}
	blue := rpc.WithIdentity(t.Context(), &acl.Identity{Role: acl.RoleUser, Accessor: api.NewID(), Grants: grants})
	red := rpc.WithIdentity(t.Context(), &acl.Identity{Role: acl.RoleUser, Management: true})
	get := func(ns, key string) *api.GetRequest {
		return &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: ns}, Key: key}
	}
	for name, c := range map[string]struct {
		id, name string
		do       func(ns, key string) error
	}{
		"VM.Get":    {vm.ID.String(), "web", func(ns, key string) error { _, err := s.vmGet(blue, get(ns, key)); return err }},
		"VM.Status": {vm.ID.String(), "web", func(ns, key string) error { _, err := s.vmStatus(blue, get(ns, key)); return err }},
		"VM.History": {vm.ID.String(), "web", func(ns, key string) error {
			_, err := s.vmHistory(blue, &api.VMHistoryRequest{QueryOptions: api.QueryOptions{Namespace: ns}, Key: key})
			return err
		}},
		"VM.Stats":       {vm.ID.String(), "web", func(ns, key string) error { _, err := s.vmStats(blue, get(ns, key)); return err }},
		"VM.Console":     {vm.ID.String(), "web", func(ns, key string) error { return s.vmConsole(blue, get(ns, key), nil) }},
		"Placement.Get":  {vm.ID.String(), "web", func(ns, key string) error { _, err := s.placementGet(blue, get(ns, key)); return err }},
		"Volume.Get":     {vol.ID.String(), "data", func(ns, key string) error { _, err := s.volumeGet(blue, get(ns, key)); return err }},
		"Image.Get":      {im.ID.String(), "debian", func(ns, key string) error { _, err := s.imageGet(blue, get(ns, key)); return err }},
		"Image.Download": {im.ID.String(), "debian", func(ns, key string) error { return s.imageDownload(blue, get(ns, key), nil) }},
		"VM.Power": {vm.ID.String(), "web", func(ns, key string) error {
			_, err := s.vmPower(blue, &api.VMPower{Namespace: ns, Key: key, Action: "stop"})
			return err
		}},
		"VM.Revert": {vm.ID.String(), "web", func(ns, key string) error {
			_, err := s.vmRevert(blue, &api.VMRevert{Namespace: ns, Key: key, Version: 1})
			return err
		}},
		"VM.Delete": {vm.ID.String(), "web", func(ns, key string) error {
			_, err := s.vmDelete(blue, &api.DeleteRequest{Namespace: ns, Key: key})
			return err
		}},
		"Volume.Delete": {vol.ID.String(), "data", func(ns, key string) error {
			_, err := s.volumeDelete(blue, &api.DeleteRequest{Namespace: ns, Key: key})
			return err
		}},
		"Image.Delete": {im.ID.String(), "debian", func(ns, key string) error {
			_, err := s.imageDelete(blue, &api.DeleteRequest{Namespace: ns, Key: key})
			return err
		}},
		"VM.Run a volume": {vol.ID.String(), "data", func(_, key string) error { return s.runWith(blue, api.Disk{Name: "root", Volume: key}) }},
		"VM.Run an image": {im.ID.String(), "debian", func(_, key string) error { return s.runWith(blue, api.Disk{Name: "root", Image: key}) }},
	} {
		for _, ns := range []string{"", "*", "blue", "red"} {
			nobody := api.NewID().String()
			want := strings.ReplaceAll(errorText(c.do(ns, nobody)), nobody, "KEY")
			for _, key := range []string{c.id, c.id[:8], c.name} {
				err := c.do(ns, key)
				must.Eq(t, api.CodeNotFound, api.CodeOf(err), must.Sprintf("%s %q %q: %v", name, ns, key, err))
				must.Eq(t, want, strings.ReplaceAll(errorText(err), key, "KEY"), must.Sprint(name))
			}
		}
	}
	// Nothing happened to them, and who may see them finds them.
	_, err = s.vmGet(red, get("", vm.ID.String()))
	must.NoError(t, err)
	_, err = s.volumeGet(red, get("", vol.ID.String()))
	must.NoError(t, err)
	got, err := s.imageGet(red, get("", im.ID.String()))
	must.NoError(t, err)
	must.Eq(t, api.ImageReady, got.Image.State)
	must.Eq(t, 1, r.leader().fsm.State().VMCount())
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// runWith applies a spec with one disk in the namespace blue.
func (s *Server) runWith(ctx context.Context, d api.Disk) error {
	spec := testSpec("mine")
	spec.Namespace, spec.Disks = "blue", []api.Disk{d}
	_, err := s.vmApply(ctx, &api.VMApply{Spec: spec})
	return err
}

// C10: what no node takes as network configuration is refused before it is in the
// log.
func TestHostileNetworkConfigsAreRefused(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.login()
	before := r.leader().fsm.State().Index()
	for _, text := range []string{"x: 1", "version: 2\na: &a [x,x]\nb: [*a,*a]\n", "version: 2\nx: !exec rm\n", "version: 2\n---\nversion: 2\n", "[", "version: 2\nx: {<<: {y: z}}"} {
		spec := testSpec("web")
		spec.CloudInit = &api.CloudInit{NetworkConfig: []byte(text)}
		_, err := call[api.VMApplied](r, r.leader(), "VM.Apply", &api.VMApply{Spec: spec})
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(text))
		_, err = call[api.VMPlanned](r, r.leader(), "VM.Plan", &api.VMPlan{Spec: spec})
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(text))
	}
	must.Eq(t, before, r.leader().fsm.State().Index())
}

// A plan is refused where the write would be.
func TestAPlanIsWhatApplyWouldDo(t *testing.T) {
	r := newWorld(t).region("eu", 2)
	r.working("n1")
	r.working("n2")
	for _, n := range []string{"n1", "n2"} {
		mustCall[api.VolumeResponse](r, "Volume.Create", &api.VolumeCreate{Name: "on-" + n, Size: api.GiB, Node: n})
	}
	mustCall[api.VolumeResponse](r, "Volume.Create", &api.VolumeCreate{Name: "taken-root", Size: api.GiB, Node: "n1"})
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "running")
	for name, c := range map[string]struct {
		vm     string
		change func(*api.VMSpec)
		code   api.Code
	}{
		"namespace missing":    {"new", func(s *api.VMSpec) { s.Namespace = "none" }, api.CodeNotFound},
		"network missing":      {"new", func(s *api.VMSpec) { s.NICs = []api.NIC{{Network: "none"}} }, api.CodeNotFound},
		"image missing":        {"new", func(s *api.VMSpec) { s.Disks[0] = api.Disk{Name: "root", Image: "none"} }, api.CodeNotFound},
		"kernel missing":       {"new", func(s *api.VMSpec) { s.Boot = &api.BootSpec{Kernel: "none"} }, api.CodeNotFound},
		"volume missing":       {"new", func(s *api.VMSpec) { s.Disks[0] = api.Disk{Name: "root", Volume: "none"} }, api.CodeNotFound},
		"volumes on two nodes": {"new", func(s *api.VMSpec) { s.Disks = []api.Disk{{Volume: "on-n1"}, {Volume: "on-n2"}} }, api.CodeState},
		"name of a volume":     {"taken", func(*api.VMSpec) {}, api.CodeExists},
		"volume of another VM": {"new", func(s *api.VMSpec) { s.Disks[0] = api.Disk{Name: "root", Volume: "web-root"} }, api.CodeInUse},
		"disk changed":         {"web", func(s *api.VMSpec) { s.Disks[0].Size *= 2 }, api.CodeUnsupported},
		"disk taken from it":   {"web", func(s *api.VMSpec) { s.Disks = nil }, api.CodeState},
		"larger than its node": {"web", func(s *api.VMSpec) { s.Memory = 10 * api.TiB }, api.CodeNoNode},
		"constraint unreadable": {"new", func(s *api.VMSpec) {
			s.Constraints = []api.Constraint{{Attribute: "nothing.like-this", Operator: "=", Value: "x"}}
		}, 0},
	} {
		spec := testSpec(c.vm)
		c.change(&spec)
		before := r.leader().fsm.State()
		_, perr := call[api.VMPlanned](r, r.leader(), "VM.Plan", &api.VMPlan{Spec: spec})
		must.True(t, before.VMCount() == r.leader().fsm.State().VMCount())
		if c.code == 0 {
			must.NoError(t, perr, must.Sprint(name))
			continue
		}
		must.Eq(t, c.code, api.CodeOf(perr), must.Sprintf("%s: %v", name, perr))
		_, aerr := call[api.VMApplied](r, r.leader(), "VM.Apply", &api.VMApply{Spec: spec})
		must.Eq(t, errorText(aerr), errorText(perr), must.Sprint(name))
	}
	plan := mustCall[api.VMPlanned](r, "VM.Plan", &api.VMPlan{Spec: func() api.VMSpec {
		s := testSpec("warned")
		mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24"}})
		s.NICs = []api.NIC{{Network: "lan", Address: "10.9.0.7/24"}}
		return s
	}()})
	must.Len(t, 1, plan.Warnings)
	must.StrContains(t, plan.Warnings[0], "10.9.0.7/24 has no effect without a cloud_init block")
}
