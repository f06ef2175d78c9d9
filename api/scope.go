package api

// Scope returns the namespace that a request is about, DefaultNamespace when
// it names none, "*" for all. The RPC layer checks the caller's rights there
// before a handler runs; for nouns that are in no namespace it is not asked.
func (q *QueryOptions) Scope() string { return scope(q.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *DeleteRequest) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *VMApply) Scope() string { return scope(r.Spec.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *VMPlan) Scope() string { return scope(r.Spec.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *VMPower) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *VMRevert) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *MigrationCreate) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *MigrationCancel) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *MigrationUpdate) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *VolumeCreate) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *ImageUpload) Scope() string { return scope(r.Namespace) }

// Scope: see QueryOptions.Scope.
func (r *EventRequest) Scope() string { return scope(r.Namespace) }

func scope(ns string) string {
	if ns == "" {
		return DefaultNamespace
	}
	return ns
}
