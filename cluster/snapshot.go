package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

const (
	snapshotChunk  = 256 << 10
	restoreTimeout = 5 * time.Minute
	// restoreSlack is added to the log's end for the index of a restored state,
	// so that no entry that is on its way can overtake it.
	restoreSlack = 1 << 16
	maxArchive   = 64 << 30
)

func (s *Server) snapshotEndpoints() {
	stream(s, rpc.KindRead, "Operator.SnapshotSave", acl.OperatorWrite, s.snapshotSave)
	stream(s, rpc.KindWrite, "Operator.SnapshotRestore", acl.OperatorWrite, s.snapshotRestore)
}

// tempFile makes a file that is gone when it is closed.
func (s *Server) tempFile() (*os.File, error) {
	dir := s.cfg.Dir
	if s.cfg.InMemory {
		dir = ""
	}
	f, err := os.CreateTemp(dir, "snapshot-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// snapshotSave sends what is in the archive, with the size and the sum of the
// archive itself, then the archive.
func (s *Server) snapshotSave(ctx context.Context, _ *api.Empty, st api.Stream) error {
	state := s.fsm.State()
	f, err := s.tempFile()
	if err != nil {
		return err
	}
	defer f.Close()
	meta, err := persist(state, f)
	if err != nil {
		return err
	}
	meta.Term, meta.Version, meta.Time = s.raft.CurrentTerm(), s.cfg.Version, api.TimeOf(s.cfg.Now())
	archive, err := s.tempFile()
	if err != nil {
		return err
	}
	defer archive.Close()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(archive, sum), snapshotChunk)
	if err := errors.Join(api.WriteArchive(w, meta, f), w.Flush()); err != nil {
		return err
	}
	// The caller checks what it receives: the archive. What is in it describes
	// the state.
	head := *meta
	head.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if head.Size, err = archive.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := st.Send(&head); err != nil {
		return err
	}
	_, err = io.CopyBuffer(chunkWriter{st}, struct{ io.Reader }{archive}, make([]byte, snapshotChunk))
	return err
}

// persist writes a state to a file, ready to be read from its beginning.
func persist(state *fsm.State, f *os.File) (*api.SnapshotMeta, error) {
	sum := sha256.New()
	if err := state.Persist(io.MultiWriter(f, sum)); err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	meta := &api.SnapshotMeta{
		Region: state.RegionName(), ClusterID: state.ClusterID(), Index: state.Index(), Schema: state.Schema(),
		Generation: state.Generation(), Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), Tables: state.Counts(),
	}
	_, err = f.Seek(0, io.SeekStart)
	return meta, err
}

// chunkWriter sends what is written as chunks.
type chunkWriter struct{ st api.Stream }

func (w chunkWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += snapshotChunk {
		if err := w.st.Send(&api.Chunk{Data: p[n:min(n+snapshotChunk, len(p))]}); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// snapshotRestore replaces the state of the region by an archive's. The state
// that Raft takes over is in recovery and one generation up already: no server
// ever shows the old one without that.
func (s *Server) snapshotRestore(ctx context.Context, _ *api.Empty, st api.Stream) error {
	raw, err := s.receive(st)
	if err != nil {
		return err
	}
	defer raw.Close()
	state, err := s.tempFile()
	if err != nil {
		return err
	}
	defer state.Close()
	meta, err := api.ReadArchive(bufio.NewReader(raw), state)
	if err != nil {
		return err
	}
	if meta.ClusterID != s.id.ClusterID || meta.Region != s.id.Region {
		return api.Errorf(api.CodeSnapshot, "the archive is of cluster %s, region %q; this is cluster %s, region %q", meta.ClusterID, meta.Region, s.id.ClusterID, s.id.Region).
			WithHint("to rebuild a lost cluster, start its server with the identity and root key that it had")
	}
	if _, err := state.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if !s.enter() {
		return errNotLeading()
	}
	defer s.wg.Done()
	index := s.raft.LastIndex() + restoreSlack
	next, err := s.revive(state, index)
	if err != nil {
		return err
	}
	out, err := s.tempFile()
	if err != nil {
		return err
	}
	defer out.Close()
	done, err := persist(next, out)
	if err != nil {
		return err
	}
	rm := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: index - 1, Size: done.Size}
	s.log.Warn("the region is restored from an archive", "made", meta.Time.Time(), "index", meta.Index, "generation", done.Generation)
	if err := s.raft.Restore(rm, out, restoreTimeout); err != nil {
		return applyError(err)
	}
	s.leases.begin() // nobody's session outlives a restore
	done.Term, done.Version, done.Time = s.raft.CurrentTerm(), meta.Version, meta.Time
	return st.Send(done)
}

// receive puts an archive into a file.
func (s *Server) receive(st api.Stream) (*os.File, error) {
	f, err := s.tempFile()
	if err != nil {
		return nil, err
	}
	var size int64
	err = copyChunks(st, func(c *api.Chunk) error {
		if size += int64(len(c.Data)); size > maxArchive {
			return api.Errorf(api.CodeTooLarge, "the archive is larger than %d bytes", int64(maxArchive))
		}
		_, err := f.Write(c.Data)
		return err
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// revive reads a state and lets recovery begin in it, as an entry at an index
// would.
func (s *Server) revive(r io.Reader, index api.Index) (*fsm.State, error) {
	var halted error
	reg := s.fsm.Registry()
	scratch := fsm.New(fsm.Config{Logger: s.log, Registry: reg, Halt: func(err error) { halted = err }})
	if err := scratch.Restore(io.NopCloser(bufio.NewReader(r))); err != nil {
		return nil, asError(err)
	}
	m := fsm.Meta{Time: api.TimeOf(s.cfg.Now()), Schema: scratch.State().Schema(), Registry: reg}
	data, err := fsm.Encode(&fsm.RecoveryBegin{Floor: s.fsm.State().Generation()}, m)
	if err != nil {
		return nil, err
	}
	res, ok := scratch.Apply(&raft.Log{Type: raft.LogCommand, Index: index, Term: s.raft.CurrentTerm(), Data: data}).(*fsm.Result)
	switch {
	case halted != nil:
		return nil, api.Errorf(api.CodeSnapshot, "the archive is refused: %v", halted)
	case !ok:
		return nil, api.Errorf(api.CodeInternal, "the state machine gave no answer")
	case res.Err != nil:
		return nil, res.Err
	}
	return scratch.State(), nil
}
