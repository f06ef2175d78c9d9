package peer

import (
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/novacron/novacron/api"
)

// Regions is the map from regions to servers. The zero value is empty and ready.
type Regions struct {
	mu sync.RWMutex
	m  map[string][]*api.Server // by region, sorted by id; entries are constants
}

// Put adds a server or replaces what is known of it, by its id. A server that
// changed its region is taken out of the old one, and one whose name another has
// now is gone.
func (r *Regions) Put(s *api.Server) {
	c := *s
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string][]*api.Server{}
	}
	r.drop(func(o *api.Server) bool { return o.ID == c.ID })
	r.drop(func(o *api.Server) bool { return o.Name == c.Name && o.Name != "" })
	list := r.m[c.Region]
	i, _ := slices.BinarySearchFunc(list, c.ID, byID)
	r.m[c.Region] = slices.Insert(slices.Clone(list), i, &c)
}

// Remove forgets a server; a region without servers is gone.
func (r *Regions) Remove(id api.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(func(o *api.Server) bool { return o.ID == id })
}

// drop is called with the lock held.
func (r *Regions) drop(match func(*api.Server) bool) {
	for region, list := range r.m {
		i := slices.IndexFunc(list, match)
		if i < 0 {
			continue
		}
		if len(list) == 1 {
			delete(r.m, region)
			continue
		}
		r.m[region] = slices.Delete(slices.Clone(list), i, i+1)
	}
}

// Servers returns copies of what is known of a region, sorted by id.
func (r *Regions) Servers(region string) []*api.Server {
	r.mu.RLock()
	list := r.m[region]
	r.mu.RUnlock()
	return copies(list)
}

// All returns copies of all servers, sorted by region and id.
func (r *Regions) All() []*api.Server {
	var all []*api.Server
	for _, region := range r.Regions() {
		all = append(all, r.Servers(region)...)
	}
	return all
}

// Regions returns the names of the regions that have servers, sorted.
func (r *Regions) Regions() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := make([]string, 0, len(r.m))
	for n := range r.m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Server returns a copy of one server.
func (r *Regions) Server(id api.ID) (*api.Server, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, list := range r.m {
		if i, ok := slices.BinarySearchFunc(list, id, byID); ok {
			c := *list[i]
			return &c, true
		}
	}
	return nil, false
}

// RandomServer picks one server of a region among those alive.
func (r *Regions) RandomServer(region string) (*api.Server, bool) {
	r.mu.RLock()
	list := r.m[region]
	r.mu.RUnlock()
	alive := make([]*api.Server, 0, len(list))
	for _, s := range list {
		if s.Status == StatusAlive {
			alive = append(alive, s)
		}
	}
	if len(alive) == 0 {
		return nil, false
	}
	c := *alive[rand.IntN(len(alive))]
	return &c, true
}

func byID(s *api.Server, id api.ID) int { return slices.Compare(s.ID[:], id[:]) }

func copies(list []*api.Server) []*api.Server {
	out := make([]*api.Server, len(list))
	for i, s := range list {
		c := *s
		out[i] = &c
	}
	return out
}
