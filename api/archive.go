package api

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A snapshot archive is a gzip'd tar of three files in this order: meta.json
// (a SnapshotMeta), state.bin (what package fsm wrote) and SHA256SUMS (the sums
// of the other two, as sha256sum writes them).
const (
	archiveMeta  = "meta.json"
	archiveState = "state.bin"
	archiveSums  = "SHA256SUMS"
	// maxArchiveMeta bounds what is read before anything is verified.
	maxArchiveMeta = 1 << 20
)

// WriteArchive writes a snapshot archive. Size and SHA256 of meta must be those
// of the state.
func WriteArchive(w io.Writer, meta *SnapshotMeta, state io.Reader) error {
	head, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	put := func(name string, size int64, r io.Reader) (string, error) {
		h := &tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: meta.Time.Time(), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return "", err
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(t, sum), r); err != nil {
			return "", err
		}
		return hex.EncodeToString(sum.Sum(nil)), nil
	}
	metaSum, err := put(archiveMeta, int64(len(head)), bytes.NewReader(head))
	if err != nil {
		return err
	}
	stateSum, err := put(archiveState, meta.Size, state)
	if err != nil {
		return err
	}
	if stateSum != meta.SHA256 {
		return Errorf(CodeSnapshot, "the state has sum %s, declared was %s", stateSum, meta.SHA256)
	}
	sums := metaSum + "  " + archiveMeta + "\n" + stateSum + "  " + archiveState + "\n"
	if _, err := put(archiveSums, int64(len(sums)), strings.NewReader(sums)); err != nil {
		return err
	}
	return errors.Join(t.Close(), z.Close())
}

// ReadArchive verifies a snapshot archive and copies its state to w. What is in
// w may be used only when the error is nil: the sums come last.
func ReadArchive(r io.Reader, w io.Writer) (*SnapshotMeta, error) {
	bad := func(format string, args ...any) (*SnapshotMeta, error) {
		return nil, Errorf(CodeSnapshot, "the archive is refused: "+format, args...)
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return bad("%v", err)
	}
	t := tar.NewReader(z)
	next := func(name string) (int64, error) {
		h, err := t.Next()
		if err != nil {
			return 0, err
		}
		if h.Name != name || h.Typeflag != tar.TypeReg {
			return 0, fmt.Errorf("it holds %q where %q belongs", h.Name, name)
		}
		return h.Size, nil
	}
	size, err := next(archiveMeta)
	if err != nil {
		return bad("%v", err)
	}
	if size > maxArchiveMeta {
		return bad("%s is too large", archiveMeta)
	}
	head, err := io.ReadAll(t)
	if err != nil {
		return bad("%v", err)
	}
	meta := &SnapshotMeta{}
	if err := json.Unmarshal(head, meta); err != nil {
		return bad("%s: %v", archiveMeta, err)
	}
	if size, err = next(archiveState); err != nil {
		return bad("%v", err)
	}
	if size != meta.Size {
		return bad("the state has %d bytes, declared were %d", size, meta.Size)
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), t); err != nil {
		return bad("%v", err)
	}
	headSum := sha256.Sum256(head)
	want := hex.EncodeToString(headSum[:]) + "  " + archiveMeta + "\n" + hex.EncodeToString(sum.Sum(nil)) + "  " + archiveState + "\n"
	if size, err = next(archiveSums); err != nil || size > maxArchiveMeta {
		return bad("%s is missing", archiveSums)
	}
	sums, err := io.ReadAll(t)
	if err != nil || string(sums) != want || hex.EncodeToString(sum.Sum(nil)) != meta.SHA256 {
		return bad("a checksum does not match")
	}
	// Reading to the end makes gzip check its own sum.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return bad("%v", err)
	}
	return meta, nil
}
