package apply

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

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
