package scheduler

import (
	"strings"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func testNode() *api.Node {
	return &api.Node{
		ID: api.ID{1}, Name: "n1", Datacenter: "dc1", Status: api.NodeReady,
		Labels:     api.PairsOf(map[string]string{"rack": "r1", "class": "big"}),
		Attributes: api.PairsOf(map[string]string{"kernel.version": "6.1.0-18-amd64", "memory.total": "17179869184", "cpu.cores": "16", "qemu.version": "7.2.9"}),
		Drivers:    []api.DriverInfo{{Name: "sim", Healthy: true}},
	}
}

func TestConstraintsHoldOrNot(t *testing.T) {
	n := testNode()
	for _, tc := range []struct {
		attr, op, value string
		want            bool
	}{
		{"node.name", "=", "n1", true},
		{"node.name", "", "n1", true},
		{"node.name", "=", "n2", false},
		{"node.id", "=", n.ID.String(), true},
		{"node.datacenter", "in", "dc0, dc1", true},
		{"node.class", "=", "big", true},
		{"label.rack", "!=", "r1", false},
		{"label.rack", "!=", "r2", true},
		{"label.none", "!=", "r2", true},
		{"label.none", "=", "", false},
		{"label.rack", "in", "r2,r3", false},
		{"label.rack", "not_in", "r2,r3", true},
		{"label.none", "not_in", "r2", true},
		{"label.none", "in", "r2", false},
		{"label.rack", "exists", "", true},
		{"label.none", "exists", "", false},
		{"label.none", "not_exists", "", true},
		{"label.rack", "not_exists", "", false},
		{"kernel.version", ">=", "6.1", true},
		{"kernel.version", "<", "6.2", true},
		{"kernel.version", ">", "6.10", false},
		{"kernel.version", ">", "5.15.0-100", true},
		{"qemu.version", "<=", "7.2.9", true},
		{"qemu.version", ">", "7.2.10", false},
		{"cpu.cores", ">", "9", true},
		{"cpu.cores", "<", "9", false},
		{"cpu.cores", ">", "-1", true},
		{"memory.total", ">=", "16GiB", true},
		{"memory.total", ">", "16G", false},
		{"none", "<", "1", false},
		{"none", ">", "1", false},
		{"label.rack", "regexp", "^r[0-9]$", true},
		{"label.rack", "regexp", "^x", false},
		{"none", "regexp", ".*", false},
	} {
		r, err := compile(api.Constraint{Attribute: tc.attr, Operator: tc.op, Value: tc.value})
		must.Nil(t, err)
		v, ok := attribute(n, r.attribute)
		must.EqOp(t, tc.want, r.test(v, ok), must.Sprintf("%s %s %s", tc.attr, tc.op, tc.value))
	}
}

func TestBadConstraintsAreRefusedWithACode(t *testing.T) {
	for _, c := range []api.Constraint{
		{Attribute: "", Operator: "=", Value: "x"},
		{Attribute: "a", Operator: "~", Value: "x"},
		{Attribute: "a", Operator: "regexp", Value: "("},
		{Attribute: "a", Operator: "regexp", Value: strings.Repeat("a", maxPattern+1)},
	} {
		must.EqOp(t, api.CodeInvalid, api.CodeOf(CheckConstraint(c)))
	}
	must.NoError(t, CheckConstraint(api.Constraint{Attribute: "a", Operator: "exists"}))
}

func TestVersionsAreOrdered(t *testing.T) {
	rising := []string{"0.9", "1.0-alpha", "1.0-rc1", "1.0-rc2", "1.0", "1.0.1", "1.2", "1.10", "2", "10.0.0"}
	for i := range rising {
		for j := range rising {
			must.EqOp(t, compareInt(int64(i), int64(j)), compareVersions(rising[i], rising[j]),
				must.Sprintf("%s and %s", rising[i], rising[j]))
		}
	}
	must.Zero(t, compareVersions("v1.02", "1.2"))
	must.Zero(t, compareVersions("", ""))
}
