package image

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/novacron/novacron/api"
)

// MaxVirtual is the largest virtual size of an image.
const MaxVirtual = 16 * api.TiB

// What QEMU itself takes at most.
const (
	maxL1       = 32 << 20 // bytes of the L1 table
	maxRefTable = 8 << 20  // bytes of the refcount table
)

// Inspect reads the header of an image without trusting it and returns its
// virtual size. The format is what was declared: content that says otherwise is
// refused, and so is everything that reaches outside of the file (backing file,
// external data file), that is encrypted, damaged, of unknown features, or
// larger than it can be. The errors carry api.CodeImageBad.
func Inspect(r io.ReaderAt, size int64, kind, format string) (api.Bytes, error) {
	if size <= 0 {
		return 0, bad("the image is empty")
	}
	head := make([]byte, min(size, 40<<10))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	}
	if kind != KindDisk {
		if format != FormatRaw {
			return 0, bad("a %s must be raw", kind)
		}
		if m := magic(head, tail(r, size), containers); m != "" {
			return 0, bad("a %s cannot be a %s image", kind, m)
		}
		return api.Bytes(size), nil
	}
	if format == FormatQcow2 {
		return inspectQcow2(r, size, head)
	}
	if m := magic(head, tail(r, size), containers, compressed); m != "" {
		return 0, bad("declared raw, but the content is %s", m)
	}
	virtual := (api.Bytes(size) + 511) &^ 511
	if virtual > MaxVirtual {
		return 0, bad("larger than %s", MaxVirtual)
	}
	return virtual, nil
}

type sign struct {
	name  string
	at    int // from the end when negative
	bytes string
}

// containers are formats that a prober would believe.
var containers = []sign{
	{"qcow", 0, "QFI\xfb"}, {"qed", 0, "QED\x00"}, {"vmdk", 0, "KDMV"}, {"vmdk", 0, "COWD"},
	{"vmdk", 0, "# Disk DescriptorFile"}, {"vdi", 0x40, "\x7f\x10\xda\xbe"}, {"vhdx", 0, "vhdxfile"},
	{"vhd", 0, "conectix"}, {"vhd", -512, "conectix"}, {"luks", 0, "LUKS\xba\xbe"},
	{"parallels", 0, "WithoutFreeSpace"}, {"parallels", 0, "WithouFreSpacExt"},
	{"bochs", 0, "Bochs Virtual HD Image"}, {"dmg", -512, "koly"}, {"cloop", 0, "#!/bin/sh\n#V2.0 Format\n"},
}

var compressed = []sign{
	{"compressed (gzip)", 0, "\x1f\x8b"}, {"compressed (xz)", 0, "\xfd7zXZ\x00"},
	{"compressed (zstd)", 0, "\x28\xb5\x2f\xfd"}, {"compressed (bzip2)", 0, "BZh"},
}

func magic(head, tail []byte, lists ...[]sign) string {
	for _, list := range lists {
		for _, s := range list {
			b, at := head, s.at
			if at < 0 {
				b, at = tail, len(tail)+at
			}
			if at >= 0 && at <= len(b) && bytes.HasPrefix(b[at:], []byte(s.bytes)) {
				return s.name
			}
		}
	}
	return ""
}

func tail(r io.ReaderAt, size int64) []byte {
	b := make([]byte, min(size, 512))
	n, _ := r.ReadAt(b, size-int64(len(b)))
	return b[:n]
}

// qcow2 is the fixed part of the header, version 3; version 2 ends before
// Incompatible.
type qcow2 struct {
	Magic                 [4]byte
	Version               uint32
	BackingOffset         uint64
	BackingSize           uint32
	ClusterBits           uint32
	Size                  uint64
	Crypt                 uint32
	L1Size                uint32
	L1Offset              uint64
	RefOffset             uint64
	RefClusters           uint32
	Snapshots             uint32
	SnapshotsOffset       uint64
	Incompatible          uint64
	Compatible, Autoclear uint64
	RefOrder              uint32
	HeaderLen             uint32
}

// The incompatible features that are understood and harmless.
const (
	featDirty       = 1 << 0
	featCorrupt     = 1 << 1
	featDataFile    = 1 << 2
	featCompression = 1 << 3
	featExtendedL2  = 1 << 4
)

// The header extensions that are refused.
const (
	extBackingFormat = 0xE2792ACA
	extDataFile      = 0x44415441
	extCrypto        = 0x0537be77
)

func inspectQcow2(r io.ReaderAt, size int64, head []byte) (api.Bytes, error) {
	var h qcow2
	buf := make([]byte, max(len(head), 104))
	copy(buf, head)
	if len(head) < 72 || !bytes.HasPrefix(head, []byte("QFI\xfb")) {
		return 0, bad("declared qcow2, but the content is not")
	}
	if err := binary.Read(bytes.NewReader(buf), binary.BigEndian, &h); err != nil {
		return 0, bad("short header")
	}
	switch h.Version {
	case 2:
		h.Incompatible, h.HeaderLen = 0, 72
	case 3:
		if h.HeaderLen < 104 || len(head) < 104 {
			return 0, bad("header of %d bytes", h.HeaderLen)
		}
	default:
		return 0, bad("qcow2 version %d is not known", h.Version)
	}
	if err := h.check(size); err != nil {
		return 0, err
	}
	if err := h.extensions(head); err != nil {
		return 0, err
	}
	if polyglot(head, h.ClusterBits) {
		return 0, bad("the header of the image is a disk of another kind at the same time")
	}
	return api.Bytes(h.Size), h.walkL1(r, size)
}

