package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/deadline"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/rules/plan"
)

// What the timer runs outlasts a process that was stopped with the lock in its
// hand, tells of it, and does not wait for ever.
func TestInsist(t *testing.T) {
	t.Parallel()
	const patience = 2 * time.Minute // of one try
	locked := fmt.Errorf("roll back: %w: napitune, process 4711", apply.ErrLocked)
	other := errors.New("no space left on device")
	for name, test := range map[string]struct {
		held  time.Duration // by the other process
		then  error
		ended time.Duration // when this one is asked to end
		takes time.Duration
		want  error
		lines int
	}{
		"free at once":     {0, nil, 0, 0, nil, 0},
		"stopped an hour":  {time.Hour, nil, 0, time.Hour, nil, 5},
		"another error":    {3 * time.Minute, other, 0, 4 * time.Minute, other, 2},
		"never let go":     {48 * time.Hour, nil, 0, deadline.Patience, apply.ErrLocked, 10},
		"the machine ends": {48 * time.Hour, nil, 3 * time.Minute, 4 * time.Minute, apply.ErrLocked, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(context.Background())
				defer stop()
				if test.ended > 0 {
					time.AfterFunc(test.ended, stop)
				}
				start := time.Now()
				var told strings.Builder
				_, err := insist(ctx, &told, func() (apply.Result, error) {
					if time.Since(start) >= test.held {
						return apply.Result{}, test.then
					}
					time.Sleep(patience)
					return apply.Result{}, locked
				})
				if took := time.Since(start); took != test.takes || !errors.Is(err, test.want) {
					t.Errorf("ended after %s with %v, want %s and %v", took, err, test.takes, test.want)
				}
				if strings.Count(told.String(), "process 4711") != test.lines || strings.Count(told.String(), "\n") != test.lines {
					t.Errorf("want %d lines:\n%s", test.lines, &told)
				}
			})
		})
	}
}

// A plan that is carried out in rounds measures between them, and the deadline
// runs meanwhile.
func TestRoundsCountAgainstTheDeadline(t *testing.T) {
	t.Parallel()
	again := func(context.Context) (plan.Plan, error) { return plan.Plan{}, nil }
	rounds := proposal{advice: &report.Advice{}, again: again}
	whole := proposal{advice: &report.Advice{}, again: again, plan: plan.Plan{Complete: true}}
	for name, test := range map[string]struct {
		p       proposal
		confirm time.Duration
		window  time.Duration // of --measure
		least   string        // "": there is time
	}{
		"no deadline":           {rounds, 0, 10 * time.Second, ""},
		"one round":             {whole, time.Second, 0, ""},
		"from a file":           {proposal{}, time.Second, 0, ""},
		"time enough":           {rounds, 30 * time.Second, 0, ""},
		"too short":             {rounds, 29 * time.Second, 0, "at least 30s"},
		"measured, time enough": {rounds, 50 * time.Second, 10 * time.Second, ""},
		"measured, too short":   {rounds, 49 * time.Second, 10 * time.Second, "at least 50s"},
	} {
		err := inTime(apply.Options{ConfirmWithin: test.confirm}, test.window, test.p, options{window: 10 * time.Second})
		if (err == nil) != (test.least == "") || err != nil && !strings.Contains(err.Error(), test.least) {
			t.Errorf("%s: %v, want %q", name, err, test.least)
		}
	}
}
