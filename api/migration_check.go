package api

import "time"

// Limits of migrations.
const (
	MaxMigrationTimeout = Duration(7 * 24 * time.Hour)
	MaxMaxDowntime      = Duration(time.Hour)
	MinBandwidth        = 64 * KiB
)

// The words of MigrationOptions.Compress.
const (
	CompressAuto = "auto"
	CompressZstd = "zstd"
	CompressNone = "none"
)

// MigrateStop is the mode of a MigrationPolicy whose VM a drain stops.
const MigrateStop = "stop"

// Canonicalize fills in the namespace.
func (r *MigrationCreate) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks the request; what depends on the VM is checked later.
func (r *MigrationCreate) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("vm", r.VM)
	if r.To != "" {
		c.key("to", r.To)
	}
	if r.Mode != "" {
		c.oneOf("mode", string(r.Mode), string(MigrateLive), string(MigrateWarm), string(MigrateCold))
	}
	if r.Priority != 0 {
		between(&c, "priority", r.Priority, 1, 100)
	}
	r.Options.check(&c)
	return c.err("the migration")
}

func (o *MigrationOptions) check(c *checks) {
	if o.Bandwidth != 0 {
		between(c, "options.bandwidth", o.Bandwidth, MinBandwidth, TiB)
	}
	checkDowntime(c, "options.", o.MaxDowntime, o.DowntimeLimit)
	if o.Timeout != 0 {
		c.lasts("options.timeout", o.Timeout, Duration(time.Second), MaxMigrationTimeout)
	}
	if o.Compress != "" {
		c.oneOf("options.compress", o.Compress, CompressAuto, CompressZstd, CompressNone)
	}
}

func checkDowntime(c *checks, at string, most, limit Duration) {
	if most != 0 {
		c.lasts(at+"max_downtime", most, Duration(time.Millisecond), MaxMaxDowntime)
	}
	if limit != 0 {
		c.lasts(at+"downtime_limit", limit, Duration(time.Millisecond), MaxMaxDowntime)
		or(&most, DefaultMaxDowntime)
		if limit < most {
			c.add(at+"downtime_limit", "%s is less than max_downtime, %s", limit, most)
		}
	}
}

func (p *MigrationPolicy) check(c *checks) {
	if p.Mode != "" {
		c.oneOf("migration.mode", p.Mode, string(MigrateLive), string(MigrateWarm), string(MigrateCold), MigrateStop)
	}
	checkDowntime(c, "migration.", p.MaxDowntime, p.DowntimeLimit)
}

// Fill takes what is not said from a VM's policy, and the defaults.
func (o *MigrationOptions) Fill(p *MigrationPolicy) {
	if o.MaxDowntime == 0 && p.MaxDowntime > 0 {
		o.MaxDowntime = p.MaxDowntime
		or(&o.DowntimeLimit, p.DowntimeLimit)
	}
	or(&o.MaxDowntime, DefaultMaxDowntime)
	or(&o.DowntimeLimit, max(p.DowntimeLimit, o.MaxDowntime, min(10*o.MaxDowntime, MaxMaxDowntime)))
	or(&o.Timeout, DefaultMigrationTimeout)
	or(&o.Compress, CompressAuto)
	o.AutoConverge = o.AutoConverge || p.AutoConverge
	o.WarmFallback = o.WarmFallback || p.WarmFallback
}

// Canonicalize fills in the namespace.
func (r *MigrationCancel) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks the key.
func (r *MigrationCancel) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("key", r.Key)
	return c.err("the request to cancel a migration")
}

// Canonicalize fills in the namespace.
func (r *MigrationUpdate) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks the key and the limits.
func (r *MigrationUpdate) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("key", r.Key)
	if r.Bandwidth == nil && r.MaxDowntime == nil {
		c.add("bandwidth", "neither this nor max_downtime is given")
	}
	if b := r.Bandwidth; b != nil && *b != 0 {
		between(&c, "bandwidth", *b, MinBandwidth, TiB)
	}
	if d := r.MaxDowntime; d != nil {
		c.lasts("max_downtime", *d, Duration(time.Millisecond), MaxMaxDowntime)
	}
	return c.err("the change of the migration")
}

// Validate checks the filters.
func (r *MigrationListRequest) Validate() error {
	if err := r.QueryOptions.Validate(); err != nil {
		return err
	}
	var c checks
	if r.VM != "" {
		c.key("vm", r.VM)
	}
	if r.Node != "" {
		c.key("node", r.Node)
	}
	return c.err("the query")
}
