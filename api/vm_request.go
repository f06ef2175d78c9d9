package api

// Canonicalize fills in the defaults of the spec.
func (r *VMApply) Canonicalize() { r.Spec.Canonicalize() }

// Validate checks the spec and the power to set.
func (r *VMApply) Validate() error {
	var c checks
	r.Spec.check(&c)
	if r.Power != "" {
		c.oneOf("power", string(r.Power), string(PowerRunning), string(PowerStopped), string(PowerPaused))
	}
	return c.err("the VM specification")
}

// Canonicalize fills in the defaults of the spec.
func (r *VMPlan) Canonicalize() { r.Spec.Canonicalize() }

// Validate checks the spec.
func (r *VMPlan) Validate() error { return r.Spec.Validate() }

// The actions of VMPower.
const (
	ActionStart  = "start"
	ActionStop   = "stop"
	ActionReboot = "reboot"
	ActionReset  = "reset"
	ActionPause  = "pause"
	ActionResume = "resume"
)

// Canonicalize fills in the namespace.
func (r *VMPower) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks key and action.
func (r *VMPower) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("key", r.Key)
	c.oneOf("action", r.Action, ActionStart, ActionStop, ActionReboot, ActionReset, ActionPause, ActionResume)
	if r.Force && r.Action != ActionStop && r.Action != ActionReboot {
		c.add("force", "has no meaning with the action %s", quote(r.Action))
	}
	return c.err("the power request")
}

// Canonicalize fills in the namespace.
func (r *VMRevert) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks key and version.
func (r *VMRevert) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("key", r.Key)
	if r.Version == 0 {
		c.add("version", "is missing: want a version from the history")
	}
	return c.err("the revert request")
}

// Limits of a parse request.
const MaxSpecText = 1 << 20

// Canonicalize fills in the format.
func (r *ParseRequest) Canonicalize() {
	or(&r.Format, "hcl")
	r.Variables = sortPairs(r.Variables)
}

// Validate checks format and size; the text itself is for the parser.
func (r *ParseRequest) Validate() error {
	var c checks
	c.oneOf("format", r.Format, "hcl", "json")
	c.text("file", r.File, 1024)
	if len(r.Text) > MaxSpecText {
		e := Errorf(CodeTooLarge, "the specification is %d bytes long, at most %d are allowed", len(r.Text), MaxSpecText)
		return e.WithDetail("text", "is too long")
	}
	if len(r.Variables) > 256 {
		c.add("variables", "has %d entries, at most 256 are allowed", len(r.Variables))
	}
	return c.err("the parse request")
}
