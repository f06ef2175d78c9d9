package libvirt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/novacron/novacron/api"
)

// maxLog is how much of the end of a log is looked at.
const maxLog = 4 << 20

// told are the reasons that say how a guest ended. "daemon" and "unknown" say
// only that libvirtd found it gone.
var told = map[string]bool{"shutdown": true, "destroyed": true, "crashed": true, "migrated": true, "saved": true, "failed": true}

// LastExit reads why a domain ended from libvirt's own log of it.
func (d *Driver) LastExit(_ context.Context, id api.ID) (string, bool) {
	f, err := os.Open(filepath.Join(d.cfg.LogDir, domainName(id)+".log"))
	if err != nil {
		return "", false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", false
	}
	at := max(0, st.Size()-maxLog)
	b, err := io.ReadAll(io.NewSectionReader(f, at, st.Size()-at))
	if err != nil {
		return "", false
	}
	return lastExit(b)
}

// Forget removes libvirt's log of a VM and that of its console, with what
// virtlogd has put away of them.
func (d *Driver) Forget(_ context.Context, id api.ID) error {
	var errs []error
	for _, name := range []string{domainName(id) + ".log", domainName(id) + "-serial0.log"} {
		path := filepath.Join(d.cfg.LogDir, name)
		old, err := filepath.Glob(path + ".[0-9]*")
		errs = append(errs, err)
		for _, f := range append(old, path) {
			if err := os.Remove(f); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// lastExit finds the last "shutting down, reason=R" that no start follows.
func lastExit(log []byte) (string, bool) {
	const end, start = ": shutting down, reason=", ": starting up libvirt version"
	i := bytes.LastIndex(log, []byte(end))
	if i < 0 || bytes.LastIndex(log, []byte(start)) > i {
		return "", false
	}
	line, _, _ := bytes.Cut(log[i+len(end):], []byte("\n"))
	reason := string(bytes.TrimSpace(line))
	return reason, told[reason]
}
