package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/shoenig/test/must"
)

func archiveOf(t *testing.T, state []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(state)
	meta := &SnapshotMeta{Region: "eu", Index: 7, Generation: 3, Time: 5e9, Size: int64(len(state)), SHA256: hex.EncodeToString(sum[:])}
	var b bytes.Buffer
	must.NoError(t, WriteArchive(&b, meta, bytes.NewReader(state)))
	return b.Bytes()
}

func TestArchiveReadsWhatItWrote(t *testing.T) {
	state := bytes.Repeat([]byte("state"), 10000)
	var out bytes.Buffer
	meta, err := ReadArchive(bytes.NewReader(archiveOf(t, state)), &out)
	must.NoError(t, err)
	must.Eq(t, "eu", meta.Region)
	must.Eq(t, uint64(3), meta.Generation)
	must.Eq(t, Time(5e9), meta.Time)
	must.True(t, bytes.Equal(state, out.Bytes()))
}

func TestArchiveRefusesAnyDamage(t *testing.T) {
	state := bytes.Repeat([]byte{1, 2, 3, 250}, 400)
	whole := archiveOf(t, state)
	refused := 0
	for i := 10; i < len(whole); i++ { // the first ten bytes are gzip's header, which carries nothing
		hurt := bytes.Clone(whole)
		hurt[i] ^= 0x40
		var out bytes.Buffer
		_, err := ReadArchive(bytes.NewReader(hurt), &out)
		if err == nil { // bits that fill up a block of deflate mean nothing
			must.True(t, bytes.Equal(state, out.Bytes()), must.Sprintf("byte %d", i))
			continue
		}
		must.True(t, errors.Is(err, &Error{Code: CodeSnapshot}), must.Sprintf("byte %d", i))
		refused++
	}
	must.Greater(t, len(whole)*9/10, refused)
	for _, n := range []int{0, 5, len(whole) / 2, len(whole) - 1} {
		_, err := ReadArchive(bytes.NewReader(whole[:n]), &bytes.Buffer{})
		must.True(t, errors.Is(err, &Error{Code: CodeSnapshot}), must.Sprintf("cut at %d", n))
	}
}

func TestArchiveRefusesAWrongSum(t *testing.T) {
	meta := &SnapshotMeta{Size: 2, SHA256: "00"}
	err := WriteArchive(&bytes.Buffer{}, meta, bytes.NewReader([]byte("ab")))
	must.ErrorIs(t, err, &Error{Code: CodeSnapshot})
}
