package detector

import (
	"bytes"
	"context"
	"io"
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
	out *io.PipeReader
	log bytes.Buffer
}

func start(t *testing.T, disk string, args ...string) *guest {
	t.Helper()
	r, w := io.Pipe()
	g := &guest{out: r}
	g.cmd = exec.CommandContext(t.Context(), "qemu-system-x86_64", append([]string{
		"-display", "none", "-m", "32", "-serial", "stdio", "-accel", "tcg", "-nodefaults",
		"-drive", "if=virtio,cache=none,file.locking=off,format=raw,file=" + disk,
	}, args...)...)
	g.cmd.Stdout = w
	must.NoError(t, g.cmd.Start())
	go func() { g.cmd.Wait(); w.Close() }()
	t.Cleanup(func() { g.end() })
	return g
}

func (g *guest) end() {
	g.cmd.Process.Kill()
	io.Copy(&g.log, g.out)
}

// until reads the serial port until it has shown what is wanted.
func (g *guest) until(t *testing.T, want func(s State, double, ok bool) bool) State {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := g.out.Read(buf)
		g.log.Write(buf[:n])
		s, double, ok := Serial(g.log.Bytes())
		if want(s, double, ok) {
			return s
		}
		must.NoError(t, err, must.Sprintf("the guest has shown %q", g.log.String()))
	}
}

func TestTheGuestTellsAnotherFromItself(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil || os.Getenv("NOVA_LIBVIRT") == "" {
		t.Skip("runs a guest: make test, or NOVA_LIBVIRT=1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	disk := filepath.Join(t.TempDir(), "disk")
	must.NoError(t, os.WriteFile(disk, Image(1<<20), 0o600))
	fresh, err := Read(ctx, disk, "raw")
	must.NoError(t, err)
	must.Eq(t, Verdict{}, fresh)

	t.Log("it counts")
	g := start(t, disk)
	first := g.until(t, func(s State, _, ok bool) bool { return ok && s.Counter >= 3 })
	g.end()
	must.Eq(t, 1, first.Boots)
	v, err := Read(ctx, disk, "raw")
	must.NoError(t, err)
	must.Eq(t, first.Nonce, v.Nonce)
	must.GreaterEq(t, first.Counter, v.Counter)

	t.Log("a cold boot is another, and no double")
	g = start(t, disk)
	second := g.until(t, func(s State, _, ok bool) bool { return ok && s.Counter >= 3 })
	must.Eq(t, 2, second.Boots)
	must.NotEq(t, first.Nonce, second.Nonce)

	t.Log("two at once: one of them says so")
	other := start(t, disk)
	other.until(t, func(_ State, _, ok bool) bool { return ok })
	g.until(t, func(_ State, double, _ bool) bool { return double })
	other.end()
	g.end()
	v, err = Read(ctx, disk, "raw")
	must.NoError(t, err)
	must.True(t, v.Double)
	must.Eq(t, second.Nonce, v.Own.Nonce)
	must.NotEq(t, second.Nonce, v.Seen.Nonce)
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
