package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

func changesChannels(p plan.Plan) bool {
	for _, c := range p.Changes {
		if strings.HasPrefix(c.Ref.Kind, "channels.") {
			return true
		}
	}
	return false
}

// renumbers: drivers other than virtio_net make new vectors for new queues.
func renumbers(spec hosttest.Spec, p plan.Plan) bool {
	return spec.Driver != "" && changesChannels(p)
}

func seeds(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Identity: applied and rolled back, the machine is as before.
func TestIdentity(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		applied := 0
		for range 12 {
			r := newRig(t, spec)
			p := r.randomPlan(rng, 1+rng.IntN(6), every)
			if len(p.Changes) == 0 {
				continue
			}
			before := r.dump(renumbers(spec, p))
			result, err := r.process(nil).Apply(context.Background(), p, anything)
			switch {
			case err == nil:
				applied++
				if result.State != Confirmed || result.ExitCode() != ExitDone {
					t.Errorf("applied: state %s", result.State)
				}
				if back, err := r.process(nil).Rollback(context.Background(), ""); err != nil || back.State != RolledBack {
					t.Errorf("rollback: %s, %v", back.State, err)
				}
			case result.State != RolledBack:
				t.Errorf("apply: %v; state %s", err, result.State)
			}
			if diff := cmp.Diff(before, r.dump(renumbers(spec, p))); diff != "" {
				t.Fatalf("plan %s\n(-before +after):\n%s\napply: %v", describePlan(p), diff, err)
			}
			if open := r.disk.journals(journalSuffix); len(open) > 0 {
				t.Errorf("journals left: %v", open)
			}
		}
		if applied == 0 {
			t.Error("no plan was applied: nothing was tested")
		}
	})
}

// some keeps at most n changes, at random.
func some(rng *rand.Rand, changes []plan.Change, n int) []plan.Change {
	rng.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
	return changes[:min(n, len(changes))]
}

func describePlan(p plan.Plan) string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, fmt.Sprintf("%s %q→%q", c.Ref, c.Before, c.After))
	}
	return strings.Join(out, ", ")
}

// Crash anywhere: killed before or after every journal record and every write,
// or in the middle of a record, a rollback restores the machine, and the
// unfinished journal is reported until then.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		kills := 0
		for range 2 {
			var p plan.Plan
			fresh := func() *rig { return newRig(t, spec) }
			r := fresh()
			for len(p.Changes) == 0 {
				p = r.randomPlan(rng, 3+rng.IntN(6), every)
			}
			p.Changes = some(rng, p.Changes, 7)
			before := r.dump(renumbers(spec, p))
			whole := &fuse{torn: -1}
			_, _ = r.process(whole).Apply(context.Background(), p, anything)
			for at := 1; at <= whole.steps; at++ {
				for _, after := range []bool{false, true} {
					kills++
					r := fresh()
					f := &fuse{at: at, after: after, torn: -1}
					_, _ = r.process(f).Apply(context.Background(), p, anything)
					recoverAll(t, r, before, renumbers(spec, p), func() string {
						return fmt.Sprintf("killed at step %d (after: %v): %s\nplan %s", at, after, whole.log[at-1], describePlan(p))
					})
				}
			}
		}
		if kills < 30 {
			t.Errorf("%d kills: nothing was tested", kills)
		}
		t.Logf("%d kills", kills)
	})
}

// recoverAll rolls back what a dead process left.
func recoverAll(t *testing.T, r *rig, before string, renumbered bool, what func() string) {
	t.Helper()
	a := r.process(nil)
	open, err := a.Unfinished()
	if err != nil {
		t.Fatalf("%s\nstatus: %v", what(), err)
	}
	if r.dump(renumbered) != before && len(open) == 0 && !confirmed(t, a) {
		t.Fatalf("%s\nthe machine is changed and no journal says so", what())
	}
	result, err := a.Rollback(context.Background(), "")
	if err != nil && !errors.Is(err, ErrNoTransaction) || err == nil && result.State != RolledBack {
		t.Fatalf("%s\nrollback: %s, %v\n%+v", what(), result.State, err, result.Restored)
	}
	if diff := cmp.Diff(before, r.dump(renumbered)); diff != "" {
		t.Fatalf("%s\n(-before +after):\n%s", what(), diff)
	}
	if open, err := a.Unfinished(); err != nil || len(open) > 0 {
		t.Fatalf("%s\nstill unfinished: %v, %v", what(), open, err)
	}
	if _, err := a.Rollback(context.Background(), ""); !errors.Is(err, ErrNoTransaction) {
		t.Fatalf("%s\na second rollback: %v", what(), err)
	}
}

