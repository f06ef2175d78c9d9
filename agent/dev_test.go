package agent

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestDevRunsAVMAndTakesItAway(t *testing.T) {
	host := sim.NewHost(sim.Options{})
	foreign := &hypervisor.Machine{ID: api.NewID(), Name: "foreign", Namespace: "default", CPU: api.CPUSpec{Cores: 1}, Memory: 64 * api.MiB}
	other := sim.New(host)
	must.NoError(t, other.Start(t.Context(), foreign, false))
	defer other.Close()

	a := start(t, devConfig(), Options{SimHost: host, Version: "test"})
	must.StrHasPrefix(t, "http://127.0.0.1:", a.Address())
	must.StrHasPrefix(t, "nova.", a.Token())
	must.Eq(t, "sim (configured)", a.Hypervisor())
	c := sdk(t, api.ClientConfig{Address: a.Address(), Token: a.Token()})
	runVM(t, c, "web")
	must.Eq(t, 2, host.Len())

	_, err := c.Networks().Get(t.Context(), "default", nil)
	must.NoError(t, err)
	self, err := c.Agent().Self(t.Context())
	must.NoError(t, err)
	must.True(t, self.Server && self.Client)
	must.Eq(t, "test", self.Version)
	eventually(t, "healthy", func() error {
		h, err := c.Agent().Health(t.Context())
		if err == nil && !h.OK {
			err = errors.New(h.Client.Message + h.Server.Message)
		}
		return err
	})
	m, err := c.Agent().Metrics(t.Context(), "prometheus")
	must.NoError(t, err)
	must.StrContains(t, string(m), "novacron_")

	dir := a.DataDir()
	_, err = os.Stat(dir)
	must.NoError(t, err)
	c.Close()
	must.NoError(t, a.Close(t.Context()))
	must.Eq(t, 1, host.Len(), must.Sprint("only what it made is gone"))
	_, err = os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// Also what is being deleted, and what only the client half remembers.
func TestDevTakesAwayWhatIsOnItsWayOut(t *testing.T) {
	host := sim.NewHost(sim.Options{IgnoreACPI: true})
	c := devConfig()
	c.DataDir = t.TempDir()
	a := start(t, c, Options{SimHost: host})
	cl := sdk(t, api.ClientConfig{Address: a.Address(), Token: a.Token()})
	vm := runVM(t, cl, "web")
	_, err := cl.VMs().Delete(t.Context(), &api.DeleteRequest{Key: "web"}, nil)
	must.NoError(t, err)
	must.SliceContains(t, a.madeVMs(), vm.ID)
	must.SliceContains(t, a.client.Known(), vm.ID)
	cl.Close()
	must.NoError(t, a.Close(t.Context()))
	must.Eq(t, 0, host.Len())
}

func TestDevInAFolderComesBackWithItsToken(t *testing.T) {
	conf := func() *Config {
		c := devConfig()
		c.DataDir = filepath.Join(t.TempDir(), "..", "dev")
		return c
	}
	first := conf()
	a := start(t, first, Options{})
	token := a.Token()
	must.NoError(t, a.Close(t.Context()))
	again := devConfig()
	again.DataDir = first.DataDir
	b := start(t, again, Options{})
	must.Eq(t, token, b.Token())
	_, err := sdk(t, api.ClientConfig{Address: b.Address(), Token: token}).Nodes().List(t.Context(), nil)
	must.NoError(t, err)
}

func TestDevChoosesTheHypervisorAndSaysWhy(t *testing.T) {
	c := devConfig()
	c.Client.Hypervisor.Kind = ""
	c.Client.Hypervisor.Socket = "/nonexistent/libvirt-sock"
	a := start(t, c, Options{})
	must.RegexMatch(t, regexp.MustCompile(`^sim \((no libvirt answers|this is not root)`), a.Hypervisor())
}

func TestDevIsForLoopbackOnly(t *testing.T) {
	c := devConfig()
	must.NoError(t, c.SetHTTPAddr("0.0.0.0:0", Source{Name: "flag -http-addr"}))
	must.NoError(t, c.ValidateDev())
	_, err := New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "loopback only")
	must.Eq(t, api.CodeConfig, api.CodeOf(err))
	must.ErrorContains(t, c.SetHTTPAddr("nonsense", Source{Name: "flag -http-addr"}), "flag -http-addr")
}