func (h *qcow2) check(size int64) error {
	switch {
	case h.BackingOffset != 0 || h.BackingSize != 0:
		return bad("it has a backing file").WithHint("flatten it: qemu-img convert -O qcow2")
	case h.Incompatible&featDataFile != 0:
		return bad("it has an external data file")
	case h.Incompatible&featCorrupt != 0:
		return bad("it is marked as corrupt")
	case h.Incompatible&featDirty != 0:
		return bad("it was not closed cleanly").WithHint("repair it: qemu-img check -r all")
	case h.Incompatible&^(featCompression|featExtendedL2) != 0:
		return bad("it has unknown incompatible features (%#x)", h.Incompatible)
	case h.Crypt != 0:
		return bad("it is encrypted")
	case h.Snapshots != 0:
		return bad("it holds internal snapshots").WithHint("flatten it: qemu-img convert -O qcow2")
	case h.ClusterBits < 9 || h.ClusterBits > 21:
		return bad("cluster size of 2^%d bytes", h.ClusterBits)
	case h.Size == 0 || h.Size%512 != 0:
		return bad("virtual size of %d bytes", h.Size)
	case h.Size > uint64(MaxVirtual):
		return bad("virtual size of more than %s", MaxVirtual)
	}
	cluster := uint64(1) << h.ClusterBits
	entry := uint64(8)
	if h.Incompatible&featExtendedL2 != 0 {
		entry = 16
	}
	need := ceil(h.Size, cluster*(cluster/entry))
	l1, ref := uint64(h.L1Size)*8, uint64(h.RefClusters)*cluster
	switch {
	case uint64(h.L1Size) < need || l1 > maxL1 || uint64(h.L1Size) > 2*need+cluster/8:
		return bad("an L1 table of %d entries for %d bytes", h.L1Size, h.Size)
	case !inside(h.L1Offset, l1, cluster, size):
		return bad("the L1 table is outside of the file")
	case h.RefClusters == 0 || ref > maxRefTable || !inside(h.RefOffset, 8, cluster, size):
		return bad("the refcount table is outside of the file")
	case h.Version == 3 && h.RefOrder > 6:
		return bad("refcounts of 2^%d bits", h.RefOrder)
	case uint64(h.HeaderLen) > cluster:
		return bad("header of %d bytes", h.HeaderLen)
	}
	return nil
}

// inside reports whether [at, at+n) is aligned, after the header's cluster and
// within the file.
func inside(at, n, cluster uint64, size int64) bool {
	return at >= cluster && at%cluster == 0 && at < uint64(size) && n <= uint64(size)-at
}

func ceil(a, b uint64) uint64 { return (a + b - 1) / b }

// extensions walks the header extensions, which end with type 0 or with the
// first cluster.
func (h *qcow2) extensions(head []byte) error {
	end := min(uint64(len(head)), uint64(1)<<h.ClusterBits)
	for at := uint64(h.HeaderLen); at+8 <= end; {
		kind, n := binary.BigEndian.Uint32(head[at:]), uint64(binary.BigEndian.Uint32(head[at+4:]))
		switch kind {
		case 0:
			return nil
		case extBackingFormat:
			return bad("it names the format of a backing file")
		case extDataFile:
			return bad("it names an external data file")
		case extCrypto:
			return bad("it is encrypted")
		}
		if n > end-at-8 {
			return bad("a header extension of %d bytes", n)
		}
		at += 8 + (n+7)&^7
	}
	return nil
}

// polyglot finds a partition table or an ISO in the cluster of the header.
func polyglot(head []byte, bits uint32) bool {
	first := head[:min(len(head), 1<<bits)]
	has := func(at int, s string) bool {
		return len(first) >= at+len(s) && string(first[at:at+len(s)]) == s
	}
	return has(510, "\x55\xaa") || has(512, "EFI PART") || has(0x8001, "CD001")
}

// walkL1 checks that the entries of the L1 table point to tables of their own
// within the file: without snapshots no two are shared, so loops are refused.
func (h *qcow2) walkL1(r io.ReaderAt, size int64) error {
	const mask = 0x00fffffffffffe00
	cluster := uint64(1) << h.ClusterBits
	table := make([]byte, h.L1Size*8)
	if _, err := r.ReadAt(table, int64(h.L1Offset)); err != nil {
		return bad("the L1 table cannot be read")
	}
	seen := map[uint64]bool{}
	for i := 0; i < len(table); i += 8 {
		at := binary.BigEndian.Uint64(table[i:]) & mask
		if at == 0 {
			continue
		}
		if !inside(at, 8, cluster, size) || at == h.L1Offset || at == h.RefOffset || seen[at] {
			return bad("L1 entry %d points where it must not", i/8)
		}
		seen[at] = true
	}
	return nil
}

func bad(format string, args ...any) *api.Error {
	return api.Errorf(api.CodeImageBad, "the image is refused: "+format, args...)
}
