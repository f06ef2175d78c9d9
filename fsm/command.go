package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/novacron/novacron/api"
	"github.com/tinylib/msgp/msgp"
)

// Command is one change of the state, as it stands in the Raft log. It carries
// everything that is not determined by the state: ids and times.
type Command interface {
	api.Message
	// CommandID is the number under which it is registered.
	CommandID() uint16
	// Validate checks what can be checked without a state. It runs before the
	// command is proposed and again before its first write.
	Validate() error
	// apply makes the change. An error, which should be an *api.Error, takes
	// every write back.
	apply(tx *Txn) (any, error)
}

// The numbers of the commands. A number is never used again.
const (
	cmdClusterInit    = 1
	cmdNamespaceApply = 2
	cmdNamespaceDel   = 3
	cmdNodeRegister   = 4
	cmdNodeStatus     = 5
	cmdNodeUpdate     = 6
	cmdNodeDelete     = 7
	cmdVMApply        = 8
	cmdVMPower        = 9
	cmdVMRevert       = 10
	cmdVMDelete       = 11
	cmdPlaceBatch     = 12
	cmdNodeReports    = 13
	cmdVolumeCreate   = 14
	cmdVolumeDelete   = 15
	cmdPoolApply      = 16
	cmdPoolDelete     = 17
	cmdImageCreate    = 18
	cmdImageReplicas  = 19
	cmdImageDelete    = 20
	cmdNetworkApply   = 21
	cmdNetworkDelete  = 22
	cmdTokenCreate    = 23
	cmdTokenDelete    = 24
	cmdTokenUse       = 25
	cmdSchedulerSet   = 26
	cmdSchemaStep     = 27
	cmdSchemaFinalize = 28
	cmdRecoveryBegin  = 29
	cmdRecoveryEnd    = 30
	cmdKeyringPut     = 31
	cmdBootstrap      = 32
	cmdHash           = 33
	cmdNodeDeny       = 34
	cmdVolumeAssign   = 35

	cmdMigrationCreate = 36
	cmdMigrationStep   = 37
	cmdNodeDrain       = 38
	cmdHostLost        = 39
	cmdHASet           = 40
	cmdMigrationUpdate = 41
)

// Spec is the registration of a command.
type Spec struct {
	Name string
	// Since is the schema in which the command appeared.
	Since uint32
	New   func() Command
}

// Registry is the commands and schema steps that a binary knows.
type Registry struct {
	commands map[uint16]Spec
	steps    []Step // of versions 2, 3, ... in order
}

// fielded is a command with fields newer than itself.
type fielded interface {
	// schema is the least schema that the fields in use ask for.
	schema() uint32
}

// DefaultRegistry returns what this binary knows.
func DefaultRegistry() *Registry {
	r := &Registry{commands: make(map[uint16]Spec, 64)}
	r.add("ClusterInit", 1, func() Command { return new(ClusterInit) })
	r.add("NamespaceApply", 1, func() Command { return new(NamespaceApply) })
	r.add("NamespaceDelete", 1, func() Command { return new(NamespaceDelete) })
	r.add("NodeRegister", 1, func() Command { return new(NodeRegister) })
	r.add("NodeStatus", 1, func() Command { return new(NodeStatus) })
	r.add("NodeUpdate", 1, func() Command { return new(NodeUpdate) })
	r.add("NodeDelete", 1, func() Command { return new(NodeDelete) })
	r.add("VMApply", 1, func() Command { return new(VMApply) })
	r.add("VMPower", 1, func() Command { return new(VMPower) })
	r.add("VMRevert", 1, func() Command { return new(VMRevert) })
	r.add("VMDelete", 1, func() Command { return new(VMDelete) })
	r.add("PlaceBatch", 1, func() Command { return new(PlaceBatch) })
	r.add("NodeReports", 1, func() Command { return new(NodeReports) })
	r.add("VolumeCreate", 1, func() Command { return new(VolumeCreate) })
	r.add("VolumeDelete", 1, func() Command { return new(VolumeDelete) })
	r.add("PoolApply", 1, func() Command { return new(PoolApply) })
	r.add("PoolDelete", 1, func() Command { return new(PoolDelete) })
	r.add("ImageCreate", 1, func() Command { return new(ImageCreate) })
	r.add("ImageReplicas", 1, func() Command { return new(ImageReplicas) })
	r.add("ImageDelete", 1, func() Command { return new(ImageDelete) })
	r.add("NetworkApply", 1, func() Command { return new(NetworkApply) })
	r.add("NetworkDelete", 1, func() Command { return new(NetworkDelete) })
	r.add("TokenCreate", 1, func() Command { return new(TokenCreate) })
	r.add("TokenDelete", 1, func() Command { return new(TokenDelete) })
	r.add("TokenUse", 1, func() Command { return new(TokenUse) })
	r.add("SchedulerSet", 1, func() Command { return new(SchedulerSet) })
	r.add("SchemaStep", 1, func() Command { return new(SchemaStep) })
	r.add("SchemaFinalize", 1, func() Command { return new(SchemaFinalize) })
	r.add("RecoveryBegin", 1, func() Command { return new(RecoveryBegin) })
	r.add("RecoveryEnd", 1, func() Command { return new(RecoveryEnd) })
	r.add("KeyringPut", 1, func() Command { return new(KeyringPut) })
	r.add("Bootstrap", 1, func() Command { return new(Bootstrap) })
	r.add("Hash", 1, func() Command { return new(Hash) })
	r.add("NodeDeny", 1, func() Command { return new(NodeDeny) })
	r.add("VolumeAssign", 1, func() Command { return new(VolumeAssign) })
	r.add("MigrationCreate", 1, func() Command { return new(MigrationCreate) })
	r.add("MigrationStep", 1, func() Command { return new(MigrationStep) })
	r.add("NodeDrain", 1, func() Command { return new(NodeDrain) })
	r.add("HostLost", 1, func() Command { return new(HostLost) })
	r.add("HASet", 1, func() Command { return new(HASet) })
	r.add("MigrationUpdate", 1, func() Command { return new(MigrationUpdate) })
	return r
}

