package rpc

import (
	"strconv"

	"google.golang.org/grpc/metadata"

	"github.com/novacron/novacron/api"
)

// header is what travels beside a request.
type header struct {
	api.Call
	hops hop
	// origin is the node whose call a server of the region forwards.
	origin string
}

// hop marks the hops that a call has made.
type hop uint8

const (
	hopRegion hop = 1 << iota
	hopLeader
)

const (
	mdToken   = "nova-token"
	mdRequest = "nova-request-id"
	mdRegion  = "nova-region"
	mdIdem    = "nova-idempotency-bin"
	mdHops    = "nova-hops"
	mdOrigin  = "nova-origin"
	mdStream  = "nova-stream" // present when the caller opens a stream
	mdError   = "nova-error-bin"
)

// Limits of the parts of a header, in bytes.
const (
	maxToken = 4 << 10
	maxIdem  = 256
	maxID    = 64
)

func (h *header) metadata() metadata.MD {
	md := metadata.MD{mdRequest: {h.RequestID}}
	put := func(k, v string) {
		if v != "" {
			md[k] = []string{v}
		}
	}
	put(mdToken, h.Token)
	put(mdRegion, h.Region)
	put(mdIdem, h.IdempotencyKey)
	put(mdOrigin, h.origin)
	if h.hops != 0 {
		md[mdHops] = []string{strconv.Itoa(int(h.hops))}
	}
	return md
}

func headerFrom(md metadata.MD) header {
	get := func(k string) string {
		if v := md[k]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	h := header{
		Call:   api.Call{Token: get(mdToken), RequestID: get(mdRequest), Region: get(mdRegion), IdempotencyKey: get(mdIdem)},
		origin: get(mdOrigin),
	}
	if n, err := strconv.ParseUint(get(mdHops), 10, 8); err == nil {
		h.hops = hop(n) & (hopRegion | hopLeader)
	}
	return h
}

// clean checks what came from outside and fills in a request id.
func (h *header) clean() error {
	if len(h.Token) > maxToken {
		return api.Errorf(api.CodeUnauthenticated, "the token is too long")
	}
	if !printable(h.Token) {
		return api.Errorf(api.CodeUnauthenticated, "the token has characters that no token has")
	}
	if len(h.IdempotencyKey) > maxIdem {
		return api.Errorf(api.CodeInvalid, "the idempotency key is longer than %d bytes", maxIdem)
	}
	if h.Region != "" && !api.ValidRegion(h.Region) {
		return api.Errorf(api.CodeInvalid, "%q is not a region name", clip(h.Region, maxID))
	}
	if h.RequestID == "" || len(h.RequestID) > maxID || !word(h.RequestID) {
		h.RequestID = api.NewID().String()
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func word(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
