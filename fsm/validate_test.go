package fsm

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/novacron/novacron/api"
)

// What requests may say, the state machine takes: its checks are the looser ones.
func TestChecksAreNoStricterThanThoseOfRequests(t *testing.T) {
	names := rapid.Custom(func(t *rapid.T) string {
		return rapid.StringOfN(rapid.RuneFrom([]rune("azAZ09-._ /")), 0, 20, -1).Draw(t, "name")
	})
	rapid.Check(t, func(t *rapid.T) {
		s := names.Draw(t, "s")
		if api.ValidName(s) && !ValidName(s) {
			t.Fatalf("the name %q", s)
		}
		if api.ValidInterface(s) != validInterface(s) {
			t.Fatalf("the interface %q", s)
		}
	})
	for _, s := range []string{"a-", strings.Repeat("a", 63), "br0", "br-", "br_lan.7", "enp1s0", "Br0"} {
		must.Eq(t, api.ValidInterface(s), validInterface(s), must.Sprint(s))
		must.True(t, ValidName(s) || !api.ValidName(s), must.Sprint(s))
	}
	big := api.VMSpec{
		Name: "a-", Namespace: "b-", CPU: api.CPUSpec{Cores: api.MaxCores}, Memory: api.MaxMemory, Priority: 100,
		Description: strings.Repeat("x", api.MaxDescription), Boot: &api.BootSpec{Kernel: "k-", Cmdline: strings.Repeat("x", api.MaxCmdline)},
		CloudInit: &api.CloudInit{UserData: make([]byte, api.MaxUserData)},
	}
	for range api.MaxDisks {
		big.Disks = append(big.Disks, api.Disk{Size: api.MaxDiskSize})
	}
	big.Disks[0].Boot = api.MaxDisks
	big.NICs = slices.Repeat([]api.NIC{{Network: "n-"}}, api.MaxNICs)
	big.Canonicalize()
	must.NoError(t, big.Validate())
	must.NoError(t, (&VMApply{ID: id('m', 1), Spec: big, VolumeIDs: volumeIDs(1, api.MaxDisks)}).Validate())
}