func (r *Registry) add(name string, since uint32, fn func() Command) {
	id := fn().CommandID()
	if _, ok := r.commands[id]; ok {
		panic(fmt.Sprintf("command number %d is used twice", id))
	}
	r.commands[id] = Spec{name, since, fn}
}

// Newest is the newest schema that the binary knows.
func (r *Registry) Newest() uint32 { return 1 + uint32(len(r.steps)) }

// Name returns the name of a command's number, for logs.
func (r *Registry) Name(id uint16) string {
	if s, ok := r.commands[id]; ok {
		return s.Name
	}
	return fmt.Sprintf("command %d", id)
}

// need returns the least schema under which a command may run.
func (r *Registry) need(cmd Command) (uint32, bool) {
	s, ok := r.commands[cmd.CommandID()]
	if !ok {
		return 0, false
	}
	if f, ok := cmd.(fielded); ok {
		return max(s.Since, f.schema()), true
	}
	return s.Since, true
}

// Envelope is one entry of the Raft log.
type Envelope struct {
	Cmd uint16 `msg:"c,omitempty"`
	// Time stamped by the leader; the state forces it never to fall.
	Time api.Time `msg:"t,omitempty"`
	// Schema that was active when the command was proposed.
	Schema uint32   `msg:"s,omitempty"`
	Idem   *IdemKey `msg:"i,omitempty"`
	Body   msgp.Raw `msg:"b,omitempty"`
}

// IdemKey makes a write safe to repeat for IdemTTL.
type IdemKey struct {
	Accessor api.ID `msg:"a,omitempty"` // of the caller's token
	Key      string `msg:"k,omitempty"` // as the caller gave it
	// BodyHash tells another request under the same key, 32 bytes.
	BodyHash []byte `msg:"h,omitempty"`
}

// Meta is what accompanies a command into the log.
type Meta struct {
	Time   api.Time
	Schema uint32 // the active one: State.Schema
	Idem   *IdemKey
	// Registry of the binary; nil means DefaultRegistry.
	Registry *Registry
}

// maxEntry is the largest entry that may be proposed, in bytes.
const maxEntry = 8 << 20

var defaultRegistry = DefaultRegistry()

