package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// Choice is what to do about a setting that somebody else writes as well.
type Choice string

// Choices. Without one, a change that its owner would soon undo is refused.
const (
	Leave Choice = "leave" // leave the change out
	Ban   Choice = "ban"   // tell the owner to leave the setting alone, until the rollback
	Take  Choice = "take"  // change it all the same
	// Tell is Ban for an owner that can be told. Without a choice for another:
	// what one would soon undo is refused, and one that writes on an event only is
	// named in a warning.
	Tell Choice = "tell"
)

// choice is what holds for an owner: its own, or that for all.
func (o Options) choice(w owner.Owner) Choice {
	c, ok := o.Owners[w.Name]
	if !ok {
		c = o.Owners[""]
	}
	if c == Tell && w.Exceptions != "" {
		return Ban
	}
	return c
}

// others are those who write settings of a plan besides napitune. Those that can
// be told something are asked once: a daemon answers between its rounds, so that
// what is read after this stays as it is until the next.
func (a *Applier) others(p plan.Plan) ([]owner.Owner, error) {
	if a.Owners == nil {
		return nil, nil
	}
	all, err := a.Owners()
	if err != nil {
		return nil, fmt.Errorf("find out who else writes these settings: %w", err)
	}
	all = slices.DeleteFunc(all, func(o owner.Owner) bool {
		return !slices.ContainsFunc(p.Changes, func(c plan.Change) bool { return fights(o, c) })
	})
	for _, o := range all {
		kind, ok := knob.Lookup(o.Exceptions)
		if !ok {
			continue
		}
		view, err := a.View()
		if err != nil {
			return nil, fmt.Errorf("read the host: %w", err)
		}
		kind.Read(view, knob.Global(kind.Name))
	}
	return all, nil
}

func claims(o owner.Owner, ref knob.Ref) bool {
	_, ok := o.Claim(ref)
	return ok
}

// fights reports whether an owner would undo a change.
func fights(o owner.Owner, c plan.Change) bool {
	_, ok := o.Fights(c.Ref, c.After)
	return ok
}

// owners settles with everybody else who writes settings of the plan. It comes
// when all changes are checked.
func (i *inspection) owners(p plan.Plan) {
	for _, o := range i.others {
		i.putBack(o, p)
		if held := i.held(o); len(held) > 0 {
			i.settle(o, held, alike(o, p))
		}
		if outrun := i.outrun[o.Name]; len(outrun) > 0 {
			i.warnings = append(i.warnings, fmt.Sprintf("%s wrote %s after the plan was made; a rollback restores what it wrote", o.Name, firstOf(outrun)))
		}
	}
}

// overruled names the owner whose latest value of a setting does not stand in the
// way of a change: one that writes again and again, so that hardly a plan is as
// old as its last round, and was chosen to stop or to be written over.
func (i *inspection) overruled(c plan.Change) string {
	for _, o := range i.others {
		if choice := i.o.choice(o); o.Habit == owner.Always && fights(o, c) && (choice == Ban || choice == Take) {
			return o.Name
		}
	}
	return ""
}

// putBack adds changes of what the plan found as it should be and such an owner
// moved since: the placement counts on it.
func (i *inspection) putBack(o owner.Owner, p plan.Plan) {
	for _, k := range p.Kept {
		c := plan.Change{Ref: k.Ref, Before: k.Value, After: k.Value, Findings: k.Findings}
		kind, ok := knob.Lookup(k.Ref.Kind)
		if !ok || i.overruled(c) != o.Name {
			continue
		}
		if state := kind.Read(i.view, k.Ref); state.Status == knob.Known && state.Value != k.Value {
			c.Why = fmt.Sprintf("it was so when the plan was made, and %s moved it since", o.Name)
			i.one(c)
		}
	}
}

// alike are the owner's settings that the plan finds as they should be: they are
// to stay so, too.
func alike(o owner.Owner, p plan.Plan) []knob.Ref {
	var out []knob.Ref
	for _, k := range p.Kept {
		if claims(o, k.Ref) {
			out = append(out, k.Ref)
		}
	}
	return out
}

// beside are the owner's other settings of the same kinds on the devices of the
// plan. Where their queues are was weighed with those that move, and an owner that
// is told something looks at all of its settings anew (irqbalance does, in its
// next round).
func (i *inspection) beside(o owner.Owner, held, alike []knob.Ref) []knob.Ref {
	type place struct{ dev, kind string }
	placed := map[place]bool{}
	known := slices.Concat(held, alike)
	var out []knob.Ref
	for _, moved := range held {
		at := place{moved.Dev, moved.Kind}
		kind, ok := knob.Lookup(at.kind)
		if !ok || at.dev == "" || placed[at] {
			continue
		}
		placed[at] = true
		for _, ref := range kind.Refs(i.view) {
			if (place{ref.Dev, ref.Kind}) == at && !slices.Contains(known, ref) && claims(o, ref) && kind.Read(i.view, ref).Status == knob.Known {
				out = append(out, ref)
			}
		}
	}
	return out
}

