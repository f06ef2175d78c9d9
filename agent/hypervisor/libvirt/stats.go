package libvirt

import (
	"context"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Stats samples one domain. It does not wait for a QEMU that is busy with a job:
// what it does not tell then is zero.
func (d *Driver) Stats(ctx context.Context, id api.ID) (*api.VMStats, error) {
	dom, err := d.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	type sample struct {
		records []golibvirt.DomainStatsRecord
		meta    metadataBody
	}
	s, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (s sample, err error) {
		what := golibvirt.DomainStatsState | golibvirt.DomainStatsCPUTotal | golibvirt.DomainStatsBalloon |
			golibvirt.DomainStatsVCPU | golibvirt.DomainStatsInterface | golibvirt.DomainStatsBlock
		if s.meta, err = metadata(l, dom); err != nil {
			return s, err
		}
		s.records, err = l.ConnectGetAllDomainStats([]golibvirt.Domain{dom}, uint32(what), uint32(golibvirt.ConnectGetAllDomainsStatsNowait))
		return s, err
	})
	if err != nil {
		return nil, err
	}
	if len(s.records) == 0 {
		return nil, hypervisor.ErrNotFound
	}
	names := map[string]string{}
	for _, disk := range s.meta.Disks {
		names[disk.Dev] = disk.Name
	}
	out := statsOf(s.records[0].Params, names)
	out.VMID, out.Time = id, api.TimeOf(time.Now())
	if _, started := d.process(id); started != 0 {
		out.GuestUptime = api.Duration(out.Time - started)
	}
	return out, nil
}

// statsOf reads libvirt's typed parameters.
func statsOf(params []golibvirt.TypedParam, names map[string]string) *api.VMStats {
	n := numbersOf(params)
	text := map[string]string{}
	for _, p := range params {
		if v, ok := p.Value.I.(string); ok {
			text[p.Field] = v
		}
	}
	s := &api.VMStats{
		CPUTime: api.Duration(n["cpu.time"]), VCPUs: int32(n["vcpu.current"]),
		Memory: api.Bytes(n["balloon.current"]) * api.KiB, MemoryRSS: api.Bytes(n["balloon.rss"]) * api.KiB,
	}
	for i := range n["block.count"] {
		k := func(f string) int64 { return n[fmt.Sprintf("block.%d.%s", i, f)] }
		name := text[fmt.Sprintf("block.%d.name", i)]
		if known, ok := names[name]; ok {
			name = known
		}
		s.Disks = append(s.Disks, api.IOStats{
			Name: name, ReadBytes: api.Bytes(k("rd.bytes")), WriteBytes: api.Bytes(k("wr.bytes")),
			ReadOps: k("rd.reqs"), WriteOps: k("wr.reqs"), Errors: k("errors"),
		})
	}
	for i := range n["net.count"] {
		k := func(f string) int64 { return n[fmt.Sprintf("net.%d.%s", i, f)] }
		s.NICs = append(s.NICs, api.IOStats{
			Name: fmt.Sprintf("net%d", i), ReadBytes: api.Bytes(k("rx.bytes")), WriteBytes: api.Bytes(k("tx.bytes")),
			ReadOps: k("rx.pkts"), WriteOps: k("tx.pkts"), Errors: k("rx.errs") + k("tx.errs"),
		})
	}
	return s
}

// numbers are typed parameters that are numbers, by name.
type numbers map[string]int64

func numbersOf(params []golibvirt.TypedParam) numbers {
	n := numbers{}
	for _, p := range params {
		switch v := p.Value.I.(type) {
		case int32:
			n[p.Field] = int64(v)
		case uint32:
			n[p.Field] = int64(v)
		case int64:
			n[p.Field] = v
		case uint64:
			n[p.Field] = int64(v)
		}
	}
	return n
}
