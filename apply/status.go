package apply

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Summary is one transaction of this boot.
type Summary struct {
	ID       string    `json:"id"`
	At       time.Time `json:"at"`
	State    State     `json:"state"`
	Profile  string    `json:"profile,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Changes counts the writes that were begun.
	Changes int `json:"changes"`
	// Unfinished: it needs a rollback, a confirmation or a person.
	Unfinished bool `json:"unfinished"`
	// Damage says what of the journal cannot be read; "" for nothing.
	Damage string `json:"damage,omitempty"`
	// Newer: a newer version wrote the journal. This one neither undoes nor
	// confirms it, and can only forget it.
	Newer bool `json:"newer,omitempty"`
	// Undone: nothing that the damaged journal still tells is left to undo, so that
	// the next step is to forget it.
	Undone bool `json:"undone,omitempty"`
	// NetNS is the network namespace of a transaction that was made in another
	// one than this, where its device names mean other devices; "" for all others.
	NetNS string `json:"netns,omitempty"`
	// Restores: a guard made it, by Restore.
	Restores bool `json:"-"`
	// Drift compares each setting with what the transaction wrote; only from
	// Status, and only for transactions that are not undone.
	Drift []Drift `json:"drift,omitempty"`
}

// Drift is the present value of a setting that was written.
type Drift struct {
	Ref     knob.Ref `json:"ref"` // under the name that its device has by now
	Before  string   `json:"before"`
	Wrote   string   `json:"wrote"` // what the last write left there
	Present string   `json:"present"`
	Drifted bool     `json:"drifted"`
	// Gone: the device is not there, or another one has its name.
	Gone bool `json:"gone,omitempty"`
	// By names the later transaction that wrote the present value, if one did, or
	// an earlier one for the same profile.
	By string `json:"by,omitempty"`
	// Suspects says in words what else may have changed it, likeliest first.
	Suspects []string `json:"suspects,omitempty"`
	Reason   string   `json:"reason,omitempty"` // why there is no present value
}

// Unfinished lists the transactions of this boot that a crash or a failed
// rollback left, for every command to report. One that is still at work is not
// among them: its process holds the lock. It reads no settings, writes nothing
// and is in nobody's way.
func (a *Applier) Unfinished() ([]Summary, error) {
	origin, all, err := a.transactions()
	if err != nil {
		return nil, err
	}
	left := unfinished(all)
	if slices.ContainsFunc(left, func(t *transaction) bool { return t.begun(origin) }) {
		left = a.idle(origin, left)
	}
	out := make([]Summary, 0, len(left))
	for _, t := range left {
		out = append(out, t.summary(origin))
	}
	return out, nil
}

// begun reports whether a transaction of this namespace may be at work.
func (t *transaction) begun(here plan.Origin) bool {
	return !t.elsewhere(here) && t.damage == nil && (t.state == Journaled || t.state == Applying)
}

// idle leaves out the transaction that is at work.
func (a *Applier) idle(origin plan.Origin, left []*transaction) []*transaction {
	dir, err := a.directory(origin)
	if err != nil || a.Files.Held == nil {
		return left // whether one is at work cannot be told
	}
	holder, held, err := a.Files.Held(path.Join(dir, lockName))
	switch {
	case err != nil:
		return left
	case held:
		return slices.DeleteFunc(left, func(t *transaction) bool { return t.begun(origin) && t.holder == holder })
	}
	// What was at work a moment ago may have ended, and another may have begun.
	all, err := a.load(dir, false)
	if err != nil {
		return left
	}
	return slices.DeleteFunc(unfinished(all), func(t *transaction) bool {
		return t.begun(origin) && !slices.ContainsFunc(left, func(was *transaction) bool { return was.id == t.id && was.begun(origin) })
	})
}

// transactions are those of this boot that are not archived, oldest first.
func (a *Applier) transactions() (plan.Origin, []*transaction, error) {
	origin, err := a.Origin()
	if err != nil {
		return origin, nil, fmt.Errorf("identify the host: %w", err)
	}
	dir, err := a.directory(origin)
	if err != nil {
		return origin, nil, err
	}
	all, err := a.load(dir, false)
	return origin, all, err
}

// elsewhere reports whether the transaction was made in another network
// namespace: /run is often shared by them. What does not tell is from here.
func (t *transaction) elsewhere(here plan.Origin) bool {
	return t.origin.NetNS != "" && here.NetNS != "" && t.origin.NetNS != here.NetNS
}

// local leaves out transactions of other network namespaces.
func local(all []*transaction, here plan.Origin) []*transaction {
	return slices.DeleteFunc(slices.Clone(all), func(t *transaction) bool { return t.elsewhere(here) })
}

func (t *transaction) summary(here plan.Origin) Summary {
	s := Summary{ID: t.id, At: t.at, State: t.state, Deadline: t.deadline, Changes: len(t.entries), Unfinished: t.unfinished()}
	s.Profile, s.Newer, s.Restores, s.Undone = t.profile, t.newer(), t.restores, t.spent()
	if t.damage != nil {
		s.Damage = t.damage.Error()
	}
	if t.elsewhere(here) {
		s.NetNS = t.origin.NetNS
	}
	return s
}

// Status lists the transactions of this boot, oldest first, with the drift of
// every setting that they wrote.
func (a *Applier) Status() ([]Summary, error) {
	origin, all, err := a.transactions()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	view, err := a.View()
	if err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	out := make([]Summary, 0, len(all))
	for i, t := range all {
		s := t.summary(origin)
		if t.state != RolledBack && t.state != Forgotten && s.NetNS == "" && !s.Newer {
			s.Drift = t.drift(newWitness(view, t.origin, origin), local(t.writers(all[:i], all[i+1:]), origin))
		}
		out = append(out, s)
	}
	return out, nil
}

// writers are the transactions whose values are no drift of this one: later ones,
// and earlier ones for the same profile, of which what is left to the host comes
// back when its CPUs do.
func (t *transaction) writers(earlier, later []*transaction) []*transaction {
	same := slices.DeleteFunc(slices.Clone(earlier), func(e *transaction) bool {
		return t.profile == "" || e.profile != t.profile || e.state != Confirmed
	})
	return append(same, later...)
}

func (t *transaction) drift(w witness, writers []*transaction) []Drift {
	var out []Drift
	at := map[knob.Ref]int{}
	for _, e := range t.entries {
		wrote := e.after
		if e.observed != nil {
			wrote = *e.observed
		}
		if i, ok := at[e.ref]; ok {
			out[i].Wrote = wrote
			continue
		}
		at[e.ref] = len(out)
		out = append(out, Drift{Ref: e.ref, Before: e.before, Wrote: wrote})
	}
	for i := range out {
		w.compare(t, &out[i], writers)
	}
	return out
}

// compare looks up what a setting is by now, under the name that its device has
// by now.
func (w witness) compare(t *transaction, d *Drift, writers []*transaction) {
	kind, ok := knob.Lookup(d.Ref.Kind)
	if !ok {
		d.Drifted, d.Reason = true, t.unknown()
		return
	}
	at, err := w.where.ref(d.Ref)
	if err != nil {
		d.Drifted, d.Gone, d.Reason = true, true, err.Error()
		return
	}
	was := d.Ref
	d.Ref = at
	state := kind.Read(w.view, at)
	d.Present, d.Reason = state.Value, state.Reason
	d.Drifted = !state.Has() || state.Value != d.Wrote
	if d.Drifted && state.Has() {
		d.By = writtenBy(writers, w.where.now, at, state.Value)
	}
	if d.Drifted && d.By == "" {
		d.Suspects = w.suspects(was, at, d.Wrote, state.Value)
	}
}

// Confirm lets an unconfirmed transaction stay: the one with this ID, or with ""
// the last, which must not have been rolled back. Confirming twice is no error.
func (a *Applier) Confirm(id string) (Result, error) {
	origin, dir, release, err := a.open()
	if err != nil {
		return Result{}, fmt.Errorf("confirm: %w", err)
	}
	defer func() { _ = release() }()
	t, err := a.confirmable(origin, dir, id)
	if err != nil {
		return Result{}, fmt.Errorf("confirm: %w", err)
	}
	if err := t.understood(dir); err != nil {
		return Result{}, fmt.Errorf("confirm %s: %w", t.id, err)
	}
	result := Result{ID: t.id, State: t.state}
	switch t.state {
	case Confirmed:
		return result, nil
	case Unconfirmed:
	default:
		return result, fmt.Errorf("confirm %s: it is %s and not waiting for a confirmation", t.id, t.state)
	}
	if err := a.journalOf(dir, t).append(record{Type: recordConfirmed}); err != nil {
		return result, fmt.Errorf("confirm %s: %w", t.id, err)
	}
	t.state, result.State = Confirmed, Confirmed
	if err := a.note(EventConfirmed, t, result); err != nil {
		result.Warnings = append(result.Warnings, err.Error())
	}
	return result, nil
}

// confirmable finds a transaction by ID, or the last one of this network
// namespace. Whoever confirms the last means that one: an earlier one in its place
// would be a yes to something else.
func (a *Applier) confirmable(here plan.Origin, dir, id string) (*transaction, error) {
	if id != "" {
		return a.pick(here, dir, id)
	}
	all, err := a.load(dir, true)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(local(all, here)) {
		switch {
		case t.state == Planned || t.restores: // nobody was told of it
		case t.state == RolledBack:
			return nil, fmt.Errorf("%s was rolled back; nothing to confirm", t.id)
		case t.state == Forgotten:
			return nil, fmt.Errorf("%s was forgotten; nothing to confirm", t.id)
		default:
			return t, nil
		}
	}
	return a.pick(here, dir, "")
}

// Forget takes the transaction with this ID out of the way without touching the
// host: it is not reported any more and cannot be rolled back. It is for people
// who have looked at what a rollback could not restore, and also takes
// transactions of network namespaces that are gone. Doing it again does nothing.
func (a *Applier) Forget(id string) (Result, error) {
	if id == "" {
		return Result{}, errors.New("forget: no ID is given (napitune status lists them)")
	}
	origin, dir, release, err := a.open()
	if err != nil {
		return Result{}, fmt.Errorf("forget: %w", err)
	}
	defer func() { _ = release() }()
	t, err := a.pick(origin, dir, id)
	if err != nil {
		return Result{}, fmt.Errorf("forget: %w", err)
	}
	result := Result{ID: t.id, State: t.state}
	if t.state == RolledBack || t.state == Forgotten {
		return result, nil
	}
	return a.disown(dir, t, result)
}

// disown leaves the host as it is, and the transaction to the archive.
func (a *Applier) disown(dir string, t *transaction, result Result) (Result, error) {
	if err := a.journalOf(dir, t).append(record{Type: recordForgotten}); err != nil {
		return result, fmt.Errorf("forget %s: %w", t.id, err)
	}
	t.state, result.State = Forgotten, Forgotten
	name := path.Join(dir, t.id)
	if err := a.Files.Rename(name+journalSuffix, name+undoneSuffix); err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("archive journal: %v", err))
	}
	if err := a.note(EventForgotten, t, result); err != nil {
		result.Warnings = append(result.Warnings, err.Error())
	}
	return result, nil
}

// confirmPoll is how often a waiting process looks for a confirmation that
// another one wrote: soon enough for a person who waits for the answer.
const confirmPoll = 250 * time.Millisecond

// ConfirmBy waits for the confirmation of a transaction, from any process, and
// rolls it back at the deadline, Result.Deadline of the apply, or when ctx ends:
// the in-process stand-in for a timer of the system, which dies with this process.
// The error of a rollback for want of a confirmation wraps ErrUnconfirmed; one that
// another process made before the deadline is an error, too, and where that one
// is still at work its end is waited for.
func (a *Applier) ConfirmBy(ctx context.Context, id string, deadline time.Time) (Result, error) {
	// Without a directory nothing can be read until the deadline, which tries
	// again and tells the error.
	origin, dir, _ := a.present()
	end := time.NewTimer(deadline.Sub(a.clock()()))
	defer end.Stop()
	poll := time.NewTicker(confirmPoll)
	defer poll.Stop()
	for waiting := true; waiting; {
		select {
		case <-poll.C:
			// Reading may meet a record half written; the next look sees it whole.
			t, err := a.pick(origin, dir, id)
			if err != nil {
				continue
			}
			if ended, err := t.decided(!a.clock()().Before(deadline)); ended {
				return Result{ID: id, State: t.state}, err
			}
		case <-end.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	result, err := a.RollbackUnconfirmed(ctx, id)
	switch {
	case err != nil:
		return result, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	case result.State == Confirmed || result.State == Forgotten:
		return result, nil
	}
	return result, fmt.Errorf("%s: %w", id, ErrUnconfirmed)
}

// decided reports whether others have decided about a transaction that waits for
// its confirmation, and with what error. One that is being rolled back is not:
// its host is neither as wanted nor as it was.
func (t *transaction) decided(late bool) (bool, error) {
	reason := errUndoneElsewhere
	if late {
		reason = fmt.Errorf("%w: %w", ErrUnconfirmed, errUndoneElsewhere)
	}
	switch t.state {
	case Confirmed, Forgotten:
		return true, nil
	case RolledBack:
		return true, fmt.Errorf("%s: %w", t.id, reason)
	case Dirty:
		return true, fmt.Errorf("%s: %w, which could not restore everything (napitune status, napitune rollback %s)", t.id, reason, t.id)
	default:
		return false, nil
	}
}

// errUndoneElsewhere: by a timer, or in another terminal.
var errUndoneElsewhere = errors.New("rolled back by another process")

// present is the directory of this boot's journals. The boot does not change
// while a process runs, and identifying the host is too dear to do at each look.
func (a *Applier) present() (plan.Origin, string, error) {
	origin, err := a.Origin()
	if err != nil {
		return origin, "", err
	}
	dir, err := a.directory(origin)
	return origin, dir, err
}
