package cloudinit_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/cloudinit"
	"github.com/novacron/novacron/api"
)

// read opens a seed as a guest would.
func read(t *testing.T, path string) map[string][]byte {
	t.Helper()
	st, err := os.Stat(path)
	must.NoError(t, err)
	b, err := file.OpenFromPath(path, true)
	must.NoError(t, err)
	defer b.Close()
	iso, err := iso9660.Read(b, st.Size(), 0, 2048)
	must.NoError(t, err)
	must.Eq(t, "cidata", strings.TrimRight(iso.Label(), " "))
	list, err := iso.ReadDir(".")
	must.NoError(t, err)
	out := map[string][]byte{}
	for _, e := range list {
		f, err := iso.OpenFile("/"+e.Name(), os.O_RDONLY)
		must.NoError(t, err)
		content, err := io.ReadAll(f)
		must.NoError(t, err)
		out[e.Name()] = content
	}
	return out
}

func TestSeedReadsBackByteForByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	s := seed()
	s.UserData = []byte("#!/bin/sh\r\necho ${env:HOME} {{secret}}\n\xff\xfe\x00")
	s.NetworkConfig = []byte("version: 2\n")
	must.NoError(t, cloudinit.Write(path, s))
	got := read(t, path)
	must.MapLen(t, 4, got)
	must.Eq(t, "#cloud-config\n{}\n", string(got["vendor-data"]))
	must.Eq(t, s.UserData, got["user-data"])
	must.Eq(t, s.NetworkConfig, got["network-config"])
	files, err := s.Files()
	must.NoError(t, err)
	must.Eq(t, files.MetaData, got["meta-data"])
	st, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, 0o600, st.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	must.NoError(t, err)
	must.Eq(t, 1, len(left))
}

func TestSizes(t *testing.T) {
	for _, n := range []int{0, 1, 2047, 2048, 2049, 4096, cloudinit.MaxUserData} {
		path := filepath.Join(t.TempDir(), "seed.iso")
		s := seed()
		s.UserData = make([]byte, n)
		for i := range s.UserData {
			s.UserData[i] = byte(i * 7)
		}
		must.NoError(t, cloudinit.Write(path, s))
		got := read(t, path)
		must.MapLen(t, 3, got)
		must.MapContainsKey(t, got, "user-data")
		must.True(t, bytes.Equal(s.UserData, got["user-data"]), must.Sprint(n))
	}
}

func TestEqualSeedsAreEqual(t *testing.T) {
	var seen [][]byte
	s := seed()
	for range 2 {
		path := filepath.Join(t.TempDir(), "seed.iso")
		must.NoError(t, cloudinit.Write(path, s))
		b, err := os.ReadFile(path)
		must.NoError(t, err)
		seen = append(seen, b)
	}
	must.Eq(t, seen[0], seen[1])
}

func TestNothingIsLeftOfARefusedSeed(t *testing.T) {
	dir := t.TempDir()
	s := seed()
	s.Hostname = "a\nb"
	must.Eq(t, api.CodeInvalid, api.CodeOf(cloudinit.Write(filepath.Join(dir, "seed.iso"), s)))
	left, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, left)
	must.Error(t, cloudinit.Write(filepath.Join(dir, "no", "seed.iso"), seed()))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o755))
	must.Error(t, cloudinit.Write(filepath.Join(dir, "taken"), seed()))
	left, err = os.ReadDir(dir)
	must.NoError(t, err)
	must.Eq(t, 1, len(left))
}
