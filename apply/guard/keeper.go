package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// Keeper decides when to look at the host, and what of what differs is brought
// back. It reads no clock and touches nothing.
type Keeper struct {
	accounts map[knob.Ref]*account
	files    map[string][]knob.Ref // watched files
	causes   map[host.Event]time.Time
	// began is the first event that no look has followed yet, and due is when
	// to look for it; zero if there is none.
	began, due time.Time
	// notBefore keeps looks apart while events storm; debt is the processor time
	// of looks, less what has been paid off until paid.
	notBefore, paid time.Time
	debt            time.Duration
	// timers are further looks, by purpose.
	timers map[string]time.Time
	// news are events that no look has followed yet, and caused those before the
	// present look.
	news, caused map[host.Event]bool
	wait         time.Duration // the last pause of waiting
	report       Report
}

// account is what is known of one setting.
type account struct {
	// right is the beginning of the last look that found the setting as wanted,
	// or the time when it was brought there; zero if it never was.
	right time.Time
	// stood is the value that it had then: where the host has it still, only the
	// wish is another.
	stood string
	// since is when a difference was found that nothing explains.
	since time.Time
	// writer is the last program that was seen writing, at the time written.
	writer  string
	written time.Time
	told    bool // the kernel said who
	// counted: the present difference is in rewrites already.
	counted  bool
	cause    string
	rewrites []time.Time
	// accepted is what the host makes of the wanted value.
	wanted, accepted string
	refusals         int
	refused          time.Time // the last time
	retry            time.Time // not to be tried before, after a refusal
	tokens           int       // restorations that may follow at once
	filled           time.Time
	left             *Left
	yielded          bool // left to people, who may decide otherwise again
}

// NewKeeper looks first at once.
func NewKeeper(now time.Time) *Keeper {
	return &Keeper{
		accounts: map[knob.Ref]*account{}, causes: map[host.Event]time.Time{}, news: map[host.Event]bool{}, timers: map[string]time.Time{"begin": now},
		report: Report{Schema: Schema, Since: now, Left: []Left{}},
	}
}

// Reload forgets whom settings were left to, and looks at once.
func (k *Keeper) Reload(now time.Time) {
	clear(k.accounts)
	k.timers["begin"] = now
}

// Watch says which files hold which settings.
func (k *Keeper) Watch(files map[string][]knob.Ref) { k.files = files }

// Take takes in what happened.
func (k *Keeper) Take(now time.Time, events []host.Event) {
	if len(events) == 0 {
		return
	}
	for _, e := range events {
		if e.Kind == host.FileWritten {
			k.note(now, e)
			continue
		}
		k.causes[e] = now
		if e.Kind != host.AddressChanged {
			k.news[e] = true
		}
	}
	if len(k.causes) > maxCauses || len(k.news) > maxCauses {
		lost := host.Event{Kind: host.EventsLost}
		clear(k.causes)
		clear(k.news)
		k.causes[lost], k.news[lost] = now, true
	}
	if k.began.IsZero() {
		k.began = now
	}
	k.due = earliest(now.Add(quiet), k.began.Add(longest))
}

// note remembers who wrote the files of settings.
func (k *Keeper) note(now time.Time, e host.Event) {
	refs := k.files[e.Path]
	for _, ref := range refs {
		a := k.account(ref)
		if a.written = now; e.PID != 0 || !a.told {
			a.writer, a.told = writer(e), e.PID != 0
		}
	}
}

func writer(e host.Event) string {
	switch {
	case e.By != "":
		return e.By
	case e.PID != 0:
		return fmt.Sprintf("process %d, which has ended", e.PID)
	default:
		return ""
	}
}

