package command

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

// age writes how long ago something was, in one unit or two.
func age(t api.Time, now time.Time) string {
	if t == 0 {
		return "-"
	}
	return span(now.Sub(t.Time())) + " ago"
}

// span writes a length of time in one unit or two: "3s", "5m", "2h10m", "4d".
func span(d time.Duration) string {
	switch d = max(d, 0).Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		if s := d % time.Minute / time.Second; d < 10*time.Minute && s > 0 {
			return fmt.Sprintf("%dm%ds", d/time.Minute, s)
		}
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		if m := d % time.Hour / time.Minute; m > 0 {
			return fmt.Sprintf("%dh%dm", d/time.Hour, m)
		}
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// clock writes a point in time in the reader's zone.
func clock(t api.Time) string {
	if t == 0 {
		return "-"
	}
	return t.Time().Local().Format("2006-01-02 15:04:05")
}

// bar draws how much of a whole is used, with its percentage: "[####......] 41%".
func bar(used, whole float64, width int) string {
	if whole <= 0 || math.IsNaN(used) {
		return "[" + strings.Repeat(".", width) + "]   -"
	}
	part := max(used/whole, 0)
	fill := min(int(math.Round(part*float64(width))), width)
	if fill == 0 && part > 0 {
		fill = 1
	}
	return fmt.Sprintf("[%s%s] %3.0f%%", strings.Repeat("#", fill), strings.Repeat(".", width-fill), part*100)
}

// orDash writes a dash for what is empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// labels writes pairs as "k=v k=v".
func labels(p api.Pairs) string {
	parts := make([]string, len(p))
	for i, kv := range p {
		parts[i] = kv.K + "=" + kv.V
	}
	return orDash(strings.Join(parts, " "))
}

// plural writes "1 disk" and "2 disks".
func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// yes writes yes or no.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// shortID is an ID for tables, a dash when there is none.
func shortID(id api.ID) string {
	if id.IsZero() {
		return "-"
	}
	return id.Short()
}

// uintText writes a number.
func uintText(n uint64) string { return strconv.FormatUint(n, 10) }
