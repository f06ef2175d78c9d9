package acl_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

func TestTheTableIsWhole(t *testing.T) {
	seen := map[acl.Capability]bool{}
	for _, i := range acl.All() {
		must.False(t, seen[i.Capability], must.Sprint(i.Capability))
		seen[i.Capability] = true
		must.NotEq(t, "", i.Title)
		got, ok := acl.Lookup(i.Capability)
		must.True(t, ok)
		must.Eq(t, i, got)
	}
	_, ok := acl.Lookup("vm:fly")
	must.False(t, ok)
}

// Deny is the answer to everything that was not granted.
func TestDenyByDefault(t *testing.T) {
	var nobody *acl.Identity
	for _, i := range acl.All() {
		must.False(t, nobody.Allow(i.Capability, "default"))
		must.False(t, nobody.AllowAny(i.Capability))
		must.Eq(t, i.Capability == acl.None, acl.Anonymous().Allow(i.Capability, "default"), must.Sprint(i.Capability))
	}
	boss := &acl.Identity{Role: acl.RoleUser, Management: true, Accessor: api.NewID()}
	must.False(t, boss.Allow("vm:fly", "default"))
	must.False(t, boss.AllowAny("vm:fly"))
}

// Certificates do not give what tokens give, nor the other way round.
func TestCertificatesAndTokensDoNotMix(t *testing.T) {
	boss := &acl.Identity{Role: acl.RoleUser, Management: true}
	node := &acl.Identity{Role: acl.RoleNode, NodeID: api.NewID(), Management: true}
	server := &acl.Identity{Role: acl.RoleServer, NodeID: api.NewID(), Management: true}
	for _, i := range acl.All() {
		cert := i.Scope == acl.ScopeCert
		must.Eq(t, !cert, boss.Allow(i.Capability, "default"), must.Sprint(i.Capability))
		if i.Scope == acl.ScopeNone {
			continue
		}
		must.Eq(t, i.Capability == acl.NodeSelf || i.Capability == acl.Member, node.Allow(i.Capability, ""), must.Sprint(i.Capability))
		must.Eq(t, i.Capability == acl.ServerSelf || i.Capability == acl.Member, server.Allow(i.Capability, ""), must.Sprint(i.Capability))
		must.Eq(t, cert && i.Capability != acl.ServerSelf, node.AllowAny(i.Capability))
	}
	must.False(t, (&acl.Identity{Role: acl.RoleNode}).Allow(acl.NodeSelf, ""), must.Sprint("a node without an id"))
}

func TestGrants(t *testing.T) {
	id := &acl.Identity{Role: acl.RoleUser, Accessor: api.NewID(), Grants: []acl.Grant{
		{acl.ReadVM, "*"}, {acl.WriteVM, "blue"}, {acl.ReadNode, ""}, {acl.NodeSelf, "*"},
	}}
	must.True(t, id.Allow(acl.ReadVM, "red"))
	must.True(t, id.Allow(acl.ReadVM, "*"))
	must.True(t, id.Allow(acl.WriteVM, "blue"))
	must.False(t, id.Allow(acl.WriteVM, "red"))
	must.False(t, id.Allow(acl.WriteVM, "*"))
	must.False(t, id.Allow(acl.WriteVM, ""))
	must.True(t, id.AllowAny(acl.WriteVM))
	must.False(t, id.AllowAny(acl.PowerVM))
	must.True(t, id.Allow(acl.ReadNode, "anything"))
	must.False(t, id.Allow(acl.WriteNode, ""))
	must.False(t, id.Allow(acl.NodeSelf, ""))
}

func TestNamesForTheLog(t *testing.T) {
	id := api.NewID()
	must.Eq(t, "nobody", (*acl.Identity)(nil).String())
	must.Eq(t, "user anonymous", acl.Anonymous().String())
	must.Eq(t, "user "+id.String(), (&acl.Identity{Role: acl.RoleUser, Accessor: id}).String())
	must.Eq(t, "node "+id.String(), (&acl.Identity{Role: acl.RoleNode, NodeID: id}).String())
}
