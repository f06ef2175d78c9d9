package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// A node's orders and a VM's history may be larger than one message.

func TestOrdersOfManyLargeVMsReachTheirNode(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1", func(n *api.Node) { n.Capacity.CPU = api.Cores(64) }).ready()
	mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24"}})
	const vms = 40
	for i := range vms {
		spec := testSpec(fmt.Sprintf("large-%d", i))
		spec.NICs = []api.NIC{{Network: "lan"}}
		spec.CloudInit = &api.CloudInit{UserData: bytes.Repeat([]byte{'x'}, 256<<10)}
		mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec})
	}
	eventually(t, "all are placed", func() bool { return r.leader().fsm.State().VMsOn(n.node.ID) == vms })

	st, cancel, err := n.orders(r.leader(), 0)
	must.NoError(t, err)
	defer cancel()
	// read takes batches until every VM was ordered, and every volume if there are any.
	read := func(volumes int) (batches []*api.OrderBatch) {
		t.Helper()
		orders, vols := map[api.ID]bool{}, map[api.ID]bool{}
		for len(orders) < vms || len(vols) < volumes {
			b := nextOrders(t, st)
			must.LessEq(t, rpc.MaxMessage, b.Msgsize())
			batches = append(batches, b)
			for _, o := range b.Orders {
				orders[o.VMID] = true
			}
			for _, v := range b.Volumes {
				vols[v.ID] = true
			}
		}
		return batches
	}
	all := read(vms)
	must.Greater(t, 2, len(all))
	must.True(t, all[0].Full)
	must.False(t, slices.ContainsFunc(all[1:], func(b *api.OrderBatch) bool { return b.Full }), must.Sprint("only the first batch is the beginning"))

	mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24", MTU: 1400}})
	for _, b := range read(0) {
		must.False(t, b.Full)
	}
}

func TestALongHistoryComesInPages(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	spec := testSpec("web")
	const versions = 20
	for i := range versions {
		large := bytes.Repeat([]byte{byte('a' + i)}, 256<<10)
		spec.CloudInit = &api.CloudInit{UserData: large, NetworkConfig: append([]byte("version: 2\n# "), large[:60<<10]...)}
		mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec})
	}
	q := api.QueryOptions{}
	var got []uint64
	for {
		h := mustCall[api.VMHistoryResponse](r, "VM.History", &api.VMHistoryRequest{Key: "web", QueryOptions: q})
		must.LessEq(t, rpc.MaxMessage/2+1<<10, h.Msgsize())
		for _, v := range h.Items {
			got = append(got, v.Version)
		}
		if q.NextToken = h.NextToken; q.NextToken == "" {
			break
		}
	}
	must.Len(t, versions, got)
	must.Eq(t, versions, got[0])
	must.Eq(t, 1, got[versions-1])
	h := mustCall[api.VMHistoryResponse](r, "VM.History", &api.VMHistoryRequest{Key: "web", QueryOptions: api.QueryOptions{PerPage: 2}})
	must.Len(t, 2, h.Items)
	_, err := call[api.VMHistoryResponse](r, r.leader(), "VM.History", &api.VMHistoryRequest{Key: "web", QueryOptions: api.QueryOptions{NextToken: "x"}})
	must.ErrorIs(t, err, code(api.CodeInvalid))
}