func confirmed(t *testing.T, a *Applier) bool {
	t.Helper()
	all, err := a.Status()
	return err == nil && len(all) == 1 && all[0].State == Confirmed
}

// A rollback may be killed anywhere as well; the next one finishes.
func TestCrashInRollback(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		fresh := func() *rig { return newRig(t, spec) }
		r := fresh()
		var p plan.Plan
		var log []string
		before := ""
		for range 50 { // until a plan is taken
			r = fresh()
			p = r.randomPlan(rng, 6, every)
			p.Changes = some(rng, p.Changes, 10)
			before = r.dump(renumbers(spec, p))
			if _, err := r.process(nil).Apply(context.Background(), p, anything); err == nil {
				break
			}
		}
		whole := &fuse{torn: -1}
		if _, err := r.process(whole).Rollback(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		log = whole.log
		for at := 1; at <= whole.steps; at++ {
			for _, after := range []bool{false, true} {
				r := fresh()
				if _, err := r.process(nil).Apply(context.Background(), p, anything); err != nil {
					t.Fatal(err)
				}
				_, _ = r.process(&fuse{at: at, after: after, torn: -1}).Rollback(context.Background(), "")
				what := func() string {
					return fmt.Sprintf("rollback killed at step %d of %d (after: %v): %s\nplan %s", at, whole.steps, after, log[at-1], describePlan(p))
				}
				recoverAll(t, r, before, renumbers(spec, p), what)
			}
		}
	})
}

// smallPlan has one change of several stages.
func smallPlan(r *rig) plan.Plan {
	return r.plan("eth0/channels.combined", "4", "net.core.netdev_budget", "600", "eth0/gro_flush_timeout", "20000",
		"eth0/rx-0/rps.cpus", "1-2", "eth0/rx-1/rps.flow_cnt", "1024", "eth0/rx-0/irq.affinity", "3")
}

var small = hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4}

// A record cut at every byte: the journal reads as if it ended before it.
func TestTornRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	p := smallPlan(r)
	before := r.dump(false)
	whole := &fuse{torn: -1}
	if _, err := r.process(whole).Apply(context.Background(), p, anything); err != nil {
		t.Fatal(err)
	}
	cuts := 0
	for at, step := range whole.log {
		record, ok := strings.CutPrefix(step, "append ")
		if !ok || strings.Contains(record, `"event":`) {
			continue
		}
		// Every byte of the ends, where the forms differ, and some between.
		for n := 0; n <= len(record); n++ {
			// The bytes between them go through the parser alone, below.
			if n > 12 && n < len(record)-2 && n%211 != 0 {
				continue
			}
			cuts++
			r := newRig(t, small)
			_, _ = r.process(&fuse{at: at + 1, torn: n}).Apply(context.Background(), p, anything)
			recoverAll(t, r, before, false, func() string { return fmt.Sprintf("cut after %d bytes of %s", n, record) })
		}
	}
	t.Logf("%d cuts", cuts)
	var text []byte
	for _, name := range r.disk.journals(journalSuffix) {
		text = r.disk.files[name]
	}
	all, _, err := parseJournal(text)
	if err != nil || len(all) != 3+2*len(p.Changes) {
		t.Fatalf("%d records, %v", len(all), err)
	}
	resumed, err := encodeRecord(record{Type: recordRollback, Torn: true})
	if err != nil {
		t.Fatal(err)
	}
	for n := range text {
		// What is written after a cut is read, and the cut is no damage.
		if n > 0 && text[n-1] != '\n' {
			got, torn, err := parseJournal(slices.Concat(text[:n], []byte("\n0123"), []byte("\n"), resumed))
			if len(got) != bytes.Count(text[:n], []byte("\n"))+1 || torn || err != nil {
				// A record whose line end alone is missing is whole again.
				if text[n] != '\n' {
					t.Fatalf("resumed after %d bytes: %d records, torn %v, %v", n, len(got), torn, err)
				}
			}
		}
		got, torn, err := parseJournal(text[:n])
		whole := bytes.Count(text[:n], []byte("\n"))
		if err != nil || len(got) != whole || torn == (n == 0 || text[n-1] == '\n') {
			t.Fatalf("cut at %d: %d records of %d, torn %v, %v", n, len(got), whole, torn, err)
		}
	}
}

