package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
)

// A snapshot is: the magic, the length and the bytes of the header, then for
// each table of the header, in its order, each record with its length before
// it, then the SHA-256 of all that. Lengths are unsigned varints.
const (
	snapMagic  = "NOVASNAP"
	snapFormat = 1
	// maxRecord is the largest record, in bytes: a damaged length must not make
	// a reader allocate more.
	maxRecord = 64 << 20
)

// SnapshotHeader begins a snapshot.
type SnapshotHeader struct {
	Format     uint32           `msg:"format,omitempty"`
	Schema     uint32           `msg:"schema,omitempty"`
	Region     string           `msg:"region,omitempty"`
	ClusterID  api.ID           `msg:"cluster_id,omitempty"`
	Index      uint64           `msg:"index,omitempty"`
	Generation uint64           `msg:"generation,omitempty"`
	Time       api.Time         `msg:"time,omitempty"`
	Tables     []api.TableCount `msg:"tables,omitempty"`
}

// snapshot is a captured state, to be written while commands go on.
type snapshot struct{ state *State }

// Persist writes the snapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.state.Persist(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release lets the state go.
func (s *snapshot) Release() { s.state = nil }

// Persist writes the state as a snapshot.
func (s *State) Persist(w io.Writer) error {
	sum := sha256.New()
	bw := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	head := SnapshotHeader{
		Format: snapFormat, Schema: s.meta.Schema, Region: s.meta.Region, ClusterID: s.meta.ClusterID,
		Index: s.index, Generation: s.meta.Generation, Time: s.meta.Time, Tables: s.filled(),
	}
	var err error
	var buf []byte
	var length [binary.MaxVarintLen64]byte
	write := func(m api.Message) error {
		if buf, err = m.MarshalMsg(buf[:0]); err != nil {
			return err
		}
		if _, err := bw.Write(length[:binary.PutUvarint(length[:], uint64(len(buf)))]); err != nil {
			return err
		}
		_, err := bw.Write(buf)
		return err
	}
	if _, err := bw.WriteString(snapMagic); err != nil {
		return err
	}
	if err := write(&head); err != nil {
		return err
	}
	for _, d := range defs {
		if err := d.each(s, write); err != nil {
			return fmt.Errorf("table %s: %w", d.tableName(), err)
		}
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// SnapshotReader reads a snapshot record by record, for inspection as for
// restoring. What it gave must be thrown away unless Next ends with io.EOF: only
// then the checksum was right.
type SnapshotReader struct {
	Header SnapshotHeader
	r      *bufio.Reader
	sum    hash.Hash
	buf    []byte
	table  int
	left   int64
	err    error
}

// snapError says that a snapshot is refused.
func snapError(format string, args ...any) error {
	return api.Errorf(api.CodeSnapshot, "the snapshot is refused: "+format, args...)
}

// ReadSnapshot begins to read a snapshot.
func ReadSnapshot(r io.Reader) (*SnapshotReader, error) {
	s := &SnapshotReader{r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New(), table: -1}
	magic := make([]byte, len(snapMagic))
	if _, err := io.ReadFull(s.r, magic); err != nil || string(magic) != snapMagic {
		return nil, snapError("it does not begin like one")
	}
	s.sum.Write(magic)
	b, err := s.record()
	if err != nil {
		return nil, snapError("header: %v", err)
	}
	if _, err := decodeStrict(b, &s.Header, nil); err != nil {
		return nil, snapError("header: %v", err)
	}
	if s.Header.Format != snapFormat {
		return nil, snapError("format %d is not known to this binary", s.Header.Format)
	}
	for _, t := range s.Header.Tables {
		if t.Count < 0 {
			return nil, snapError("table %q has a negative count", t.Table)
		}
	}
	return s, nil
}

// record reads one length and so many bytes, which are valid until the next
// call.
func (s *SnapshotReader) record() ([]byte, error) {
	n, err := binary.ReadUvarint(s.r)
	if err != nil {
		return nil, noEOF(err)
	}
	if n > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes", n)
	}
	var length [binary.MaxVarintLen64]byte
	s.sum.Write(length[:binary.PutUvarint(length[:], n)])
	if s.buf, err = readN(s.r, s.buf, int(n)); err != nil {
		return nil, err
	}
	s.sum.Write(s.buf)
	return s.buf, nil
}

// readN reads n bytes into buf, growing it as they come.
func readN(r io.Reader, buf []byte, n int) ([]byte, error) {
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), max(cap(buf)-len(buf), 64<<10))
		at := len(buf)
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return buf, noEOF(err)
		}
	}
	return buf, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Next returns the next record's table and bytes, which are valid until the
// next call. At the end it checks the checksum and returns io.EOF.
func (s *SnapshotReader) Next() (table string, record []byte, err error) {
	if s.err != nil {
		return "", nil, s.err
	}
	for s.left == 0 {
		if s.table++; s.table >= len(s.Header.Tables) {
			s.err = s.finish()
			return "", nil, s.err
		}
		s.left = s.Header.Tables[s.table].Count
	}
	s.left--
	table = s.Header.Tables[s.table].Table
	if record, err = s.record(); err != nil {
		s.err = snapError("table %s: %v", table, err)
		return "", nil, s.err
	}
	return table, record, nil
}

func (s *SnapshotReader) finish() error {
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(s.r, sum); err != nil {
		return snapError("the checksum is missing")
	}
	if !bytes.Equal(sum, s.sum.Sum(nil)) {
		return snapError("the checksum is wrong")
	}
	if _, err := s.r.ReadByte(); err == nil {
		return snapError("something follows the checksum")
	}
	return io.EOF
}

// Meta returns what there is to say of the snapshot.
func (s *SnapshotReader) Meta() api.SnapshotMeta {
	h := &s.Header
	return api.SnapshotMeta{
		Region: h.Region, ClusterID: h.ClusterID, Index: h.Index, Schema: h.Schema,
		Generation: h.Generation, Time: h.Time, Tables: h.Tables,
	}
}

// restore builds a state from a snapshot.
func restore(r io.Reader, reg *Registry) (*State, error) {
	sr, err := ReadSnapshot(r)
	if err != nil {
		return nil, err
	}
	if sr.Header.Schema == 0 || sr.Header.Schema > reg.Newest() {
		return nil, api.Errorf(api.CodeSchema, "the snapshot has schema %d, this binary knows up to %d", sr.Header.Schema, reg.Newest()).
			WithHint("restore it with the version that made it, or a newer one")
	}
	s := newState()
	loaders := make([]loader, len(defs))
	at := -1
	for i, d := range defs {
		loaders[i] = d.loader(s)
	}
	// Tables stand in the order of defs; one may be missing in an older snapshot.
	for _, t := range sr.Header.Tables {
		next := defIndex(t.Table)
		if next <= at {
			return nil, snapError("table %q is not known to this binary, or out of order", t.Table)
		}
		at = next
	}
	for {
		table, b, err := sr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if _, err := loaders[defIndex(table)].add(b); err != nil {
			return nil, snapError("%v", err)
		}
	}
	for i := range defs {
		loaders[i].done(sr.Header.Index)
	}
	s.index = sr.Header.Index
	if s.meta.Schema != sr.Header.Schema {
		return nil, snapError("the header has schema %d and the state %d", sr.Header.Schema, s.meta.Schema)
	}
	return s, nil
}

func defIndex(table string) int {
	for i, d := range defs {
		if d.tableName() == table {
			return i
		}
	}
	return -1
}
