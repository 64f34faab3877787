package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

func applyCommand(e env) *cli.Command {
	flags := append(append(sharedFlags(documentFormats()...), windowFlags()...), profileFlag(),
		&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, check it against this machine, and write nothing"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask; needed where nobody can be asked"},
		&cli.StringFlag{Name: "confirm-within", Usage: "roll back unless confirmed within `TIME`, such as 60s, which measuring and questions are part of; this process waits for it, and a timer of systemd does it if this process dies. Where there is no systemd, or this is another network namespace than its own, it says so: then only this process rolls back"},
		measureFlag(),
		unclearFlag(),
		&cli.StringFlag{Name: "max-disruption", Value: knob.DisruptsPackets.String(), Usage: "refuse a plan that does worse to traffic than `WORD`: none, packets (lost or reordered for moments), link (seconds without traffic)"},
		ownerFlag(),
	)
	return &cli.Command{
		Name:      "apply",
		Usage:     "change the settings that a plan names, all of them or none",
		ArgsUsage: "[PLAN.json]",
		Description: "Without a file it measures and plans like advise; a file is what advise -o wrote on this machine since it was\n" +
			"booted, and - is standard input. Everything is checked before the first write, every write is in a journal in\n" +
			journalDir + " before it is made, and every setting is read back. An error or Ctrl-C rolls back.\n" +
			measureDescription +
			"Ends with 0 if the changes are made, 3 if they were rolled back, 4 if the host is neither as wanted nor as it was.",
		Flags:  flags,
		Action: func(c *cli.Context) error { return applyPlan(c, e) },
	}
}

// proposal is a plan with the way to show and to renew it.
type proposal struct {
	plan   plan.Plan
	advice *report.Advice // nil for a plan from a file
	// again plans what is left after the first changes; nil for a file.
	again func(ctx context.Context) (plan.Plan, error)
}

func applyPlan(c *cli.Context, e env) error {
	if c.NArg() > 1 {
		return fmt.Errorf("apply takes one plan and not %d", c.NArg())
	}
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	limits, err := parseLimits(c)
	if err != nil {
		return err
	}
	window, err := parseMeasure(c, e, limits)
	if err != nil {
		return err
	}
	unclear, err := parseUnclear(c, window)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return rehearse(c, e, o, limits, window)
	}
	e.Stderr = newAside(e.Stderr)
	defer e.flush()
	o.log = logger(e, o.style.Verbose)
	interactive := e.StdinTTY && e.StderrTTY
	switch {
	case o.host != "":
		return fmt.Errorf("--host %s: a captured host cannot be changed; --dry-run shows its plan", o.host)
	case !c.Bool("yes") && !interactive:
		return errors.New("nobody can be asked, since standard input or error is no terminal: --yes applies without asking, --dry-run only shows")
	}
	m, a, err := changeable(e, "apply", o)
	if err != nil {
		return err
	}
	p, err := propose(c, e, m, o)
	if err != nil {
		return err
	}
	if p.advice != nil && len(p.plan.Changes) == 0 {
		return p.print(e, o)
	}
	if err := inTime(limits, window, p, o); err != nil {
		return err
	}
	if _, err := a.Preflight(p.plan, limits); err != nil {
		return refusal(err)
	}
	people := newAudience(e)
	if !c.Bool("yes") {
		if err := p.show(e.Stderr, o); err != nil {
			return err
		}
		answer, err := people.ask(c.Context, "Apply this plan?")
		if err != nil {
			return err
		}
		if answer != yes {
			return errors.New("not applied: the answer was not yes; nothing was written")
		}
	}
	limits.Replan = p.again
	t := newTrial(e, m, o, p, window, unclear)
	if !c.Bool("yes") {
		t.people = people
	}
	if err := t.before(c.Context); err != nil {
		return err
	}
	return carryOut(c.Context, e, a, p.plan, t.watch(limits), o, people, newGuard(e, m.last()), t)
}

