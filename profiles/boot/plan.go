package boot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/natural"
	"github.com/napitune/napitune/rules/plan"
)

// Scope limits what of a profile is looked at. The zero value is all of it.
type Scope struct {
	// HostOnly: the settings of the whole host and those of no device.
	HostOnly bool
	// Device: the settings of this device only, "" for everything.
	Device string
	// IfPresent: that device need not be there.
	IfPresent bool
	// Except are settings to be left as they are.
	Except map[knob.Ref]bool
	// Solved are numbers of queues that were worked out before. They stay while the
	// device offers as many, though CPUs come and go: with another number many
	// drivers take the link down.
	Solved map[knob.Ref]string
}

// ProblemKind says what would mend a problem.
type ProblemKind uint8

// Kinds of problems.
const (
	Impossible ProblemKind = iota // the host cannot take the value
	Missing                       // no device matches
	Down                          // the device must be up first
)

// Problem is something that a profile asks for and the host cannot give. It is
// told and never forced.
type Problem struct {
	Kind ProblemKind
	// Line of the profile, 0 if unknown.
	Line int
	// Subject is a setting, a run of settings, or a match.
	Subject string
	Reason  string
	// Refs are the settings that it is about, and Want what the profile gives them;
	// none for a match or a file.
	Refs []knob.Ref
	Want string
	// Optional: an entry, or the Scope, says so that a host can do without.
	Optional bool
}

// Excused reports whether the host is as good with this problem: a device that
// need not be there at all and is not, or is a port that is not in use.
func (p Problem) Excused() bool { return p.Optional && p.Kind != Impossible }

// String is one line, without the name of the profile.
func (p Problem) String() string {
	if p.Line > 0 {
		return fmt.Sprintf("line %d: %s: %s", p.Line, p.Subject, p.Reason)
	}
	return p.Subject + ": " + p.Reason
}

// Plan works out what on a host differs from the profile: the changes that would
// make it stand, none if it does, and what cannot be. Changes that depend on
// earlier ones are in Deferred: after these, plan again. The plan lacks
// Fingerprint and Origin, which are the caller's to fill in.
func (p Profile) Plan(s *detect.Snapshot, scope Scope) (plan.Plan, []Problem) {
	r := &reckoning{profile: p, s: s, scope: scope, wants: map[knob.Ref]want{}}
	r.gather()
	out := plan.Build(r.finding(), plan.Input{Profile: p.Name + planMark, States: s.Knobs, View: s.View()})
	r.takeBack(&out)
	return out, r.told()
}

// planMark tells plans of boot profiles from those that advice made of a policy; no
// name of a policy has a space.
const planMark = " (boot)"

// Planned reports whether a plan with this profile was made of a boot profile.
func Planned(profile string) bool { return strings.HasSuffix(profile, planMark) }

// reckoning is one working-out of a profile on a host.
type reckoning struct {
	profile  Profile
	s        *detect.Snapshot
	scope    Scope
	wants    map[knob.Ref]want
	problems []problem
	solution *solution
}

// want is the value that a setting is to have, and who says so.
type want struct {
	value    string
	line     int
	optional bool
}

// problem is a Problem before those that differ in the queue are put together.
type problem struct {
	Problem
	ref knob.Ref
}

func (r *reckoning) gather() {
	if r.scope.Device == "" {
		for _, set := range r.profile.Host {
			value := set.Value
			if value == Solve {
				value = r.s.AllowedCPUs().String()
			}
			r.wish(set.ref(""), want{value, set.Line, false})
		}
	}
	if r.scope.HostOnly {
		return
	}
	for _, e := range r.profile.Entries {
		r.entry(e)
	}
	if r.scope.Device != "" {
		r.oneDevice()
	}
}

// oneDevice tells of a device that was asked for and of which nothing can stand:
// its name may be misspelt.
func (r *reckoning) oneDevice() {
	out := Problem{Kind: Missing, Subject: r.scope.Device, Reason: "this host has no such network device", Optional: r.scope.IfPresent}
	if d := r.s.Device(r.scope.Device); d != nil {
		// A unit starts for every device, and asks for none by name.
		if r.scope.IfPresent || slices.ContainsFunc(r.profile.Entries, func(e Entry) bool { return e.Match.Matches(d) }) {
			return
		}
		out.Reason, out.Optional = "the profile has no entry for it", true
	}
	r.problems = append(r.problems, problem{Problem: out})
}

