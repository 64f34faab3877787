package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Word is what the journals of this boot say last of one setting.
type Word struct {
	ID string // of the transaction
	// State is the transaction's: that of the last one that was not rolled back,
	// or RolledBack where all that wrote the setting were.
	State State
	// Profile is what its plan was made for.
	Profile string
	// At is when the transaction began.
	At time.Time
	// Value is what the transaction left or, if it was rolled back, put back.
	Value string
	// Wanted is what it asked for: the host may have rounded that.
	Wanted string
	// Earlier are the values that standing transactions left before this one.
	Earlier []string
	// Own: this process made the transaction.
	Own bool
}

// Words gives the last word of this boot's journals, archived ones included, on
// every setting that a transaction has written, under the names that devices
// have now. It reads no settings. Restorations say nothing of their own.
func (a *Applier) Words() (map[knob.Ref]Word, error) {
	origin, err := a.Origin()
	if err != nil {
		return nil, fmt.Errorf("identify the host: %w", err)
	}
	dir, err := a.directory(origin)
	if err != nil {
		return nil, err
	}
	all, err := a.load(dir, true)
	if err != nil {
		return nil, err
	}
	return a.words(local(all, origin), origin), nil
}

func (a *Applier) words(all []*transaction, now plan.Origin) map[knob.Ref]Word {
	out := map[knob.Ref]Word{}
	for _, t := range all {
		if t.restores || t.newer() || t.state == RolledBack && !t.applied {
			continue // an apply that failed says nothing
		}
		where := devices{was: t.origin, now: now}
		word := Word{ID: t.id, State: t.state, Profile: t.profile, At: t.at, Own: t.holder == a.Holder}
		for _, e := range t.entries {
			if e.verdict == VerdictRefused {
				continue // left out: it says nothing
			}
			ref, err := where.ref(e.ref)
			if err != nil {
				continue // what has its name now is not what it speaks of
			}
			last, known := out[ref]
			word.Value, word.Wanted, word.Earlier = e.after, e.after, last.Earlier
			if last.State == Confirmed && !slices.Contains(last.Earlier, last.Value) {
				word.Earlier = append(slices.Clip(last.Earlier), last.Value)
			}
			switch {
			case t.state == RolledBack && known:
				// What it put back is what the earlier one says.
				continue
			case t.state == RolledBack:
				word.Value, word.Wanted = e.before, e.before
			case e.observed != nil:
				word.Value = *e.observed
			}
			out[ref] = word
		}
	}
	return out
}

// Covers reports whether the transaction of the word stands and left this value.
func (w Word) Covers(value string) bool {
	return w.State == Confirmed && w.Value == value
}

// Knows reports whether a standing transaction left this value, if not the last
// one: bringing it back is a restoration. A rollback of any of them finds a value
// that it wrote or that was there before it.
func (w Word) Knows(value string) bool {
	return w.Covers(value) || w.State == Confirmed && slices.Contains(w.Earlier, value)
}

// Restore carries out a plan that brings back what transactions of this boot
// had written and a driver or another program undid. It is Apply with one
// difference: nothing of it stays. While it works it has a journal like any
// other, and a crash or an error is undone from it; when it is done the journal
// goes, because the one of the transaction whose values it brought back holds
// the values before, and compares with what is there now: rolling that one back
// brings the host to where it was, no matter how often its values were restored
// meanwhile. A journal for each restoration would, over months of link flaps,
// fill the memory that /run is, and rolling one back would bring the
// disturbance back. For the same reason there is no line of history; whoever
// restores tells of it.
//
// A change to a value that no standing transaction has left is refused: it is
// for Apply.
func (a *Applier) Restore(ctx context.Context, p plan.Plan, o Options) (Result, error) {
	if o.ConfirmWithin > 0 {
		return Result{}, errors.New("restore: it cannot wait for a confirmation")
	}
	origin, dir, release, err := a.open()
	if err != nil {
		return Result{}, fmt.Errorf("restore: %w", err)
	}
	defer func() { _ = release() }()
	all, err := a.load(dir, true)
	if err != nil {
		return Result{}, fmt.Errorf("restore: %w", err)
	}
	if err := uncovered(p, a.words(local(all, origin), origin)); err != nil {
		return Result{}, fmt.Errorf("restore: %w", err)
	}
	o.restores = true
	result, err := a.apply(ctx, dir, origin, all, p, o)
	if result.ID == "" {
		return result, err
	}
	return result, errors.Join(err, a.fold(dir, result.ID, result.State))
}

func uncovered(p plan.Plan, words map[knob.Ref]Word) error {
	var reasons []Refusal
	for _, c := range p.Changes {
		if !words[c.Ref].Knows(c.After) {
			reasons = append(reasons, Refusal{Subject: c.Ref.String(), Reason: fmt.Sprintf("no transaction of this boot set it to %q", c.After), Refs: []knob.Ref{c.Ref}, Stale: true})
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return &Refused{Refusals: reasons}
}

// fold removes the journal of a restoration that has ended well or has been
// undone: under either name, since a crash may have come before it was archived.
// One that left the host dirty stays, for a person.
func (a *Applier) fold(dir, id string, state State) error {
	if state != Confirmed && state != RolledBack {
		return nil
	}
	for _, suffix := range []string{journalSuffix, undoneSuffix} {
		if err := a.Files.Remove(path.Join(dir, id+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the journal of restoration %s: %w", id, err)
		}
	}
	return nil
}

// Recover undoes restorations, and transactions of services, that a crash left
// half done, so that they do not stand in the way of others, and removes what is
// left of restorations that had ended. What a person began is theirs to end.
// Services begin with it; the lock says that nobody is at work.
func (a *Applier) Recover(context.Context) ([]Result, error) {
	origin, dir, release, err := a.open()
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer func() { _ = release() }()
	all, err := a.load(dir, true)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	var results []Result
	var errs []error
	for _, t := range slices.Backward(local(all, origin)) {
		if t.newer() || t.state == Dirty || t.state == Forgotten {
			continue
		}
		state := t.state
		if t.unfinished() && t.leftByService() {
			result, err := a.undo(&run{a: a, dir: dir, t: t, j: a.journalOf(dir, t), result: Result{ID: t.id}})
			results, errs, state = append(results, result), append(errs, err), result.State
			if err == nil && state == Dirty && !t.restores {
				// What is somebody else's or gone by now no rollback brings back.
				_, err = a.disown(dir, t, result)
				errs = append(errs, err)
			}
		}
		if t.restores {
			errs = append(errs, a.fold(dir, t.id, state))
		}
	}
	return results, errors.Join(errs...)
}

// leftByService reports whether nobody but a service will end the transaction.
func (t *transaction) leftByService() bool {
	return t.restores || t.unattended && t.damage == nil && (t.state == Journaled || t.state == Applying)
}
