package hypervisor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

func TestHubShowsEveryViewerTheRecentPast(t *testing.T) {
	hub := hypervisor.NewHub(nil)
	var all bytes.Buffer
	for i := range 3000 { // over 64 KiB, in odd pieces
		p := bytes.Repeat([]byte{byte(i)}, i%97)
		all.Write(p)
		n, err := hub.Write(p)
		must.NoError(t, err)
		must.Eq(t, len(p), n)
	}
	v := hub.Attach(t.Context())
	hub.Close(nil)
	got, err := io.ReadAll(v)
	must.NoError(t, err)
	must.Eq(t, all.Bytes()[all.Len()-hypervisor.HubHistory:], got)
	_, err = hub.Write([]byte("x"))
	must.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = v.Write([]byte("x"))
	must.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestHubTakesPiecesOfAnySize(t *testing.T) {
	for _, n := range []int{1, hypervisor.HubHistory - 1, hypervisor.HubHistory, hypervisor.HubHistory + 1, 3*hypervisor.HubHistory + 5} {
		hub := hypervisor.NewHub(nil)
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(i * 31)
		}
		_, err := hub.Write([]byte("before"))
		must.NoError(t, err)
		_, err = hub.Write(text)
		must.NoError(t, err)
		_, err = hub.Write([]byte("after"))
		must.NoError(t, err)
		want := append(append([]byte("before"), text...), "after"...)
		want = want[max(0, len(want)-hypervisor.HubHistory):]
		v := hub.Attach(t.Context())
		hub.Close(errors.New("gone"))
		got := make([]byte, len(want))
		_, err = io.ReadFull(v, got)
		must.NoError(t, err)
		must.True(t, bytes.Equal(want, got), must.Sprint(n))
		_, err = v.Read(got)
		must.EqError(t, err, "gone")
	}
}

func TestSlowViewerLosesTheOldest(t *testing.T) {
	hub := hypervisor.NewHub(nil)
	v := hub.Attach(t.Context())
	defer v.Close()
	for range 10 {
		_, err := hub.Write(bytes.Repeat([]byte("x"), hypervisor.HubHistory/2))
		must.NoError(t, err)
	}
	_, err := hub.Write([]byte("end"))
	must.NoError(t, err)
	got := make([]byte, hypervisor.HubHistory)
	_, err = io.ReadFull(v, got)
	must.NoError(t, err)
	must.True(t, bytes.HasSuffix(got, []byte("xend")))
}

func TestViewersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var typed bytes.Buffer
		hub := hypervisor.NewHub(typed.Write)
		idle := 0
		hub.OnIdle(func() { idle++ })
		ctx, cancel := context.WithCancel(t.Context())
		one, two := hub.Attach(ctx), hub.Attach(t.Context())
		must.Eq(t, 2, hub.Viewers())
		_, err := two.Write([]byte("hello"))
		must.NoError(t, err)
		must.Eq(t, "hello", typed.String())
		ended := make(chan error, 1)
		go func() { _, err := one.Read(make([]byte, 1)); ended <- err }()
		synctest.Wait()
		cancel()
		must.ErrorIs(t, <-ended, io.ErrClosedPipe)
		must.Eq(t, 1, hub.Viewers())
		must.Eq(t, 0, idle)
		must.NoError(t, two.Close())
		must.NoError(t, two.Close())
		must.Eq(t, 1, idle)
	})
}

func TestBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b hypervisor.Bus
		ctx, cancel := context.WithCancel(t.Context())
		slow, gone := b.Subscribe(t.Context()), b.Subscribe(ctx)
		cancel()
		synctest.Wait()
		_, ok := <-gone
		must.False(t, ok)
		id := api.NewID()
		for range 256 {
			b.Publish(hypervisor.Event{Kind: hypervisor.EventPaused, ID: id})
		}
		b.Publish(hypervisor.Event{Kind: hypervisor.EventStopped, ID: id})
		must.Eq(t, hypervisor.Event{Kind: hypervisor.EventReconnect}, <-slow, must.Sprint("who is too slow lists again"))
		b.Publish(hypervisor.Event{Kind: hypervisor.EventStarted, ID: id})
		must.Eq(t, hypervisor.EventStarted, (<-slow).Kind)
		b.Close()
		b.Close()
		_, ok = <-slow
		must.False(t, ok)
		_, ok = <-b.Subscribe(t.Context())
		must.False(t, ok)
		b.Publish(hypervisor.Event{})
	})
}
