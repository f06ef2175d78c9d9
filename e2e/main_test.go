//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// cluster is the one lab that all tests share: 3 servers, 2 clients.
var cluster *lab.Cluster

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	binary, guest := os.Getenv("NOVA_BINARY"), os.Getenv("NOVA_GUEST")
	if binary == "" || guest == "" {
		fmt.Fprintln(os.Stderr, "run these tests with: make test-e2e")
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := filepath.Join(os.TempDir(), "novacron-e2e")
	lock, err := alone(dir + ".lock")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer lock.Close()
	cluster = lab.Standard("e2e", "10.77.0", dir, binary)
	cluster.Log = os.Stderr
	if cover := os.Getenv("NOVA_COVER"); cover != "" {
		cluster.Env = []string{"GOCOVERDIR=" + cover}
	}
	keep := os.Getenv("NOVA_KEEP") != ""
	defer func() {
		if !keep {
			stopAll()
			if err := cluster.Down(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, "lab:", err)
			}
		}
	}()
	if err := cluster.Up(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	if err := cluster.Form(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		logs()
		return 1
	}
	if err := prepare(ctx, guest); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		logs()
		return 1
	}
	code := m.Run()
	if code != 0 {
		logs()
	}
	return code
}

// alone takes the lock of the lab: folder, bridge and addresses are there once on
// a machine.
func alone(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another run of the end-to-end tests goes on on this machine (it holds %s): wait for its end", path)
	}
	return f, nil
}