// held are the settings of the plan to which an owner gives other values.
func (i *inspection) held(o owner.Owner) []knob.Ref {
	var out []knob.Ref
	for _, s := range i.steps {
		if fights(o, s.change) {
			out = append(out, s.change.Ref)
		}
	}
	return out
}

// settle does with one owner what was chosen.
func (i *inspection) settle(o owner.Owner, held, alike []knob.Ref) {
	choice := i.o.choice(o)
	if _, named := i.o.Owners[o.Name]; o.Habit == owner.AtBoot && !named {
		// Nothing that runs would undo it: what is chosen for all is not for files.
		i.warn(o, held)
		return
	}
	switch choice {
	case Leave:
		i.leave(o)
	case Ban:
		i.ban(o, held, alike)
	case Take:
		i.warn(o, held)
	case Tell:
		i.tell(o, held)
	default:
		i.ask(o, held, alike)
	}
}

func (i *inspection) warn(o owner.Owner, held []knob.Ref) {
	i.warnings = append(i.warnings, fmt.Sprintf("%s writes %s as well, %s: what is set here lasts until then (to end that: %s)", o.Name, firstOf(held), o.When, o.Remedy))
}

// leave drops the changes of an owner's settings.
func (i *inspection) leave(o owner.Owner) {
	kept := i.steps[:0:0]
	for _, s := range i.steps {
		if fights(o, s.change) {
			i.skipped = append(i.skipped, Skipped{Ref: s.change.Ref, Disruption: s.kind.DisruptionFor(i.view, s.change.Ref).String(), Owner: o.Name})
			continue
		}
		kept = append(kept, s)
	}
	i.steps = kept
}

// tell is for an owner that cannot be told. Nobody is there to choose.
func (i *inspection) tell(o owner.Owner, held []knob.Ref) {
	if o.Habit != owner.Always {
		i.warn(o, held)
		return
	}
	i.refuseFor(o, held, "it writes such settings again, %s, and cannot be told to leave them alone: %s", o.When, o.Remedy)
}

// ask refuses what the owner would soon undo, unless it has been told already.
func (i *inspection) ask(o owner.Owner, held, alike []knob.Ref) {
	if o.Habit != owner.Always {
		i.warn(o, held)
		return
	}
	way := "--owner ban is not possible, since it cannot be told (" + o.Remedy + ")"
	if o.Exceptions != "" {
		if c, err := Exception(i.view, o, slices.Concat(held, alike)); err == nil && c.Before == c.After {
			return
		}
		way = "--owner ban tells it to leave them alone"
	}
	i.refuseFor(o, held, "it writes %s again, %s: %s, --owner leave leaves them out, --owner take changes them all the same", firstOf(held), o.When, way)
}

// ban adds the change that keeps the owner off, before all others. It is a
// setting like any other: journalled, read back and rolled back.
func (i *inspection) ban(o owner.Owner, held, alike []knob.Ref) {
	if o.Exceptions == "" {
		i.refuseFor(o, held, "it writes %s as well and cannot be told to leave them: %s, or choose --owner %s=leave or %s=take", firstOf(held), o.Remedy, o.Name, o.Name)
		return
	}
	c, err := Exception(i.view, o, slices.Concat(held, alike, i.beside(o, held, alike)))
	if err != nil {
		// One that has just been started does not listen yet.
		i.refuseFor(o, held, "it cannot be told to leave %s: %v", firstOf(held), err).Stale = IsSilent(err)
		return
	}
	if c.Before != c.After {
		i.one(c)
	}
}

// silent is the error of an owner that does not tell what it was told.
type silent struct{ reason string }

func (s *silent) Error() string { return s.reason }

// IsSilent tells the error of an owner that does not answer: it may have just been
// started.
func IsSilent(err error) bool {
	var s *silent
	return errors.As(err, &s)
}

// Exception is the change after which an owner leaves settings alone; with equal
// values where it does so already.
func Exception(v knob.View, o owner.Owner, held []knob.Ref) (plan.Change, error) {
	kind, ok := knob.Lookup(o.Exceptions)
	if !ok || kind.Except == nil {
		return plan.Change{}, fmt.Errorf("napitune has no setting %q for it", o.Exceptions)
	}
	ref := knob.Global(kind.Name)
	state := kind.Read(v, ref)
	if state.Status != knob.Known {
		return plan.Change{}, &silent{fmt.Sprintf("%s: %s: %s", ref, state.Status, state.Reason)}
	}
	after, err := kind.Except(v, state.Value, held)
	if err != nil {
		return plan.Change{}, err
	}
	return plan.Change{
		Ref: ref, Before: state.Value, After: after, Stage: kind.Stage.String(),
		Why: fmt.Sprintf("%s would write %s again", o.Name, firstOf(held)),
	}, nil
}

// firstOf names the first of several settings.
func firstOf(refs []knob.Ref) string {
	const few = 3
	names := make([]string, 0, few)
	for _, ref := range refs[:min(few, len(refs))] {
		names = append(names, ref.String())
	}
	text := strings.Join(names, ", ")
	if more := len(refs) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
