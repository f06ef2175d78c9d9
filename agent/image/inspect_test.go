package image

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// qcow makes a small correct qcow2 image of 1 MiB in memory: header, L1 table,
// refcount table, one L2 table, each in a cluster of 64 KiB.
func qcow(change func(b []byte)) []byte {
	const cluster = 64 << 10
	b := make([]byte, 5*cluster)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)        // cluster bits
	be.PutUint64(b[24:], 1<<20)     // size
	be.PutUint32(b[36:], 1)         // L1 entries
	be.PutUint64(b[40:], 2*cluster) // L1
	be.PutUint64(b[48:], cluster)   // refcount table
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[2*cluster:], 3*cluster|1<<63)
	if change != nil {
		change(b)
	}
	return b
}

func put32(at int, v uint32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) }
}
func put64(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint64(b[at:], v) }
}

// ext writes a header extension.
func ext(kind, n uint32, data string) func([]byte) {
	return func(b []byte) {
		put32(104, kind)(b)
		put32(108, n)(b)
		copy(b[112:], data)
	}
}

func both(f ...func([]byte)) func([]byte) {
	return func(b []byte) {
		for _, g := range f {
			g(b)
		}
	}
}

func inspect(b []byte, kind, format string) (api.Bytes, error) {
	return Inspect(bytes.NewReader(b), int64(len(b)), kind, format)
}

func TestGoodImages(t *testing.T) {
	disk := make([]byte, 1<<20)
	copy(disk[510:], "\x55\xaa")
	for name, c := range map[string]struct {
		b            []byte
		kind, format string
		virtual      api.Bytes
	}{
		"qcow2":                   {qcow(nil), KindDisk, FormatQcow2, api.MiB},
		"qcow2 version 2":         {qcow(put32(4, 2)), KindDisk, FormatQcow2, api.MiB},
		"qcow2 compression type":  {qcow(put64(72, featCompression)), KindDisk, FormatQcow2, api.MiB},
		"qcow2 feature names":     {qcow(ext(0x6803f857, 96, "")), KindDisk, FormatQcow2, api.MiB},
		"raw disk":                {disk, KindDisk, FormatRaw, api.MiB},
		"raw of an odd size":      {disk[:1000], KindDisk, FormatRaw, 1024},
		"kernel":                  {disk[:777], KindKernel, FormatRaw, 777},
		"initrd compressed":       {[]byte("\x1f\x8b\x08data"), KindInitrd, FormatRaw, 7},
		"initrd of a single byte": {[]byte{0}, KindInitrd, FormatRaw, 1},
	} {
		v, err := inspect(c.b, c.kind, c.format)
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.virtual, v, must.Sprint(name))
	}
}