// Next is when to look at the host; false while there is no reason to.
func (k *Keeper) Next() (at time.Time, ok bool) {
	if !k.due.IsZero() {
		at = latest(k.due, k.notBefore)
	}
	for _, t := range k.timers {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at, !at.IsZero()
}

// Begin begins a look. It gives the time of the first event that led to it,
// zero if a timer did.
func (k *Keeper) Begin(now time.Time) (since time.Time) {
	since, k.began, k.due = k.began, time.Time{}, time.Time{}
	for name, at := range k.timers {
		if !at.After(now) {
			delete(k.timers, name)
		}
	}
	k.report.Looks++
	k.caused, k.news = k.news, map[host.Event]bool{}
	return since
}

// End ends a look that took some processor time.
func (k *Keeper) End(now time.Time, cost time.Duration) {
	k.debt = max(0, k.debt-now.Sub(k.paid)/share) + cost
	k.paid = now
	k.notBefore = now.Add(min(share*max(0, k.debt-allowance), maxPause))
	for e, at := range k.causes {
		if now.Sub(at) > time.Minute {
			delete(k.causes, e)
		}
	}
}

// Around is what else is known when the Keeper decides.
type Around struct {
	// Words are the journals' last words; see apply.Applier.Words.
	Words map[knob.Ref]apply.Word
	// Loaded is when the profile in force was read.
	Loaded time.Time
	// Owners gives those who write settings as well.
	Owners func() []owner.Owner
	// Blind: writes of other programs cannot be watched.
	Blind bool
}

// Decision is what to do about what differs.
type Decision struct {
	// Restore has changes back to what a standing transaction has written, Set
	// those that none has.
	Restore, Set []plan.Change
	// Causes says for each of them what undid it.
	Causes map[knob.Ref]Action
	// Tell are settings that were left, or taken up again.
	Tell []Action
}

// Decide sorts what differs. The plan was made from a reading that began at
// begun; its Kept are the settings that are as wanted.
func (k *Keeper) Decide(begun, now time.Time, p plan.Plan, around Around) Decision {
	d := Decision{Causes: map[knob.Ref]Action{}}
	k.report.Profile, k.report.Keeps = p.Profile, len(p.Kept)+len(p.Changes)
	for _, kept := range p.Kept {
		k.fine(begun, now, kept, around, &d)
	}
	for _, c := range p.Changes {
		k.differs(begun, now, c, around, &d)
	}
	k.forget(p)
	if len(k.caused) > 0 {
		k.further("follow-up", now.Add(followUp))
	}
	if k.concerned(p) {
		k.further("late follow-up", now.Add(lateFollowUp))
	}
	if around.Blind && k.contenders(p, around) {
		k.further("blind", now.Add(blindly))
	}
	return d
}

// concerned reports whether what led to this look may have undone a setting of
// the plan, or may do so yet.
func (k *Keeper) concerned(p plan.Plan) bool {
	devices := map[string]bool{"": true}
	refs := make([]knob.Ref, 0, len(p.Kept)+len(p.Changes))
	for _, kept := range p.Kept {
		refs = append(refs, kept.Ref)
	}
	for _, c := range p.Changes {
		refs = append(refs, c.Ref)
	}
	for _, ref := range refs {
		devices[ref.Dev] = true
	}
	for e := range k.caused {
		// Most events of a host with containers are of devices that nobody tunes.
		if devices[e.Dev] && slices.ContainsFunc(refs, func(ref knob.Ref) bool { return explains(e, ref) }) {
			return true
		}
	}
	return false
}

// fine is a setting as it should be.
func (k *Keeper) fine(begun, now time.Time, kept plan.Kept, around Around, d *Decision) {
	a := k.account(kept.Ref)
	if a.refusedByHost() {
		a.left = nil
	}
	a.right, a.since, a.counted, a.cause, a.refusals = begun, time.Time{}, false, "", 0
	a.stood, a.wanted = kept.Value, kept.Value
	k.takeUp(now, a, kept.Ref, kept.Value, around.Words[kept.Ref], d)
}

// takeUp keeps again what people had decided otherwise about, and then set.
func (k *Keeper) takeUp(now time.Time, a *account, ref knob.Ref, want string, word apply.Word, d *Decision) {
	if !a.yielded || !word.Covers(want) {
		return
	}
	a.left, a.yielded = nil, false
	d.Tell = append(d.Tell, Action{Kind: TookUp, At: now, Ref: ref, After: want, Reason: fmt.Sprintf("transaction %s set it again", word.ID)})
}

// refusedByHost tells a setting that was left because the host refused it.
func (a *account) refusedByHost() bool { return a.left != nil && !a.left.Contested && !a.yielded }

// tryAgain takes up what the host refused when something has happened since then
// that may have changed its mind. After the first refusal that is at once: it may
// have come amid somebody's change, of a queue that is there again. Later, each time
// that it did not the wait is longer: a driver that fails at a change takes its link
// down and up, too.
func (k *Keeper) tryAgain(now time.Time, a *account, c plan.Change, d *Decision) {
	first := a.left == nil && a.refusals < tooManyRefusals && a.retry.After(now)
	if !first && !a.refusedByHost() {
		return
	}
	cause, ok := k.cause(c.Ref, a.refused.Add(time.Nanosecond))
	if !ok {
		return
	}
	if first {
		a.retry = time.Time{}
		delete(k.timers, "refused "+c.Ref.String())
		return
	}
	a.left = nil
	if again := a.refusals - tooManyRefusals; again > 0 {
		a.retry = a.refused.Add(min(retryRefused<<min(again-1, 10), longestRefused))
		k.further("refused "+c.Ref.String(), a.retry)
	}
	d.Tell = append(d.Tell, Action{Kind: TookUp, At: now, Ref: c.Ref, Before: c.Before, After: c.After, Reason: "it was refused before this " + cause})
}

// differs is a setting that is not as it should be.
func (k *Keeper) differs(begun, now time.Time, c plan.Change, around Around, d *Decision) {
	a := k.account(c.Ref)
	if a.wanted != c.After {
		a.wanted, a.accepted = c.After, ""
	}
	if c.Before == a.accepted && a.accepted != "" {
		a.right, a.since, a.counted = begun, time.Time{}, false
		return
	}
	word := around.Words[c.Ref]
	k.takeUp(now, a, c.Ref, c.After, word, d)
	k.tryAgain(now, a, c, d)
	switch {
	case a.left != nil || a.retry.After(now):
		return
	case word.State == apply.Unconfirmed || word.State == apply.Applying:
		// Somebody is at it; what they decide is looked at afterwards.
		k.further("transaction", now.Add(waitLongest))
		return
	case k.decidedOtherwise(now, a, c, word, around.Loaded, d), !k.judged(now, a, c, around, d):
		return
	}
	if wait := a.spend(now); wait > 0 {
		k.further("held back "+c.Ref.String(), now.Add(wait))
		return
	}
	act := Action{Kind: Set, Ref: c.Ref, Before: c.Before, After: c.After, Cause: a.cause, By: a.by()}
	if word.Knows(c.After) {
		act.Kind = Restored
		d.Restore = append(d.Restore, c)
	} else {
		d.Set = append(d.Set, c)
	}
	d.Causes[c.Ref] = act
}

// decidedOtherwise leaves what people did with napitune itself.
func (k *Keeper) decidedOtherwise(now time.Time, a *account, c plan.Change, word apply.Word, loaded time.Time, d *Decision) bool {
	profile, reason := k.report.Profile, ""
	switch word.State {
	case apply.RolledBack:
		reason = fmt.Sprintf("transaction %s was rolled back", word.ID)
	case apply.Dirty, apply.Forgotten:
		reason = fmt.Sprintf("somebody began to roll transaction %s back", word.ID)
	case apply.Confirmed:
		// Another value for the same profile is that of another edition: of an
		// older one, or of one that was set after this one was read. It is none where
		// the guard itself asked for that value before, or found it as wanted: what a
		// profile leaves to the host changes with the host.
		switch {
		case word.Value == c.After || word.Wanted == c.After || word.Value != c.Before:
		case word.Profile != profile:
			reason = fmt.Sprintf("transaction %s set it", word.ID)
		case word.At.After(loaded) && !word.Own && !a.asItStood(c):
			reason = fmt.Sprintf("transaction %s set it for an edition of the profile that the guard has not read", word.ID)
		}
	}
	if reason == "" {
		return false
	}
	k.leave(now, a, c, Left{By: "napitune", Reason: reason}, d)
	a.yielded = true
	return true
}

// asItStood reports whether the host has what was right until the wish changed.
func (a *account) asItStood(c plan.Change) bool { return !a.right.IsZero() && c.Before == a.stood }

// judged finds out who changed a setting. False: it is too early to tell, or
// the setting is somebody else's from now on.
func (k *Keeper) judged(now time.Time, a *account, c plan.Change, around Around, d *Decision) bool {
	if a.right.IsZero() {
		if cause, ok := k.cause(c.Ref, now.Add(-slack)); ok {
			a.cause = cause
		}
		a.cause = cmp.Or(a.cause, "not as wanted when it was first looked at")
		return true
	}
	if a.counted {
		return true
	}
	from := a.right.Add(-slack)
	cause, explained := k.cause(c.Ref, from)
	seen := a.written.After(a.right)
	switch {
	case a.asItStood(c):
		a.counted, a.cause, a.writer, a.told = true, cmp.Or(cause, "another value is wanted by now"), "", false
		return true
	// Own writes are taken in before right is set, so that one that is seen after it
	// is somebody else's, whatever a driver may have done beside it.
	case seen, k.setByTool(c.Ref, a.right):
	case explained:
		a.counted, a.cause, a.writer, a.told = true, cause, "", false
		return true
	case a.since.IsZero():
		a.since = now
		k.further("explanation", now.Add(grace))
		return false
	case now.Sub(a.since) < grace:
		k.further("explanation", a.since.Add(grace))
		return false
	}
	a.counted = true
	return k.rewritten(now, a, c, around, seen, d)
}

// rewritten counts a rewrite by somebody else.
func (k *Keeper) rewritten(now time.Time, a *account, c plan.Change, around Around, seen bool, d *Decision) bool {
	by := a.writer
	if !seen {
		by, a.told = "", false
	}
	if by == "" {
		if by = suspect(c.Ref, around.Owners()); by != "" {
			by += " (it runs here and writes such settings)"
		}
	}
	a.writer = by
	a.cause = "written by " + cmp.Or(by, "somebody else")
	a.rewrites = slices.DeleteFunc(a.rewrites, func(at time.Time) bool { return now.Sub(at) > memory })
	a.rewrites = append(a.rewrites, now)
	if len(a.rewrites) < tooMany {
		return true
	}
	within := max(now.Sub(a.rewrites[0]).Round(time.Second), time.Second)
	reason := fmt.Sprintf("written %d times by somebody else within %s", len(a.rewrites), within)
	k.leave(now, a, c, Left{By: by, Reason: reason, Contested: true}, d)
	return false
}

func (k *Keeper) leave(now time.Time, a *account, c plan.Change, l Left, d *Decision) {
	l.Ref, l.Want, l.Present, l.At = c.Ref, c.After, c.Before, now
	a.left = &l
	d.Tell = append(d.Tell, Action{Kind: LeftIt, At: now, Ref: c.Ref, Before: c.Before, After: c.After, By: l.By, Reason: l.Reason})
}

func (a *account) by() string {
	if a.told {
		return a.writer
	}
	return ""
}

// cause is the latest event since a time that explains a change of a setting.
func (k *Keeper) cause(ref knob.Ref, from time.Time) (text string, ok bool) {
	var found host.Event
	var last time.Time
	for e, at := range k.causes {
		if at.Before(from) || !explains(e, ref) {
			continue
		}
		// Of equally late ones the same is named each time.
		if at.After(last) || at.Equal(last) && e.Kind < found.Kind {
			found, last = e, at
		}
	}
	if last.IsZero() {
		return "", false
	}
	return describe(found), true
}

// setByTool reports whether ethtool, or what speaks like it, wrote the setting.
func (k *Keeper) setByTool(ref knob.Ref, from time.Time) bool {
	for e, at := range k.causes {
		if at.After(from) && wrote(e, ref) {
			return true
		}
	}
	return false
}

// spend takes one of the restorations that a setting has, or says how long to
// wait for the next.
func (a *account) spend(now time.Time) (wait time.Duration) {
	if a.filled.IsZero() {
		a.tokens, a.filled = burst, now
	}
	if more := int(now.Sub(a.filled) / refill); more > 0 {
		a.tokens, a.filled = min(burst, a.tokens+more), a.filled.Add(time.Duration(more)*refill)
	}
	if a.tokens == 0 {
		return a.filled.Add(refill).Sub(now)
	}
	a.tokens--
	return 0
}

// Made takes in what became of one change, at a time after it.
func (k *Keeper) Made(now time.Time, act Action, out apply.Outcome) Action {
	a := k.account(act.Ref)
	act.At, act.After = now, out.Observed
	a.right, a.since, a.counted, a.refusals, a.stood = now, time.Time{}, false, 0, out.Observed
	if out.Verdict == apply.VerdictRounded {
		a.accepted = out.Observed
	}
	k.report.Restorations++
	k.report.Last = &act
	k.further("late follow-up", now.Add(lateFollowUp))
	k.further("follow-up", now.Add(followUp))
	return act
}

// Refuse takes in that the host did not take a value. It is tried once more, later
// or when something has happened, and then left.
func (k *Keeper) Refuse(now time.Time, c plan.Change, reason string) Action {
	a := k.account(c.Ref)
	a.refusals++
	a.refused = now
	act := Action{Kind: Refused, At: now, Ref: c.Ref, Before: c.Before, After: c.After, Reason: reason}
	if a.refusals < tooManyRefusals {
		a.retry = now.Add(retryRefused)
		k.further("refused "+c.Ref.String(), a.retry)
		return act
	}
	var d Decision
	k.leave(now, a, c, Left{Reason: "the host refuses it: " + reason}, &d)
	return d.Tell[0]
}

// Wait takes in that nothing can be done for now. News is whether to tell: a
// device that went while it was written is no news, what lasts is.
func (k *Keeper) Wait(now time.Time, reason string) (act Action, news bool) {
	k.wait = min(max(2*k.wait, waitFirst), waitLongest)
	k.further("waiting", now.Add(k.wait))
	if k.wait > waitFirst {
		news = k.report.Waiting != reason
		k.report.Waiting = reason
	}
	return Action{Kind: Waiting, At: now, Reason: reason}, news
}

// Works takes in that nothing keeps the guard from working.
func (k *Keeper) Works() {
	k.wait, k.report.Waiting = 0, ""
	delete(k.timers, "waiting")
}

// further arms a timer. One that is armed already is put off.
func (k *Keeper) further(name string, at time.Time) { k.timers[name] = at }

func (k *Keeper) account(ref knob.Ref) *account {
	a, ok := k.accounts[ref]
	if !ok {
		a = &account{}
		k.accounts[ref] = a
	}
	return a
}

// forget drops what is not wanted any more, so that devices that come and go
// leave nothing behind. One that comes back is new.
func (k *Keeper) forget(p plan.Plan) {
	wanted := make(map[knob.Ref]bool, len(p.Kept)+len(p.Changes))
	for _, kept := range p.Kept {
		wanted[kept.Ref] = true
	}
	for _, c := range p.Changes {
		wanted[c.Ref] = true
	}
	for _, b := range p.Deferred {
		wanted[b.Ref] = true
	}
	for ref, a := range k.accounts {
		if !wanted[ref] && (a.left == nil || !a.left.Contested) {
			delete(k.accounts, ref)
		}
	}
}

// contenders reports whether a program runs that may write what is kept.
func (k *Keeper) contenders(p plan.Plan, around Around) bool {
	all := around.Owners()
	return slices.ContainsFunc(p.Kept, func(kept plan.Kept) bool { return suspect(kept.Ref, all) != "" })
}

// holds are the settings of an owner that are kept, also against it: what is left
// to others is left to it, too.
func (k *Keeper) holds(p plan.Plan, o owner.Owner) []knob.Ref {
	var out []knob.Ref
	add := func(ref knob.Ref) {
		if _, claimed := o.Claim(ref); claimed && k.account(ref).left == nil {
			out = append(out, ref)
		}
	}
	for _, kept := range p.Kept {
		add(kept.Ref)
	}
	for _, c := range p.Changes {
		add(c.Ref)
	}
	return out
}

// Report is the state as it is now.
func (k *Keeper) Report() Report {
	out := k.report
	out.Left = []Left{}
	for _, a := range k.accounts {
		if a.left != nil {
			out.Left = append(out.Left, *a.left)
			out.Keeps--
		}
	}
	out.Keeps = max(out.Keeps, 0)
	slices.SortFunc(out.Left, func(x, y Left) int { return strings.Compare(x.Ref.String(), y.Ref.String()) })
	return out
}

func earliest(x, y time.Time) time.Time {
	if x.Before(y) {
		return x
	}
	return y
}

func latest(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// yields reports whether a setting is left to what people decided.
func (k *Keeper) yields() bool {
	for _, a := range k.accounts {
		if a.yielded {
			return true
		}
	}
	return false
}
