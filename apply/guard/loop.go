package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// maxRounds bounds how often one look reads the host: channels first, then what
// hangs on them, each with what the host refuses left out, and files that were
// not watched before.
const maxRounds = 8

// Loop keeps one host.
type Loop struct {
	// Events is what happens to the host.
	Events *host.Events
	// Plan says what differs from what is wanted: Kept names all settings that
	// are as wanted, Changes those that are not, each with its present value. An
	// error means that the host could not be read; it is asked again later.
	Plan func(ctx context.Context) (plan.Plan, knob.View, error)
	// Loaded is when the profile in force was read; nil means when the loop began.
	Loaded func() time.Time
	// Owners lists who else writes settings, to suspect of writes that nobody saw, and
	// to tell them what is kept; nil for nobody.
	Owners func() ([]owner.Owner, error)
	// Applier writes, and should have no Owners of its own.
	Applier *apply.Applier
	// Tell is told what was done, one thing at a time; nil discards.
	Tell func(Action)
	// Show is given the state after each look that changed it; nil discards.
	Show func(Report) error
	// Alive is called at least every AliveEvery while the loop works as it should, for
	// a watchdog; 0 is never.
	Alive      func()
	AliveEvery time.Duration
	// Ready is called once, after the first look.
	Ready func()
	// Reload brings word that the profile is another; nil never does.
	Reload <-chan struct{}
	// Rest is called before a wait, to give back memory; nil does nothing.
	Rest func()
	// Cost is the processor time of this process so far, by which looks are kept
	// apart in a storm; nil takes the time that passes.
	Cost func() time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	keeper  *Keeper
	blind   error           // why writes cannot be watched
	watched map[string]bool // files
	// recovered: nothing that was cut short stands in the way, as far as is known.
	recovered bool
	// toldOthers: those who can be told were, since an interrupt was moved. deaf is
	// why that could not be.
	toldOthers bool
	deaf       string
	shown      Report
}

// Run keeps the host until ctx ends, and leaves every setting as it is then. The
// error says why it could not go on.
func (l *Loop) Run(ctx context.Context) error {
	if l.Now == nil {
		l.Now = time.Now
	}
	l.keeper = NewKeeper(l.Now())
	defer l.end()
	alive := l.pulse()
	defer alive.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	ready := false
	for {
		next := l.arm(timer)
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			l.Alive()
		case <-l.Reload:
			l.keeper.Reload(l.Now())
			l.shown = Report{} // the file of the profile may be another
		case <-l.Events.Ready:
			if err := l.Events.Failed(); err != nil {
				return fmt.Errorf("events have ended: %w", err)
			}
			l.take()
		case <-next:
			l.look(ctx)
			if !ready && l.Ready != nil {
				l.Ready()
			}
			ready = true
			if l.Rest != nil && !l.soon() {
				l.Rest()
			}
		}
	}
}

// pulse is the beat of the watchdog.
func (l *Loop) pulse() *time.Ticker {
	if l.AliveEvery <= 0 || l.Alive == nil {
		t := time.NewTicker(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTicker(l.AliveEvery)
}

// longestWrite is how long one write may take and the guard still counts as alive:
// a driver waits a minute for firmware that does not answer (mlx5/core/lib/tout.c),
// and who is killed meanwhile leaves half a transaction. After two minutes the
// kernel itself calls a task hung (kernel/hung_task.c).
const longestWrite = 2 * time.Minute

// beat beats for the watchdog while something is written, at most so long after the
// last progress.
func (l *Loop) beat(longest time.Duration) (progress, stop func()) {
	if l.Alive == nil || l.AliveEvery <= 0 {
		return func() {}, func() {}
	}
	made, done := make(chan struct{}), make(chan struct{})
	go func() {
		tick := time.NewTicker(l.AliveEvery)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-done:
				return
			case <-made:
				last = time.Now()
			case <-tick.C:
				if time.Since(last) < longest {
					l.Alive()
				}
			}
		}
	}()
	return func() { made <- struct{}{} }, func() { close(done) }
}

