package peer_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/peer"
)

func server(region string) *api.Server {
	id := api.NewID()
	return &api.Server{
		ID: id, Name: "s-" + id.Short() + "." + region, Region: region, Datacenter: "dc1", Version: "0.1.0", Protocol: 1, SchemaMax: 2,
		Address: "10.0.0.1:7647", HTTPAddr: "10.0.0.1:7646", SerfAddr: "10.0.0.1:7648", Status: peer.StatusAlive,
	}
}

func TestTagsRoundTrip(t *testing.T) {
	s := server("west")
	got, err := peer.Parse(s.Name, s.SerfAddr, peer.Tags(s))
	must.NoError(t, err)
	must.Eq(t, s, got)
	s.HTTPAddr = ""
	got, err = peer.Parse(s.Name, s.SerfAddr, peer.Tags(s))
	must.NoError(t, err)
	must.Eq(t, s, got)

	size := 0
	for k, v := range peer.Tags(s) {
		size += len(k) + len(v) + 4
	}
	must.Less(t, 512, size, must.Sprint("gossip refuses tags of more than 512 bytes"))
}

func TestBadTagsAreRefused(t *testing.T) {
	good := peer.Tags(server("west"))
	for _, row := range [][2]string{
		{peer.TagRole, ""}, {peer.TagRole, "consul"},
		{peer.TagID, ""}, {peer.TagID, "7"}, {peer.TagID, api.ID{}.String()},
		{peer.TagRegion, ""}, {peer.TagRegion, "a/b"}, {peer.TagRegion, "-a"}, {peer.TagRegion, strings.Repeat("a", 64)},
		{peer.TagProtocol, ""}, {peer.TagProtocol, "-1"}, {peer.TagProtocol, "01"}, {peer.TagProtocol, "4294967296"},
		{peer.TagSchema, "x"},
		{peer.TagDC, strings.Repeat("d", 129)}, {peer.TagVersion, strings.Repeat("d", 129)},
		{peer.TagRPC, ""}, {peer.TagRPC, "10.0.0.1"}, {peer.TagRPC, ":7647"}, {peer.TagRPC, "0.0.0.0:7647"}, {peer.TagRPC, "[::]:1"},
		{peer.TagRPC, "h:0"}, {peer.TagRPC, "h:65536"}, {peer.TagRPC, "224.0.0.1:7"}, {peer.TagRPC, strings.Repeat("h", 300) + ":1"},
		{peer.TagHTTP, "nowhere"},
	} {
		tags := maps.Clone(good)
		tags[row[0]] = row[1]
		_, err := peer.Parse("n", "", tags)
		must.Error(t, err, must.Sprint(row))
	}
	_, err := peer.Parse("n", "", nil)
	must.Error(t, err)
	must.False(t, peer.IsServer(nil))
	must.True(t, peer.IsServer(good))
}

func TestRegionsFollowTheMembers(t *testing.T) {
	var r peer.Regions
	a, b, c := server("west"), server("west"), server("east")
	for _, s := range []*api.Server{a, b, c} {
		r.Put(s)
	}
	must.Eq(t, []string{"east", "west"}, r.Regions())
	must.Len(t, 2, r.Servers("west"))
	must.Len(t, 3, r.All())

	// An update replaces, it does not add.
	a2 := *a
	a2.Address = "10.0.0.9:7647"
	r.Put(&a2)
	must.Len(t, 2, r.Servers("west"))
	got, ok := r.Server(a.ID)
	must.True(t, ok)
	must.Eq(t, "10.0.0.9:7647", got.Address)

	// What is handed out is a copy.
	got.Address = "x"
	r.Servers("west")[0].Address = "x"
	got, _ = r.Server(a.ID)
	must.Eq(t, "10.0.0.9:7647", got.Address)

	// A failed server is not picked.
	a2.Status = peer.StatusFailed
	r.Put(&a2)
	for range 20 {
		s, ok := r.RandomServer("west")
		must.True(t, ok)
		must.Eq(t, b.ID, s.ID)
	}
	b2 := *b
	b2.Status = peer.StatusLeft
	r.Put(&b2)
	_, ok = r.RandomServer("west")
	must.False(t, ok)
	_, ok = r.RandomServer("north")
	must.False(t, ok)

	// A server may move, and a region ends with its last server.
	c2 := *c
	c2.Region = "south"
	r.Put(&c2)
	must.Eq(t, []string{"south", "west"}, r.Regions())
	r.Remove(c.ID)
	r.Remove(c.ID)
	must.Eq(t, []string{"west"}, r.Regions())
	_, ok = r.Server(c.ID)
	must.False(t, ok)
}

func TestAServerThatWasReplacedIsGone(t *testing.T) {
	var r peer.Regions
	old, other := server("west"), server("west")
	old.Name, other.Name = "s1.west", "s2.west"
	r.Put(old)
	r.Put(other)
	anew := *server("west")
	anew.Name = "s1.west"
	r.Put(&anew)
	_, ok := r.Server(old.ID)
	must.False(t, ok)
	must.Len(t, 2, r.Servers("west"))
}

func TestRegionsAreSafeForConcurrentUse(t *testing.T) {
	var r peer.Regions
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				s := server(fmt.Sprintf("r%d", i%3))
				r.Put(s)
				r.RandomServer(s.Region)
				r.All()
				r.Remove(s.ID)
			}
		})
	}
	wg.Wait()
	must.SliceEmpty(t, r.Regions())
}
