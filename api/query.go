package api

// Consistency says how fresh a read must be.
type Consistency string

// The levels of consistency.
const (
	// Default is answered by the leader without a quorum check.
	ConsistencyDefault Consistency = "default"
	// Consistent is answered by the leader after a read index check (Raft
	// dissertation 6.4): it is linearizable.
	ConsistencyConsistent Consistency = "consistent"
	// Stale is answered by any server and labelled with its age.
	ConsistencyStale Consistency = "stale"
)

// QueryOptions accompany every read.
type QueryOptions struct {
	Namespace   string      `json:"namespace,omitempty" msg:"namespace,omitempty"` // "*" for all
	Consistency Consistency `json:"consistency,omitempty" msg:"consistency,omitempty"`
	// MinIndex makes the query block until the result has changed after it.
	MinIndex Index    `json:"index,omitempty" msg:"index,omitempty"`
	Wait     Duration `json:"wait,omitempty" msg:"wait,omitempty"` // at most 10m, default 5m
	PerPage  int32    `json:"per_page,omitempty" msg:"per_page,omitempty"`
	// NextToken continues a list where the last page ended.
	NextToken string `json:"next_token,omitempty" msg:"next_token,omitempty"`
	Prefix    string `json:"prefix,omitempty" msg:"prefix,omitempty"`
	Filter    string `json:"filter,omitempty" msg:"filter,omitempty"` // go-bexpr expression over the JSON form
}

// Query returns the options; it is promoted through embedding, so that the RPC
// layer can read them from any request.
func (q *QueryOptions) Query() *QueryOptions { return q }

// What a read may have no use for. Rather than accept an option and ignore it, a
// read refuses it.
var (
	// NotOne are the options that mean nothing where one noun is asked for.
	NotOne = []string{"per_page", "next_token", "prefix", "filter"}
	// NotEvents are those that mean nothing for events, which are listed from the
	// newest back to a limit.
	NotEvents = []string{"per_page", "next_token", "prefix"}
	// NotMembers are those that mean nothing for the members of gossip, which can
	// be filtered.
	NotMembers = []string{"index", "wait", "per_page", "next_token", "prefix"}
	// NotHistory are those that mean nothing for the versions of one noun, which
	// come in pages.
	NotHistory = []string{"prefix", "filter"}
	// NotNow are those that mean nothing where the answer is a sample of the
	// moment: nothing tells when it changes.
	NotNow = []string{"index", "wait", "per_page", "next_token", "prefix", "filter"}
)

// Refuse returns an error when any of the options named is set.
func (q *QueryOptions) Refuse(names ...string) error {
	var c checks
	q.refuse(&c, names...)
	return c.err("the query")
}

func (q *QueryOptions) refuse(c *checks, names ...string) {
	for _, n := range names {
		if set := map[string]bool{
			"index": q.MinIndex != 0, "wait": q.Wait != 0, "per_page": q.PerPage != 0,
			"next_token": q.NextToken != "", "prefix": q.Prefix != "", "filter": q.Filter != "",
		}; set[n] {
			c.add(n, "has no meaning here")
		}
	}
}

// QueryMeta accompanies the answer of every read.
type QueryMeta struct {
	Index       Index    `json:"index,omitempty" msg:"index,omitempty"`
	LastContact Duration `json:"last_contact,omitempty" msg:"last_contact,omitempty"`
	KnownLeader bool     `json:"known_leader,omitempty" msg:"known_leader,omitempty"`
	Stale       bool     `json:"stale,omitempty" msg:"stale,omitempty"`
	NextToken   string   `json:"next_token,omitempty" msg:"next_token,omitempty"`
}

// Meta returns the meta; it is promoted through embedding.
func (m *QueryMeta) Meta() *QueryMeta { return m }

// WriteMeta is the answer of a write that returns no noun.
type WriteMeta struct {
	Index Index `json:"index,omitempty" msg:"index,omitempty"`
	// Replayed: the idempotency key was seen before, nothing was changed again.
	Replayed bool `json:"replayed,omitempty" msg:"replayed,omitempty"`
}

// GetRequest asks for one noun by name, ID or unambiguous ID prefix.
type GetRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
	Key          string `json:"key,omitempty" msg:"key,omitempty"`
}

// ListRequest asks for a page of nouns.
type ListRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
}

// DeleteRequest deletes one noun by name or ID.
type DeleteRequest struct {
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Key       string `json:"key,omitempty" msg:"key,omitempty"`
	// CheckIndex, if not zero, must equal the noun's modify index.
	CheckIndex Index `json:"check_index,omitempty" msg:"check_index,omitempty"`
	Force      bool  `json:"force,omitempty" msg:"force,omitempty"`
}

// Empty is a request or an answer without content.
type Empty struct{}
