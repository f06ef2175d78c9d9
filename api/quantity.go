package api

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is an amount of memory or disk. In JSON it is a number of bytes; it can
// also be read from text such as "512MiB" or "4G" (both powers of 1024).
type Bytes int64

// MilliCPU is an amount of CPU in thousandths of a core. In JSON it is a number.
type MilliCPU int64

// Time is a point in time in nanoseconds since 1970 UTC; zero means never. In
// JSON it is RFC 3339 text, or null.
type Time int64

// Duration is a length of time in nanoseconds. In JSON it is text such as "30s".
type Duration int64

// Index is a position in the Raft log.
type Index = uint64

// Epoch is the fencing token of a placement: it rises strictly on every change
// of owner, and a node runs a VM only with the newest epoch it was given.
type Epoch uint64

// Units of Bytes.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

var byteUnits = []struct {
	suffix string
	size   Bytes
}{
	{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB},
	{"K", KiB}, {"M", MiB}, {"G", GiB}, {"T", TiB}, {"B", 1},
}

// ParseBytes reads "1073741824", "512MiB", "4G" or "1.5TiB". It refuses
// negative, fractional-byte and overflowing values.
func ParseBytes(s string) (Bytes, error) {
	t := strings.TrimSpace(s)
	unit := Bytes(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(t, u.suffix); ok {
			t, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	if n, err := strconv.ParseInt(t, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("%q is out of range", s)
		}
		return Bytes(n) * unit, nil
	}
	f, err := strconv.ParseFloat(t, 64)
	v := f * float64(unit)
	if err != nil || math.IsNaN(f) || f < 0 || v >= math.MaxInt64 || v != math.Trunc(v) {
		return 0, fmt.Errorf("%q is not a size: want a number with KiB, MiB, GiB or TiB", s)
	}
	return Bytes(v), nil
}

// String writes the largest unit that divides without loss of more than two digits.
func (b Bytes) String() string {
	for i := 3; i >= 0; i-- {
		u := byteUnits[i]
		if b >= u.size {
			s := strconv.FormatFloat(float64(b)/float64(u.size), 'f', 2, 64)
			return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + " " + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + " B"
}

// UnmarshalJSON reads a number of bytes or text with a unit.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		v, err := ParseBytes(s)
		*b = v
		return err
	}
	return json.Unmarshal(data, (*int64)(b))
}

// Cores returns whole cores as MilliCPU.
func Cores(n int) MilliCPU { return MilliCPU(n) * 1000 }

// String writes cores, "2" or "0.5".
func (m MilliCPU) String() string {
	return strconv.FormatFloat(float64(m)/1000, 'f', -1, 64)
}

// TimeOf converts a time.Time; the zero time becomes zero.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixNano())
}

// Time converts to time.Time in UTC.
func (t Time) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(t)).UTC()
}

// MarshalJSON writes RFC 3339 with nanoseconds, or null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(t.Time().Format(time.RFC3339Nano))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(data []byte) error {
	var s *string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	if s == nil || *s == "" {
		*t = 0
		return nil
	}
	v, err := time.Parse(time.RFC3339Nano, *s)
	if err != nil {
		return fmt.Errorf("%q is not an RFC 3339 time", *s)
	}
	*t = TimeOf(v)
	return nil
}

// D converts to time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes Go's form, "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes text such as "30s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads text such as "30s", or a number of nanoseconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		v, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a duration: want text such as \"30s\" or \"5m\"", s)
		}
		*d = Duration(v)
		return nil
	}
	return json.Unmarshal(data, (*int64)(d))
}
