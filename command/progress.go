package command

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// progress shows how something goes on: lines with the time since the start,
// and on a terminal one line below them that lives.
type progress struct {
	out   io.Writer
	live  bool
	start time.Time
	last  string
	drawn bool
}

// progress begins to show progress on stderr, so that stdout holds results only.
func (c *call) progress() *progress {
	p := &progress{out: c.env.Stderr, live: c.env.Terminal && c.out.people(), start: time.Now()}
	if !c.out.people() {
		p.out = io.Discard
	}
	return p
}

// step says that something new is so; the same text twice is one line.
func (p *progress) step(text string) {
	if text == p.last {
		return
	}
	p.last = text
	p.erase()
	fmt.Fprintf(p.out, "%s  %s\n", p.since(), text)
}

func (p *progress) since() string { return fmt.Sprintf("%6.1fs", time.Since(p.start).Seconds()) }

// draw puts text on the line that lives, if there is one.
func (p *progress) draw(text string) {
	if !p.live {
		return
	}
	p.drawn = true
	fmt.Fprintf(p.out, "\r\x1b[K%s", text)
}

// erase clears the line that lives.
func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// transfer draws bytes on their way: bar, amount, rate and what is left. It is
// meant as the SDK's progress function; total must not be zero.
func (p *progress) transfer(what string, total int64) func(int64) {
	var drawn time.Time
	var told int64 // tenths already told, without a terminal
	return func(n int64) {
		now := time.Now()
		if total <= 0 || p.live && n < total && now.Sub(drawn) < 100*time.Millisecond {
			return
		}
		drawn = now
		line := transferLine(what, n, total, now.Sub(p.start))
		if p.live {
			p.draw(line)
			return
		}
		if tenth := n * 10 / total; tenth > told {
			told = tenth
			p.step(line)
		}
	}
}

// transferLine is one state of a transfer in words.
func transferLine(what string, n, total int64, spent time.Duration) string {
	line := fmt.Sprintf("%s %s %s of %s", what, bar(float64(n), float64(total), 24), bytesText(n), bytesText(total))
	if s := spent.Seconds(); s > 0.2 && n > 0 {
		rate := float64(n) / s
		line += fmt.Sprintf(", %s/s", bytesText(int64(rate)))
		if left := float64(total-n) / rate; n < total {
			line += ", " + span(time.Duration(left*float64(time.Second))) + " left"
		}
	}
	return line
}

// bytesText writes an amount with one digit after the point.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i]
}