func TestHostileImages(t *testing.T) {
	raw := make([]byte, 1<<20)
	with := func(at int, s string) []byte {
		b := bytes.Clone(raw)
		copy(b[at:], s)
		return b
	}
	for name, c := range map[string]struct {
		b            []byte
		kind, format string
	}{
		"I1 backing file":               {qcow(both(put64(8, 200), put32(16, 11))), KindDisk, FormatQcow2},
		"I2 backing without a length":   {qcow(put64(8, 200)), KindDisk, FormatQcow2},
		"I3 backing format named":       {qcow(ext(extBackingFormat, 3, "raw")), KindDisk, FormatQcow2},
		"I4 data file":                  {qcow(put64(72, featDataFile)), KindDisk, FormatQcow2},
		"I5 data file named":            {qcow(ext(extDataFile, 5, "json:")), KindDisk, FormatQcow2},
		"I6 vmdk descriptor":            {with(0, "# Disk DescriptorFile\n"), KindDisk, FormatRaw},
		"I7 vmdk sparse":                {with(0, "KDMV"), KindDisk, FormatRaw},
		"I8 vhd footer":                 {with(1<<20-512, "conectix"), KindDisk, FormatRaw},
		"I9 qed":                        {with(0, "QED\x00"), KindDisk, FormatRaw},
		"I10 vdi":                       {with(0x40, "\x7f\x10\xda\xbe"), KindDisk, FormatRaw},
		"I10b vhdx":                     {with(0, "vhdxfile"), KindDisk, FormatRaw},
		"I11 60 TB":                     {qcow(both(put64(24, 60<<40), put32(36, 1<<22))), KindDisk, FormatQcow2},
		"I12 L1 loop":                   {qcow(both(put64(24, 1<<30), put32(36, 2), put64(2*65536+8, 3*65536))), KindDisk, FormatQcow2},
		"I12b L1 points to itself":      {qcow(put64(2*65536, 2*65536)), KindDisk, FormatQcow2},
		"I12c L1 points outside":        {qcow(put64(2*65536, 1<<40)), KindDisk, FormatQcow2},
		"I12d L1 points to the header":  {qcow(put64(2*65536, 512)), KindDisk, FormatQcow2},
		"I12e refcount bomb":            {qcow(put32(56, 1<<20)), KindDisk, FormatQcow2},
		"I12f no refcounts":             {qcow(put32(56, 0)), KindDisk, FormatQcow2},
		"I12g refcount order":           {qcow(put32(96, 9)), KindDisk, FormatQcow2},
		"I13 unknown feature":           {qcow(put64(72, 1<<40)), KindDisk, FormatQcow2},
		"I13b corrupt":                  {qcow(put64(72, featCorrupt)), KindDisk, FormatQcow2},
		"I13c dirty":                    {qcow(put64(72, featDirty)), KindDisk, FormatQcow2},
		"I14 snapshots":                 {qcow(put32(60, 65536)), KindDisk, FormatQcow2},
		"I15 encrypted":                 {qcow(put32(32, 2)), KindDisk, FormatQcow2},
		"I15b LUKS extension":           {qcow(ext(extCrypto, 16, "")), KindDisk, FormatQcow2},
		"I15c raw LUKS":                 {with(0, "LUKS\xba\xbe"), KindDisk, FormatRaw},
		"I16 declared raw, is qcow2":    {qcow(nil), KindDisk, FormatRaw},
		"I17 declared qcow2, is raw":    {raw, KindDisk, FormatQcow2},
		"I19 gzip":                      {with(0, "\x1f\x8b"), KindDisk, FormatRaw},
		"I19b zstd":                     {with(0, "\x28\xb5\x2f\xfd"), KindDisk, FormatRaw},
		"I19c xz":                       {with(0, "\xfd7zXZ\x00"), KindDisk, FormatRaw},
		"I20 boot record in the header": {qcow(func(b []byte) { copy(b[510:], "\x55\xaa") }), KindDisk, FormatQcow2},
		"I20b GPT in the header":        {qcow(func(b []byte) { copy(b[512:], "EFI PART") }), KindDisk, FormatQcow2},
		"I20c ISO in the header":        {qcow(func(b []byte) { copy(b[0x8001:], "CD001") }), KindDisk, FormatQcow2},
		"empty":                         {nil, KindDisk, FormatRaw},
		"short qcow2":                   {[]byte("QFI\xfb\x00\x00\x00\x03"), KindDisk, FormatQcow2},
		"short version 3":               {qcow(nil)[:80], KindDisk, FormatQcow2},
		"version 9":                     {qcow(put32(4, 9)), KindDisk, FormatQcow2},
		"cluster of 1 byte":             {qcow(put32(20, 0)), KindDisk, FormatQcow2},
		"cluster of 4 GiB":              {qcow(put32(20, 32)), KindDisk, FormatQcow2},
		"no size":                       {qcow(put64(24, 0)), KindDisk, FormatQcow2},
		"odd size":                      {qcow(put64(24, 1000)), KindDisk, FormatQcow2},
		"L1 too small":                  {qcow(put64(24, 1<<40)), KindDisk, FormatQcow2},
		"L1 too large":                  {qcow(put32(36, 1<<31)), KindDisk, FormatQcow2},
		"L1 outside":                    {qcow(put64(40, 1<<62)), KindDisk, FormatQcow2},
		"L1 not aligned":                {qcow(put64(40, 2*65536+1)), KindDisk, FormatQcow2},
		"L1 overflows":                  {qcow(put64(40, 1<<64-65536)), KindDisk, FormatQcow2},
		"header too short":              {qcow(put32(100, 72)), KindDisk, FormatQcow2},
		"header too long":               {qcow(put32(100, 1<<30)), KindDisk, FormatQcow2},
		"extension too long":            {qcow(ext(0x12345678, 1<<31, "")), KindDisk, FormatQcow2},
		"kernel that is a disk":         {qcow(nil), KindKernel, FormatRaw},
		"kernel declared qcow2":         {raw, KindKernel, FormatQcow2},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := inspect(c.b, c.kind, c.format)
			must.Eq(t, api.CodeImageBad, api.CodeOf(err), must.Sprint(err))
		})
	}
}

