package cluster

import (
	"context"
	"iter"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/fsm"
)

var tokenKind = &kindOf[*api.Token]{
	noun: "token",
	id:   func(v *api.Token) api.ID { return v.Accessor },
	name: func(v *api.Token) string { return v.Name },
}

func (s *Server) tokenEndpoints() {
	write(s, "Token.Create", acl.WriteToken, s.tokenCreate)
	write(s, "Token.Delete", acl.WriteToken, s.tokenDelete)
	read(s, "Token.Get", acl.ReadToken, s.tokenGet)
	read(s, "Token.List", acl.ReadToken, s.tokenList)
}

// authenticate turns a token's secret into an identity.
func (s *Server) authenticate(ctx context.Context, secret string) (*acl.Identity, error) {
	unknown := api.Errorf(api.CodeUnauthenticated, "the token is not known")
	if !s.up.Load() {
		return nil, api.Errorf(api.CodeUnreachable, "the server is starting")
	}
	accessor, err := keyring.ParseToken(secret)
	if err != nil {
		return nil, unknown
	}
	rec := s.fsm.State().Token(accessor)
	if rec == nil && !s.IsLeader() {
		current := s.current()
		if rec = s.awaitToken(ctx, accessor); rec == nil && !current {
			return nil, api.Errorf(api.CodeNoLeader, "this server has not caught up with its region: it cannot tell whether the token is good").
				WithHint("ask another server, or try again in a few seconds")
		}
	}
	switch {
	case rec == nil || !keyring.HashSecret(secret).Equal(rec.Hash) || rec.Token.Type == api.TokenJoin:
		return nil, unknown
	case rec.Token.Expires != 0 && rec.Token.Expires <= api.TimeOf(s.cfg.Now()):
		return nil, api.Errorf(api.CodeTokenExpired, "the token has expired")
	}
	return &acl.Identity{
		Role: acl.RoleUser, Accessor: accessor, Name: rec.Token.Name, Management: rec.Token.Type == api.TokenManagement,
	}, nil
}

// tokenLag is how long a follower waits for a token that it does not know: it
// may have been made at the leader a moment ago.
const tokenLag = 300 * time.Millisecond

func (s *Server) awaitToken(ctx context.Context, accessor api.ID) (rec *fsm.TokenRecord) {
	q := &api.QueryOptions{MinIndex: 1, Wait: api.Duration(tokenLag)}
	_ = s.fsm.Query(ctx, q, nil, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.ID(fsm.TableToken, accessor)
		if rec = st.Token(accessor); rec != nil {
			return 2, nil
		}
		return 0, nil
	}) // when ctx ends there is no token
	return rec
}

func (s *Server) tokenCreate(ctx context.Context, req *api.TokenCreate) (*api.TokenCreated, error) {
	t := api.Token{Accessor: api.NewID(), Name: req.Name, Type: req.Type, Role: req.Role, NodeID: req.NodeID, Uses: req.Uses}
	if req.TTL > 0 {
		t.Expires = api.TimeOf(s.cfg.Now().Add(req.TTL.D()))
	}
	secret := keyring.NewToken(t.Accessor)
	if t.Type == api.TokenJoin {
		ca := s.fsm.State().CA()
		if ca == nil {
			return nil, api.Errorf(api.CodeNoLeader, "the cluster's authority is not there yet")
		}
		print, err := keyring.Fingerprint(ca.Public)
		if err != nil {
			return nil, err
		}
		secret = keyring.NewJoinSecret(print, t.Accessor)
	}
	hash := keyring.HashSecret(secret)
	res, err := s.Apply(ctx, &fsm.TokenCreate{Token: t, Hash: hash[:]})
	if err != nil {
		return nil, err
	}
	out := &api.TokenCreated{WriteMeta: api.WriteMeta{Index: res.Index, Replayed: res.Replayed}, Token: value[*api.Token](res), Secret: secret}
	if res.Replayed {
		out.Secret = "" // shown the first time only
	}
	return out, nil
}

// BootstrapToken makes the first management token of the cluster, once. The
// root-only socket calls it on any server; it is passed on to the leader.
func (s *Server) BootstrapToken(ctx context.Context) (*api.TokenCreated, error) {
	out := &api.TokenCreated{}
	return out, s.onLeader(ctx, "Server.Bootstrap", &api.Bootstrap{}, out, func(ctx context.Context) error {
		r, err := s.bootstrap(ctx, &api.Bootstrap{})
		if err == nil {
			*out = *r
		}
		return err
	})
}

func (s *Server) bootstrap(ctx context.Context, _ *api.Bootstrap) (*api.TokenCreated, error) {
	t := api.Token{Accessor: api.NewID(), Name: "bootstrap", Type: api.TokenManagement}
	secret := keyring.NewToken(t.Accessor)
	hash := keyring.HashSecret(secret)
	res, err := s.Apply(ctx, &fsm.Bootstrap{Token: t, Hash: hash[:]})
	if err != nil {
		return nil, err
	}
	return &api.TokenCreated{WriteMeta: api.WriteMeta{Index: res.Index}, Token: value[*api.Token](res), Secret: secret}, nil
}

func findToken(st *fsm.State, key string) (*api.Token, error) {
	byName := func(_, name string) *api.Token {
		for t := range tokens(st) {
			if t.Name == name {
				return t
			}
		}
		return nil
	}
	byID := func(id api.ID) *api.Token {
		if r := st.Token(id); r != nil {
			return &r.Token
		}
		return nil
	}
	return findOf(tokenKind, "", key, nil, byName, byID, tokens(st))
}

func tokens(st *fsm.State) iter.Seq[*api.Token] {
	return func(yield func(*api.Token) bool) {
		for r := range st.Tokens() {
			if !yield(&r.Token) {
				return
			}
		}
	}
}

func (s *Server) tokenDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(st *fsm.State) (fsm.Command, error) {
		t, err := findToken(st, req.Key)
		if err != nil {
			return nil, err
		}
		if req.CheckIndex != 0 && req.CheckIndex != t.ModifyIndex {
			return nil, api.Errorf(api.CodeConflict, "token %s was changed at index %d, after %d", t.Accessor, t.ModifyIndex, req.CheckIndex)
		}
		return &fsm.TokenDelete{Accessor: t.Accessor}, nil
	}, &fsm.TokenDelete{})
}

func (s *Server) tokenGet(ctx context.Context, req *api.GetRequest) (*api.TokenResponse, error) {
	resp := &api.TokenResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		t, err := findToken(st, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableToken, t.Accessor)
		resp.Token = t
		return t.ModifyIndex, nil
	})
}

func (s *Server) tokenList(ctx context.Context, req *api.ListRequest) (*api.TokenListResponse, error) {
	resp := &api.TokenListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, tokenKind, acl.ReadToken,
		func(st *fsm.State, _ string) iter.Seq[*api.Token] { return tokens(st) }, same, fsm.TableToken)
	return resp, err
}

// dutyTokens deletes tokens that have expired.
func (s *Server) dutyTokens(ctx context.Context) error {
	return every(ctx, tokenSweep, nil, func(ctx context.Context) error {
		now := api.TimeOf(s.cfg.Now())
		for t := range tokens(s.fsm.State()) {
			if t.Expires == 0 || t.Expires > now {
				continue
			}
			if _, err := s.Apply(ctx, &fsm.TokenDelete{Accessor: t.Accessor}); err != nil && api.CodeOf(err) != api.CodeNotFound {
				return err
			}
			s.log.Info("a token has expired and is deleted", "accessor", t.Accessor, "name", t.Name)
		}
		return nil
	})
}
