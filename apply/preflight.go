package apply

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// step is a change that passed the checks.
type step struct {
	kind   *knob.Kind
	change plan.Change // with canonical values
}

// checked is what preflight found good.
type checked struct {
	view    knob.View
	steps   []step // in the order of writing
	skipped []Skipped
	// warnings are about what will not last.
	warnings []string
}

// Preflight does all checks of Apply and writes nothing, not even a lock. The
// error is a *Refused with every reason, or says why the host could not be asked.
func (a *Applier) Preflight(p plan.Plan, o Options) ([]Skipped, error) {
	origin, err := a.Origin()
	if err != nil {
		return nil, fmt.Errorf("preflight: identify the host: %w", err)
	}
	dir, err := a.directory(origin)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	all, err := a.load(dir, false)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	c, err := a.preflight(origin, p, o, unfinished(local(all, origin)))
	return c.skipped, err
}

func unfinished(all []*transaction) []*transaction {
	return slices.DeleteFunc(slices.Clone(all), func(t *transaction) bool { return !t.unfinished() })
}

func (t *transaction) unfinished() bool {
	return t.state.Unfinished() || t.damage != nil && t.state != Forgotten && !t.archived
}

// inspection collects the reasons against a plan.
type inspection struct {
	a        *Applier
	o        Options
	view     knob.View
	exists   map[string]map[knob.Ref]bool // by kind
	reasons  []Refusal
	steps    []step
	skipped  []Skipped
	warnings []string
	addressV map[string]step // by address: interrupts may serve several queues
	others   []owner.Owner   // who else writes settings of the plan
	// outrun are settings that an owner changed since the plan was made, by its
	// name. To have it stop, or to write over it, was chosen.
	outrun map[string][]knob.Ref
}

func (i *inspection) refuse(subject, format string, args ...any) {
	i.reasons = append(i.reasons, Refusal{Subject: subject, Reason: fmt.Sprintf(format, args...)})
}

// refuseFor refuses settings because of somebody else who writes them.
func (i *inspection) refuseFor(o owner.Owner, held []knob.Ref, format string, args ...any) *Refusal {
	i.refuse(o.Name, format, args...)
	last := &i.reasons[len(i.reasons)-1]
	last.Refs = held
	return last
}

// stale refuses what was right when the plan was made.
func (i *inspection) stale(subject, format string, args ...any) {
	i.refuse(subject, format, args...)
	i.reasons[len(i.reasons)-1].Stale = true
}

// preflight finds every reason not to apply the plan before anything is written.
func (a *Applier) preflight(origin plan.Origin, p plan.Plan, o Options, open []*transaction) (checked, error) {
	others, err := a.others(p)
	if err != nil {
		return checked{}, err
	}
	view, err := a.View()
	if err != nil {
		return checked{}, fmt.Errorf("read the host: %w", err)
	}
	i := &inspection{a: a, o: o, view: view, exists: map[string]map[knob.Ref]bool{}, addressV: map[string]step{}, others: others, outrun: map[string][]knob.Ref{}}
	for _, t := range open {
		i.stale("host", "transaction %s is unfinished (%s): %s", t.id, t.state, t.remedy())
	}
	i.whole(origin, p)
	for _, c := range p.Changes {
		i.one(c)
	}
	i.owners(p)
	nothing := len(i.reasons) == 0 && len(i.steps) == 0
	if nothing {
		i.refuse("plan", "nothing is left to apply: %s", i.leftOut())
	}
	if len(i.reasons) > 0 {
		return checked{}, &Refused{Refusals: i.reasons, nothingLeft: nothing}
	}
	slices.SortStableFunc(i.steps, func(x, y step) int {
		return cmp.Or(cmp.Compare(x.kind.Stage, y.kind.Stage), cmp.Compare(x.change.Seq, y.change.Seq))
	})
	return checked{view: view, steps: i.steps, skipped: i.skipped, warnings: i.warnings}, nil
}

// leftOut says why nothing is left.
func (i *inspection) leftOut() string {
	owned := 0
	for _, s := range i.skipped {
		if s.Owner != "" {
			owned++
		}
	}
	if owned == 0 {
		return fmt.Sprintf("%d changes exceed the allowed disruption (%s)", len(i.skipped), i.o.MaxDisruption)
	}
	return fmt.Sprintf("%d changes exceed the allowed disruption (%s), %d are left to those who write the settings as well", len(i.skipped)-owned, i.o.MaxDisruption, owned)
}

// whole judges the plan as a whole.
func (i *inspection) whole(origin plan.Origin, p plan.Plan) {
	switch {
	case p.Errored:
		i.refuse("plan", "it is marked as erroneous")
	case len(p.Changes) == 0:
		i.refuse("plan", "it changes nothing")
	case !p.Applyable:
		i.refuse("plan", "it is marked as not applicable")
	}
	if p.Fingerprint == origin.Fingerprint() {
		return
	}
	if p.Origin == nil {
		i.stale("plan", "it was made on another host, boot or set of devices (fingerprint %q, this host has %q)", p.Fingerprint, origin.Fingerprint())
		return
	}
	if p.Origin.Fingerprint() != p.Fingerprint {
		i.refuse("plan", "its fingerprint %q is not that of the host it names: it was edited", p.Fingerprint)
	}
	for _, d := range p.Origin.Differences(origin) {
		i.stale("plan", "%s", d)
	}
}

