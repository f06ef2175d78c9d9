package fingerprint

import (
	"errors"
	"io/fs"
	"strings"
)

// productUUID identifies the hardware. Many virtual machines have none, which
// is no failure.
func productUUID(m machine, f *Facts) error {
	v, err := m.line("sys/class/dmi/id/product_uuid")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f.ProductUUID = strings.ToLower(v)
	return err
}
