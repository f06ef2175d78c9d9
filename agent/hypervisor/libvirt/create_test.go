package libvirt

import (
	"context"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// givenUp asks for a domain and leaves before the answer.
func givenUp(t *testing.T, f *daemon, d *Driver) api.ID {
	t.Helper()
	id := api.NewID()
	f.wanted = id
	f.hold(procCreateXML)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error, 1)
	go func() { errs <- d.create(ctx, id, "<domain/>", 0) }()
	must.Eq(t, procCreateXML, <-f.came)
	cancel()
	must.ErrorIs(t, <-errs, hypervisor.ErrUnknown)
	return id
}

// settled waits until a start is no longer due.
func settled(t *testing.T, d *Driver, id api.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for d.isDue(id) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the start is due for ever")
		}
	}
}

// A start that was given up on may still come: nothing is absent until libvirtd
// has answered it.
func TestAStartThatIsDueIsNoAbsence(t *testing.T) {
	f := newDaemon(t)
	d := f.driver()
	defer d.Close()
	id := givenUp(t, f, d)
	must.ErrorIs(t, d.Attest(t.Context(), id), hypervisor.ErrUnknown)
	must.ErrorIs(t, d.Destroy(t.Context(), id), hypervisor.ErrUnknown)
	_, err := d.Get(t.Context(), id)
	must.ErrorIs(t, err, hypervisor.ErrUnknown)
	must.ErrorIs(t, d.create(t.Context(), id, "<domain/>", 0), hypervisor.ErrUnknown)
	must.NoError(t, d.Attest(t.Context(), api.NewID()), must.Sprint("others are not concerned"))

	f.release(procCreateXML)
	settled(t, d, id)
	must.ErrorIs(t, d.Attest(t.Context(), id), hypervisor.ErrExists)
}

func TestAStartEndsWithItsLibvirtd(t *testing.T) {
	f := newDaemon(t)
	d := f.driver()
	defer d.Close()
	id := givenUp(t, f, d)
	f.hangUp()
	settled(t, d, id)
	must.NoError(t, d.Attest(t.Context(), id))
}

func TestCloseWaitsForNoStart(t *testing.T) {
	f := newDaemon(t)
	d := f.driver()
	id := givenUp(t, f, d)
	must.NoError(t, d.Close())
	must.False(t, d.isDue(id))
}

// A start that was refused is a failure only when nothing is there.
func TestARefusedStartIsLookedAt(t *testing.T) {
	f := newDaemon(t)
	d := f.driver()
	defer d.Close()
	id := api.NewID()
	f.refuse[procCreateXML] = golibvirt.ErrInternalError
	err := d.create(t.Context(), id, "<domain/>", 0)
	must.Eq(t, api.CodeHypervisor, api.CodeOf(err))
	f.mu.Lock()
	f.domain = id
	f.mu.Unlock()
	must.ErrorIs(t, d.create(t.Context(), id, "<domain/>", 0), hypervisor.ErrExists)
	f.mu.Lock()
	f.refuse[procLookup] = golibvirt.ErrInternalError
	f.mu.Unlock()
	must.ErrorIs(t, d.create(t.Context(), id, "<domain/>", 0), hypervisor.ErrUnknown)
}

// While one caller connects to a libvirtd that never answers, the others wait no
// longer than they want to, and the driver can be closed.
func TestConnectingHoldsNobody(t *testing.T) {
	f := newDaemon(t)
	f.hold(procAuthList)
	d := New(Config{Socket: f.socket, Timeout: time.Hour, JobTimeout: time.Hour, KeepAlive: time.Hour})
	id := api.NewID()
	errs := make(chan error, 2)
	for range cap(errs) { // one for each connection
		go func() { errs <- d.Attest(context.Background(), id) }()
	}
	for range cap(errs) + 1 { // and that of the events
		must.Eq(t, procAuthList, <-f.came)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	done := make(chan error, 8)
	for range cap(done) {
		go func() { _, err := d.Get(ctx, id); done <- err }()
	}
	for range cap(done) {
		select {
		case err := <-done:
			must.ErrorIs(t, err, hypervisor.ErrUnknown)
			must.ErrorIs(t, err, context.DeadlineExceeded)
		case err := <-errs:
			t.Fatalf("who has time does not give up: %v", err)
		}
	}
	must.NoError(t, d.Close())
	for range cap(errs) {
		must.ErrorIs(t, <-errs, hypervisor.ErrUnknown)
	}
}
