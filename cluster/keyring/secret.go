package keyring

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/novacron/novacron/api"
)

// The words that tokens and join secrets begin with.
const (
	TokenPrefix = "nova"
	JoinPrefix  = "nova-join"
)

// randomSize is the size of the random part of a secret: 256 bits.
const randomSize = 32

// Hash is the SHA-256 of a whole secret: what Raft keeps of it.
type Hash [sha256.Size]byte

// HashSecret hashes a whole secret. The random part has 256 bits, so no salt
// and no slow hash are needed.
func HashSecret(secret string) Hash { return sha256.Sum256([]byte(secret)) }

// Equal compares in constant time.
func (h Hash) Equal(b []byte) bool { return subtle.ConstantTimeCompare(h[:], b) == 1 }

// NewToken makes a secret "nova.<accessor>.<base64url of 32 random bytes>".
func NewToken(accessor api.ID) string {
	return TokenPrefix + "." + accessor.String() + "." + random()
}

// ParseToken checks the form of a token and returns its accessor. Whether it
// is a token of this cluster only the stored hash can tell.
func ParseToken(s string) (accessor api.ID, err error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != TokenPrefix {
		return api.ID{}, badToken()
	}
	if accessor, err = parseTail(parts[1], parts[2]); err != nil {
		return api.ID{}, badToken()
	}
	return accessor, nil
}

// JoinSecret is what a join token's secret says.
type JoinSecret struct {
	// CAHash is the fingerprint of the cluster's authority, 64 hex digits.
	CAHash   string
	Accessor api.ID
}

// NewJoinSecret makes "nova-join.<caHash>.<accessor>.<random>".
func NewJoinSecret(caHash string, accessor api.ID) string {
	return JoinPrefix + "." + caHash + "." + accessor.String() + "." + random()
}

// ParseJoinSecret checks the form of a join secret.
func ParseJoinSecret(s string) (JoinSecret, error) {
	bad := api.Errorf(api.CodeJoinRefused, "not a join secret").WithHint("it begins with %q and is made by `novacron token join`", JoinPrefix+".")
	parts := strings.Split(s, ".")
	if len(parts) != 4 || parts[0] != JoinPrefix || len(parts[1]) != 2*sha256.Size {
		return JoinSecret{}, bad
	}
	sum, err := hex.DecodeString(parts[1])
	if err != nil || hex.EncodeToString(sum) != parts[1] {
		return JoinSecret{}, bad
	}
	accessor, err := parseTail(parts[2], parts[3])
	if err != nil {
		return JoinSecret{}, bad
	}
	return JoinSecret{CAHash: parts[1], Accessor: accessor}, nil
}

func random() string {
	b := make([]byte, randomSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseTail reads "<accessor>" and "<random>" and accepts one spelling only.
func parseTail(accessor, secret string) (api.ID, error) {
	id, err := api.ParseID(accessor)
	if err != nil {
		return api.ID{}, err
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil || len(b) != randomSize || id.String() != accessor || id.IsZero() ||
		base64.RawURLEncoding.EncodeToString(b) != secret {
		return api.ID{}, badToken()
	}
	return id, nil
}

func badToken() error {
	return api.Errorf(api.CodeUnauthenticated, "not a token").WithHint("a token begins with %q", TokenPrefix+".")
}
