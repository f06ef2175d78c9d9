package api

import (
	"errors"
	"fmt"
)

// Code is a stable error code, written NOVA-nnnn: 1xxx request, 2xxx identity,
// 3xxx resources, 4xxx hypervisor and migration, 5xxx storage, network and
// backup, 6xxx cluster and internal. A number is never used again.
type Code uint16

// String writes NOVA-nnnn.
func (c Code) String() string { return fmt.Sprintf("NOVA-%04d", uint16(c)) }

// MarshalText writes NOVA-nnnn.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads NOVA-nnnn.
func (c *Code) UnmarshalText(b []byte) error {
	var n uint16
	if _, err := fmt.Sscanf(string(b), "NOVA-%d", &n); err != nil {
		return fmt.Errorf("%q is not an error code", b)
	}
	*c = Code(n)
	return nil
}

// The codes. Their HTTP status and level stand in the table in codes.go.
const (
	CodeInvalid       Code = 1000 // the request is not well formed or a field is wrong
	CodeUnknownField  Code = 1001
	CodeDuplicateKey  Code = 1002
	CodeTooLarge      Code = 1003
	CodeSyntax        Code = 1004 // a spec or a body does not parse
	CodeNotFoundRoute Code = 1005
	CodeMethod        Code = 1006
	CodeRateLimited   Code = 1007
	CodeCanceled      Code = 1008
	CodeDeadline      Code = 1009
	CodeIdempotency   Code = 1010 // the same key with another body
	CodeFilter        Code = 1011
	CodeMediaType     Code = 1012

	CodeUnauthenticated Code = 2000
	CodeForbidden       Code = 2001
	CodeTokenExpired    Code = 2002
	CodeWrongRole       Code = 2003 // certificate of another role, node or region
	CodeBootstrapped    Code = 2004 // the first token was made before
	CodeJoinRefused     Code = 2005
	CodeNodeDuplicate   Code = 2006 // the same node id from another machine
	CodeNodeDenied      Code = 2007

	CodeNotFound    Code = 3000
	CodeExists      Code = 3001
	CodeConflict    Code = 3002 // compare-and-set failed
	CodeInUse       Code = 3003
	CodeProtected   Code = 3004
	CodeAmbiguous   Code = 3005 // an ID prefix matches several
	CodeNoNode      Code = 3006 // no node fits
	CodeState       Code = 3007 // not possible in the present state
	CodeUnplaced    Code = 3008 // the VM is on no node
	CodeQuota       Code = 3009
	CodePlacement   Code = 3010 // a placement lost its race; retried by itself
	CodeUnsupported Code = 3011 // the node's driver cannot do it

	CodeHypervisor        Code = 4000
	CodeHypervisorUnknown Code = 4001 // no answer: the state is unknown, not absent
	CodeStaleEpoch        Code = 4002
	CodeGuest             Code = 4003
	CodeConsole           Code = 4004
	CodeJournal           Code = 4005 // the node's journal cannot be read or written
	CodeMigration         Code = 4006 // a migration failed; the source is intact
	CodeMigrating         Code = 4007 // the VM is being moved

	CodeStorage      Code = 5000
	CodePoolFull     Code = 5001
	CodeImageBad     Code = 5002 // checksum or format is not as declared, or hostile
	CodeImageMissing Code = 5003 // no node holds the content
	CodeNetwork      Code = 5100

	CodeInternal    Code = 6000
	CodeNoLeader    Code = 6001
	CodeUnknown     Code = 6002 // the outcome of a write is not known; safe to repeat with a key or a check
	CodeNoRegion    Code = 6003 // no path to the region
	CodeUnreachable Code = 6004 // a node or a server cannot be reached
	CodeRecovery    Code = 6005 // the region is in recovery after a restore
	CodeSchema      Code = 6006
	CodeApplyPanic  Code = 6007 // a command failed inside the state machine
	CodeSnapshot    Code = 6008
	CodeNotServer   Code = 6009
	CodeConfig      Code = 6010
	CodeStale       Code = 6011 // a server is behind what the caller has seen
)

// Error is every error that a user can meet. It is the body of HTTP errors and
// travels as it is through RPC.
type Error struct {
	Code      Code   `json:"code" msg:"code,omitempty"`
	Message   string `json:"message" msg:"message,omitempty"`
	Hint      string `json:"hint,omitempty" msg:"hint,omitempty"`
	RequestID string `json:"request_id,omitempty" msg:"request_id,omitempty"`
	// Details name the fields or objects concerned.
	Details []Detail `json:"details,omitempty" msg:"details,omitempty"`
}

// Detail is one finding behind an error: a field and what is wrong with it.
type Detail struct {
	Field   string `json:"field,omitempty" msg:"field,omitempty"`
	Message string `json:"message" msg:"message,omitempty"`
	Line    int32  `json:"line,omitempty" msg:"line,omitempty"`
	Column  int32  `json:"column,omitempty" msg:"column,omitempty"`
}

// Error writes "message (NOVA-nnnn)" and the hint.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s (%s)", e.Message, e.Code)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Is makes errors.Is compare by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithDetail returns a copy with one more detail.
func (e *Error) WithDetail(field, format string, args ...any) *Error {
	c := *e
	c.Details = append(append([]Detail(nil), e.Details...), Detail{Field: field, Message: fmt.Sprintf(format, args...)})
	return &c
}

// CodeOf returns the code of an error, CodeInternal if it has none, 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
