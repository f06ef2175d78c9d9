package http

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func bytesChunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			k := min(n, len(b))
			if !yield(b[:k]) {
				return
			}
			b = b[k:]
		}
	}
}

func TestSDKSnapshots(t *testing.T) {
	t.Parallel()
	f := newFake()
	content := bytes.Repeat([]byte("state"), 100_000)
	sum := sha256.Sum256(content)
	meta := &api.SnapshotMeta{Region: "eu", Index: 42, Generation: 1, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	f.streams("Operator.SnapshotSave", func(s *fakeStream) error {
		if err := s.give(meta); err != nil {
			return err
		}
		for part := range bytesChunks(content, 100_000) {
			if err := s.give(&api.Chunk{Data: part}); err != nil {
				return err
			}
		}
		return nil
	})
	var got bytes.Buffer
	f.streams("Operator.SnapshotRestore", func(s *fakeStream) error {
		for {
			m, err := s.next()
			if err != nil {
				return err
			}
			if m == nil {
				return s.give(meta)
			}
			got.Write(m.(*api.Chunk).Data)
		}
	})
	_, c := serve(t, Config{Backend: f})
	var out bytes.Buffer
	m, err := c.Operator().SnapshotSave(t.Context(), &out)
	must.NoError(t, err)
	must.Eq(t, meta, m)
	must.Eq(t, content, out.Bytes())
	m, err = c.Operator().SnapshotRestore(t.Context(), bytes.NewReader(content))
	must.NoError(t, err)
	must.Eq(t, meta, m)
	must.Eq(t, content, got.Bytes())

	meta.Size, meta.SHA256 = 0, strings.Repeat("0", 64)
	_, err = c.Operator().SnapshotSave(t.Context(), io.Discard)
	must.Eq(t, api.CodeSnapshot, api.CodeOf(err))
	f.streams("Operator.SnapshotSave", func(s *fakeStream) error {
		_ = s.give(meta)
		_ = s.give(&api.Chunk{Data: []byte("half")})
		return api.Errorf(api.CodeNoLeader, "lost")
	})
	_, err = c.Operator().SnapshotSave(t.Context(), io.Discard)
	must.Error(t, err)
	f.streams("Operator.SnapshotSave", func(*fakeStream) error { return nil })
	_, err = c.Operator().SnapshotSave(t.Context(), io.Discard)
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	f.streams("Operator.SnapshotRestore", func(*fakeStream) error { return api.Errorf(api.CodeSnapshot, "of another cluster") })
	_, err = c.Operator().SnapshotRestore(t.Context(), bytes.NewReader(content))
	must.Eq(t, api.CodeSnapshot, api.CodeOf(err))
}
