package apply

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
)

// change does one step: look, journal, write, look again, journal.
func (r *run) change(s step) error {
	ref := s.change.Ref
	at := address(r.view, ref)
	now, err := r.present(s, at)
	if err != nil {
		return &untouched{err}
	}
	out := Outcome{Ref: ref, Before: now, After: s.change.After, Observed: now, Verdict: VerdictApplied, Why: s.change.Why}
	if at != ref.String() {
		out.Address = at
	}
	if now == s.change.After {
		out.Verdict, out.Reason = pending(r.view, ref, now, "it is so already")
		r.report(out)
		return nil
	}
	e, err := r.intend(s, at, now)
	if err != nil {
		return err
	}
	writeErr := s.kind.Write(r.view, r.a.Writer, ref, s.change.After)
	return r.look(s, e, out, writeErr)
}

// present reads a setting immediately before it is written and compares it with
// what it should still be.
func (r *run) present(s step, at string) (string, error) {
	ref := s.change.Ref
	state := s.kind.Read(r.view, ref)
	if state.Status != knob.Known {
		return "", fmt.Errorf("%s: %s: %s", describe(ref, at), state.Status, state.Reason)
	}
	expected, known := r.wrote[at]
	if !known {
		expected = s.change.Before
	}
	if state.Value != expected {
		return "", fmt.Errorf("%s: %w: it is %q now and was %q", describe(ref, at), ErrDrift, state.Value, expected)
	}
	// Earlier changes may have narrowed what is possible.
	if err := s.kind.Check(state.Bounds, s.change.After); err != nil {
		return "", fmt.Errorf("%s: %w", describe(ref, at), err)
	}
	return state.Value, nil
}

// intend puts the intent on disk.
func (r *run) intend(s step, at, now string) (*entry, error) {
	others, err := sides(r.view, s.kind, s.change.Ref, s.change.After)
	napis, napiErr := specialNAPIs(r.view, s.kind, s.change.Ref)
	if err = errors.Join(err, napiErr); err != nil {
		return nil, &untouched{fmt.Errorf("%s: %w", s.change.Ref, err)}
	}
	e := &entry{
		seq: len(r.t.entries) + 1, ref: s.change.Ref, before: now, after: s.change.After,
		sides: others, napis: napis, moved: map[knob.Ref]string{}, lost: map[knob.Ref]bool{},
	}
	err = r.j.append(record{
		Type: recordIntent, Seq: e.seq, Ref: &e.ref, Address: at, Before: now, After: e.after,
		Sides: refTexts(e.sides), NAPIs: napis,
	})
	if err != nil {
		return nil, fmt.Errorf("%s was not written: %w", e.ref, err)
	}
	r.t.entries, r.t.state = append(r.t.entries, e), Applying
	return e, nil
}

// look reads back what a write did and records it.
func (r *run) look(s step, e *entry, out Outcome, writeErr error) error {
	e.done = true
	fresh := r.refresh(s.kind)
	state := s.kind.Read(r.view, e.ref)
	at := address(r.view, e.ref)
	if state.Has() {
		value := state.Value
		e.observed, out.Observed = &value, value
		r.wrote[at] = value
	}
	r.sideEffects(e)
	out.Verdict, out.Reason = r.verdict(e, state, writeErr)
	out.Moved = refTexts(e.moved)
	e.verdict = out.Verdict
	if writeErr != nil {
		e.failure = writeErr.Error()
	}
	r.a.log().Info("write", "knob", e.ref.String(), "old", e.before, "new", e.after, "observed", out.Observed, "txn", r.t.id, "err", writeErr)
	err := r.j.append(r.done(e))
	r.report(out)
	var failed error
	switch {
	case writeErr != nil:
		failed = writeErr
	case fresh != nil:
		failed = fresh
	case !state.Has():
		failed = fmt.Errorf("%s: read back: %s: %s", describe(e.ref, at), state.Status, state.Reason)
	case out.Verdict == VerdictRefused:
		failed = fmt.Errorf("%s: %w: it is still %q and should be %q", describe(e.ref, at), ErrNotTaken, e.before, e.after)
	}
	asBefore := state.Has() && state.Value == e.before && len(e.moved)+len(e.lost) == 0
	if failed != nil && err == nil && fresh == nil && asBefore {
		return &untouched{failed}
	}
	return errors.Join(failed, err)
}

func (r *run) report(out Outcome) {
	r.result.Changes = append(r.result.Changes, out)
	if r.o.Progress != nil {
		r.o.Progress(out)
	}
}

// refresh reads the host anew after a write that creates queues or interrupts.
func (r *run) refresh(kind *knob.Kind) error {
	if len(kind.Clobbers) == 0 {
		return nil
	}
	view, err := r.a.View()
	if err != nil {
		return fmt.Errorf("read the host after setting %s: %w", kind.Name, err)
	}
	r.view = view
	return nil
}

