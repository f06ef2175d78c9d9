package api

import (
	"fmt"
	"net/url"
	"strings"
)

//msgp:ignore CertName

// The roles of a certificate. An agent in both modes has a server's.
const (
	RoleServer = "server"
	RoleClient = "client"
)

// CertName says for whom a certificate of the cluster speaks. It is written
// into the certificate twice: as the DNS name DNS(), which TLS libraries can
// check, and as the URI URI(), which holds the node id too.
type CertName struct {
	Region string
	Role   string // RoleServer or RoleClient
	NodeID ID
}

// DNS returns "server.<region>.novacron" or "client.<region>.novacron".
func (n CertName) DNS() string { return n.Role + "." + n.Region + ".novacron" }

// URI returns "nova://<region>/<role>/<node-id>".
func (n CertName) URI() *url.URL {
	return &url.URL{Scheme: "nova", Host: n.Region, Path: "/" + n.Role + "/" + n.NodeID.String()}
}

// Validate checks the form: region is 1 to 63 of a-z, 0-9 and '-' (not at the
// ends), the role is known, the node id is set.
func (n CertName) Validate() error {
	if !ValidRegion(n.Region) {
		return fmt.Errorf("%q is not a region name", n.Region)
	}
	if n.Role != RoleServer && n.Role != RoleClient {
		return fmt.Errorf("%q is not a role", n.Role)
	}
	if n.NodeID.IsZero() {
		return fmt.Errorf("a certificate needs a node id")
	}
	return nil
}

// ValidRegion reports whether s can name a region: a DNS label in lower case.
func ValidRegion(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// ParseCertName accepts exactly what URI writes.
func ParseCertName(u *url.URL) (CertName, error) {
	if u == nil || u.Scheme != "nova" {
		return CertName{}, fmt.Errorf("not a nova:// name")
	}
	role, id, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	n := CertName{Region: u.Host, Role: role}
	var err error
	if n.NodeID, err = ParseID(id); err != nil {
		return CertName{}, err
	}
	if err := n.Validate(); err != nil {
		return CertName{}, err
	}
	if n.URI().String() != u.String() {
		return CertName{}, fmt.Errorf("%q is not the canonical form of a name", u)
	}
	return n, nil
}
