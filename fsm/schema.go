package fsm

import "github.com/novacron/novacron/api"

// Step leads the state from one version of the schema to the next, and back.
type Step struct {
	// Version that it leads up to.
	Version uint32
	Name    string
	// Up and Down change records like a command. Down refuses, with an error,
	// what would lose data.
	Up, Down func(tx *Txn) error
}

// AddStep registers the step to the next version. Tests give servers schemas that
// no release has.
func (r *Registry) AddStep(s Step) {
	if s.Version != r.Newest()+1 || s.Up == nil || s.Down == nil {
		panic("schema steps are registered in order, each with its way back")
	}
	r.steps = append(r.steps, s)
}

// Steps lists the steps that this binary knows.
func (r *Registry) Steps() []Step { return r.steps }

// SchemaStep takes one step of the schema, up or down, to Version. It answers
// nothing.
type SchemaStep struct {
	Version uint32 `msg:"version,omitempty"`
}

// CommandID is 27.
func (c *SchemaStep) CommandID() uint16 { return cmdSchemaStep }

// Validate checks the version.
func (c *SchemaStep) Validate() error {
	if c.Version == 0 {
		return api.Errorf(api.CodeInvalid, "schema versions begin with 1")
	}
	return nil
}

func (c *SchemaStep) apply(tx *Txn) (any, error) {
	active := tx.s.meta.Schema
	switch {
	case c.Version == active:
		return nil, nil
	case c.Version == active+1:
		step := tx.reg.steps[c.Version-2]
		if err := step.Up(tx); err != nil {
			return nil, schemaError(err)
		}
		schemaDef.put(tx, &SchemaRecord{Version: c.Version, Name: step.Name, Applied: tx.now, Index: tx.index})
	case c.Version == active-1:
		if c.Version < tx.s.meta.Finalized {
			return nil, api.Errorf(api.CodeSchema, "schema %d is finalized; there is no way back to %d", tx.s.meta.Finalized, c.Version)
		}
		if err := tx.reg.steps[active-2].Down(tx); err != nil {
			return nil, schemaError(err)
		}
		schemaDef.del(tx, active)
	default:
		return nil, api.Errorf(api.CodeSchema, "schema %d is active; %d is more than one step away", active, c.Version)
	}
	tx.setMeta(func(m *MetaRecord) { m.Schema = c.Version })
	return nil, nil
}

func schemaError(err error) error {
	e := apiError(err)
	if e.Code == api.CodeInternal {
		e = api.Errorf(api.CodeSchema, "%s", e.Message)
	}
	return e
}

// SchemaFinalize forbids going below Version, which must be the active one. The
// cluster proposes it when every voter, non-voter and client knows it.
type SchemaFinalize struct {
	Version uint32 `msg:"version,omitempty"`
}

// CommandID is 28.
func (c *SchemaFinalize) CommandID() uint16 { return cmdSchemaFinalize }

// Validate checks the version.
func (c *SchemaFinalize) Validate() error {
	if c.Version == 0 {
		return api.Errorf(api.CodeInvalid, "schema versions begin with 1")
	}
	return nil
}

func (c *SchemaFinalize) apply(tx *Txn) (any, error) {
	if c.Version != tx.s.meta.Schema {
		return nil, api.Errorf(api.CodeSchema, "schema %d is active, not %d", tx.s.meta.Schema, c.Version)
	}
	if tx.s.meta.Finalized != c.Version {
		tx.setMeta(func(m *MetaRecord) { m.Finalized = c.Version })
	}
	return nil, nil
}
