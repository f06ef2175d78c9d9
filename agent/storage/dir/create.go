package dir

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// Create makes a volume: a qcow2 volume of an image is a thin clone, or a copy
// in a shared pool, because the image's path is this node's; a raw one shares
// the image's blocks where the file system can, else it is a sparse copy.
func (p *Pool) Create(ctx context.Context, v *api.Volume, src *storage.Source) (storage.Handle, error) {
	if err := storage.Check(v, src); err != nil {
		return storage.Handle{}, err
	}
	if src != nil && !filepath.IsAbs(src.Path) {
		return storage.Handle{}, api.Errorf(api.CodeInvalid, "the image has no absolute path")
	}
	unlock, err := p.lock(ctx, v.ID)
	if err != nil {
		return storage.Handle{}, err
	}
	defer unlock()
	if h, err := p.Open(ctx, v); !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	err = p.create(v, src, func(name string, r *record) error { return p.fill(ctx, name, r, src) })
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = api.Errorf(api.CodePoolFull, "pool %s is full", p.cfg.Name)
	}
	if err != nil {
		return storage.Handle{}, err
	}
	return p.Open(ctx, v)
}

// create makes a volume whose content fill writes under a temporary name.
func (p *Pool) create(v *api.Volume, src *storage.Source, fill func(name string, r *record) error) error {
	r := record{Format: v.Format, Size: v.Size}
	if src != nil {
		r.Size = max(v.Size, src.VirtualSize)
	}
	name := tmp + v.ID.String() + "-" + rand.Text() + "." + v.Format
	defer p.root.Remove(name) // its second name is the volume
	if err := fill(name, &r); err != nil {
		return err
	}
	f, err := p.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = f.Chmod(0o660)
	if p.cfg.UID >= 0 && p.cfg.GID >= 0 {
		err = errors.Join(err, f.Chown(p.cfg.UID, p.cfg.GID))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	rec := tmp + "record-" + rand.Text()
	if err := p.write(rec, b); err != nil {
		return err
	}
	if err := p.root.Rename(rec, recordName(v.ID)); err != nil {
		return errors.Join(err, p.root.Remove(rec))
	}
	if err := p.root.Link(name, fileName(v)); err != nil { // the record alone is nothing
		return err
	}
	return p.sync(".")
}

// fill makes the content under a temporary name.
func (p *Pool) fill(ctx context.Context, name string, r *record, src *storage.Source) error {
	path, size := p.path(name), strconv.FormatInt(int64(r.Size), 10)
	switch {
	case r.Format == "raw" && (src == nil || src.Format == "raw"):
		return p.raw(ctx, name, r.Size, src)
	case r.Format == "raw":
		if err := p.cfg.Run(ctx, "convert", "-q", "-f", src.Format, "-O", "raw", src.Path, path); err != nil {
			return err
		}
		return p.grow(name, r.Size)
	case src == nil:
		return p.cfg.Run(ctx, "create", "-q", "-f", "qcow2", path, size)
	case p.cfg.Shared:
		if err := p.cfg.Run(ctx, "convert", "-q", "-f", src.Format, "-O", "qcow2", src.Path, path); err != nil {
			return err
		}
		return p.cfg.Run(ctx, "resize", "-q", "-f", "qcow2", path, size)
	}
	r.Backing, r.BackingFormat = src.Path, src.Format
	// -u: the base is not opened; its format and the size are known.
	return p.cfg.Run(ctx, "create", "-q", "-f", "qcow2", "-u", "-b", src.Path, "-F", src.Format, path, size)
}

// raw makes a raw volume without qemu-img.
func (p *Pool) raw(ctx context.Context, name string, size api.Bytes, src *storage.Source) error {
	f, err := p.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if src != nil {
		in, err := os.OpenFile(src.Path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer in.Close()
		if unix.IoctlFileClone(int(f.Fd()), int(in.Fd())) != nil {
			if err := copySparse(ctx, f, in); err != nil {
				return err
			}
		}
	}
	return f.Truncate(int64(size))
}

func (p *Pool) grow(name string, size api.Bytes) error {
	f, err := p.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(size)), f.Close())
}

// copySparse copies only what is not zero.
func copySparse(ctx context.Context, out, in *os.File) error {
	const block = 64 << 10
	buf, zero := make([]byte, 16*block), make([]byte, block)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := in.ReadAt(buf, at)
		for i := 0; i < n; i += block {
			part := buf[i:min(n, i+block)]
			if bytes.Equal(part, zero[:len(part)]) {
				continue
			}
			if _, err := out.WriteAt(part, at+int64(i)); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// The limits of one run of qemu-img.
const (
	runTime   = 30 * time.Minute
	runMemory = 4 << 30
	runOutput = 4 << 10
)

// exec is the one door to qemu-img: its own environment, a deadline, limited
// memory and CPU time, and no more of its words than a message needs.
func (p *Pool) exec(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.cfg.QemuImg, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said limited
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return api.Errorf(api.CodeStorage, "qemu-img does not start: %v", err).WithHint("install qemu-utils")
	}
	pid := cmd.Process.Pid
	limit := errors.Join(
		unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: runMemory, Max: runMemory}, nil),
		unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: uint64(runTime.Seconds()), Max: uint64(runTime.Seconds())}, nil),
		unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil))
	if limit != nil && !errors.Is(limit, syscall.ESRCH) { // ESRCH: it was that fast
		cancel()
	}
	err := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("qemu-img %s: %w", args[0], errors.Join(ctx.Err(), limit))
	case err != nil:
		return api.Errorf(api.CodeStorage, "qemu-img %s: %s", args[0], strings.TrimSpace(said.String()))
	}
	return nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, runOutput-l.b.Len()))])
	return len(p), nil
}

func (l *limited) String() string { return l.b.String() }