// What qemu-img makes is accepted, and what it can be made to make is refused.
func TestAgainstQemuImg(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	base := filepath.Join(dir, "base.raw")
	must.NoError(t, os.WriteFile(base, bytes.Repeat([]byte("nova"), 1<<18), 0o644))
	for _, c := range []struct {
		ok   bool
		args string
	}{
		{true, "create -f qcow2 OUT 1T"},
		{true, "create -f qcow2 -o cluster_size=512 OUT 20M"},
		{true, "create -f qcow2 -o cluster_size=2M,preallocation=metadata OUT 3G"},
		{true, "create -f qcow2 -o compat=0.10 OUT 1G"},
		{true, "create -f qcow2 -o extended_l2=on OUT 1G"},
		{true, "convert -c -f raw -O qcow2 BASE OUT"},
		{true, "convert -c -f raw -O qcow2 -o compression_type=zstd BASE OUT"},
		{false, "create -f qcow2 -b BASE -F raw OUT"},
		{false, "create -f qcow2 -o data_file=OUT.data OUT 1G"},
		{false, "create -f qcow2 OUT 60T"},
		{false, "convert -f raw -O vmdk BASE OUT"},
	} {
		out := filepath.Join(dir, "out")
		_ = os.Remove(out)
		args := strings.Fields(strings.NewReplacer("OUT", out, "BASE", base).Replace(c.args))
		said, err := exec.Command("qemu-img", args...).CombinedOutput()
		must.NoError(t, err, must.Sprintf("%s", said))
		f, err := os.Open(out)
		must.NoError(t, err)
		st, err := f.Stat()
		must.NoError(t, err)
		_, err = Inspect(f, st.Size(), KindDisk, FormatQcow2)
		must.Eq(t, c.ok, err == nil, must.Sprintf("%s: %v", c.args, err))
		must.NoError(t, f.Close())
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(qcow(nil)[:4096], true)
	f.Add(qcow(put32(4, 2))[:4096], true)
	f.Add([]byte("QFI\xfb"), false)
	f.Fuzz(func(t *testing.T, b []byte, isQcow bool) {
		format := FormatRaw
		if isQcow {
			format = FormatQcow2
			b = append(b, make([]byte, 3*65536)...)
		}
		v, err := inspect(b, KindDisk, format)
		if err == nil && (v <= 0 || v > MaxVirtual) {
			t.Fatalf("accepted with a virtual size of %d", v)
		}
		if err != nil && api.CodeOf(err) != api.CodeImageBad {
			t.Fatal(err)
		}
		if err == nil && !isQcow && bytes.HasPrefix(b, []byte("QFI\xfb")) {
			t.Fatal("a qcow2 image passed as raw")
		}
	})
}
