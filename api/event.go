package api

// The topics of events, one for each noun.
const (
	TopicNode      = "node"
	TopicVM        = "vm"
	TopicPlacement = "placement"
	TopicVolume    = "volume"
	TopicPool      = "pool"
	TopicImage     = "image"
	TopicNetwork   = "network"
	TopicNamespace = "namespace"
	TopicToken     = "token"
	TopicOperator  = "operator"
	TopicMigration = "migration"
)

// Event says that a noun changed. Topic, Type and Key say what; Index is the
// position in the Raft log; Payload is the noun after the change, as JSON.
type Event struct {
	Index     Index  `json:"index" msg:"index,omitempty"`
	Topic     string `json:"topic" msg:"topic,omitempty"`
	Type      string `json:"type" msg:"type,omitempty"` // created, updated, deleted, and verbs such as placed, started
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Key       string `json:"key" msg:"key,omitempty"` // the noun's id or name
	// Related holds the ids of other nouns that it concerns (a VM's node).
	Related []string `json:"related,omitempty" msg:"related,omitempty"`
	Message string   `json:"message,omitempty" msg:"message,omitempty"` // one line for people
	Time    Time     `json:"time,omitempty" msg:"time,omitempty"`
	Payload []byte   `json:"payload,omitempty" msg:"payload,omitempty"`
	// Transient: not of the Raft log. It is sent only to those who read now, bears
	// no index, is in no list, and may be left out. So is the progress of a
	// migration (type progress, at most one in a second; the payload is a
	// MigrationProgress).
	Transient bool `json:"transient,omitempty" msg:"transient,omitempty"`
}

// EventRequest opens a stream of events, or lists what the ring still holds.
type EventRequest struct {
	Namespace string   `json:"namespace,omitempty" msg:"namespace,omitempty"` // "*" for all
	Topics    []string `json:"topics,omitempty" msg:"topics,omitempty"`       // "vm", "vm:ID"; empty: all
	// Index: resume after it. 0: from now on.
	Index Index `json:"index,omitempty" msg:"index,omitempty"`
	// Snapshot: start with one event for each noun that exists.
	Snapshot bool `json:"snapshot,omitempty" msg:"snapshot,omitempty"`
}

// EventBatch is the events of one index. A batch with Gap says that events
// between the index asked for and First are no longer held.
type EventBatch struct {
	Index     Index    `json:"index" msg:"index,omitempty"`
	Gap       bool     `json:"gap,omitempty" msg:"gap,omitempty"`
	First     Index    `json:"first,omitempty" msg:"first,omitempty"`
	Snapshot  bool     `json:"snapshot,omitempty" msg:"snapshot,omitempty"`
	Heartbeat bool     `json:"heartbeat,omitempty" msg:"heartbeat,omitempty"`
	Events    []*Event `json:"events,omitempty" msg:"events,omitempty"`
}

// EventListResponse lists the newest events that the ring holds.
type EventListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Gap       bool     `json:"gap,omitempty" msg:"gap,omitempty"`
	Items     []*Event `json:"items" msg:"items,omitempty"`
}

// EventListRequest lists events, newest last. MinIndex lists those after it, and
// waits for the first.
type EventListRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
	Topics       []string `json:"topics,omitempty" msg:"topics,omitempty"`
	Related      string   `json:"related,omitempty" msg:"related,omitempty"` // an id in Key or Related
	Limit        int32    `json:"limit,omitempty" msg:"limit,omitempty"`     // default 100
}
