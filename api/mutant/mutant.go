// Package mutant breaks single rules of the product on purpose, so that a test
// can prove that its checkers notice: a checker that never failed proves nothing.
//
// Promises: without the build tag "mutant" On is a constant false, and the
// compiler leaves nothing of a mutant in a binary. A mutant breaks exactly one
// rule, at the place where the rule stands.
//
// What does not belong: faults of the world (networks, disks, crashes), which
// the simulations inject from outside.
package mutant

// Name names a mutant.
type Name string

// The mutants of the migration protocol.
const (
	CommitOnDestination Name = "commit-on-destination"
	CommitIncomplete    Name = "commit-incomplete"
	UnknownIsAbsent     Name = "unknown-is-absent"
	KillSourceEarly     Name = "kill-source-early"
	AbortAfterKill      Name = "abort-after-kill"
	AbortKillsOnlyCopy  Name = "abort-kills-only-copy"
	KillUnheard         Name = "kill-unheard"
	KillUnsettled       Name = "kill-unsettled"
	NoCompareAndSet     Name = "no-compare-and-set"
	KeepReservation     Name = "keep-reservation"
	TwoMoves            Name = "two-moves"
	SameEpoch           Name = "same-epoch"
	AnyReportOrder      Name = "any-report-order"
	ResumeBeforeCommit  Name = "resume-before-commit"
	SilenceIsAbsence    Name = "silence-is-absence"
	DestroyUnordered    Name = "destroy-unordered"
	DiedIsMoved         Name = "died-is-moved"
	DestroyEarlyGuest   Name = "destroy-early-guest"
	AbsentUnproved      Name = "absent-unproved"
	OrderGoesBack       Name = "order-goes-back"
	JournalLate         Name = "journal-late"
	GiveUpSending       Name = "give-up-sending"
	GiveUpWhole         Name = "give-up-whole"
	PullIncomplete      Name = "pull-incomplete"
	ContinueOlder       Name = "continue-older"
	FencedIsMoved       Name = "fenced-is-moved"
)

// The mutants of the leases; R1 to R9 are the rules of fencing.
const (
	LeaseFromReceipt Name = "lease-from-receipt"    // R1
	NoBarrierWait    Name = "no-barrier-wait"       // R2
	AckUnverified    Name = "ack-unverified"        // R3
	VerifiedBefore   Name = "verified-before"       // R3
	WallClock        Name = "wall-clock"            // R4
	AgentEnforces    Name = "agent-enforces"        // R5
	RestartExtends   Name = "agent-restart-extends" // R6
	ShortWait        Name = "short-wait"            // R7
	RunUnarmed       Name = "run-unarmed"           // R8
	ArmExpired       Name = "arm-expired"           // R8
	AckWhileLosing   Name = "ack-while-losing"      // R9

	NoStormBrake     Name = "no-storm-brake"
	LossOvertaken    Name = "loss-overtaken"
	EvidenceOutlives Name = "evidence-outlives"
	FenceUnarmed     Name = "fence-unarmed"
	OldOrders        Name = "old-orders"
	HeedAnyAck       Name = "heed-any-ack"
	HeedAnyStop      Name = "heed-any-stop"
	DisarmUntold     Name = "disarm-untold"
	GuardlessRuns    Name = "guardless-runs"
)