func (l *Loop) alive() {
	if l.Alive != nil && l.AliveEvery > 0 {
		l.Alive()
	}
}

// arm sets the timer to the next look. Without one there is no timer.
func (l *Loop) arm(timer *time.Timer) <-chan time.Time {
	at, ok := l.keeper.Next()
	if !ok {
		timer.Stop()
		return nil
	}
	timer.Reset(at.Sub(l.Now()))
	return timer.C
}

// soon reports whether another look is near.
func (l *Loop) soon() bool {
	at, ok := l.keeper.Next()
	return ok && at.Sub(l.Now()) < followUp/2
}

func (l *Loop) take() { l.keeper.Take(l.Now(), l.Events.Take()) }

// end leaves word that nobody guards any more.
func (l *Loop) end() {
	r := l.keeper.Report()
	r.Ended = true
	if l.Show != nil {
		_ = l.Show(r)
	}
}

// look compares the host with what is wanted and brings back what may be.
func (l *Loop) look(ctx context.Context) {
	begun, spent := l.Now(), l.spent()
	since := l.keeper.Begin(begun)
	if since.IsZero() {
		since = begun
	}
	err := l.recover(ctx)
	for round := 0; err == nil && round < maxRounds; round++ {
		l.alive()
		var again bool
		if again, err = l.round(ctx, since); !again {
			break
		}
	}
	if err == nil {
		l.keeper.Works()
	} else {
		// It may be what a unit left that was killed meanwhile.
		l.recovered, l.toldOthers = false, false
		if act, news := l.keeper.Wait(l.Now(), err.Error()); news {
			l.tell(act)
		}
	}
	l.keeper.End(l.Now(), l.spent()-spent)
	l.show()
}

func (l *Loop) spent() time.Duration {
	if l.Cost == nil {
		return time.Duration(l.Now().UnixNano())
	}
	return l.Cost()
}

// recover deals with what an earlier guard, or a boot unit, left when it was killed.
func (l *Loop) recover(ctx context.Context) error {
	if l.recovered {
		return nil
	}
	_, stop := l.beat(longestWrite)
	defer stop()
	results, err := l.Applier.Recover(ctx)
	for _, r := range results {
		l.tell(Action{Kind: Failed, At: l.Now(), Reason: fmt.Sprintf("transaction %s was cut short and is undone", r.ID)})
	}
	l.recovered = err == nil
	return err
}

// round reads, decides and writes once. Again says that another round should
// follow.
func (l *Loop) round(ctx context.Context, since time.Time) (again bool, err error) {
	l.take()
	begun := l.Now()
	p, view, err := l.Plan(ctx)
	if err != nil {
		return false, fmt.Errorf("compare the host with the profile: %w", err)
	}
	fresh := l.watch(p, view)
	l.take()
	around, err := l.around(p)
	if err != nil {
		return false, err
	}
	d := l.keeper.Decide(begun, l.Now(), p, around)
	l.holdOff(p, view, around, &d)
	for _, act := range d.Tell {
		l.tell(act)
	}
	carry, changes := l.Applier.Restore, d.Restore
	if len(changes) == 0 {
		carry, changes = l.Applier.Apply, d.Set
	}
	if len(changes) == 0 {
		return fresh, nil
	}
	// What is left, and what writing has made possible or undone.
	again = fresh || len(p.Deferred) > 0 || len(changes) < max(len(p.Changes), len(d.Restore)+len(d.Set)) || slices.ContainsFunc(changes, clobbers)
	refused, err := l.write(ctx, carry, some(p, changes), d.Causes, since)
	return again || refused, err
}