func (r *reckoning) wish(ref knob.Ref, w want) {
	if !r.scope.Except[ref] {
		r.wants[ref] = w
	}
}

func (r *reckoning) entry(e Entry) {
	matched, other := false, ""
	for _, d := range r.s.Devices {
		switch {
		case e.Match.Matches(d):
			matched = true
			if r.scope.Device == "" || r.scope.Device == d.Name {
				r.device(d, e)
			}
		case e.Match.matchesBesideQueues(d) && other == "":
			other = fmt.Sprintf("; %s is there and offers %d", d.Name, QueueCount(d))
		}
	}
	if !matched && !e.Optional && r.scope.Device == "" {
		r.problems = append(r.problems, problem{Problem: Problem{
			Kind: Missing, Line: e.Line, Subject: e.Match.String(), Reason: "this host has no such network device" + other,
		}})
	}
}

// device wishes what an entry sets of one device: first what is for all queues,
// then what is for single ones, which holds.
func (r *reckoning) device(d *detect.Device, e Entry) {
	for _, every := range []bool{true, false} {
		for _, set := range e.Settings {
			switch {
			case (set.Side != "" && set.Queue == AllQueues) != every:
			case every:
				r.everyQueue(d, set, e.Optional)
			default:
				r.single(d, set, e.Optional)
			}
		}
	}
}

func (r *reckoning) single(d *detect.Device, set Setting, optional bool) {
	ref := set.ref(d.Name)
	value, ok := r.worth(d, ref, set.Value)
	if _, there := r.s.Knobs[ref]; ok || !there {
		r.wish(ref, want{value, set.Line, optional})
	}
}

