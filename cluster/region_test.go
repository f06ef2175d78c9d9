package cluster

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestCallsAreForwardedToTheirRegion(t *testing.T) {
	w := newWorld(t)
	eu, us := w.region("eu", 2), w.region("us", 2)
	for _, m := range append(eu.alive(), us.alive()...) {
		eventually(t, "both regions are known", func() bool { return len(m.gossip.regions.Regions()) == 2 })
	}
	usToken, euToken := us.login(), eu.login()
	there := api.WithCall(t.Context(), api.Call{Token: usToken, Region: "us"})
	from := eu.follower()
	_, err := callIn[api.NamespaceResponse](there, from, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "abroad"}})
	must.NoError(t, err)
	must.NotNil(t, us.leader().fsm.State().Namespace("abroad"))
	must.Nil(t, eu.leader().fsm.State().Namespace("abroad"))

	st, err := callIn[api.StatusResponse](there, from, "Status.Leader", &api.ListRequest{})
	must.NoError(t, err)
	must.Eq(t, "us", st.Region)
	must.Eq(t, []string{"eu", "us"}, st.Regions)
	must.Len(t, 4, mustCall[api.ServerListResponse](eu, "Status.Members", &api.ListRequest{}).Items)

	mixed := api.WithCall(t.Context(), api.Call{Token: euToken, Region: "us"})
	_, err = callIn[api.NamespaceResponse](mixed, from, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "x"}})
	must.ErrorIs(t, err, code(api.CodeUnauthenticated), must.Sprint("a token is of one region"))
	nowhere := api.WithCall(t.Context(), api.Call{Token: euToken, Region: "mars"})
	_, err = callIn[api.NamespaceResponse](nowhere, from, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "x"}})
	must.ErrorIs(t, err, code(api.CodeNoRegion))
}

func TestGossipRefusesWhatIsNoServer(t *testing.T) {
	must.Error(t, onlyServers{}.NotifyMerge(members(map[string]string{"role": "web"})))
	must.NoError(t, onlyServers{}.NotifyMerge(members(newWorld(t).region("eu", 1).servers[0].gossip.serf.LocalMember().Tags)))
}
