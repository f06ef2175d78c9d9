package truth

import (
	"bufio"
	"context"
	"encoding/xml"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/novacron/novacron/e2e/lab"
)

func (r *Recorder) closing() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// find returns the process of a VM on a host; locked.
func (r *Recorder) find(host, vm string) *process {
	var newest *process
	for _, p := range r.processes {
		if p.host == host && p.vm == vm && (newest == nil || p.pid > newest.pid) {
			newest = p
		}
	}
	return newest
}

// follow reads QEMU's own events, for as long as there is a libvirtd to pass
// them on, again and again.
func (r *Recorder) follow(ctx context.Context, h *lab.Host) {
	for ctx.Err() == nil {
		cmd, err := h.Command(ctx, "stdbuf", "-oL", "virsh", "-q", "-c", "qemu:///system", "qemu-monitor-event", "--loop", "--regex", "--event", "^(STOP|RESUME)$")
		if err == nil {
			out, err := cmd.StdoutPipe()
			if err == nil && cmd.Start() == nil {
				// Killing nsenter does not end its child.
				end := context.AfterFunc(ctx, func() {
					out.Close()
					_ = h.Kill(context.WithoutCancel(ctx), "KILL", "virsh")
				})
				for lines := bufio.NewScanner(out); lines.Scan(); {
					r.event(ctx, h, lines.Text())
				}
				_ = cmd.Wait()
				end()
			}
		}
		rest(ctx, 2*every)
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

var eventLine = regexp.MustCompile(`^event (STOP|RESUME) at (\d+)\.(\d{6}) for domain '?nova-([0-9a-f-]{36})'?:`)

// event takes in one line of virsh.
func (r *Recorder) event(ctx context.Context, h *lab.Host, line string) {
	m := eventLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	sec, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return
	}
	micro, err := strconv.ParseInt(m[3], 10, 64)
	if err != nil {
		return
	}
	at, state := At(time.Unix(sec, micro*1000)), Pause
	if m[1] == "RESUME" {
		state = Run
	}
	r.scan(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.find(h.Name, m[4]); p != nil {
		p.epoch = 0 // the next look tells it
		r.add(p, at, state)
	}
}

// poll looks at the domains: for their epochs, and for what the events do not
// tell because libvirtd was not there.
func (r *Recorder) poll(ctx context.Context, h *lab.Host) {
	for ctx.Err() == nil {
		pid, err := h.PID1()
		if err == nil {
			var d net.Dialer
			// The host has a /run of its own.
			c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root/run/libvirt/libvirt-sock", pid))
			if err == nil {
				r.session(ctx, h, c)
			}
		}
		rest(ctx, 2*every)
	}
}

// session looks for as long as the connection lasts.
func (r *Recorder) session(ctx context.Context, h *lab.Host, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	l := golibvirt.NewWithDialer(dialers.NewAlreadyConnected(c))
	if l.Connect() != nil {
		return
	}
	differs := map[string]int{}
	for ctx.Err() == nil {
		at := Now()
		domains, _, err := l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive)
		if err != nil {
			return
		}
		for _, d := range domains {
			vm, ours := strings.CutPrefix(d.Name, "nova-")
			if !ours {
				continue
			}
			state, _, err := l.DomainGetState(d, 0)
			if err != nil {
				continue
			}
			text, _ := l.DomainGetMetadata(d, int32(golibvirt.DomainMetadataElement), golibvirt.OptString{metadata}, golibvirt.DomainAffectLive)
			r.seen(h.Name, vm, at, golibvirt.DomainState(state), epochOf(text), differs)
		}
		rest(ctx, every)
	}
}

const metadata = "https://novacron.io/xmlns/domain/1"

func epochOf(text string) uint64 {
	var v struct {
		Epoch uint64 `xml:"epoch"`
	}
	if xml.Unmarshal([]byte(text), &v) != nil {
		return 0
	}
	return v.Epoch
}

// seen takes in what libvirt says of a domain. What differs from what is known
// counts when it does so twice, since events come a little later than states.
func (r *Recorder) seen(host, vm string, at int64, said golibvirt.DomainState, epoch uint64, differs map[string]int) {
	state := Pause
	switch said {
	case golibvirt.DomainRunning:
		state = Run
	case golibvirt.DomainPaused, golibvirt.DomainPmsuspended, golibvirt.DomainCrashed:
	default:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.find(host, vm)
	if p == nil {
		return
	}
	if p.state == state {
		delete(differs, vm)
		if state == Run && p.epoch != epoch && epoch != 0 {
			p.epoch = epoch
			r.add(p, at, Run)
		}
		return
	}
	if differs[vm]++; differs[vm] >= 3 {
		delete(differs, vm)
		p.epoch = 0
		r.add(p, at, state)
	}
}