// Full disk: at every journal write, the write after it is not made, and what
// was made before is undone.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	p := smallPlan(newRig(t, small))
	for full := 1; full <= 1+2*len(p.Changes)+2+1; full++ {
		for _, part := range []int{0, 1, 50, 10_000} {
			r := newRig(t, small)
			before := r.dump(false)
			writes := 0
			r.gate = func(_ string, do func() error) error { writes++; return do() }
			r.disk.full, r.disk.fullAfter = full, part
			result, err := r.process(nil).Apply(context.Background(), p, anything)
			if full <= 2 && writes > 0 {
				t.Errorf("disk full at record %d: %d writes to the kernel", full, writes)
			}
			if full >= 1+2*len(p.Changes)+2+1 { // begin, changes, applied, confirmed: only the history is lost
				if err != nil || len(result.Warnings) == 0 {
					t.Errorf("disk full at record %d: %v, warnings %v", full, err, result.Warnings)
				}
				continue
			}
			if !errors.Is(err, errNoSpace) {
				t.Errorf("disk full at record %d: %v", full, err)
			}
			if diff := cmp.Diff(before, r.dump(false)); diff != "" {
				t.Errorf("disk full at record %d (-before +after):\n%s", full, diff)
			}
			r.disk.full = 0
			recoverAll(t, r, before, false, func() string { return fmt.Sprintf("disk full at record %d after %d bytes", full, part) })
		}
	}
}

// namesQueue reports whether an RSS table names a queue from this one on.
func namesQueue(t *testing.T, table string, from int) bool {
	t.Helper()
	slots, err := knob.ParseTable(table)
	if err != nil {
		t.Fatal(err)
	}
	return len(slots) > 0 && int(slices.Max(slots)) >= from
}

// Foreign writes survive: what somebody else changed between apply and rollback
// stays, all else is restored, and the result names it.
func TestForeignWriteSurvives(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		tested := 0
		for range 12 {
			r := newRig(t, spec)
			p := r.randomPlan(rng, 5, every)
			queues := map[string]int{}
			for _, d := range r.m.View().Devices {
				queues[d.Name] = d.RxQueues
			}
			original := map[knob.Ref]string{}
			for _, c := range p.Changes {
				original[c.Ref] = c.Before
			}
			applied, err := r.process(nil).Apply(context.Background(), p, anything)
			if err != nil {
				continue
			}
			victim := p.Changes[rng.IntN(len(p.Changes))]
			kind, _ := knob.Lookup(victim.Ref.Kind)
			// A value that the transaction has seen there is nobody's in particular.
			seen := func(value string) bool {
				return slices.ContainsFunc(applied.Changes, func(o Outcome) bool { return o.Ref == victim.Ref && o.Before == value })
			}
			switch {
			case kind.Stage == knob.StageFeatures || kind.Stage == knob.StageChannels:
				continue // who changes one changes others with it
			}
			wrote, value, ok := candidate(rng, r.m.View(), kind, victim.Ref)
			if !ok || value == victim.Before {
				continue
			}
			if kind.Name == tableKind && namesQueue(t, value, queues[victim.Ref.Dev]) {
				continue // it names queues that go, and goes with them
			}
			if err := kind.Write(r.m.View(), r.m.Writer(), victim.Ref, value); err != nil {
				continue
			}
			foreign := kind.Read(r.m.View(), victim.Ref).Value
			if foreign == victim.Before || foreign == wrote || seen(foreign) {
				continue
			}
			result, err := r.process(nil).Rollback(context.Background(), "")
			if result.State == RolledBack && !slices.Contains(kind.Refs(r.m.View()), victim.Ref) {
				continue // its queue went with the change that had made it
			}
			tested++
			if err != nil || result.State != Dirty || result.RollbackExitCode() != ExitDirty {
				t.Fatalf("rollback: %s, %v; foreign: %s %q, was %q, plan %s", result.State, err, victim.Ref, foreign, victim.Before, describePlan(p))
			}
			at := address(r.m.View(), victim.Ref)
			for _, one := range result.Restored {
				if (address(r.m.View(), one.Ref) == at) != (one.Fate == FateForeign) {
					t.Errorf("%s is %s, the foreign one is %s", one.Ref, one.Fate, victim.Ref)
				}
			}
			for ref, want := range original {
				if address(r.m.View(), ref) == at {
					want = foreign
				}
				if got := r.read(ref.String()); got != want {
					t.Errorf("%s is %q, want %q (foreign: %s)", ref, got, want, victim.Ref)
				}
			}
			open, err := r.process(nil).Unfinished()
			if err != nil || len(open) != 1 || open[0].State != Dirty {
				t.Errorf("unfinished: %v, %v", open, err)
			}
			// Taken back by its owner, the rest is nothing to do.
			if err := kind.Write(r.m.View(), r.m.Writer(), victim.Ref, victim.Before); err != nil {
				t.Fatal(err)
			}
			if result, err := r.process(nil).Rollback(context.Background(), ""); err != nil || result.State != RolledBack {
				t.Errorf("rollback after the owner took it back: %s, %v", result.State, err)
			}
		}
		if tested == 0 {
			t.Error("nothing was tested")
		}
	})
}

