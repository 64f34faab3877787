package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	measuring "github.com/napitune/napitune/apply/measure"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

const (
	// defaultMeasure is a second for each sub-window, so that a share of CPU
	// time is told to the hundredth (USER_HZ).
	defaultMeasure = 10 * time.Second
	// minMeasure leaves ten ticks to a sub-window; maxMeasure is longer than
	// anybody waits with a change half accepted.
	minMeasure, maxMeasure = time.Second, 10 * time.Minute
	// settleLimit is how long a change may take to have its effect: a link
	// trains within some seconds, a queue under load runs dry in less.
	settleLimit = 10 * time.Second
	// settleStep is how often it is looked whether it has; connections find
	// their new pace meanwhile, which takes TCP some round trips.
	settleStep = 500 * time.Millisecond
	// answerTime is what --confirm-within must leave after measuring.
	answerTime = 10 * time.Second
)

// Why a change is rolled back that was measured.
var (
	errWorse   = errors.New("measured worse")
	errUnclear = errors.New("measured and cannot tell (--unclear rollback)")
)

func measureFlag() cli.Flag {
	return &cli.StringFlag{Name: "measure", DefaultText: "10s where somebody is asked, else off",
		Usage: "measure for `TIME` before and after the changes (1s to 10m), and roll back what made it worse; off applies without measuring"}
}

// What may be done about a verdict of measure.Unclear.
const (
	unclearAsk      = "" // where somebody can be asked; keep elsewhere
	unclearKeep     = "keep"
	unclearRollback = "rollback"
)

func unclearFlag() cli.Flag {
	return &cli.StringFlag{Name: "unclear", DefaultText: "asks where somebody is asked, else keep",
		Usage: "what to do where --measure cannot tell whether it became worse: `WORD` is keep or rollback"}
}

const measureDescription = "With --measure it compares before and after: loss, throughput, softirq time, what the plan promised. Worse beyond\n" +
	"the noise is rolled back. Where the traffic changed so that nothing can be told, --unclear decides; without it the\n" +
	"changes stay, and on a terminal you are asked.\n"

// parseUnclear reads what to do about a verdict that is none.
func parseUnclear(c *cli.Context, window time.Duration) (string, error) {
	word := c.String("unclear")
	switch {
	case !c.IsSet("unclear"):
		return unclearAsk, nil
	case word != unclearKeep && word != unclearRollback:
		return "", fmt.Errorf("--unclear %q: it is keep or rollback", word)
	case window == 0:
		return "", fmt.Errorf("--unclear %s decides about what was measured, and nothing is: --measure 10s measures", word)
	}
	return word, nil
}

// parseMeasure is how long to measure before and after, 0 for not at all.
func parseMeasure(c *cli.Context, e env, limits apply.Options) (time.Duration, error) {
	text := c.String("measure")
	if !c.IsSet("measure") {
		return measureByDefault(c, e, limits), nil
	}
	if text == "off" || text == "0" || text == "0s" {
		return 0, nil
	}
	window, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("--measure %q: not a time with its unit, such as 10s or 1m, nor off", text)
	case window < minMeasure || window > maxMeasure:
		return 0, fmt.Errorf("--measure %q: it is 1s to 10m, or off", text)
	case tooShort(limits.ConfirmWithin, window):
		return 0, fmt.Errorf("--confirm-within %s leaves no time to answer after --measure %s: it is at least %s",
			limits.ConfirmWithin, window, window+settleLimit+answerTime)
	}
	return window, nil
}

// measureByDefault: a script asks for what it wants, and must not take twenty
// seconds longer than it did.
func measureByDefault(c *cli.Context, e env, limits apply.Options) time.Duration {
	switch {
	case !e.StdinTTY || !e.StderrTTY || c.Bool("yes"):
		return 0
	case tooShort(limits.ConfirmWithin, defaultMeasure):
		_, _ = fmt.Fprintf(e.Stderr, "nothing will be measured: --confirm-within %s leaves no time for it\n", limits.ConfirmWithin)
		return 0
	default:
		return defaultMeasure
	}
}

// tooShort: the deadline would come before the answer could.
func tooShort(confirm, window time.Duration) bool {
	return confirm > 0 && confirm < window+settleLimit+answerTime
}

// inTime refuses a deadline that would pass while the rounds of this very plan
// measure: each later one has a window of its own.
func inTime(limits apply.Options, window time.Duration, p proposal, o options) error {
	if limits.ConfirmWithin == 0 || p.again == nil || p.plan.Complete || o.window == 0 {
		return nil
	}
	least := (apply.MaxRounds-1)*o.window + answerTime
	if window > 0 {
		least += window + settleLimit
	}
	if limits.ConfirmWithin >= least {
		return nil
	}
	return fmt.Errorf("--confirm-within %s leaves no time to answer: this plan waits for its own first changes and measures again, for %s in each later round: it is at least %s, or less with a shorter --for",
		limits.ConfirmWithin, o.window, least)
}

// trial measures before and after the changes of one apply.
type trial struct {
	e      env
	m      *machine
	o      options
	window time.Duration // 0: nothing is measured
	// unclear is what to do where nothing can be told; people are asked then, nil
	// if nobody is.
	unclear string
	people  *audience
	promise measuring.Promise

	devices  []string
	baseline []measuring.Sample
	last     *detect.Observation // the last one before the changes
	found    *measuring.Report
}

func newTrial(e env, m *machine, o options, p proposal, window time.Duration, unclear string) *trial {
	t := &trial{e: e, m: m, o: o, window: window, unclear: unclear, promise: measuring.Promise{Changes: p.plan.Changes, Placement: p.plan.Placement}}
	if p.advice != nil {
		t.promise.Placement = p.advice.Placement
	}
	return t
}