// holdOff adds to a decision what keeps others off the interrupts that are kept: what
// they are told they hold in memory, and what is new they were not told. Asking takes
// longer than a restoration, so that it is done only after an interrupt was moved:
// whoever began anew moves one, and is told then.
func (l *Loop) holdOff(p plan.Plan, view knob.View, around Around, d *Decision) {
	moved := func(c plan.Change) bool {
		kind, ok := knob.Lookup(c.Ref.Kind)
		return ok && kind.Stage == knob.StageAffinity
	}
	if l.toldOthers && !slices.ContainsFunc(d.Restore, moved) && !slices.ContainsFunc(d.Set, moved) {
		return
	}
	l.toldOthers = true
	for _, o := range around.Owners() {
		held := l.keeper.holds(p, o)
		if o.Exceptions == "" || len(held) == 0 {
			continue
		}
		c, err := apply.Exception(view, o, held)
		if err != nil {
			l.unheard(fmt.Sprintf("%s writes %s as well, %s, and cannot be told to leave it: %v", o.Name, held[0], o.When, err))
			continue
		}
		if _, named := d.Causes[c.Ref]; named || c.Before == c.After {
			continue
		}
		act := Action{Kind: Set, Ref: c.Ref, Before: c.Before, After: c.After, Cause: c.Why}
		if around.Words[c.Ref].Knows(c.After) {
			act.Kind = Restored
			d.Restore = append(d.Restore, c)
		} else {
			// What is restored goes first, and alone.
			l.toldOthers = len(d.Restore) == 0
			d.Set = append(d.Set, c)
		}
		d.Causes[c.Ref] = act
	}
}

// unheard tells once why an owner could not be told.
func (l *Loop) unheard(reason string) {
	if l.deaf != reason {
		l.deaf = reason
		l.tell(Action{Kind: Failed, At: l.Now(), Reason: reason})
	}
}

// clobbers reports whether a change may undo other settings.
func clobbers(c plan.Change) bool {
	kind, ok := knob.Lookup(c.Ref.Kind)
	return !ok || slices.ContainsFunc(knob.All(), kind.MayChange)
}

// some is a plan of some of the changes.
func some(p plan.Plan, changes []plan.Change) plan.Plan {
	return plan.Plan{
		Fingerprint: p.Fingerprint, Origin: p.Origin, Profile: p.Profile, Changes: changes, Kept: []plan.Kept{},
		Blocked: []plan.Blocked{}, Deferred: []plan.Deferred{}, Conflicts: []plan.Conflict{}, Complete: true, Applyable: true,
	}
}

// watch has writes to the files of all wanted settings told. It reports
// whether there are new ones: what was written to them before is not known.
func (l *Loop) watch(p plan.Plan, view knob.View) (fresh bool) {
	files := map[string][]knob.Ref{}
	add := func(ref knob.Ref) {
		kind, ok := knob.Lookup(ref.Kind)
		if !ok {
			return
		}
		for _, name := range kind.Files(view, ref) {
			files[name] = append(files[name], ref)
		}
	}
	for _, kept := range p.Kept {
		add(kept.Ref)
	}
	for _, c := range p.Changes {
		add(c.Ref)
	}
	now := make(map[string]bool, len(files))
	names := make([]string, 0, len(files))
	for name := range files {
		now[name] = true
		names = append(names, name)
		fresh = fresh || !l.watched[name]
	}
	slices.Sort(names)
	l.watched = now
	l.keeper.Watch(files)
	was := l.blind
	if l.blind = l.Events.Watch(names); l.blind != nil && was == nil {
		l.tell(Action{Kind: Failed, At: l.Now(), Reason: fmt.Sprintf("some files cannot be watched; the host is looked at every %s while irqbalance or the like runs: %v", blindly, l.blind)})
	}
	return fresh
}