// parseLimits reads the options of a transaction.
func parseLimits(c *cli.Context) (apply.Options, error) {
	var out apply.Options
	word := c.String("max-disruption")
	found := false
	for _, d := range []knob.Disruption{knob.DisruptsNothing, knob.DisruptsPackets, knob.DisruptsLink} {
		if d.String() == word {
			out.MaxDisruption, found = d, true
		}
	}
	if !found {
		return out, fmt.Errorf("--max-disruption %q: it is none, packets or link", word)
	}
	var err error
	if out.Owners, err = parseOwners(c); err != nil {
		return out, err
	}
	text := c.String("confirm-within")
	if text == "" && !c.IsSet("confirm-within") {
		return out, nil
	}
	within, err := time.ParseDuration(text)
	if err != nil {
		return out, fmt.Errorf("--confirm-within %q: not a time with its unit, such as 60s or 5m", text)
	}
	// Shorter than a second nobody can answer; longer than a day nobody waits.
	if within < time.Second || within > 24*time.Hour {
		return out, fmt.Errorf("--confirm-within %q: it is 1s to 24h", text)
	}
	out.ConfirmWithin = within
	return out, nil
}

// propose reads the plan, or measures and makes one.
func propose(c *cli.Context, e env, m *machine, o options) (proposal, error) {
	if c.NArg() == 1 {
		if c.IsSet("for") || c.IsSet("profile") || c.IsSet("dev") {
			o.log.Warn("--for, --profile and --dev have no effect on a plan that is made")
		}
		p, err := readPlan(e, c.Args().First())
		return proposal{plan: p}, err
	}
	a, err := advice(c.Context, e, m, o)
	if err != nil {
		return proposal{}, err
	}
	out := proposal{plan: a.Plan, advice: &a}
	out.again = func(ctx context.Context) (plan.Plan, error) {
		_, _ = fmt.Fprintln(e.Stderr, "measuring again, to plan what had to wait")
		next, err := advice(ctx, e, m, o)
		return agreed(next.Plan, a.Plan), err
	}
	return out, nil
}

func advice(ctx context.Context, e env, m *machine, o options) (report.Advice, error) {
	measured, err := measure(ctx, e, m, o)
	if err != nil {
		return report.Advice{}, err
	}
	if err := checkDevices(measured.Last, o.devices); err != nil {
		return report.Advice{}, err
	}
	a := judge(measured, o)
	nameOwners(&a.Plan, m, measured.Last)
	a.Live = m.live
	return a, nil
}

// agreed keeps of a later plan only what the first one announced, since that
// is what somebody said yes to: kinds of settings of devices that had to wait.
func agreed(next, first plan.Plan) plan.Plan {
	type announced struct{ dev, kind string }
	waiting := map[announced]bool{}
	for _, d := range first.Deferred {
		waiting[announced{d.Ref.Dev, d.Ref.Kind}] = true
	}
	kept := []plan.Change{}
	for _, c := range next.Changes {
		if waiting[announced{c.Ref.Dev, c.Ref.Kind}] {
			kept = append(kept, c)
		}
	}
	next.Changes = kept
	return next
}