// stopAll ends the agents gracefully, so that they write their coverage.
func stopAll() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, h := range cluster.Hosts {
		if err := h.StopAgent(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// logs shows the end of each agent's log, for a failed run.
func logs() {
	for _, h := range cluster.Hosts {
		text, _ := os.ReadFile(h.AgentLog())
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", h.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// prepare makes the networks and uploads the guest: as a disk that boots by itself, and as a kernel and
// an initrd for direct boot.
func prepare(ctx context.Context, guest string) error {
	for _, args := range [][]string{
		{"network", "create", "default", "-type", "nat", "-cidr", "10.99.0.0/24"},
		{"network", "create", "lan", "-type", "bridge", "-bridge", "br0"},
		{"image", "upload", "-name", "tick", filepath.Join(guest, "tick.qcow2")},
		{"image", "upload", "-name", "tick-kernel", "-kind", "kernel", filepath.Join(guest, "vmlinuz")},
		{"image", "upload", "-name", "tick-initrd", "-kind", "initrd", filepath.Join(guest, "initrd.gz")},
	} {
		if _, err := cluster.CLI(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// limit is the context of one test.
func limit(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// cli runs the command and fails the test when it fails.
func cli(t *testing.T, ctx context.Context, args ...string) string {
	t.Helper()
	out, err := cluster.CLI(ctx, args...)
	must.NoError(t, err)
	return out
}

// refused runs the command, which must fail with this code.
func refused(t *testing.T, ctx context.Context, code api.Code, args ...string) {
	t.Helper()
	_, err := cluster.CLI(ctx, args...)
	must.ErrorContains(t, err, code.String())
}

// spec writes a VM specification and returns its path.
func spec(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm.hcl")
	must.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// small is a guest that boots from its disk; extra goes into its block.
func small(name, extra string) string {
	return fmt.Sprintf("vm %q {\n  cpu = 1\n  memory = \"96MiB\"\n  disk \"root\" {\n    image = \"tick\"\n  }\n  %s\n}\n", name, extra)
}

// status returns what the cluster says of a VM.
func status(t *testing.T, ctx context.Context, name string) *api.VMStatusResponse {
	t.Helper()
	var s api.VMStatusResponse
	must.NoError(t, cluster.JSON(ctx, &s, "vm", "status", name))
	return &s
}

// await waits until the VM is in the state.
func await(t *testing.T, ctx context.Context, name string, state api.VMState) *api.VMStatusResponse {
	t.Helper()
	var s api.VMStatusResponse
	must.NoError(t, lab.Until(ctx, func() error {
		s = api.VMStatusResponse{}
		if err := cluster.JSON(ctx, &s, "vm", "status", name); err != nil {
			return err
		}
		if s.State != string(state) {
			return fmt.Errorf("%s is %s, not %s: %v", name, s.State, state, s.Why)
		}
		return nil
	}))
	return &s
}

// run starts a VM and removes it at the end of the test.
func run(t *testing.T, ctx context.Context, name, extra string) *api.VMStatusResponse {
	t.Helper()
	t.Cleanup(func() { remove(t, name) })
	cli(t, ctx, "vm", "run", spec(t, small(name, extra)))
	return await(t, ctx, name, api.StateRunning)
}

// runSix starts six VMs, all at once, and removes them at the end of the test.
func runSix(t *testing.T, ctx context.Context, prefix string) []*api.VMStatusResponse {
	t.Helper()
	var out []*api.VMStatusResponse
	name := func(i int) string { return fmt.Sprintf("%s-%d", prefix, i) }
	for i := range 6 {
		t.Cleanup(func() { remove(t, name(i)) })
		cli(t, ctx, "vm", "run", "-detach", spec(t, small(name(i), "")))
	}
	for i := range 6 {
		out = append(out, await(t, ctx, name(i), api.StateRunning))
	}
	return out
}

// allPIDs are the processes of several VMs.
func allPIDs(t *testing.T, ctx context.Context, vms []*api.VMStatusResponse) []string {
	t.Helper()
	var out []string
	for _, s := range vms {
		out = append(out, pids(t, ctx, s.VM.ID)...)
	}
	return out
}

// lastEnd is how libvirt says that a VM's process ended last: "shutdown" is the
// guest's own doing, "destroyed" is not.
func lastEnd(t *testing.T, ctx context.Context, s *api.VMStatusResponse) string {
	t.Helper()
	log, err := host(t, s.Node).Run(ctx, "cat", "/var/log/libvirt/qemu/nova-"+s.VM.ID.String()+".log")
	must.NoError(t, err)
	i := strings.LastIndex(log, "shutting down, reason=")
	must.GreaterEq(t, 0, i, must.Sprint(log))
	reason, _, _ := strings.Cut(log[i+len("shutting down, reason="):], "\n")
	return strings.TrimSpace(reason)
}

// remove deletes a VM and waits until nothing of it is left.
func remove(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if t.Failed() {
		mend(t, ctx)
	}
	var s api.VMStatusResponse
	if cluster.JSON(ctx, &s, "vm", "status", name) != nil {
		return // it was deleted by the test
	}
	if _, err := cluster.CLI(ctx, "vm", "delete", "-force", name); err != nil {
		t.Errorf("delete %s: %v", name, err)
	}
	err := lab.Until(ctx, func() error {
		if _, err := cluster.CLI(ctx, "vm", "status", name); err == nil {
			return fmt.Errorf("%s is still there", name)
		}
		return nil
	})
	must.NoError(t, err)
}

// mend brings every host back, so that the tests after a failed one tell of
// themselves.
func mend(t *testing.T, ctx context.Context) {
	for _, h := range cluster.Hosts {
		if err := h.Mend(ctx); err != nil {
			t.Errorf("%s is not mended: %v", h.Name, err)
		}
	}
	if err := cluster.AwaitReady(ctx, time.Minute); err != nil {
		t.Errorf("the cluster is not mended: %v", err)
	}
}

// host returns the lab's host of a node name.
func host(t *testing.T, node string) *lab.Host {
	t.Helper()
	h := cluster.Host(node)
	must.NotNil(t, h, must.Sprintf("no host %q", node))
	return h
}

// pids returns the QEMU processes of a VM on each client, "c1:123".
func pids(t *testing.T, ctx context.Context, id api.ID) []string {
	t.Helper()
	var out []string
	for _, h := range cluster.Clients {
		found, err := h.PIDs(ctx, "qemu-system.*guest=nova-"+id.String())
		must.NoError(t, err)
		for _, p := range found {
			out = append(out, h.Name+":"+p)
		}
	}
	return out
}

// decode is for what is not one of the api's types.
func decode(t *testing.T, text string, into any) {
	t.Helper()
	must.NoError(t, json.Unmarshal([]byte(text), into))
}
