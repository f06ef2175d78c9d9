package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

var testKind = &kindOf[*api.Volume]{
	noun: "volume",
	id:   func(v *api.Volume) api.ID { return v.ID },
	name: func(v *api.Volume) string { return v.Name },
	ns:   func(v *api.Volume) string { return v.Namespace },
}

func testVolumes() []*api.Volume {
	var vs []*api.Volume
	for i := range 10 {
		v := &api.Volume{Namespace: "default", Name: fmt.Sprintf("v%d", 9-i), Size: api.Bytes(i), Labels: api.Pairs{{K: "tier", V: fmt.Sprint(i % 2)}}}
		v.ID[0], v.ID[1], v.ID[15] = 0xab, 0xcd, byte(i+1)
		vs = append(vs, v)
	}
	return append(vs, &api.Volume{ID: api.ID{1, 2, 3, 4}, Namespace: "default-two", Name: "v0"})
}

func namesOf(vs []*api.Volume) string {
	var s []string
	for _, v := range vs {
		s = append(s, v.Name)
	}
	return strings.Join(s, " ")
}

func TestListsFilterAndPage(t *testing.T) {
	show := func(v *api.Volume) *api.Volume { return v }
	list := func(q api.QueryOptions) (string, string, error) {
		var m api.QueryMeta
		vs, err := pageOf(&q, &m, testKind, slices.Values(testVolumes()), nil, show)
		return namesOf(vs), m.NextToken, err
	}
	for _, c := range []struct {
		q    api.QueryOptions
		want string
	}{
		{api.QueryOptions{}, "v0 v1 v2 v3 v4 v5 v6 v7 v8 v9"},
		{api.QueryOptions{Namespace: "default-two"}, "v0"},
		{api.QueryOptions{Namespace: "*", Prefix: "v0"}, "v0 v0"},
		{api.QueryOptions{Namespace: "*", Prefix: "01020304"}, "v0"},
		{api.QueryOptions{Filter: `labels.tier == "1" and name matches "[0-4]"`}, "v0 v2 v4"},
		{api.QueryOptions{Filter: `size == 3`}, "v6"},
		{api.QueryOptions{Filter: `nothing is empty and name == v1`}, "v1"},
		{api.QueryOptions{Namespace: "none"}, ""},
	} {
		got, _, err := list(c.q)
		must.NoError(t, err)
		must.Eq(t, c.want, got)
	}
	for _, bad := range []api.QueryOptions{{Filter: "name =="}, {Filter: strings.Repeat("x", 5000)}, {Filter: `name matches "("`}} {
		_, _, err := list(bad)
		must.ErrorIs(t, err, &api.Error{Code: api.CodeFilter})
	}
	_, _, err := list(api.QueryOptions{NextToken: "nonsense"})
	must.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid})

	var pages []string
	q := api.QueryOptions{Namespace: "*", PerPage: 4}
	for {
		got, next, err := list(q)
		must.NoError(t, err)
		pages = append(pages, got)
		if q.NextToken = next; next == "" {
			break
		}
	}
	must.Eq(t, []string{"v0 v1 v2 v3", "v4 v5 v6 v7", "v8 v9 v0"}, pages)
}

func TestListsShowOnlyWhatIsAllowed(t *testing.T) {
	var m api.QueryMeta
	got, err := pageOf(&api.QueryOptions{Namespace: "*"}, &m, testKind, slices.Values(testVolumes()),
		func(ns string) bool { return ns == "default-two" }, func(v *api.Volume) *api.Volume { return v })
	must.NoError(t, err)
	must.Eq(t, "v0", namesOf(got))
}

func TestNounsAreFoundByNameIDAndPrefix(t *testing.T) {
	all := testVolumes()
	find := func(ns, key string) (*api.Volume, error) {
		byName := func(ns, name string) *api.Volume {
			i := slices.IndexFunc(all, func(v *api.Volume) bool { return v.Namespace == ns && v.Name == name })
			if i < 0 {
				return nil
			}
			return all[i]
		}
		byID := func(id api.ID) *api.Volume {
			i := slices.IndexFunc(all, func(v *api.Volume) bool { return v.ID == id })
			if i < 0 {
				return nil
			}
			return all[i]
		}
		return findOf(testKind, ns, key, nil, byName, byID, slices.Values(all))
	}
	v, err := find("", "v3")
	must.NoError(t, err)
	must.Eq(t, "v3", v.Name)
	v, err = find("", all[0].ID.String())
	must.NoError(t, err)
	must.Eq(t, all[0], v)
	v, err = find("", "01020304")
	must.NoError(t, err)
	must.Eq(t, "default-two", v.Namespace)

	_, err = find("", "abcd")
	must.ErrorIs(t, err, &api.Error{Code: api.CodeAmbiguous})
	for _, key := range []string{"v77", "ffff", "abc", api.NewID().String()} {
		_, err = find("", key)
		must.ErrorIs(t, err, &api.Error{Code: api.CodeNotFound})
	}
	_, err = find("default", "01020304")
	must.ErrorIs(t, err, &api.Error{Code: api.CodeNotFound})
	_, err = find("", "")
	must.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid})
}
