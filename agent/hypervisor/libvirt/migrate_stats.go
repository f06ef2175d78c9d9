package libvirt

import (
	"context"
	"errors"
	"slices"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// dirtyPoll is how often a measurement of the dirty rate is looked at.
const dirtyPoll = 100 * time.Millisecond

// jobStats are libvirt's statistics of a job.
type jobStats struct {
	kind golibvirt.DomainJobType
	numbers
}

// out: a migration to another host.
func (j jobStats) out() bool {
	return j.kind != golibvirt.DomainJobNone && golibvirt.DomainJobOperation(j.numbers[golibvirt.DomainJobOperationStr]) == golibvirt.DomainJobOperationStrMigrationOut
}

// elsewhere is what libvirt answers where a domain comes in.
var elsewhere = []golibvirt.ErrorNumber{golibvirt.ErrOperationUnsupported, golibvirt.ErrOperationInvalid}

// job asks for the job that is under way. Libvirt refuses that where a domain
// comes in: it counts only at the source.
func (d *Driver) job(ctx context.Context, id api.ID, flags golibvirt.DomainGetJobStatsFlags) (jobStats, error) {
	return call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (j jobStats, err error) {
		kind, params, err := l.DomainGetJobStats(handle(id), flags)
		var e golibvirt.Error
		if errors.As(err, &e) && slices.Contains(elsewhere, golibvirt.ErrorNumber(e.Code)) {
			return j, nil
		}
		j.kind, j.numbers = golibvirt.DomainJobType(kind), numbersOf(params)
		return j, err
	})
}

// moving reports whether the domain is on its way to another host, whoever
// ordered that.
func (d *Driver) moving(ctx context.Context, id api.ID) (bool, error) {
	if _, err := d.lookup(ctx, id); err != nil {
		return false, err
	}
	j, err := d.job(ctx, id, 0)
	return j.out(), err
}

// MoveStats samples a move. At the destination, libvirt keeps what the finished
// one was like until it is restarted or does another job with the domain.
func (d *Driver) MoveStats(ctx context.Context, id api.ID) (hypervisor.MoveStats, error) {
	if _, err := d.lookup(ctx, id); err != nil {
		return hypervisor.MoveStats{}, err
	}
	j, err := d.job(ctx, id, 0)
	if err != nil {
		return hypervisor.MoveStats{}, err
	}
	if j.out() {
		return moveStatsOf(j.numbers), nil
	}
	j, err = d.job(ctx, id, golibvirt.DomainJobStatsCompleted|golibvirt.DomainJobStatsKeepCompleted)
	if err != nil {
		return hypervisor.MoveStats{}, err
	}
	op := golibvirt.DomainJobOperation(j.numbers[golibvirt.DomainJobOperationStr])
	if j.kind != golibvirt.DomainJobCompleted || op != golibvirt.DomainJobOperationStrMigrationIn {
		return hypervisor.MoveStats{}, hypervisor.ErrNotFound
	}
	return moveStatsOf(j.numbers), nil
}

func moveStatsOf(n numbers) hypervisor.MoveStats {
	ms := func(field string) api.Duration { return api.Duration(time.Duration(n[field]) * time.Millisecond) }
	return hypervisor.MoveStats{
		Total:     api.Bytes(n[golibvirt.DomainJobDataTotal]),
		Done:      api.Bytes(n[golibvirt.DomainJobDataProcessed]),
		Remaining: api.Bytes(n[golibvirt.DomainJobDataRemaining]),
		Rate:      api.Bytes(n[golibvirt.DomainJobMemoryBps] + n[golibvirt.DomainJobDiskBps]),
		DirtyRate: api.Bytes(n[golibvirt.DomainJobMemoryDirtyRate] * n[golibvirt.DomainJobMemoryPageSize]),
		Downtime:  ms(golibvirt.DomainJobDowntime),
		Throttle:  int32(n[golibvirt.DomainJobAutoConvergeThrottle]),
		Passes:    int32(n[golibvirt.DomainJobMemoryIteration]),
		Elapsed:   ms(golibvirt.DomainJobTimeElapsed),
	}
}

// AbortMove ends a migration to another host.
func (d *Driver) AbortMove(ctx context.Context, id api.ID) error {
	return d.onMove(ctx, id, (*golibvirt.Libvirt).DomainAbortJob)
}

// SetMaxDowntime changes how long the guest may stand still
// (virDomainMigrateSetMaxDowntime), to the millisecond.
func (d *Driver) SetMaxDowntime(ctx context.Context, id api.ID, downtime api.Duration) error {
	return d.onMove(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainMigrateSetMaxDowntime(dom, milliseconds(downtime), 0)
	})
}

// onMove runs a call on a domain that is being moved; ErrNotFound if it is not,
// or is no longer.
func (d *Driver) onMove(ctx context.Context, id api.ID, f func(*golibvirt.Libvirt, golibvirt.Domain) error) error {
	busy, err := d.moving(ctx, id)
	if err != nil {
		return err
	}
	if !busy {
		return hypervisor.ErrNotFound
	}
	err = d.verb(ctx, id, f)
	if api.CodeOf(err) == api.CodeState { // it ended meanwhile
		return hypervisor.ErrNotFound
	}
	return err
}

// DirtyRate lets QEMU sample pages for whole seconds, 1 to 60.
func (d *Driver) DirtyRate(ctx context.Context, id api.ID, over api.Duration) (api.Bytes, error) {
	seconds := int32(min(60, max(1, (time.Duration(over)+time.Second-1)/time.Second)))
	err := d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainStartDirtyRateCalc(dom, seconds, uint32(golibvirt.DomainDirtyrateModePageSampling))
	})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+d.cfg.Timeout)
	defer cancel()
	tick := time.NewTicker(dirtyPoll)
	defer tick.Stop()
	for {
		records, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) ([]golibvirt.DomainStatsRecord, error) {
			return l.ConnectGetAllDomainStats([]golibvirt.Domain{handle(id)}, uint32(golibvirt.DomainStatsDirtyrate), 0)
		})
		if err != nil {
			return 0, err
		}
		if len(records) == 0 {
			return 0, hypervisor.ErrNotFound
		}
		n := numbersOf(records[0].Params)
		if golibvirt.DomainDirtyRateStatus(n[golibvirt.DomainStatsDirtyrateCalcStatus]) == golibvirt.DomainDirtyrateMeasured {
			return api.Bytes(n[golibvirt.DomainStatsDirtyrateMegabytesPerSecond]) * api.MiB, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, errors.Join(hypervisor.ErrUnknown, ctx.Err())
		}
	}
}