// one judges one change.
func (i *inspection) one(c plan.Change) {
	before := len(i.reasons)
	i.judge(c)
	for n := range i.reasons[before:] {
		i.reasons[before+n].Refs = []knob.Ref{c.Ref}
	}
}

func (i *inspection) judge(c plan.Change) {
	subject := c.Ref.String()
	// An address from Go code has not been through the parser.
	parsed, err := knob.ParseRef(subject)
	if err != nil || parsed != c.Ref {
		i.refuse(subject, "not the address of a setting: %v", err)
		return
	}
	kind, ok := knob.Lookup(c.Ref.Kind)
	if !ok {
		i.refuse(subject, "napitune has no such setting")
		return
	}
	if slices.ContainsFunc(i.steps, func(s step) bool { return s.change.Ref == c.Ref }) {
		i.refuse(subject, "the plan changes it twice")
		return
	}
	if !i.there(kind, c.Ref) {
		i.stale(subject, "this host has no such setting")
		return
	}
	if lacks := i.a.Privileges.missing(kind); lacks != "" {
		i.refuse(subject, "%s", lacks)
	} else if err := i.closed(kind, c.Ref); err != nil {
		i.refuse(subject, "%v", err)
	}
	if d := kind.DisruptionFor(i.view, c.Ref); d > i.o.MaxDisruption {
		if i.o.SkipDisruptive {
			i.skipped = append(i.skipped, Skipped{Ref: c.Ref, Disruption: d.String()})
			return
		}
		i.refuse(subject, "the change disturbs traffic (%s), allowed is %s", d, i.o.MaxDisruption)
	}
	i.values(kind, c)
}

// closed is why the files of a setting cannot be written, whatever the value:
// in containers they are often mounted read-only, for root as well.
func (i *inspection) closed(kind *knob.Kind, ref knob.Ref) error {
	ask := i.a.Writer.MayWrite
	if ask == nil {
		return nil
	}
	for _, name := range kind.Files(i.view, ref) {
		if err := ask(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// closedAmong is why one of the settings that a change may overwrite could not be
// put back. One that is locked is nobody's to change, the driver's included.
func (i *inspection) closedAmong(sides map[knob.Ref]string) error {
	byName := func(a, b knob.Ref) int { return strings.Compare(a.String(), b.String()) }
	for _, ref := range slices.SortedFunc(maps.Keys(sides), byName) {
		kind, ok := knob.Lookup(ref.Kind)
		if !ok || kind.Read(i.view, ref).Status != knob.Known {
			continue
		}
		if err := i.closed(kind, ref); err != nil {
			return fmt.Errorf("%s, which the change may overwrite, could not be put back: %w", ref, err)
		}
	}
	return nil
}

// values judges present, old and new value.
func (i *inspection) values(kind *knob.Kind, c plan.Change) {
	subject := c.Ref.String()
	if c.BeforeSeen {
		i.refuse(subject, "its present value was not read when the plan was made, so it could not be put back")
		return
	}
	before, err := kind.Codec.Canonical(c.Before)
	if err != nil {
		i.refuse(subject, "old value: %v", err)
		return
	}
	after, err := kind.Codec.Canonical(c.After)
	if err != nil {
		i.refuse(subject, "new value: %v", err)
		return
	}
	c.Before, c.After = before, after
	state := kind.Read(i.view, c.Ref)
	switch {
	case state.Status != knob.Known:
		i.refuse(subject, "%s: %s", state.Status, state.Reason)
		return
	case state.Value == before:
	case i.overruled(c) != "":
		i.outrun[i.overruled(c)] = append(i.outrun[i.overruled(c)], c.Ref)
		c.Before = state.Value
	default:
		i.stale(subject, "it is %q now and was %q when the plan was made", state.Value, before)
	}
	if err := kind.Check(state.Bounds, after); err != nil {
		i.refuse(subject, "new value: %v", err)
	}
	others, err := sides(i.view, kind, c.Ref, after)
	if err == nil {
		err = i.closedAmong(others)
	}
	if err != nil {
		i.refuse(subject, "%v", err)
	}
	s := step{kind: kind, change: c}
	at := address(i.view, c.Ref)
	if other, shared := i.addressV[at]; shared && other.change.After != after {
		i.refuse(subject, "it is the same interrupt as %s, for which the plan wants %q and not %q", other.change.Ref, other.change.After, after)
	}
	i.addressV[at] = s
	i.steps = append(i.steps, s)
}

func (i *inspection) there(kind *knob.Kind, ref knob.Ref) bool {
	refs, ok := i.exists[kind.Name]
	if !ok {
		refs = map[knob.Ref]bool{}
		for _, r := range kind.Refs(i.view) {
			refs[r] = true
		}
		i.exists[kind.Name] = refs
	}
	return refs[ref] || kind.Exists(i.view, ref)
}

// address is what a setting is on the host at this moment: the interrupt for
// affinities, since one may serve several queues; the setting itself else.
func address(v knob.View, ref knob.Ref) string {
	if ref.Kind != affinityKind || v.IRQ == nil {
		return ref.String()
	}
	irq, err := v.IRQ(ref.Dev, ref.Tx, ref.Queue)
	if err != nil || irq < 0 {
		return ref.String()
	}
	return "IRQ " + strconv.Itoa(irq)
}

const affinityKind = "irq.affinity"

// irqOf takes the number out of an address.
func irqOf(address string) (int, bool) {
	text, ok := strings.CutPrefix(address, "IRQ ")
	if !ok {
		return 0, false
	}
	irq, err := strconv.Atoi(text)
	return irq, err == nil
}
