package fsm

import "github.com/novacron/novacron/api"

// TokenCreate stores a token with the hash of its secret. It answers
// *api.Token.
type TokenCreate struct {
	Token api.Token `msg:"token,omitempty"`
	Hash  []byte    `msg:"hash,omitempty"` // SHA-256 of the secret
}

// CommandID is 23.
func (c *TokenCreate) CommandID() uint16 { return cmdTokenCreate }

// Validate checks the fields.
func (c *TokenCreate) Validate() error { return validToken(&c.Token, c.Hash) }

func validToken(t *api.Token, hash []byte) error {
	var k checker
	k.id("accessor", t.Accessor)
	k.line("name", t.Name)
	k.oneOf("type", string(t.Type), string(api.TokenManagement), string(api.TokenNode), string(api.TokenJoin))
	if t.Type == api.TokenJoin {
		k.oneOf("role", t.Role, "server", "client")
	} else {
		k.oneOf("role", t.Role, "")
	}
	if t.Type == api.TokenNode {
		k.id("node_id", t.NodeID)
	}
	if t.Uses < 0 {
		k.fail("uses", "is negative")
	}
	if len(hash) != 32 {
		k.fail("hash", "is not a SHA-256")
	}
	return k.done()
}

func (c *TokenCreate) apply(tx *Txn) (any, error) { return tx.putToken(c.Token, c.Hash) }

func (tx *Txn) putToken(t api.Token, hash []byte) (any, error) {
	if tx.s.Token(t.Accessor) != nil || tx.s.TokenByHash(hash) != nil {
		return nil, api.Errorf(api.CodeExists, "token %s exists already", t.Accessor)
	}
	if t.Expires != 0 && t.Expires <= tx.now {
		return nil, api.Errorf(api.CodeInvalid, "the token would have expired before it is made")
	}
	t.CreateTime, t.CreateIndex, t.ModifyIndex = tx.now, tx.index, tx.index
	r := &TokenRecord{Token: t, Hash: hash}
	tokenDef.put(tx, r)
	tx.made(t.Accessor, "")
	return &r.Token, nil
}

// TokenDelete deletes a token. It answers nothing.
type TokenDelete struct {
	Accessor api.ID `msg:"accessor,omitempty"`
}

// CommandID is 24.
func (c *TokenDelete) CommandID() uint16 { return cmdTokenDelete }

// Validate checks nothing: the token is looked up.
func (c *TokenDelete) Validate() error { return nil }

func (c *TokenDelete) apply(tx *Txn) (any, error) {
	if tx.s.Token(c.Accessor) == nil {
		return nil, api.Errorf(api.CodeNotFound, "token %s not found", c.Accessor)
	}
	tokenDef.del(tx, c.Accessor)
	return nil, nil
}

// TokenUse takes one use of a join token for a node. It answers *api.Token as
// it was before. A token whose last use this was is deleted.
type TokenUse struct {
	Accessor api.ID `msg:"accessor,omitempty"`
	// Role that the machine asks for; empty is not checked.
	Role   string `msg:"role,omitempty"`
	NodeID api.ID `msg:"node_id,omitempty"` // who joins; refused when denied
}

// CommandID is 25.
func (c *TokenUse) CommandID() uint16 { return cmdTokenUse }

// Validate checks the role.
func (c *TokenUse) Validate() error {
	var k checker
	k.id("accessor", c.Accessor)
	k.oneOf("role", c.Role, "", "server", "client")
	return k.done()
}

func (c *TokenUse) apply(tx *Txn) (any, error) {
	r := tx.s.Token(c.Accessor)
	switch {
	case r == nil || r.Token.Type != api.TokenJoin:
		return nil, api.Errorf(api.CodeJoinRefused, "the join token is not known or was used up")
	case r.Token.Expires != 0 && r.Token.Expires <= tx.now:
		return nil, api.Errorf(api.CodeTokenExpired, "the join token has expired")
	case c.Role != "" && r.Token.Role != c.Role:
		return nil, api.Errorf(api.CodeJoinRefused, "the join token is for role %s, not %s", r.Token.Role, c.Role)
	case tx.s.Denied(c.NodeID) != nil:
		return nil, api.Errorf(api.CodeNodeDenied, "node %s is denied", c.NodeID)
	}
	switch r.Token.Uses {
	case 0:
	case 1:
		tokenDef.del(tx, c.Accessor)
	default:
		n := *r
		n.Token.Uses--
		n.Token.ModifyIndex = tx.index
		tokenDef.put(tx, &n)
	}
	return &r.Token, nil
}

// Bootstrap makes the first management token, once. It answers *api.Token.
type Bootstrap struct {
	Token api.Token `msg:"token,omitempty"`
	Hash  []byte    `msg:"hash,omitempty"`
}

// CommandID is 32.
func (c *Bootstrap) CommandID() uint16 { return cmdBootstrap }

// Validate checks the token.
func (c *Bootstrap) Validate() error {
	if c.Token.Type != api.TokenManagement {
		return api.Errorf(api.CodeInvalid, "the first token is a management token")
	}
	return validToken(&c.Token, c.Hash)
}

func (c *Bootstrap) apply(tx *Txn) (any, error) {
	if i := tx.s.meta.Bootstrapped; i != 0 {
		return nil, api.Errorf(api.CodeBootstrapped, "the first token was made at index %d", i)
	}
	v, err := tx.putToken(c.Token, c.Hash)
	if err != nil {
		return nil, err
	}
	tx.setMeta(func(m *MetaRecord) { m.Bootstrapped = tx.index })
	return v, nil
}
