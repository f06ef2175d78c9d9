package client

import (
	"time"

	"github.com/novacron/novacron/api"
)

// The times of the runner.
const (
	defaultStopTimeout = 60 * time.Second
	pressAgain         = 10 * time.Second // between two ACPI requests
	firstDelay         = time.Second      // after a failed op, doubled each time
	maxDelay           = 30 * time.Second
	doubtTime          = 10 * time.Second // between two looks that prove a start lost
)

// delay keeps an op from being tried again too soon.
func (m *machine) delay(o op, now api.Time) {
	w := &m.wait[o]
	d := maxDelay
	if w.n < 5 {
		d = min(firstDelay<<w.n, maxDelay)
		w.n++
	}
	w.until = now + api.Time(d)
}

// ready reports whether an op may be tried, and else asks to be woken.
func (m *machine) ready(o op, e env, out *output) bool {
	w := &m.wait[o]
	w.until = min(w.until, e.now+api.Time(maxDelay)) // a clock that was set back must not make it longer
	if w.until <= e.now {
		return true
	}
	out.wakeAt(m.wait[o].until)
	return false
}

func (o *output) wakeAt(t api.Time) {
	if o.wake == 0 || t < o.wake {
		o.wake = t
	}
}
