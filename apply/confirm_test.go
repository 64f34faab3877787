package apply

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/napitune/napitune/rules/plan"
)

// The deadline counts from the first record and is for all of an apply:
// measuring, a question that nobody answers, planning again. What listens to its
// context ends at once, and the host is as it was for everybody who waits.
func TestDeadlineBoundsTheApply(t *testing.T) {
	t.Parallel()
	answerless := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for name, test := range map[string]struct {
		verify func(context.Context) error
		replan func(context.Context) (plan.Plan, error)
		takes  time.Duration
	}{
		"a question": {verify: answerless, takes: time.Minute},
		"a verify that does not listen": {
			verify: func(context.Context) error { time.Sleep(90 * time.Second); return nil },
			takes:  90 * time.Second,
		},
		"a later round": {
			replan: func(ctx context.Context) (plan.Plan, error) { return plan.Plan{}, answerless(ctx) },
			takes:  time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, small)
				before := r.m.Dump()
				p := smallPlan(r)
				p.Complete = test.replan == nil
				o := anything
				o.ConfirmWithin, o.Verify, o.Replan = time.Minute, test.verify, test.replan
				timer := make(chan Result, 1)
				o.Arm = func(id string, within time.Duration) error {
					time.AfterFunc(within, func() {
						result, err := r.process(nil).RollbackUnconfirmed(background, id)
						if err != nil {
							t.Error(err)
						}
						timer <- result
					})
					return nil
				}
				// Whoever never ends is not waited for.
				ctx, stop := context.WithTimeout(background, time.Hour)
				defer stop()
				start := time.Now()
				result, err := r.process(nil).Apply(ctx, p, o)
				if !errors.Is(err, ErrUnconfirmed) || result.State != RolledBack || result.ExitCode() != ExitRolledBack || r.m.Dump() != before {
					t.Errorf("%s, %v", result.State, err)
				}
				if took := time.Since(start); took != test.takes {
					t.Errorf("rolled back after %s, want %s", took, test.takes)
				}
				if other := <-timer; other.State != RolledBack {
					t.Errorf("the timer found it %s", other.State)
				}
			})
		})
	}
}

// Another process rolls back while this one waits: its end is waited for, and
// whichever comes first, the host is as it was and the reason is told.
func TestRolledBackElsewhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begins time.Duration // the other's rollback, after the first record
		spoil  bool          // by then somebody else has changed a setting
		state  State
		late   bool
		text   string
	}{
		"long before the deadline":  {begins: 30 * time.Second, state: RolledBack, text: "rolled back by another process"},
		"across the deadline":       {begins: time.Minute - time.Second, state: RolledBack, late: true},
		"at the deadline":           {begins: time.Minute, state: RolledBack, late: true},
		"cannot restore everything": {begins: 30 * time.Second, spoil: true, state: Dirty, text: "could not restore everything"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, small)
				before := r.m.Dump()
				process := func() *Applier {
					a := r.process(nil)
					a.Now = time.Now
					return a
				}
				o := anything
				o.ConfirmWithin = time.Minute
				applied, err := process().Apply(background, smallPlan(r), o)
				if err != nil {
					t.Fatal(err)
				}
				if test.spoil {
					r.write("net.core.netdev_budget", "777")
				}
				r.gate = func(_ string, do func() error) error { time.Sleep(300 * time.Millisecond); return do() }
				other := make(chan error, 1)
				time.AfterFunc(test.begins, func() {
					_, err := process().Rollback(background, applied.ID)
					if errors.Is(err, ErrLocked) {
						err = nil // this process came first
					}
					other <- err
				})
				got, err := process().ConfirmBy(background, applied.ID, applied.Deadline)
				if got.State != test.state || err == nil || errors.Is(err, ErrUnconfirmed) != test.late || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s, %v; want %s, late: %v, %q", got.State, err, test.state, test.late, test.text)
				}
				if err := <-other; err != nil {
					t.Error(err)
				}
				if !test.spoil && r.m.Dump() != before {
					t.Error("the host is not as it was")
				}
			})
		})
	}
}

