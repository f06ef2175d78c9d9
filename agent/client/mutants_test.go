//go:build mutant

package client

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/novacron/novacron/api/mutant"
)

var mutantRuns = flag.Int("mutants.n", 2000, "within how many schedules a mutant has to be caught")
var mutantWhy = flag.Bool("mutants.why", false, "show what noticed it")

// mutation is a mutant: the rule that it breaks, and what has to notice.
type mutation struct {
	name mutant.Name
	rule string
}

var mutations = []mutation{
	{mutant.CommitOnDestination, "no commit on the destination's word alone"},
	{mutant.CommitIncomplete, "no commit before the copy is complete"},
	{mutant.UnknownIsAbsent, "servers: unknown is not absent"},
	{mutant.KillSourceEarly, "the source's guest ends only when the copy is complete"},
	{mutant.AbortAfterKill, "no abort once the source was told to end its guest"},
	{mutant.AbortKillsOnlyCopy, "a whole copy is kept when the source has none"},
	{mutant.KillUnheard, "the last copy does not end on an old word"},
	{mutant.KillUnsettled, "no kill before the source says that it does not send"},
	{mutant.NoCompareAndSet, "a step holds for the phase that it was made for"},
	{mutant.KeepReservation, "the room is given back"},
	{mutant.TwoMoves, "one move of a VM at a time"},
	{mutant.SameEpoch, "the cutover raises the epoch"},
	{mutant.AnyReportOrder, "a report that was overtaken does not count"},
	{mutant.ResumeBeforeCommit, "the destination runs only after the commit"},
	{mutant.SilenceIsAbsence, "agent: silence is not absence"},
	{mutant.DestroyUnordered, "the destination clears only by order"},
	{mutant.DestroyEarlyGuest, "a whole guest that came in early stays"},
	{mutant.DiedIsMoved, "a guest that died at the source was not moved"},
	{mutant.FencedIsMoved, "nor one that was killed there"},
	{mutant.ContinueOlder, "a memory never goes back behind a shared disk"},
	{mutant.AbsentUnproved, "absence is proved"},
	{mutant.OrderGoesBack, "an older order does not count"},
	{mutant.JournalLate, "the journal comes before the call"},
	{mutant.GiveUpSending, "nothing is given up while its source may send"},
	{mutant.GiveUpWhole, "only what is not whole is given up"},
	{mutant.PullIncomplete, "a disk that was fetched counts when it is whole"},

	{mutant.LeaseFromReceipt, "R1 a lease counts from before its beat was sent"},
	{mutant.NoBarrierWait, "R2 a new leader waits W from its barrier"},
	{mutant.AckUnverified, "R3 no acknowledgement without a quorum check"},
	{mutant.VerifiedBefore, "R3 the check begins after the receipt"},
	{mutant.WallClock, "R4 leases count on the boot time"},
	{mutant.AgentEnforces, "R5 the guard enforces, without the agent"},
	{mutant.RestartExtends, "R6 an agent's restart earns no lease"},
	{mutant.ShortWait, "R7 W covers K, the watchdog and drift"},
	{mutant.RunUnarmed, "R8 a guest runs only once it is armed"},
	{mutant.ArmExpired, "R8 nothing is armed after the deadline"},
	{mutant.AckWhileLosing, "R9 no acknowledgement while the loss is committed"},
	{mutant.NoStormBrake, "no host is lost while too many are silent"},
	{mutant.LossOvertaken, "a loss holds for the registration that it was made for"},
	{mutant.EvidenceOutlives, "evidence ends when the host registers"},
	{mutant.FenceUnarmed, "a lease is evidence of what was armed only"},
	{mutant.OldOrders, "L4 a lease that ran out voids the orders"},
	{mutant.HeedAnyAck, "L6 an acknowledgement counts while the VM is confirmed"},
	{mutant.HeedAnyStop, "a VM has stopped when its node says so knowing of the order"},
	{mutant.DisarmUntold, "L6 the guard lets go after the servers know"},
	{mutant.GuardlessRuns, "L7 without a guard the agent ends what is armed"},
}

// TestMutants breaks one rule after the other and demands that the checkers of
// the simulation notice each.
func TestMutants(t *testing.T) {
	defer mutant.Set("")
	fmt.Printf("%-24s %-58s %9s %8s\n", "mutant", "rule", "schedules", "seconds")
	caught := 0
	for _, b := range mutations {
		mutant.Set(b.name)
		n, took, why := untilRed(func(seed uint64) []string { bad, _ := simulate(seed, false); return bad })
		if why == "" {
			t.Errorf("%s survives %d schedules: %s", b.name, n, b.rule)
			fmt.Printf("%-24s %-58s %9s %8.2f\n", b.name, b.rule, "SURVIVES", took.Seconds())
			continue
		}
		mutant.Set("")
		if bad, _ := simulate(n, false); len(bad) > 0 {
			t.Errorf("%s is not what breaks seed %d: %s", b.name, n, bad[0])
			continue
		}
		caught++
		fmt.Printf("%-24s %-58s %9d %8.2f\n", b.name, b.rule, n, took.Seconds())
		if *mutantWhy {
			fmt.Println("   ", why)
		}
	}
	fmt.Printf("mutants: %d of %d caught\n", caught, len(mutations))
}

// untilRed runs schedules until one is red: the first of them, and why.
func untilRed(run func(seed uint64) []string) (red uint64, took time.Duration, why string) {
	begin := time.Now()
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				mu.Lock()
				over := seed > uint64(*mutantRuns) || red != 0 && seed > red
				mu.Unlock()
				if over {
					return
				}
				if bad := run(seed); len(bad) > 0 {
					mu.Lock()
					if red == 0 || seed < red {
						red, why = seed, bad[0]
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if red == 0 {
		red = uint64(*mutantRuns)
	}
	return red, time.Since(begin), why
}