// rehearse shows what would be done. A captured host can be shown and not
// checked: its present settings are not this machine's.
func rehearse(c *cli.Context, e env, o options, limits apply.Options, window time.Duration) error {
	if o.host != "" && c.NArg() == 1 {
		return fmt.Errorf("--host %s: a plan file is checked against this machine only", o.host)
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	p, err := propose(c, e, m, o)
	if err != nil {
		return err
	}
	if err := p.print(e, o); err != nil {
		return err
	}
	switch {
	case !m.live:
		_, _ = fmt.Fprintln(e.Stderr, "dry run of a captured host: nothing was checked and nothing was written")
		return nil
	case p.advice != nil && len(p.plan.Changes) == 0:
		return nil
	}
	if err := inTime(limits, window, p, o); err != nil {
		return err
	}
	a, err := applier(e, m, o)
	if err != nil {
		return err
	}
	if _, err := a.Preflight(p.plan, limits); err != nil {
		return private(journalDir, "apply --dry-run", refusal(err))
	}
	_, _ = fmt.Fprintln(e.Stderr, "dry run: every check was passed and nothing was written")
	return nil
}

// refusal puts every reason on a line of its own and names the way out where
// an option is one.
func refusal(err error) error {
	var refused *apply.Refused
	if !errors.As(err, &refused) {
		return err
	}
	var b strings.Builder
	b.WriteString("refused, nothing was written:")
	disturbs := false
	for _, r := range refused.Refusals {
		b.WriteString("\n  - " + report.Clean(r.Subject+": "+r.Reason))
		disturbs = disturbs || strings.Contains(r.Reason, "disturbs traffic")
	}
	if disturbs {
		b.WriteString("\n(--max-disruption allows more)")
	}
	return &ended{exitError, errors.New(b.String())}
}

// carryOut applies, waits for the confirmation if there is to be one, and says
// what became of it.
func carryOut(ctx context.Context, e env, a *apply.Applier, p plan.Plan, limits apply.Options, o options, people *audience, g *guard, t *trial) error {
	release := hold()
	defer func() {
		e.flush() // into a pipe without a reader, which ends this process after release
		release()
	}()
	done, all := 0, len(p.Changes)
	limits.Progress = func(out apply.Outcome) {
		done++
		if !slices.ContainsFunc(p.Changes, func(c plan.Change) bool { return c.Ref == out.Ref }) {
			all++ // what an owner is told
		}
		_, _ = fmt.Fprintln(e.Stderr, report.Step(done, max(done, all), out))
	}
	limits.Arm = g.arm
	result, err := a.Apply(ctx, p, limits)
	if result.ID == "" {
		return refusal(err)
	}
	if err == nil && result.State == apply.Unconfirmed {
		result, err = await(ctx, e, a, result, people, g)
	}
	if limits.ConfirmWithin > 0 {
		g.settle(o, result)
	}
	t.note(a, &result)
	document := report.NewTransaction("apply", result)
	document.Measured = t.found
	announce(e, document, o)
	if text := lastingBan(result, p.Origin); text != "" {
		_, _ = fmt.Fprintln(e.Stderr, text)
	}
	return ending(result.ExitCode(), err)
}

// announce prints what became of a transaction. Where stdout takes it not, as on a
// full disk, stderr has what matters, and the exit code stays that of the host: a
// script that reads 1 would believe that nothing was done.
func announce(e env, document report.Transaction, o options) {
	if err := printDocument(e, document, o); err != nil {
		_, _ = fmt.Fprintf(e.Stderr, "napitune: what was done could not be printed (%v): %s\n", err, report.Clean(document.Summary()))
	}
}

// ending is how a verb ends that has said what state the host is in.
func ending(code int, err error) error {
	switch {
	case code == exitDone && err == nil:
		return nil
	case code == exitDone:
		return &ended{exitError, err}
	default:
		return &ended{code, err}
	}
}

// await waits for the confirmation, from here or from another process. An
// answer of no, or a signal, does not wait for the deadline.
func await(ctx context.Context, e env, a *apply.Applier, applied apply.Result, people *audience, g *guard) (apply.Result, error) {
	_, _ = fmt.Fprintf(e.Stderr, "applied; this is rolled back at %s unless it is confirmed (napitune confirm %s),\n%s\n",
		applied.Deadline.Local().Format(time.TimeOnly), applied.ID, g.promise())
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if e.StdinTTY && e.StderrTTY {
		go func() {
			switch answer, err := people.ask(waiting, "Keep the changes?"); {
			case err != nil || answer == silence:
			case answer == no:
				stop(errors.New("the answer was no"))
			default:
				if _, err := a.Confirm(applied.ID); err != nil {
					_, _ = fmt.Fprintf(e.Stderr, "napitune: %v\n", err)
				}
			}
		}()
	}
	result, err := a.ConfirmBy(waiting, applied.ID, applied.Deadline)
	if waiting.Err() != nil && err != nil && result.State == apply.RolledBack {
		err = fmt.Errorf("rolled back: %w", context.Cause(waiting)) // and not for the deadline
	}
	if result.ID == "" {
		// The rollback did not begin: the changes are in force.
		result = apply.Result{ID: applied.ID, State: apply.Dirty}
	}
	result.Changes, result.Skipped, result.Complete = applied.Changes, applied.Skipped, applied.Complete
	result.Warnings = append(applied.Warnings, result.Warnings...)
	return result, err
}

// show is the proposal for the person who is to answer.
func (p proposal) show(w io.Writer, o options) error {
	if p.advice != nil {
		return report.Text(w, *p.advice, o.style)
	}
	return report.Plan(w, p.plan, o.style)
}

// print is the proposal as a dry run answers.
func (p proposal) print(e env, o options) error {
	e.flush()
	switch {
	case o.format == "text":
		return p.show(e.Stdout, o)
	case p.advice != nil:
		return encode(e.Stdout, o.format, *p.advice)
	default:
		return encode(e.Stdout, o.format, p.plan)
	}
}

func encode(w io.Writer, format string, v any) error {
	if format == "yaml" {
		return report.YAML(w, v)
	}
	return report.JSON(w, v)
}
