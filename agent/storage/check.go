package storage

import "github.com/novacron/novacron/api"

// MaxSize is the largest volume.
const MaxSize = 1024 * api.TiB

// Check refuses a volume that no pool must make: without an ID, of a format
// that is not known, without a size or smaller than what it is cloned from.
func Check(v *api.Volume, src *Source) error {
	switch {
	case v.ID.IsZero():
		return api.Errorf(api.CodeInvalid, "the volume has no id")
	case v.Format != "qcow2" && v.Format != "raw":
		return api.Errorf(api.CodeInvalid, "volume format must be qcow2 or raw")
	case v.Size < 0 || v.Size > MaxSize:
		return api.Errorf(api.CodeInvalid, "volume size must be at most %s", MaxSize)
	case v.Size == 0 && src == nil:
		return api.Errorf(api.CodeInvalid, "an empty volume needs a size")
	case v.Size%512 != 0:
		return api.Errorf(api.CodeInvalid, "volume size must be a multiple of 512 bytes")
	case src == nil:
		return nil
	case src.Format != "qcow2" && src.Format != "raw":
		return api.Errorf(api.CodeInvalid, "image format must be qcow2 or raw")
	case v.Size != 0 && v.Size < src.VirtualSize:
		return api.Errorf(api.CodeInvalid, "the volume is smaller than its image (%s)", src.VirtualSize)
	}
	return nil
}
