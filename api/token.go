package api

// TokenType says what a token is good for.
type TokenType string

// The types of tokens.
const (
	TokenManagement TokenType = "management" // everything
	TokenNode       TokenType = "node"       // used by an agent, bound to one node id
	TokenJoin       TokenType = "join"       // lets a machine join, in one role
)

// Token is what may be shown of a token; its secret is shown once, when it is
// made, and only its hash is kept.
type Token struct {
	// Accessor names the token without being a secret.
	Accessor ID        `json:"accessor" msg:"accessor,omitempty"`
	Name     string    `json:"name,omitempty" msg:"name,omitempty"`
	Type     TokenType `json:"type" msg:"type,omitempty"`
	// Role of a join token: server or client.
	Role   string `json:"role,omitempty" msg:"role,omitempty"`
	NodeID ID     `json:"node_id,omitzero" msg:"node_id,omitempty"` // of a node token
	// Uses left of a join token; zero means no limit.
	Uses        int32 `json:"uses,omitempty" msg:"uses,omitempty"`
	Expires     Time  `json:"expires,omitempty" msg:"expires,omitempty"`
	CreateTime  Time  `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// TokenCreate makes a token.
type TokenCreate struct {
	Name   string    `json:"name,omitempty" msg:"name,omitempty"`
	Type   TokenType `json:"type" msg:"type,omitempty"`
	Role   string    `json:"role,omitempty" msg:"role,omitempty"`
	NodeID ID        `json:"node_id,omitzero" msg:"node_id,omitempty"`
	TTL    Duration  `json:"ttl,omitempty" msg:"ttl,omitempty"`
	Uses   int32     `json:"uses,omitempty" msg:"uses,omitempty"`
}

// TokenCreated holds the secret, shown this once. The secret of a join token
// carries the hash of the cluster's CA.
type TokenCreated struct {
	WriteMeta `json:"meta" msg:"meta,omitempty"`
	Token     *Token `json:"token" msg:"token,omitempty"`
	Secret    string `json:"secret" msg:"secret,omitempty"`
}

// TokenResponse is one token, without its secret.
type TokenResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Token     *Token `json:"token" msg:"token,omitempty"`
}

// TokenListResponse is a page of tokens.
type TokenListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Token `json:"items" msg:"items,omitempty"`
}