// What is told as the deadline is the deadline, however long the apply took.
func TestDeadlineIsOfTheFirstRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, small)
		a := r.process(nil)
		a.Now = time.Now
		o := anything
		o.ConfirmWithin = time.Minute
		o.Verify = func(context.Context) error { time.Sleep(20 * time.Second); return nil }
		start := time.Now()
		applied, err := a.Apply(background, smallPlan(r), o)
		if err != nil || !applied.Deadline.Equal(start.Add(time.Minute)) {
			t.Fatalf("%v, deadline %s after the start", err, applied.Deadline.Sub(start))
		}
		if result, err := a.ConfirmBy(background, applied.ID, applied.Deadline); !errors.Is(err, ErrUnconfirmed) || result.State != RolledBack {
			t.Errorf("%s, %v", result.State, err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("rolled back %s after the start, and told was a minute", took)
		}
	})
}

// setBack is a reading of a clock whose time of day was set back since; the
// monotonic part of it was not (package time: whole seconds begin at bit 30).
func setBack(t time.Time, by time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) -= uint64(by/time.Second) << 30
	return t
}

// A clock that is set back while somebody waits does not move the deadline.
func TestDeadlineAndTheClockSetBack(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"for a confirmation": true, "for the end of the apply": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small)
			before := r.m.Dump()
			var set atomic.Bool
			a := r.process(nil)
			a.Now = func() time.Time {
				if set.Load() {
					return setBack(time.Now(), time.Hour)
				}
				return time.Now()
			}
			ctx, stop := context.WithTimeout(background, time.Minute)
			defer stop()
			o := anything
			o.ConfirmWithin = 3 * time.Second
			if !waits {
				o.Arm = func(string, time.Duration) error { set.Store(true); return nil }
				o.Verify = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
			}
			result, err := a.Apply(ctx, smallPlan(r), o)
			if waits {
				if err != nil {
					t.Fatal(err)
				}
				if text := string(r.disk.files[r.disk.journals(journalSuffix)[0]]); !strings.Contains(text, `"deadline":"`+result.Deadline.UTC().Format(time.RFC3339Nano)) {
					t.Errorf("the journal has another deadline, or not in UTC:\n%s", text)
				}
				set.Store(true)
				result, err = a.ConfirmBy(ctx, result.ID, result.Deadline)
			}
			if !errors.Is(err, ErrUnconfirmed) || result.State != RolledBack || ctx.Err() != nil || r.m.Dump() != before {
				t.Errorf("%s, %v, %v", result.State, err, ctx.Err())
			}
		})
	}
}

// Without an ID the last transaction is meant, and not one before it that stands.
func TestConfirmMeansTheLast(t *testing.T) {
	t.Parallel()
	unconfirmed := anything
	unconfirmed.ConfirmWithin = time.Minute
	for what, away := range map[string]func(*Applier, string) (Result, error){
		"rolled back": func(a *Applier, id string) (Result, error) { return a.RollbackUnconfirmed(background, id) },
		"forgotten":   (*Applier).Forget,
	} {
		r := newRig(t, small)
		a := r.process(nil)
		if _, err := a.Confirm(""); !errors.Is(err, ErrNoTransaction) {
			t.Errorf("%s: nothing was applied: %v", what, err)
		}
		first, err := a.Apply(background, r.plan("net.core.netdev_budget", "600"), anything)
		if err != nil {
			t.Fatal(err)
		}
		second, err := a.Apply(background, r.plan("net.core.dev_weight", "32"), unconfirmed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := away(a, second.ID); err != nil {
			t.Fatal(err)
		}
		got, err := a.Confirm("")
		if err == nil || err.Error() != "confirm: "+second.ID+" was "+what+"; nothing to confirm" {
			t.Errorf("%s: confirmed %s: %v", what, got.ID, err)
		}
		if got, err := a.Confirm(first.ID); err != nil || got.State != Confirmed {
			t.Errorf("%s: the one before, by name: %s, %v", what, got.State, err)
		}
	}
}