// Faults: an error at each write, before it or after it has happened, leaves the
// machine as it was.
func TestFaultAtEachWrite(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		var p plan.Plan
		writes := 0
		for range 50 {
			r := newRig(t, spec)
			p, writes = r.randomPlan(rng, 8, every), 0
			r.gate = func(_ string, do func() error) error { writes++; return do() }
			if _, err := r.process(nil).Apply(context.Background(), p, anything); err == nil {
				break
			}
		}
		for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EIO, syscall.EINVAL, syscall.ENOSPC, syscall.EBUSY, syscall.ENODEV} {
			for at := 1; at <= writes; at++ {
				for _, happens := range []bool{false, true} {
					r := newRig(t, spec)
					before := r.dump(renumbers(spec, p))
					n := 0
					r.gate = func(what string, do func() error) error {
						if n++; n != at {
							return do()
						}
						if happens {
							if err := do(); err != nil {
								return err
							}
						}
						return fmt.Errorf("%s: %w", what, errno)
					}
					result, err := r.process(nil).Apply(context.Background(), p, anything)
					if !errors.Is(err, errno) || result.State != RolledBack || result.ExitCode() != ExitRolledBack {
						t.Fatalf("%v at write %d: %s, %v", errno, at, result.State, err)
					}
					if diff := cmp.Diff(before, r.dump(renumbers(spec, p))); diff != "" {
						t.Fatalf("%v at write %d, happened %v (-before +after):\n%s\nplan %s", errno, at, happens, diff, describePlan(p))
					}
				}
			}
		}
	})
}

// A fault that stays, from one write on, also hits the rollback: it goes on to
// the end, says what it could not restore, and finishes when the fault is gone.
func TestFaultThatStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	p := smallPlan(r)
	before := r.dump(false)
	for at := 2; at <= len(p.Changes); at++ {
		r := newRig(t, small)
		n, broken := 0, true
		r.gate = func(what string, do func() error) error {
			if n++; broken && n >= at {
				return fmt.Errorf("%s: %w", what, syscall.EIO)
			}
			return do()
		}
		result, err := r.process(nil).Apply(context.Background(), p, anything)
		if !errors.Is(err, syscall.EIO) || result.State != Dirty || result.ExitCode() != ExitDirty {
			t.Fatalf("at write %d: %s, %v", at, result.State, err)
		}
		if _, err := r.process(nil).Preflight(p, anything); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), result.ID) {
			t.Errorf("at write %d: the next apply: %v", at, err)
		}
		broken = false
		recoverAll(t, r, before, false, func() string { return fmt.Sprintf("EIO from write %d on", at) })
	}
}

// Random walk: from plan to plan without rolling back, then back through all.
func TestRandomWalk(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		r := newRig(t, spec)
		before := r.dump(spec.Driver != "")
		done := 0
		for range 12 {
			p := r.randomPlan(rng, 2+rng.IntN(8), every)
			if len(p.Changes) == 0 {
				continue
			}
			at := r.dump(spec.Driver != "")
			result, err := r.process(nil).Apply(context.Background(), p, anything)
			if err == nil {
				done++
				continue
			}
			if result.State != RolledBack {
				t.Fatalf("plan %s: %s, %v", describePlan(p), result.State, err)
			}
			if diff := cmp.Diff(at, r.dump(spec.Driver != "")); diff != "" {
				t.Fatalf("plan %s was undone (-before +after):\n%s", describePlan(p), diff)
			}
		}
		for range done {
			if result, err := r.process(nil).Rollback(context.Background(), ""); err != nil || result.State != RolledBack {
				t.Fatalf("%s, %v: %+v", result.State, err, result.Restored)
			}
		}
		if diff := cmp.Diff(before, r.dump(spec.Driver != "")); diff != "" {
			t.Errorf("after %d plans and their rollbacks (-before +after):\n%s", done, diff)
		}
	})
}