// watch makes an apply measure what it did, later rounds included.
func (t *trial) watch(limits apply.Options) apply.Options {
	if t.window == 0 {
		return limits
	}
	if again := limits.Replan; again != nil {
		limits.Replan = func(ctx context.Context) (plan.Plan, error) {
			next, err := again(ctx)
			t.promise.Changes = append(t.promise.Changes[:len(t.promise.Changes):len(t.promise.Changes)], next.Changes...)
			return next, err
		}
	}
	limits.Verify = t.verify
	return limits
}

// before measures the host as it is.
func (t *trial) before(ctx context.Context) error {
	if t.window == 0 {
		return nil
	}
	s, err := t.open()
	if err != nil {
		return err
	}
	defer s.close()
	t.devices = measuring.Concerned(t.promise.Changes, s.at)
	t.baseline, t.last, err = t.phase(ctx, s, "measuring before the changes")
	return err
}

// verify measures what the changes brought; an error rolls them back.
func (t *trial) verify(ctx context.Context) error {
	s, err := t.open()
	if err != nil {
		return err
	}
	defer s.close()
	settling, err := t.settle(ctx, s)
	if err != nil {
		return err
	}
	after, _, err := t.phase(ctx, s, "measuring after the changes")
	if err != nil {
		return err
	}
	found := measuring.Judge(t.baseline, after, t.promise)
	found.Settling, found.Devices = settling, append(found.Devices, t.devices...)
	t.found = &found
	_, _ = fmt.Fprintln(t.e.Stderr, "measured "+report.Clean(found.Brought()))
	switch {
	case found.Verdict == measuring.Worse:
		return fmt.Errorf("%w: %s", errWorse, report.Clean(found.Reason))
	case found.Verdict != measuring.Unclear || t.unclear == unclearKeep:
		return nil
	case t.unclear == unclearRollback:
		return fmt.Errorf("%w: %s", errUnclear, report.Clean(found.Reason))
	case t.people != nil:
		return t.ask(ctx, found)
	default:
		return nil
	}
}

// ask lets a person decide what figures cannot.
func (t *trial) ask(ctx context.Context, found measuring.Report) error {
	if err := report.Measured(t.e.Stderr, found, t.o.style); err != nil {
		return err
	}
	answer, err := t.people.ask(ctx, "Keep the changes?")
	if err == nil && answer != yes {
		err = errors.New("the answer was not yes")
	}
	return err
}

// settle waits, not for ever, until the changes have taken effect.
func (t *trial) settle(ctx context.Context, s *series) (measuring.Settling, error) {
	line := &progress{w: t.e.Stderr, terminal: t.e.StderrTTY, what: "waiting for the changes to take effect", whole: settleLimit}
	// What happened since the last write belongs to nobody.
	if err := s.restart(); err != nil {
		return measuring.Settling{}, err
	}
	var out measuring.Settling
	for line.passed < settleLimit {
		o, err := s.next(ctx, settleStep, line)
		if err != nil {
			return out, err
		}
		line.passed += settleStep
		out = measuring.Settling{Seconds: line.passed.Seconds(), Pending: measuring.Pending(t.promise.Changes, t.last, o)}
		if len(out.Pending) == 0 {
			break
		}
	}
	return out, nil
}

// phase measures the sub-windows of one side.
func (t *trial) phase(ctx context.Context, s *series, what string) ([]measuring.Sample, *detect.Observation, error) {
	line := &progress{w: t.e.Stderr, terminal: t.e.StderrTTY, what: what, whole: t.window}
	const most = measuring.Windows
	var last *detect.Observation
	out := make([]measuring.Sample, 0, most)
	for range most {
		o, err := s.next(ctx, t.window/most, line)
		if err != nil {
			return nil, nil, err
		}
		line.passed += t.window / most
		if sample, ok := measuring.Read(o, t.devices); ok {
			out, last = append(out, sample), o
		}
	}
	if len(out) < most/2 {
		return nil, nil, errors.New("this host does not tell the time, so nothing can be measured: --measure off applies without")
	}
	return out, last, nil
}

// note puts what was found into the history.
func (t *trial) note(a *apply.Applier, r *apply.Result) {
	if t.found == nil {
		return
	}
	if err := a.Note(r.ID, t.found.Brought()); err != nil {
		r.Warnings = append(r.Warnings, err.Error())
	}
}

// series reads the machine again and again; each reading ends one observation
// and begins the next.
type series struct {
	t       *trial
	probes  *counting
	at      *detect.Snapshot
	counted *counters.Counters
}

func (t *trial) open() (*series, error) {
	first, err := detect.Collect(t.m.last())
	if err != nil {
		return nil, err
	}
	s := &series{t: t}
	s.probes = startProbes(t.e, first, t.o)
	if err := s.restart(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// restart forgets what happened until now.
func (s *series) restart() (err error) {
	s.at, s.counted, err = sample(s.t.m.last(), s.probes)
	return err
}

// next lets a window pass and tells what happened in it.
func (s *series) next(ctx context.Context, window time.Duration, line *progress) (*detect.Observation, error) {
	if err := s.probes.pass(ctx, window, line); err != nil {
		return nil, err
	}
	at, counted, err := sample(s.t.m.last(), s.probes)
	if err != nil {
		return nil, err
	}
	o := detect.Between(s.at, at)
	o.Probes = s.probes.between(s.counted, counted)
	s.at, s.counted = at, counted
	return o, nil
}

func (s *series) close() {
	if s.probes.failed != "" {
		s.t.o.log.Warn(s.probes.why())
	}
	s.probes.close()
}
