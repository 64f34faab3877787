package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/natural"
)

// Input is what the builder knows of the host besides the findings.
type Input struct {
	Fingerprint string
	Profile     string
	// States holds every setting that was read.
	States map[knob.Ref]knob.State
	// View resolves interrupts for the shell form.
	View knob.View
	// Forbidden names kinds of settings that the policy keeps from changing.
	Forbidden []string
	// Objection says why the site does not want a value, "" if it does not
	// mind; nil: it never minds.
	Objection func(ref knob.Ref, value string) string
}

// Build turns the wishes of all findings into one ordered plan: no-ops become
// Kept, impossible ones Blocked, contradictions Conflicts, and what depends on an
// earlier change Deferred. The result does not depend on the order of findings.
func Build(findings []Finding, in Input) Plan {
	p := Plan{
		Fingerprint: in.Fingerprint, Profile: in.Profile,
		Changes: []Change{}, Kept: []Kept{}, Blocked: []Blocked{}, Deferred: []Deferred{}, Conflicts: []Conflict{},
	}
	wishes := gather(findings)
	for _, ref := range slices.SortedFunc(maps.Keys(wishes), compareRef) {
		p.decide(ref, wishes[ref], in)
	}
	p.deferBehindChannels()
	for i := range p.Changes {
		p.Changes[i].Seq = i + 1
	}
	p.Complete = len(p.Deferred) == 0
	p.Applyable = len(p.Changes) > 0 && !slices.ContainsFunc(p.Changes, func(c Change) bool { return c.BeforeSeen })
	return p
}

// wish is one want with the finding it comes from.
type wish struct {
	Want
	finding string
}

func gather(findings []Finding) map[knob.Ref][]wish {
	out := map[knob.Ref][]wish{}
	for _, f := range findings {
		for _, w := range f.Wants {
			out[w.Ref] = append(out[w.Ref], wish{w, f.ID})
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b wish) int {
			return cmp.Or(cmp.Compare(a.finding, b.finding), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.Why, b.Why))
		})
	}
	return out
}

