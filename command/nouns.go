package command

import (
	"fmt"
	"slices"
	"strings"
)

// nounSpec is a noun that has verbs.
type nounSpec struct{ name, synopsis string }

// nouns are the words that need a verb, in the order of the overview.
var nouns = []nounSpec{
	{"vm", "virtual machines: plan, run, watch, use and remove them"},
	{"migration", "the moves of VMs between nodes"},
	{"image", "contents that disks are cloned from, kernels and initrds"},
	{"volume", "disks and where they live"},
	{"network", "what network cards attach to"},
	{"node", "the machines that run VMs"},
	{"placement", "which VM is on which node"},
	{"pool", "storage of the nodes"},
	{"namespace", "separate names for separate users"},
	{"token", "who may do what, and who may join"},
	{"cluster", "begin a cluster"},
	{"acl", "begin access control"},
	{"server", "the servers of all regions"},
	{"operator", "Raft, high availability, snapshots, schema, scheduler, recovery"},
	{"operator ha", "what happens to the VMs of a host that is lost"},
	{"operator node", "nodes that are off for certain"},
	{"operator raft", "the servers that keep the state"},
	{"operator snapshot", "the whole state in a file"},
	{"operator schema", "the version of the state's form"},
	{"operator scheduler", "how the region chooses nodes"},
	{"operator keyring", "the key that opens what is sealed in snapshots"},
	{"operator recovery", "the time after a restore"},
	{"context", "the clusters that this user knows"},
	{"config", "configuration files of agents"},
}

// specs lists all commands.
func specs() []*spec {
	return slices.Concat(
		agentSpecs(), statusSpecs(), eventSpecs(), vmSpecs(), vmMigrateSpecs(), migrationSpecs(), imageSpecs(), volumeSpecs(), networkSpecs(), nodeSpecs(),
		placementSpecs(), poolSpecs(), namespaceSpecs(), tokenSpecs(), serverSpecs(), operatorSpecs(), operatorHASpecs(), snapshotSpecs(),
		contextSpecs(), guardSpecs(), completionSpecs(), versionSpecs(),
	)
}

// overview is the help of the program itself.
func overview() string {
	var b strings.Builder
	b.WriteString(`Usage: novacron <noun> <verb> [options]

  NovaCron turns Linux hosts into one VM platform.

  Try it here and now:     novacron agent -dev
  A first VM:              novacron vm init && novacron vm run vm.hcl

Commands:

`)
	for _, n := range nouns {
		if !strings.Contains(n.name, " ") {
			fmt.Fprintf(&b, "  %-12s %s\n", n.name, n.synopsis)
		}
	}
	for _, s := range specs() {
		if !strings.Contains(s.name, " ") {
			fmt.Fprintf(&b, "  %-12s %s\n", s.name, s.synopsis)
		}
	}
	b.WriteString("\n`novacron <noun>` lists the verbs of a noun; -help after any command explains it.")
	return b.String()
}

// listSpecs writes the commands that begin with a prefix.
func listSpecs(b *strings.Builder, prefix string) {
	for _, s := range specs() {
		if v, ok := strings.CutPrefix(s.name, prefix); ok {
			fmt.Fprintf(b, "  %-20s %s\n", v, s.synopsis)
		}
	}
}
