package cluster

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
)

// The roles of a machine.
const (
	RoleServer = "server"
	RoleClient = "client"
)

// Identity is what a machine is and what proves it. It stamps the data folder:
// the folder belongs to this cluster, region and node, and to no other.
type Identity struct {
	ClusterID api.ID `json:"cluster_id"`
	RegionID  api.ID `json:"region_id,omitzero"`
	Region    string `json:"region"`
	NodeID    api.ID `json:"node_id"`
	Name      string `json:"name"`
	Role      string `json:"role"` // server or client
	// Bootstrap: this server has yet to start the Raft of one voter. It is taken
	// off before Raft starts, so that a folder that lost its log never begins anew.
	Bootstrap bool `json:"bootstrap,omitempty"`
	// Servers and Serf are the addresses that the join answered with.
	Servers []string `json:"servers,omitempty"`
	Serf    []string `json:"serf,omitempty"`

	CA        []byte `json:"-"` // PEM
	Cert      []byte `json:"-"` // PEM
	Key       []byte `json:"-"` // PEM
	GossipKey []byte `json:"-"` // 32 bytes, servers only
	// RootKey seals what is in Raft; servers only, in a file of its own.
	RootKey keyring.RootKey `json:"-"`
	// SealedCA is the CA's key sealed by the root key, until it is in Raft.
	SealedCA []byte `json:"-"`
}

const (
	identityFile = "identity.json"
	rootKeyFile  = "root.key"
	// pairFile holds the certificate and its key: one file, so that a crash while
	// they are renewed never leaves one without the other.
	pairFile = "tls/node.pem"
)

// pairFiles are where earlier versions kept the certificate and the key.
var pairFiles = [2]string{"tls/cert.pem", "tls/key.pem"}

// secretFiles are the files beside identity.json; all are 0600.
func (id *Identity) secretFiles() []struct {
	path string
	data *[]byte
} {
	return []struct {
		path string
		data *[]byte
	}{
		{"tls/ca.pem", &id.CA}, {"gossip.key", &id.GossipKey}, {"ca.sealed", &id.SealedCA},
	}
}

// LoadIdentity reads the identity of a data folder. A folder without one is an
// api.CodeConfig error that says what to do.
func LoadIdentity(dir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeConfig, "%s does not belong to a cluster yet", dir).
			WithHint("make a cluster with \"novacron cluster init\", or join one with a join token")
	}
	if err != nil {
		return nil, err
	}
	id := &Identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, api.Errorf(api.CodeConfig, "%s: %v", filepath.Join(dir, identityFile), err)
	}
	for _, f := range id.secretFiles() {
		if *f.data, err = os.ReadFile(filepath.Join(dir, f.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := id.loadPair(dir); err != nil {
		return nil, err
	}
	if id.Role == RoleServer {
		if id.RootKey, err = keyring.LoadRootKey(filepath.Join(dir, rootKeyFile)); err != nil {
			return nil, api.Errorf(api.CodeConfig, "%v", err)
		}
	}
	return id, nil
}

// loadPair reads the certificate and its key.
func (id *Identity) loadPair(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, pairFile))
	if err == nil {
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			to := &id.Key
			if block.Type == "CERTIFICATE" {
				to = &id.Cert
			}
			*to = append(*to, pem.EncodeToMemory(block)...)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i, to := range []*[]byte{&id.Cert, &id.Key} {
		if *to, err = os.ReadFile(filepath.Join(dir, pairFiles[i])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// savePair writes the certificate and its key at once.
func (id *Identity) savePair(dir string) error {
	if len(id.Cert) == 0 && len(id.Key) == 0 {
		return nil
	}
	if err := writeFile(filepath.Join(dir, pairFile), slices.Concat(id.Cert, id.Key)); err != nil {
		return err
	}
	for _, old := range pairFiles {
		if err := os.Remove(filepath.Join(dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Save writes the identity to a data folder, the stamp last, each file whole or
// not at all.
func (id *Identity) Save(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		return err
	}
	for _, f := range id.secretFiles() {
		path := filepath.Join(dir, f.path)
		if len(*f.data) == 0 {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := writeFile(path, *f.data); err != nil {
			return err
		}
	}
	if err := id.savePair(dir); err != nil {
		return err
	}
	if id.Role == RoleServer {
		if err := keyring.SaveRootKey(filepath.Join(dir, rootKeyFile), id.RootKey); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, identityFile), append(b, '\n'))
}

// Belongs refuses a folder that is stamped for another region, node or cluster.
// Zero values are not compared.
func (id *Identity) Belongs(dir, region string, node, cluster api.ID) error {
	refuse := func(what string, has, want any) error {
		return api.Errorf(api.CodeConfig, "%s belongs to %s %v, not to %v", dir, what, has, want).
			WithHint("use another data folder; this one still holds the state of its own cluster")
	}
	switch {
	case region != "" && id.Region != region:
		return refuse("region", id.Region, region)
	case !node.IsZero() && id.NodeID != node:
		return refuse("node", id.NodeID, node)
	case !cluster.IsZero() && id.ClusterID != cluster:
		return refuse("cluster", id.ClusterID, cluster)
	}
	return nil
}

// unstamped refuses to stamp a folder a second time.
func unstamped(dir string) error {
	id, err := LoadIdentity(dir)
	if err == nil {
		return api.Errorf(api.CodeConfig, "%s belongs to cluster %s (region %s, node %s) already", dir, id.ClusterID, id.Region, id.Name).
			WithHint("a data folder serves one cluster; use an empty one")
	}
	if _, serr := os.Stat(filepath.Join(dir, identityFile)); !errors.Is(serr, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeFile writes a 0600 file so that after a crash it is there whole, or the
// old one is.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Chmod(0o600); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