// Encode validates a command and makes the entry to propose. It refuses a
// command that the active schema does not know.
func Encode(cmd Command, meta Meta) ([]byte, error) {
	reg := meta.Registry
	if reg == nil {
		reg = defaultRegistry
	}
	need, ok := reg.need(cmd)
	if !ok {
		return nil, api.Errorf(api.CodeSchema, "command %d is not registered", cmd.CommandID())
	}
	if active := max(meta.Schema, 1); need > active {
		return nil, api.Errorf(api.CodeSchema, "%s needs schema %d, %d is active", reg.Name(cmd.CommandID()), need, active).
			WithHint("upgrade all servers and clients, then run: novacron operator schema finalize")
	}
	if err := reg.knows(cmd); err != nil {
		return nil, api.Errorf(api.CodeSchema, "%v", err)
	}
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	buf := encodeBuffers.Get().(*encodeBuffer)
	defer buf.release()
	body, err := canonical(cmd, reg.commands[cmd.CommandID()].New, buf)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "encode %s: %v", reg.Name(cmd.CommandID()), err)
	}
	env := Envelope{Cmd: cmd.CommandID(), Time: meta.Time, Schema: max(meta.Schema, 1), Idem: meta.Idem, Body: body}
	if i := meta.Idem; i != nil && (i.Key == "" || len(i.Key) > 256 || len(i.BodyHash) == 0 || len(i.BodyHash) > 64) {
		return nil, api.Errorf(api.CodeInvalid, "an idempotency key has 1 to 256 characters")
	}
	out, err := env.MarshalMsg(make([]byte, 0, len(body)+128))
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "encode %s: %v", reg.Name(env.Cmd), err)
	}
	if len(out) > maxEntry {
		return nil, api.Errorf(api.CodeTooLarge, "the request is %d bytes in the log, %d are allowed", len(out), maxEntry)
	}
	return out, nil
}

// encodeBuffer is what canonical encodes into. Its bytes are copied into the
// entry, so that the next proposal can have them.
type encodeBuffer struct{ first, second []byte }

var encodeBuffers = sync.Pool{New: func() any { return new(encodeBuffer) }}

// release gives a buffer back unless a rare large command made it large.
func (e *encodeBuffer) release() {
	if cap(e.first)+cap(e.second) <= 128<<10 {
		encodeBuffers.Put(e)
	}
}

// canonical encodes a command so that decoding and encoding it again gives the
// same bytes. That is not so for what callers build by hand: an empty slice
// that is not nil is written, and read as nil. The bytes are those of buf.
func canonical(cmd api.Message, fresh func() Command, buf *encodeBuffer) ([]byte, error) {
	b, err := cmd.MarshalMsg(buf.first[:0])
	buf.first = b
	if err != nil {
		return nil, err
	}
	for range 3 {
		c := fresh()
		if _, err := c.UnmarshalMsg(b); err != nil {
			return nil, err
		}
		again, err := c.MarshalMsg(buf.second[:0])
		buf.second = again
		if err != nil {
			return nil, err
		}
		if bytes.Equal(b, again) {
			return b, nil
		}
		buf.first, buf.second = buf.second, buf.first
		b = buf.first
	}
	return nil, errors.New("the encoding does not settle")
}

// errNotCanonical says that bytes hold something that this binary does not know.
var errNotCanonical = errors.New("not the canonical encoding: an unknown field, or another version wrote it")

// decodeStrict decodes m, which must be zero, and demands that nothing is left
// over and that encoding it again gives the same bytes. The scratch buffer is
// returned for the next call.
func decodeStrict(b []byte, m api.Message, scratch []byte) ([]byte, error) {
	// Skip walks the announced lengths first, so that a false one cannot make
	// the decoder allocate more than the bytes can hold.
	rest, err := msgp.Skip(b)
	if err != nil {
		return scratch, err
	}
	if len(rest) != 0 {
		return scratch, fmt.Errorf("%d bytes are left over", len(rest))
	}
	if _, err = m.UnmarshalMsg(b); err != nil {
		return scratch, err
	}
	again, err := m.MarshalMsg(scratch[:0])
	if err != nil {
		return again, err
	}
	if !bytes.Equal(b, again) {
		return again, errNotCanonical
	}
	return again, nil
}

// decode reads an entry of the log. Whatever is wrong with it must stop the
// server.
func (r *Registry) decode(b []byte, scratch []byte) (Envelope, Command, []byte, error) {
	var env Envelope
	scratch, err := decodeStrict(b, &env, scratch)
	if err != nil {
		return env, nil, scratch, fmt.Errorf("decode entry: %w", err)
	}
	spec, ok := r.commands[env.Cmd]
	if !ok {
		return env, nil, scratch, fmt.Errorf("command number %d is not known to this binary", env.Cmd)
	}
	cmd := spec.New()
	if scratch, err = decodeStrict(env.Body, cmd, scratch); err != nil {
		return env, nil, scratch, fmt.Errorf("decode %s: %w", spec.Name, err)
	}
	return env, cmd, scratch, r.knows(cmd)
}

// knows refuses a step to a schema that this binary does not know: others will
// take it, so going on would be another state.
func (r *Registry) knows(cmd Command) error {
	if c, ok := cmd.(*SchemaStep); ok && c.Version > r.Newest() {
		return fmt.Errorf("schema %d is not known to this binary, which knows up to %d", c.Version, r.Newest())
	}
	return nil
}