// compareRef orders changes: stage first, then device, side, queue, kind; among
// kinds, what another write depends on comes before it.
func compareRef(a, b knob.Ref) int {
	tx := func(r knob.Ref) int {
		if r.Tx {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(stage(a), stage(b)), natural.Compare(a.Dev, b.Dev),
		cmp.Compare(a.Queue, b.Queue), cmp.Compare(tx(a), tx(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Kind, b.Kind))
}

func stage(r knob.Ref) knob.Stage {
	if kind, ok := knob.Lookup(r.Kind); ok {
		return kind.Stage
	}
	return knob.StageAffinity
}

func rank(r knob.Ref) int {
	if kind, ok := knob.Lookup(r.Kind); ok {
		return kind.Rank
	}
	return 0
}

// decide files the wishes for one setting under changes, kept, blocked or conflicts.
func (p *Plan) decide(ref knob.Ref, wishes []wish, in Input) {
	ids := findingIDs(wishes)
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		p.block(ref, wishes[0].Value, "napitune has no such setting", ids)
		return
	}
	state, known := in.States[ref]
	value, agreed := merge(kind, wishes)
	if !agreed {
		p.Conflicts = append(p.Conflicts, Conflict{Ref: ref, Values: values(wishes), Rules: ids})
		return
	}
	seen := ""
	if state.Status == knob.Unknown || !known {
		seen = wishes[0].Seen
	}
	reason := obstacle(kind, ref, state, known, value, in, seen)
	now := cmp.Or(state.Value, seen)
	if (state.Has() || seen != "") && satisfied(now, value, wishes[0].Mode) {
		p.Kept = append(p.Kept, Kept{Ref: ref, Value: now, Findings: ids})
		return
	}
	if reason != "" {
		p.block(ref, value, reason, ids)
		return
	}
	p.Changes = append(p.Changes, Change{
		Ref: ref, Before: now, After: value, BeforeSeen: seen != "",
		Stage: kind.Stage.String(), Disruption: kind.DisruptionFor(in.View, ref).String(),
		Findings: ids, Why: wishes[0].Why, Expect: wishes[0].Expect, Shell: shell(kind, in.View, ref, value),
	})
}

func (p *Plan) block(ref knob.Ref, want, reason string, ids []string) {
	p.Blocked = append(p.Blocked, Blocked{Ref: ref, Want: want, Reason: reason, Findings: ids})
}

func shell(kind *knob.Kind, v knob.View, ref knob.Ref, value string) string {
	if kind.Shell == nil {
		return ""
	}
	return kind.Shell(v, ref, value)
}

// merge finds the one value that all wishes agree on. Raises agree on the
// highest, lowers on the lowest; anything else must be equal.
func merge(kind *knob.Kind, wishes []wish) (string, bool) {
	value := canonical(kind, wishes[0].Value)
	for _, w := range wishes[1:] {
		next := canonical(kind, w.Value)
		if next == value && w.Mode == wishes[0].Mode {
			continue
		}
		if w.Mode != wishes[0].Mode || w.Mode == Set {
			return "", false
		}
		if (w.Mode == Raise) == less(value, next) {
			value = next
		}
	}
	return value, true
}

func canonical(kind *knob.Kind, value string) string {
	if kind.Codec.Canonical == nil {
		return value
	}
	if c, err := kind.Codec.Canonical(value); err == nil {
		return c
	}
	return value
}

// less compares numbers as numbers; other values are not ordered.
func less(a, b string) bool {
	na, errA := strconv.ParseInt(a, 10, 64)
	nb, errB := strconv.ParseInt(b, 10, 64)
	return errA == nil && errB == nil && na < nb
}

func satisfied(now, want string, mode Mode) bool {
	switch {
	case now == want:
		return true
	case mode == Raise:
		return less(want, now)
	case mode == Lower:
		return less(now, want)
	default:
		return false
	}
}

// obstacle says why this host cannot take the value, "" if it can. A setting
// that a capture did not record is no obstacle if the counters show what is in
// force: the advice holds, though it cannot be applied from there.
func obstacle(kind *knob.Kind, ref knob.Ref, state knob.State, known bool, value string, in Input, seen string) string {
	switch {
	case objection(in, ref, value) != "":
		return objection(in, ref, value)
	case slices.Contains(in.Forbidden, ref.Kind) || slices.Contains(in.Forbidden, ref.String()):
		return "the policy forbids changing it"
	case seen != "":
	case !known:
		return "the host did not tell its present value, so it could not be put back"
	case state.Status != knob.Known:
		return cmp.Or(state.Reason, state.Status.String())
	}
	if err := kind.Check(state.Bounds, value); err != nil {
		return err.Error()
	}
	return ""
}

func objection(in Input, ref knob.Ref, value string) string {
	if in.Objection == nil {
		return ""
	}
	return in.Objection(ref, value)
}

// deferBehindChannels takes back what a channel change will overwrite or
// create: queues, their masks and interrupts are read again afterwards.
func (p *Plan) deferBehindChannels() {
	changed := map[string]knob.Ref{}
	for _, c := range p.Changes {
		if c.Stage == knob.StageChannels.String() {
			changed[c.Ref.Dev] = c.Ref
		}
	}
	kept := p.Changes[:0]
	for _, c := range p.Changes {
		by, ok := changed[c.Ref.Dev]
		if !ok || c.Ref.Queue < 0 && c.Ref.Kind != "rss.table" {
			kept = append(kept, c)
			continue
		}
		p.Deferred = append(p.Deferred, Deferred{Ref: c.Ref, Reason: fmt.Sprintf("planned again after %s: the driver creates queues anew and resets their settings", by)})
	}
	p.Changes = kept
}

func findingIDs(wishes []wish) []string {
	var out []string
	for _, w := range wishes {
		out = append(out, w.finding)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func values(wishes []wish) []string {
	var out []string
	for _, w := range wishes {
		out = append(out, w.Value)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