// sideEffects notes which other settings the write changed.
func (r *run) sideEffects(e *entry) {
	for ref, before := range e.sides {
		kind, ok := knob.Lookup(ref.Kind)
		if !ok {
			continue
		}
		switch state := kind.Read(r.view, ref); {
		case !state.Has():
			e.lost[ref] = true
			delete(r.wrote, address(r.view, ref))
		case state.Value != before:
			e.moved[ref] = state.Value
			r.wrote[address(r.view, ref)] = state.Value
		}
	}
}

// verdict judges the value that was read back.
func (r *run) verdict(e *entry, state knob.State, writeErr error) (Verdict, string) {
	reason := ""
	if writeErr != nil {
		reason = writeErr.Error()
	}
	switch {
	case !state.Has():
		return VerdictRefused, state.Reason
	case state.Value == e.after:
		return pending(r.view, e.ref, e.after, reason)
	case state.Value == e.before:
		return VerdictRefused, reason
	default:
		return VerdictRounded, reason
	}
}

// pending tells a moved interrupt from one that will move when it next fires:
// the kernel stores the wish at once, and the effective mask follows later
// (kernel/irq/proc.c, show_irq_affinity).
func pending(v knob.View, ref knob.Ref, want, reason string) (Verdict, string) {
	irq, ok := irqOf(address(v, ref))
	if !ok || v.Host == nil {
		return VerdictApplied, reason
	}
	text, err := v.Host.ReadFile("proc/irq/" + strconv.Itoa(irq) + "/effective_affinity_list")
	if err != nil {
		return VerdictApplied, reason // kernels and captures without it
	}
	effective, err := cpuset.ParseList(string(text))
	wish, wishErr := cpuset.ParseList(want)
	if err != nil || wishErr != nil || effective.IsEmpty() || wish.Contains(effective) {
		return VerdictApplied, reason
	}
	return VerdictPending, fmt.Sprintf("IRQ %d fires on CPU %s until its next occurrence", irq, effective)
}

// settle looks again at interrupts that had not moved yet: by the end of the
// transaction most have. A wish that went back could not be carried out, of
// which the write said nothing (kernel/irq/migration.c, irq_move_masked_irq,
// drops it on errors): that is a change the host did not take.
func (r *run) settle() error {
	var errs []error
	for i := range r.result.Changes {
		if r.result.Changes[i].Verdict == VerdictPending {
			errs = append(errs, r.settleOne(&r.result.Changes[i]))
		}
	}
	return errors.Join(errs...)
}

func (r *run) settleOne(out *Outcome) error {
	kind, ok := knob.Lookup(out.Ref.Kind)
	if !ok {
		return nil
	}
	at := address(r.view, out.Ref)
	state := kind.Read(r.view, out.Ref)
	e := r.entryAt(at)
	switch {
	case !state.Has():
		return fmt.Errorf("%s: read back: %s: %s", describe(out.Ref, at), state.Status, state.Reason)
	case state.Value == out.After:
		out.Verdict, out.Reason = pending(r.view, out.Ref, out.After, "")
		return nil
	case e == nil || state.Value != e.before:
		// Not a wish that went back, and nothing that this transaction may undo.
		out.Verdict, out.Observed, out.Reason = VerdictApplied, state.Value, "somebody else has set it since"
		r.result.Warnings = append(r.result.Warnings, fmt.Sprintf("%s was set to %q and is %q: %s", describe(out.Ref, at), out.After, state.Value, out.Reason))
		return nil
	}
	out.Verdict, out.Observed, out.Reason = VerdictRefused, state.Value, "the kernel dropped the move: no CPU of the mask could take the interrupt"
	e.verdict, e.observed, e.failure = out.Verdict, &state.Value, out.Reason
	dropped := fmt.Errorf("%s: %w: it is %q again and should be %q: %s", describe(out.Ref, at), ErrNotTaken, state.Value, out.After, out.Reason)
	return errors.Join(r.tolerate(out.Ref, &untouched{dropped}), r.j.append(r.done(e)))
}

// entryAt is the last write to an address; nil if there was none.
func (r *run) entryAt(at string) *entry {
	for _, e := range slices.Backward(r.t.entries) {
		if address(r.view, e.ref) == at {
			return e
		}
	}
	return nil
}

func (r *run) done(e *entry) record {
	return record{
		Type: recordDone, Seq: e.seq, Observed: e.observed, Verdict: e.verdict, Error: e.failure,
		Moved: refTexts(e.moved), Lost: setTexts(e.lost),
	}
}
