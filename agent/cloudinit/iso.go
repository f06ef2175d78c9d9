package cloudinit

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// Label is the volume label by which cloud-init finds the seed.
const Label = "cidata"

// epoch is the time of everything in a seed, so that equal seeds are equal.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

const block = 2048

// vendorData says nothing. It is here because go-diskfs 1.9.4 clears the block
// behind a file that ends on a block boundary, and behind the last file is the
// Joliet directory: so the last file must be one that does not end there.
var vendorData = []byte("#cloud-config\n{}\n")

// Write makes the seed at path, completely or not at all. The file is readable
// by its owner only: it may hold secrets.
func Write(path string, s *Seed) (err error) {
	files, err := s.Files()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	stage, err := os.MkdirTemp(dir, ".seed-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	tmp := filepath.Join(dir, ".seed-"+rand.Text()+".iso")
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = build(f, stage, files)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// build writes the image into f; stage is an empty folder to work in.
func build(f *os.File, stage string, files *Files) error {
	content := map[string][]byte{"meta-data": files.MetaData, "user-data": files.UserData, "vendor-data": vendorData}
	if files.NetworkConfig != nil {
		content["network-config"] = files.NetworkConfig
	}
	for name, b := range content {
		p := filepath.Join(stage, name)
		if err := errors.Join(os.WriteFile(p, b, 0o600), os.Chtimes(p, epoch, epoch)); err != nil {
			return err
		}
	}
	if err := os.Chtimes(stage, epoch, epoch); err != nil {
		return err
	}
	iso, err := iso9660.Create(file.New(f, false), 0, 0, block, stage)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	// Joliet alone: Rock Ridge would record times that cannot be set.
	if err := iso.Finalize(iso9660.FinalizeOptions{Joliet: true, VolumeIdentifier: Label}); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return polish(f)
}

// polish goes over the volume descriptors: the times of creation, change, expiry
// and effect, which the library takes from the clock, become fixed, and the
// label is padded with spaces, as the standard wants.
func polish(f *os.File) error {
	const first, at, count, labelAt, labelLen = 16, 813, 4, 40, 32
	date := append([]byte(epoch.Format("20060102150405")+"00"), 0)
	b := make([]byte, block)
	for sector := int64(first); ; sector++ {
		if _, err := f.ReadAt(b, sector*block); err != nil {
			return fmt.Errorf("seed: volume descriptors: %w", err)
		}
		if string(b[1:6]) != "CD001" {
			return errors.New("seed: no volume descriptor")
		}
		if b[0] == 255 { // the terminator
			return nil
		}
		copy(b[at:], bytes.Repeat(date, count))
		if b[0] == 1 {
			copy(b[labelAt:labelAt+labelLen], Label+strings.Repeat(" ", labelLen-len(Label)))
		}
		if _, err := f.WriteAt(b, sector*block); err != nil {
			return err
		}
	}
}
