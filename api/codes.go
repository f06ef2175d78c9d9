package api

//msgp:ignore Level CodeInfo

// Level is how loud an error is in logs and alarms.
type Level string

// The levels.
const (
	LevelInfo     Level = "info"     // the caller's mistake
	LevelWarn     Level = "warn"     // passing trouble
	LevelError    Level = "error"    // something failed
	LevelCritical Level = "critical" // someone has to look now
)

// CodeInfo is what is fixed for a code.
type CodeInfo struct {
	Status int // HTTP status
	Level  Level
	Title  string
}

// Codes is the table of all codes.
var Codes = map[Code]CodeInfo{
	CodeInvalid:       {400, LevelInfo, "the request is not valid"},
	CodeUnknownField:  {400, LevelInfo, "unknown field"},
	CodeDuplicateKey:  {400, LevelInfo, "duplicate key"},
	CodeTooLarge:      {413, LevelInfo, "the request is too large"},
	CodeSyntax:        {400, LevelInfo, "syntax error"},
	CodeNotFoundRoute: {404, LevelInfo, "no such path"},
	CodeMethod:        {405, LevelInfo, "method not allowed"},
	CodeRateLimited:   {429, LevelWarn, "too many requests"},
	CodeCanceled:      {499, LevelInfo, "the caller went away"},
	CodeDeadline:      {504, LevelWarn, "the deadline passed"},
	CodeIdempotency:   {409, LevelInfo, "the idempotency key was used with another body"},
	CodeFilter:        {400, LevelInfo, "the filter is not valid"},
	CodeMediaType:     {415, LevelInfo, "unsupported media type"},

	CodeUnauthenticated: {401, LevelInfo, "no valid token"},
	CodeForbidden:       {403, LevelWarn, "permission denied"},
	CodeTokenExpired:    {401, LevelInfo, "the token has expired"},
	CodeWrongRole:       {403, LevelWarn, "the certificate may not do this"},
	CodeBootstrapped:    {409, LevelInfo, "already bootstrapped"},
	CodeJoinRefused:     {403, LevelWarn, "join refused"},
	CodeNodeDuplicate:   {409, LevelError, "two machines claim one node id"},
	CodeNodeDenied:      {403, LevelWarn, "the node is denied"},

	CodeNotFound:    {404, LevelInfo, "not found"},
	CodeExists:      {409, LevelInfo, "already exists"},
	CodeConflict:    {409, LevelInfo, "changed in the meantime"},
	CodeInUse:       {409, LevelInfo, "in use"},
	CodeProtected:   {409, LevelInfo, "protected"},
	CodeAmbiguous:   {400, LevelInfo, "ambiguous"},
	CodeNoNode:      {409, LevelWarn, "no node fits"},
	CodeState:       {409, LevelInfo, "not possible in the present state"},
	CodeUnplaced:    {409, LevelInfo, "on no node"},
	CodeQuota:       {409, LevelInfo, "over quota"},
	CodePlacement:   {409, LevelInfo, "the placement lost a race"},
	CodeUnsupported: {409, LevelInfo, "not supported by the driver"},

	CodeHypervisor:        {500, LevelError, "hypervisor error"},
	CodeHypervisorUnknown: {503, LevelError, "the hypervisor does not answer"},
	CodeStaleEpoch:        {409, LevelWarn, "stale epoch"},
	CodeGuest:             {409, LevelWarn, "guest error"},
	CodeConsole:           {409, LevelWarn, "console error"},
	CodeJournal:           {500, LevelCritical, "the node's journal cannot be used"},
	CodeMigration:         {409, LevelWarn, "the migration failed"},
	CodeMigrating:         {409, LevelInfo, "the VM is being moved"},

	CodeStorage:      {500, LevelError, "storage error"},
	CodePoolFull:     {409, LevelWarn, "the pool is full"},
	CodeImageBad:     {400, LevelWarn, "the image is refused"},
	CodeImageMissing: {409, LevelError, "no node holds the image"},
	CodeNetwork:      {500, LevelError, "network error"},

	CodeInternal:    {500, LevelError, "internal error"},
	CodeNoLeader:    {503, LevelWarn, "no leader"},
	CodeUnknown:     {503, LevelWarn, "the outcome is not known"},
	CodeNoRegion:    {404, LevelInfo, "no path to the region"},
	CodeUnreachable: {503, LevelWarn, "unreachable"},
	CodeRecovery:    {503, LevelWarn, "the region is in recovery"},
	CodeSchema:      {409, LevelError, "schema"},
	CodeApplyPanic:  {500, LevelCritical, "a command failed in the state machine"},
	CodeSnapshot:    {400, LevelWarn, "the snapshot is refused"},
	CodeNotServer:   {409, LevelInfo, "this agent is not a server"},
	CodeConfig:      {400, LevelInfo, "the configuration is not valid"},
	CodeStale:       {503, LevelWarn, "the server is behind"},
}

// Status returns the HTTP status of an error.
func (e *Error) Status() int {
	if i, ok := Codes[e.Code]; ok {
		return i.Status
	}
	return 500
}
