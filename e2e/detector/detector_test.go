package detector

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestTheBytesAreThoseOfTheSource(t *testing.T) {
	for _, tool := range []string{"as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no binutils here")
		}
	}
	out := filepath.Join(t.TempDir(), "boot.bin")
	text, err := exec.Command("./build.sh", out).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(text)))
	got, err := os.ReadFile(out)
	must.NoError(t, err)
	must.Eq(t, boot, got)
	must.Len(t, 512, boot)
}

// guest is a detector under QEMU on this machine.
type guest struct {
	cmd *exec.Cmd
	log string
}

func start(t *testing.T, disk string) *guest {
	t.Helper()
	g := &guest{log: filepath.Join(t.TempDir(), "serial")}
	g.cmd = exec.Command("qemu-system-x86_64", "-display", "none", "-m", "32", "-serial", "file:"+g.log, "-accel", "tcg", "-nodefaults",
		"-drive", "if=virtio,cache=none,file.locking=off,format=raw,file="+disk)
	must.NoError(t, g.cmd.Start())
	t.Cleanup(g.end)
	return g
}

func (g *guest) end() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

func here(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// until looks every 20 ms, for a minute at most.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		if holds() {
			return
		}
		<-tick.C
	}
	t.Fatal("it did not come to that in a minute")
}

// counts waits until the guest has counted to 3.
func (g *guest) counts(t *testing.T) (s State) {
	t.Helper()
	until(t, func() bool {
		text, _ := os.ReadFile(g.log) // QEMU makes it
		var ok bool
		s, _, ok = Serial(text)
		return ok && s.Counter >= 3
	})
	return s
}

func TestTheGuestTellsAnotherFromItself(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil || os.Getenv("NOVA_LIBVIRT") == "" {
		t.Skip("runs a guest: make test, or NOVA_LIBVIRT=1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	disk := filepath.Join(t.TempDir(), "disk")
	must.NoError(t, os.WriteFile(disk, Image(1<<20), 0o600))
	fresh, err := Read(ctx, here, disk, "raw")
	must.NoError(t, err)
	must.Eq(t, Verdict{}, fresh)

	t.Log("it counts")
	g := start(t, disk)
	first := g.counts(t)
	g.end()
	must.Eq(t, 1, first.Boots)
	v, err := Read(ctx, here, disk, "raw")
	must.NoError(t, err)
	must.Eq(t, first.Nonce, v.Nonce)
	must.GreaterEq(t, first.Counter, v.Counter)

	t.Log("a cold boot is another, and no double")
	g = start(t, disk)
	second := g.counts(t)
	must.Eq(t, 2, second.Boots)
	must.NotEq(t, first.Nonce, second.Nonce)

	t.Log("two at once: one of them says so")
	other := start(t, disk)
	until(t, func() bool {
		text, err := os.ReadFile(disk)
		must.NoError(t, err)
		v, err = Parse(text)
		must.NoError(t, err)
		return v.Double
	})
	other.end()
	g.end()
	must.NotEq(t, v.Own.Nonce, v.Seen.Nonce)
}

func TestSerial(t *testing.T) {
	s, double, ok := Serial([]byte("SeaBIOS\nT 00000001 AABBCCDD 00000011 0000002A\nT 00000001 AABBCCDD 00000011 0000002B\nT 0000"))
	must.True(t, ok)
	must.False(t, double)
	must.Eq(t, State{1, 0xAABBCCDD00000011, 0x2b}, s)
	_, double, ok = Serial([]byte("DOUBLE\n"))
	must.True(t, double)
	must.False(t, ok)
}

func TestParseRefusesWhatIsNoDetector(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("x", 4096)))
	must.Error(t, err)
	_, err = Parse(boot)
	must.Error(t, err)
}
