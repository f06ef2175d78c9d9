package storage_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

func export(t testing.TB, content []byte) []byte {
	r := storage.Export(bytes.NewReader(content), int64(len(content)), func() error { return nil })
	b, err := io.ReadAll(iotest.OneByteReader(r))
	must.NoError(t, err)
	must.NoError(t, r.Close())
	return b
}

func take(t testing.TB, stream []byte, limit int64) ([]byte, error) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	must.NoError(t, err)
	defer f.Close()
	size, err := storage.Import(f, bytes.NewReader(stream), limit)
	if err != nil {
		return nil, err
	}
	must.NoError(t, f.Truncate(size))
	return os.ReadFile(f.Name())
}

func TestAVolumeArrivesAsItWasSent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var content []byte
		for range rapid.IntRange(0, 4).Draw(r, "parts") {
			part := make([]byte, rapid.IntRange(1, 300<<10).Draw(r, "size"))
			if rapid.Bool().Draw(r, "full") {
				part[len(part)/2] = 7
			}
			content = append(content, part...)
		}
		got, err := take(t, export(t, content), 1<<30)
		must.NoError(t, err)
		must.True(t, bytes.Equal(content, got))
	})
}

func TestWhatIsZeroIsNotSent(t *testing.T) {
	content := make([]byte, 8<<20)
	content[5<<20] = 1
	must.Less(t, 300<<10, len(export(t, content)))
}

func TestADamagedStreamIsRefused(t *testing.T) {
	content := bytes.Repeat([]byte("nova"), 100<<10)
	good := export(t, content)
	for at := 0; at < len(good); at += 1 + len(good)/300 {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		_, err := take(t, bad, 1<<30)
		must.Eq(t, api.CodeStorage, api.CodeOf(err))
		_, err = take(t, good[:at], 1<<30)
		must.Eq(t, api.CodeStorage, api.CodeOf(err))
	}
	_, err := take(t, good, int64(len(content))-1)
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
}