// everyQueue leaves out, where the value is worked out here, the queues that
// leave nothing to choose, such as those whose interrupts the kernel manages:
// that is no fault of this host.
func (r *reckoning) everyQueue(d *detect.Device, set Setting, optional bool) {
	var refs []knob.Ref
	for ref := range r.s.Knobs {
		if ref.Dev == d.Name && ref.Kind == set.Kind && ref.Queue >= 0 && ref.Tx == (set.Side == "tx") {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, func(a, b knob.Ref) int { return cmp.Compare(a.Queue, b.Queue) })
	for _, ref := range refs {
		state := r.s.Knobs[ref]
		if set.Value == Solve && (state.Status == knob.Locked || state.Status == knob.Unsupported) {
			continue
		}
		if value, ok := r.worth(d, ref, set.Value); ok {
			r.wish(ref, want{value, set.Line, optional})
		}
	}
	if len(refs) == 0 {
		// Without the queues there is nothing to say how many there should be.
		r.unready(d, set, optional)
	}
}

func (r *reckoning) unready(d *detect.Device, set Setting, optional bool) {
	kind, reason := Impossible, "the device shows no such queues"
	if d.Up == detect.No {
		kind, reason = Down, "the device is down and shows no such queues"
	}
	r.problems = append(r.problems, problem{Problem: Problem{
		Kind: kind, Line: set.Line, Subject: d.Name + "/" + set.key(), Reason: reason, Optional: optional,
	}})
}

// worth is the value as it is on this host; ok is false where there is nothing
// to choose, and then the value is as in the profile.
func (r *reckoning) worth(d *detect.Device, ref knob.Ref, value string) (string, bool) {
	switch {
	case value == Even:
		slots := r.s.Knobs[ref].Bounds.Slots
		if slots == 0 {
			return value, false // one queue, or no table: it is even
		}
		return knob.EvenTable(slots, max(queuesInUse(d), 1)), true
	case value != Solve:
		return value, true
	case isChannels(ref.Kind):
		n, ok := r.channels(ref)
		return cmp.Or(n, value), ok
	default:
		cpus, ok := r.cpus(d, ref)
		if !ok {
			return value, false
		}
		return cpus, true
	}
}

// finding is the profile as the builder of plans takes it.
func (r *reckoning) finding() []plan.Finding {
	f := plan.Finding{ID: "boot-profile"}
	for _, ref := range slices.SortedFunc(maps.Keys(r.wants), compareRefs) {
		w := r.wants[ref]
		why := "boot profile " + r.profile.Name
		if w.line > 0 {
			why += fmt.Sprintf(", line %d", w.line)
		}
		f.Wants = append(f.Wants, plan.Want{Ref: ref, Value: w.value, Why: why})
	}
	return []plan.Finding{f}
}

// takeBack sorts what the builder found impossible: settings of queues that a
// change of this plan will create wait for it, the rest is told.
func (r *reckoning) takeBack(p *plan.Plan) {
	creates := map[string]knob.Ref{}
	overwrites := false
	for _, c := range p.Changes {
		if isChannels(c.Ref.Kind) {
			creates[c.Ref.Dev] = c.Ref
		}
		kind, ok := knob.Lookup(c.Ref.Kind)
		overwrites = overwrites || ok && len(kind.Clobbers) > 0
	}
	for _, b := range p.Blocked {
		if by, ok := creates[b.Ref.Dev]; ok && (b.Ref.Queue >= 0 || b.Ref.Kind == tableKind) {
			p.Deferred = append(p.Deferred, plan.Deferred{Ref: b.Ref, Reason: fmt.Sprintf("planned again after %s", by)})
			continue
		}
		r.refuse(b)
	}
	p.Blocked = []plan.Blocked{}
	// What stands now may not stand after such a change.
	p.Complete = len(p.Deferred) == 0 && !overwrites
}

func (r *reckoning) refuse(b plan.Blocked) {
	out := problem{ref: b.Ref, Problem: Problem{
		Line: r.wants[b.Ref].line, Optional: r.wants[b.Ref].optional, Subject: b.Ref.String(), Reason: "cannot be " + shown(b.Want) + ": " + b.Reason,
		Refs: []knob.Ref{b.Ref}, Want: b.Want,
	}}
	d := r.s.Device(b.Ref.Dev)
	_, there := r.s.Knobs[b.Ref]
	switch {
	case d != nil && d.Up == detect.No:
		out.Kind = Down
		out.Reason += " (the device is down)"
	case d != nil && !there && b.Ref.Queue >= 0:
		out.Reason = fmt.Sprintf("cannot be %s: %s has %d receive queues and no such one", shown(b.Want), d.Name, queuesInUse(d))
	case !there:
		out.Reason = "cannot be " + shown(b.Want) + ": this host has no such setting"
	}
	r.problems = append(r.problems, out)
}

// shown makes the empty value visible and keeps a table from filling the line.
func shown(value string) string {
	if value == "" {
		return "(none)"
	}
	return brief(value)
}

func brief(value string) string {
	const limit = 40
	if len(value) > limit {
		return value[:limit] + "…"
	}
	return value
}

// told puts problems of neighbouring queues on one line.
func (r *reckoning) told() []Problem {
	type group struct {
		dev, kind, reason string
		tx                bool
		line              int
	}
	var out []Problem
	at, queues := map[group]int{}, map[group][]int{}
	for _, p := range r.problems {
		if p.ref.Queue < 0 || p.ref == (knob.Ref{}) {
			out = append(out, p.Problem)
			continue
		}
		g := group{p.ref.Dev, p.ref.Kind, p.Reason, p.ref.Tx, p.Line}
		if _, known := at[g]; !known {
			at[g] = len(out)
			out = append(out, p.Problem)
		} else {
			out[at[g]].Refs = append(out[at[g]].Refs, p.ref)
		}
		queues[g] = append(queues[g], p.ref.Queue)
	}
	for g, list := range queues {
		if len(list) < 2 {
			continue
		}
		side := "rx"
		if g.tx {
			side = "tx"
		}
		out[at[g]].Subject = g.dev + "/" + side + "-{" + cpuset.Of(list...).String() + "}/" + g.kind
	}
	return out
}

func compareRefs(a, b knob.Ref) int {
	tx := func(r knob.Ref) int {
		if r.Tx {
			return 1
		}
		return 0
	}
	return cmp.Or(natural.Compare(a.Dev, b.Dev), strings.Compare(a.Kind, b.Kind), cmp.Compare(tx(a), tx(b)), cmp.Compare(a.Queue, b.Queue))
}
