package api

import (
	"net/url"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestCertNames(t *testing.T) {
	n := CertName{Region: "west-1", Role: RoleServer, NodeID: NewID()}
	must.Eq(t, "server.west-1.novacron", n.DNS())
	must.Eq(t, "nova://west-1/server/"+n.NodeID.String(), n.URI().String())
	got, err := ParseCertName(n.URI())
	must.NoError(t, err)
	must.Eq(t, n, got)
	id := n.NodeID.String()
	for _, s := range []string{
		"", "https://west/server/" + id, "nova://west/root/" + id, "nova://west/server/" + strings.ToUpper(id), "nova://WEST/server/" + id,
		"nova://west/server/" + id + "?x", "nova://west/server/" + id + "/", "nova://west/server/", "nova://u@west/server/" + id, "nova://west:1/server/" + id,
		"nova:///server/" + id, "nova://west/server/" + ID{}.String(), "nova://west//server/" + id, "nova://west/server/" + id + "#f",
	} {
		u, err := url.Parse(s)
		must.NoError(t, err)
		_, err = ParseCertName(u)
		must.Error(t, err, must.Sprint(s))
	}
	_, err = ParseCertName(nil)
	must.Error(t, err)
	for s, ok := range map[string]bool{"global": true, "a": true, "a-1": true, "": false, "-a": false, "a-": false, "A": false, "a.b": false, "a_b": false, strings.Repeat("a", 64): false} {
		must.Eq(t, ok, ValidRegion(s), must.Sprint(s))
	}
}

func TestScopes(t *testing.T) {
	for _, m := range []interface{ Scope() string }{
		&GetRequest{}, &ListRequest{}, &DeleteRequest{}, &VMApply{}, &VMPlan{}, &VMPower{}, &VMRevert{},
		&VolumeCreate{}, &ImageUpload{}, &EventRequest{}, &EventListRequest{}, &PlacementListRequest{},
	} {
		must.Eq(t, DefaultNamespace, m.Scope(), must.Sprintf("%T", m))
	}
	must.Eq(t, "blue", (&VMApply{Spec: VMSpec{Namespace: "blue"}}).Scope())
	must.Eq(t, "*", (&ListRequest{QueryOptions: QueryOptions{Namespace: "*"}}).Scope())
}
