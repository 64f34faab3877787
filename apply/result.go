package apply

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/knob"
)

// State is how far a transaction is.
type State string

// States of a transaction.
const (
	Planned     State = "planned"     // not even the first record is whole; nothing was written
	Journaled   State = "journaled"   // recorded; nothing was written
	Applying    State = "applying"    // some changes, or some of a rollback, are made
	Unconfirmed State = "unconfirmed" // all changes are made; it may still be undone by a deadline
	Confirmed   State = "confirmed"   // all changes are made and stay
	RolledBack  State = "rolled-back" // the host is as it was
	Dirty       State = "dirty"       // a rollback could not restore everything
	Forgotten   State = "forgotten"   // a person took over what a rollback left
)

// Unfinished reports whether a transaction in this state needs a rollback, a
// confirmation or a person.
func (s State) Unfinished() bool {
	switch s {
	case Confirmed, RolledBack, Forgotten, Planned:
		return false
	default:
		return true
	}
}

// Verdict is what became of one change, from reading the setting back.
type Verdict string

// Verdicts.
const (
	VerdictApplied Verdict = "applied" // the value is as wanted
	VerdictRounded Verdict = "rounded" // the kernel or driver made another value of it
	VerdictRefused Verdict = "refused" // the value is as it was
	// VerdictPending: the wish is stored and the interrupt still fires where it
	// did: it moves at its next occurrence, as is usual in virtual machines
	// (kernel/irq/migration.c, irq_move_masked_irq).
	VerdictPending Verdict = "pending"
)

// Outcome is what became of one change of a plan.
type Outcome struct {
	Ref      knob.Ref `json:"ref"`
	Address  string   `json:"address,omitempty"` // "IRQ 45"
	Before   string   `json:"before"`
	After    string   `json:"after"`
	Observed string   `json:"observed"`
	Verdict  Verdict  `json:"verdict"`
	Reason   string   `json:"reason,omitempty"` // the driver's or kernel's words
	// Moved are settings that the write changed besides its own, with their
	// new values.
	Moved map[string]string `json:"moved,omitempty"`
	Why   string            `json:"why,omitempty"`
}

// Skipped is a change that was left out because it disturbs traffic too much
// or because its setting was left to its owner.
type Skipped struct {
	Ref        knob.Ref `json:"ref"`
	Disruption string   `json:"disruption"`
	// Owner is to whom the setting was left, "" for a change that disturbs too much.
	Owner string `json:"owner,omitempty"`
}

// Fate is what a rollback did about one setting.
type Fate string

// Fates.
const (
	FateRestored Fate = "restored"
	FateAlready  Fate = "already" // it had its old value, or was never written
	// FateForeign: it has a value that this transaction neither wrote nor saw;
	// it was left alone.
	FateForeign Fate = "foreign"
	FateGone    Fate = "gone"   // the device or queue is not there any more
	FateFailed  Fate = "failed" // the host did not take or tell the value
)

// Restoration is what a rollback did about one setting.
type Restoration struct {
	Ref knob.Ref `json:"ref"`
	// NAPI names a NAPI whose own values the write of the setting overwrites, if
	// this is about them and not about the setting.
	NAPI    string `json:"napi,omitempty"`
	Want    string `json:"want"` // the value before the transaction
	Present string `json:"present"`
	Fate    Fate   `json:"fate"`
	// By names the later transaction that wrote a foreign value, if one did.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Subject is what the restoration is about: a setting or a NAPI.
func (r Restoration) Subject() string {
	if r.NAPI != "" {
		return r.NAPI
	}
	return r.Ref.String()
}

// Result is the end of an apply or a rollback.
type Result struct {
	ID       string `json:"id"`
	State    State  `json:"state"`
	Complete bool   `json:"complete"` // nothing of the plan was left for later
	// Deadline holds on the monotonic clock as well, if this process set it.
	Deadline time.Time `json:"deadline,omitzero"`
	Changes  []Outcome `json:"changes,omitempty"`
	Skipped  []Skipped `json:"skipped,omitempty"`
	// Restored is in the order of the rollback; empty if there was none.
	Restored []Restoration `json:"restored,omitempty"`
	// Undone: the journal is damaged, which is all that keeps the host from being
	// called rolled back: whatever can be read of it is as it was, and another
	// rollback has nothing to do.
	Undone   bool     `json:"undone,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Exit statuses of the command.
const (
	ExitDone       = 0
	ExitRolledBack = 3 // an apply that was undone: the host is as it was
	ExitDirty      = 4 // the host is neither as wanted nor as it was
)

// ExitCode is the exit status that an apply should end with. A rollback that
// was asked for and succeeded is ExitDone: see RollbackExitCode.
func (r Result) ExitCode() int {
	switch r.State {
	case RolledBack:
		return ExitRolledBack
	case Dirty, Applying:
		return ExitDirty
	default:
		return ExitDone
	}
}

// RollbackExitCode is the exit status of a rollback that was asked for.
func (r Result) RollbackExitCode() int {
	if r.State == RolledBack {
		return ExitDone
	}
	return ExitDirty
}

// Refusal is one reason why a plan is not applied.
type Refusal struct {
	Subject string `json:"subject"` // a setting, who else writes it, "plan" or "host"
	Reason  string `json:"reason"`
	// Refs are the settings that it is about; none if it is about the plan or the
	// host.
	Refs []knob.Ref `json:"-"`
	// Stale: the host has changed since the plan was made, or somebody does not
	// answer yet, and another plan may do; the setting itself was not refused.
	Stale bool `json:"-"`
}

// Refused is the error of a plan that is not applied, with every reason.
type Refused struct {
	Refusals    []Refusal
	nothingLeft bool
}

func (e *Refused) Error() string {
	lines := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		lines[i] = r.Subject + ": " + r.Reason
	}
	return fmt.Sprintf("%v, nothing was written: %s", ErrRefused, strings.Join(lines, "; "))
}

// Is makes errors.Is(err, ErrRefused) true.
func (e *Refused) Is(target error) bool { return errors.Is(ErrRefused, target) }