// around reads what is needed to decide. Journals are read only if something
// differs.
func (l *Loop) around(p plan.Plan) (Around, error) {
	out := Around{Blind: l.blind != nil, Owners: sync.OnceValue(l.owners), Loaded: l.keeper.report.Since}
	if l.Loaded != nil {
		out.Loaded = l.Loaded()
	}
	if len(p.Changes) == 0 && !out.Blind && l.toldOthers && !l.keeper.yields() {
		return out, nil
	}
	var err error
	if out.Words, err = l.Applier.Words(); err != nil {
		return out, fmt.Errorf("read the journals: %w", err)
	}
	return out, nil
}

// owners is asked for only where it is needed. Without it, only names are lost.
func (l *Loop) owners() []owner.Owner {
	if l.Owners == nil {
		return nil
	}
	all, _ := l.Owners()
	return all
}

// write carries out a plan and accounts for what became of it, and reports
// whether the host refused any of it. The end of ctx
// does not cut it short: what has begun is finished, or undone, in moments.
func (l *Loop) write(ctx context.Context, carry carrier, p plan.Plan, causes map[knob.Ref]Action, since time.Time) (refused bool, err error) {
	progress, stop := l.beat(longestWrite)
	defer stop()
	result, err := carry(context.WithoutCancel(ctx), p, apply.Options{
		LeaveOut: func(ref knob.Ref, err error) {
			if at := indexOf(p, ref); at >= 0 {
				l.tell(l.keeper.Refuse(l.Now(), p.Changes[at], err.Error()))
			}
			refused = true
		},
		MaxDisruption: knob.DisruptsLink, Progress: func(apply.Outcome) { progress() },
		// Whether others really write is seen, and not only feared.
		Owners: map[string]apply.Choice{"": apply.Take},
	})
	l.take()
	now := l.Now()
	if err == nil {
		for _, out := range result.Changes {
			if out.Verdict == apply.VerdictRefused {
				continue // told already
			}
			act := l.keeper.Made(now, causes[out.Ref], out)
			act.Took = now.Sub(since)
			l.tell(act)
		}
		return refused, nil
	}
	return true, l.refused(now, p, result, err)
}

type carrier func(context.Context, plan.Plan, apply.Options) (apply.Result, error)

// refused finds out which settings the host did not take. They are left out of
// the next round; the others were undone with them and are tried again.
func (l *Loop) refused(now time.Time, p plan.Plan, result apply.Result, err error) error {
	var refused *apply.Refused
	switch {
	case errors.As(err, &refused):
		found := false
		for _, r := range refused.Refusals {
			for _, ref := range r.Refs {
				if at := indexOf(p, ref); at >= 0 && !r.Stale {
					l.tell(l.keeper.Refuse(now, p.Changes[at], r.Reason))
					found = true
				}
			}
		}
		if found {
			return nil
		}
	case result.State == apply.RolledBack && len(result.Changes) > 0 && !errors.Is(err, apply.ErrDrift):
		out := result.Changes[len(result.Changes)-1]
		if at := indexOf(p, out.Ref); at >= 0 {
			l.tell(l.keeper.Refuse(now, p.Changes[at], err.Error()))
			return nil
		}
	}
	return err
}

func indexOf(p plan.Plan, ref knob.Ref) int {
	return slices.IndexFunc(p.Changes, func(c plan.Change) bool { return c.Ref == ref })
}

func (l *Loop) tell(a Action) {
	if l.Tell != nil {
		l.Tell(a)
	}
}

// show gives the state away if it is another.
func (l *Loop) show() {
	r := l.keeper.Report()
	same := l.shown.Restorations == r.Restorations && l.shown.Keeps == r.Keeps && l.shown.Waiting == r.Waiting &&
		l.shown.Profile == r.Profile && slices.Equal(l.shown.Left, r.Left)
	if l.Show == nil || same && l.shown.Looks > 0 {
		return
	}
	if err := l.Show(r); err != nil {
		l.tell(Action{Kind: Failed, At: l.Now(), Reason: fmt.Sprintf("the state cannot be shown: %v", err)})
	}
	l.shown = r
}
