package dir_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/agent/storage/dir"
	"github.com/novacron/novacron/api"
)

func TestAVolumeMovesToAnotherPool(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		for _, from := range []string{"", "qcow2", "raw"} {
			t.Run(format+" from "+from, func(t *testing.T) {
				a, b := open(t, dir.Config{}), open(t, dir.Config{})
				v := volume(format, 3*api.MiB)
				var here, there *storage.Source
				if from != "" {
					here, there = image(t, from), image(t, from) // the same content at another path
				}
				h, err := a.Create(t.Context(), v, here)
				must.NoError(t, err)
				seen := content(t, h)

				r, err := a.Export(t.Context(), v)
				must.NoError(t, err)
				got, err := b.Import(t.Context(), v, there, r)
				must.NoError(t, errors.Join(err, r.Close()))
				must.True(t, bytes.Equal(seen, content(t, got)))
				must.Eq(t, h.Backing != "", got.Backing != "")
				if got.Backing != "" {
					must.Eq(t, there.Path, got.Backing)
				}

				// What is there already is replaced.
				r, err = a.Export(t.Context(), v)
				must.NoError(t, err)
				_, err = b.Import(t.Context(), v, there, r)
				must.NoError(t, errors.Join(err, r.Close()))
			})
		}
	}
}

func TestAVolumeThatDoesNotArriveWholeIsNotThere(t *testing.T) {
	a, b := open(t, dir.Config{}), open(t, dir.Config{})
	v := volume("raw", api.MiB)
	_, err := a.Create(t.Context(), v, image(t, "raw"))
	must.NoError(t, err)
	r, err := a.Export(t.Context(), v)
	must.NoError(t, err)
	boom := errors.New("the link was cut")
	_, err = b.Import(t.Context(), v, nil, iotest.TimeoutReader(iotest.ErrReader(boom)))
	must.ErrorIs(t, err, boom)
	_, err = b.Open(t.Context(), v)
	must.ErrorIs(t, err, fs.ErrNotExist)
	small := *v
	small.Size = 512
	_, err = b.Import(t.Context(), &small, nil, r)
	must.Eq(t, api.CodeStorage, api.CodeOf(errors.Join(err, r.Close())))
	_, err = b.Open(t.Context(), v)
	must.ErrorIs(t, err, fs.ErrNotExist)
}

func TestWhatIsSetAsideIsKeptForATime(t *testing.T) {
	path := t.TempDir()
	p := open(t, dir.Config{Path: path})
	v := volume("qcow2", api.MiB)
	_, err := p.Create(t.Context(), v, nil)
	must.NoError(t, err)
	until := time.Now().Add(time.Hour)
	must.NoError(t, p.Quarantine(t.Context(), v, until))
	must.NoError(t, p.Quarantine(t.Context(), v, until), must.Sprint("twice is no error"))
	_, err = p.Open(t.Context(), v)
	must.ErrorIs(t, err, fs.ErrNotExist)
	ids, err := p.List(t.Context())
	must.NoError(t, err)
	must.SliceEmpty(t, ids)

	left := func() int {
		list, err := filepath.Glob(filepath.Join(path, ".aside-*"))
		must.NoError(t, err)
		return len(list)
	}
	purge := func(now time.Time) []api.ID {
		gone, err := p.Purge(t.Context(), now)
		must.NoError(t, err)
		return gone
	}
	must.SliceEmpty(t, purge(time.Now()))
	must.Eq(t, 1, left())
	must.NoError(t, os.WriteFile(filepath.Join(path, ".aside-x"), nil, 0o600))
	must.Eq(t, []api.ID{v.ID}, purge(until.Add(2*time.Second)))
	must.Eq(t, 1, left(), must.Sprint("what is not ours stays"))
}
