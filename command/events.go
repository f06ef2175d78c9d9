package command

import (
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func eventSpecs() []*spec {
	return []*spec{{
		name: "events", synopsis: "show what happened in the cluster, or follow it",
		long:     "A topic is a noun (vm, node, placement, migration, volume, pool, image, network,\nnamespace, token, operator), or a noun and an id, \"vm:ID\".",
		examples: []string{"novacron events", "novacron events -follow -topic vm -topic node", "novacron events -follow -index 1200 -o json"},
		build: func(f *flags) func(*call) error {
			follow := f.Bool("follow", false, "go on with what happens from now on")
			topics := f.list("topic", "only this `topic`; may be repeated")
			index := f.Uint64("index", 0, "begin after this `index`")
			limit, filter := eventFlags(f)
			return with(func(c *call, cl *api.Client) error {
				if *follow && *filter != "" {
					return usagef("-filter is for the events that were; it does not go with -follow")
				}
				if *follow {
					return followEvents(c, cl, &api.EventRequest{Topics: *topics, Index: *index}, nil)
				}
				r, err := cl.Events().List(c, &api.EventListRequest{QueryOptions: api.QueryOptions{Filter: *filter}, Topics: *topics, Limit: int32(*limit)})
				if err != nil {
					return err
				}
				return showEvents(c, slices.DeleteFunc(r.Items, func(e *api.Event) bool { return e.Index <= *index }))
			})
		},
	}}
}

// eventFlags declares what bounds a list of events.
func eventFlags(f *flags) (limit *int, filter *string) {
	return f.Int("limit", 50, "show at most this `number`, the newest"), f.String("filter", "", "show only events for which this `expression` holds")
}

// showEvents writes a list of events, newest last.
func showEvents(c *call, list []*api.Event) error {
	return c.out.show(list, func() error {
		t := c.out.table("TIME", "INDEX", "TOPIC", "TYPE", "KEY", "MESSAGE")
		for _, e := range list {
			t.row(eventRow(c.out, e)...)
		}
		return t.write("No events.")
	})
}

func eventRow(o *output, e *api.Event) []string {
	when := "-"
	if e.Time != 0 {
		when = e.Time.Time().Local().Format(time.TimeOnly)
	}
	key := e.Key
	if id, err := api.ParseID(e.Key); err == nil {
		key = id.Short()
	}
	return []string{when, uintText(e.Index), e.Topic, o.state(e.Type), key, clip(e.Message, 100)}
}

// showEvent writes one event of a stream.
func showEvent(c *call, e *api.Event) error {
	return c.out.line(e, strings.Join(eventRow(c.out, e), "  "))
}

// followEvents writes events until the person interrupts; a stream that the
// agent ends is opened again where it was.
func followEvents(c *call, cl *api.Client, req *api.EventRequest, want func(*api.Event) bool) error {
	for {
		err := oneStream(c, cl, req, want)
		switch code := api.CodeOf(err); {
		case c.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), code == api.CodeUnreachable, code == api.CodeNoLeader:
			sleep(c, time.Second)
		default:
			return err
		}
	}
}

func oneStream(c *call, cl *api.Client, req *api.EventRequest, want func(*api.Event) bool) error {
	s, err := cl.Events().Stream(c, req)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		b, err := s.Next()
		if err != nil {
			return err
		}
		req.Index = max(req.Index, s.Index())
		if b.Gap {
			c.out.say("%s", c.out.paint("33", "Some events before this are no longer held."))
		}
		for _, e := range b.Events {
			if want == nil || want(e) {
				if err := showEvent(c, e); err != nil {
					return err
				}
			}
		}
	}
}
