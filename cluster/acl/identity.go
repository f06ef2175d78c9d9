package acl

import "github.com/novacron/novacron/api"

// Role says what kind of caller an identity is.
type Role string

// The roles.
const (
	RoleUser   Role = "user"   // proved by a token
	RoleNode   Role = "node"   // proved by a client-role certificate
	RoleServer Role = "server" // proved by a server-role certificate
)

// Identity is a caller after authentication. It is a constant once made.
type Identity struct {
	Role   Role
	Region string // of the certificate; empty for users
	NodeID api.ID // of the certificate; zero for users
	// Accessor and Name are those of a user's token.
	Accessor api.ID
	Name     string
	// Management may do all that a token can do.
	Management bool
	// Grants hold what a token without Management may do.
	Grants []Grant
}

// Grant allows one capability in one namespace. "*" is every namespace;
// capabilities that are granted for the whole region ignore it.
type Grant struct {
	Capability Capability
	Namespace  string
}

// Anonymous is a caller without a token.
func Anonymous() *Identity { return &Identity{Role: RoleUser, Name: "anonymous"} }

// Allow reports whether the identity may do c in a namespace. The namespace ""
// asks for a capability of the region; "*" asks for all namespaces at once.
func (id *Identity) Allow(c Capability, namespace string) bool {
	info, known := Lookup(c)
	if id == nil || !known {
		return false
	}
	switch info.Scope {
	case ScopeNone:
		return true
	case ScopeCert:
		switch c {
		case NodeSelf:
			return id.Role == RoleNode && !id.NodeID.IsZero()
		case ServerSelf:
			return id.Role == RoleServer
		case Member:
			return id.Role == RoleNode || id.Role == RoleServer
		}
		return false
	}
	if id.Role != RoleUser {
		return false
	}
	if id.Management {
		return true
	}
	for _, g := range id.Grants {
		if g.Capability != c {
			continue
		}
		if info.Scope == ScopeCluster || g.Namespace == "*" || (namespace != "" && g.Namespace == namespace) {
			return true
		}
	}
	return false
}

// AllowAny reports whether the identity may do c in at least one namespace:
// lists over "*" are opened to it and filtered item by item.
func (id *Identity) AllowAny(c Capability) bool {
	if id.Allow(c, "*") {
		return true
	}
	if _, known := Lookup(c); id == nil || !known || id.Role != RoleUser {
		return false
	}
	for _, g := range id.Grants {
		if g.Capability == c {
			return true
		}
	}
	return false
}

// String names the identity for logs; it holds no secret.
func (id *Identity) String() string {
	switch {
	case id == nil:
		return "nobody"
	case id.Role == RoleUser && id.Accessor.IsZero():
		return "user " + id.Name
	case id.Role == RoleUser:
		return "user " + id.Accessor.String()
	default:
		return string(id.Role) + " " + id.NodeID.String()
	}
}
