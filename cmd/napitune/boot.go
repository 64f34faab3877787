package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/profiles/strict"
	"github.com/napitune/napitune/rules/plan"
)

// Where the profile of a host is, and those that were saved (hier(7)).
const (
	installedProfile = "/etc/napitune/profile.yaml"
	savedProfiles    = "/var/lib/napitune/profiles"
)

func bootCommand(e env) *cli.Command {
	flags := append(transactionFlags(),
		&cli.StringFlag{Name: "device", Usage: "make the settings of device `NAME` stand and no others"},
		&cli.BoolFlag{Name: "if-present", Usage: "with --device: a device that is not there is only a warning, and not waited for"},
		&cli.BoolFlag{Name: "host-wide", Usage: "make the settings of the whole host stand and those of no device"},
		&cli.StringFlag{Name: "wait", Value: "0s", Usage: "wait up to `TIME` for devices that are missing or down, and for udev to have named them all"},
		&cli.StringFlag{Name: "max-disruption", Value: knob.DisruptsLink.String(), Usage: "leave out what does worse to traffic than `WORD`: none, packets, link"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show what differs from the profile and write nothing"},
	)
	return &cli.Command{
		Name:      "boot",
		Usage:     "make the boot profile stand: set what differs from it, and nothing else",
		ArgsUsage: "[FILE]",
		Description: "This is what the units of \"napitune profile install\" run. FILE is a boot profile, " + installedProfile + " if none\n" +
			"is given. Nothing is measured. What the host cannot take is told, one line each, and all the rest is set; the changes\n" +
			"are a transaction that napitune rollback undoes. Doing it again changes nothing.\n" +
			"irqbalance is told to leave the interrupts of the profile alone. What another program that runs would undo is not set,\n" +
			"and told. What a device does not take while it is down is only a warning where its entry is optional.\n" +
			"A device that is plugged in later is set by udev's rule. For one that is there and brought up later there is no event\n" +
			"that could start a unit: the guard sets what it takes only then, or systemctl start napitune-device@NAME.service.\n" +
			"Ends with 0 if every setting stands and 1 if one does not.\n\n" +
			"napitune boot --dry-run             what differs from the profile now\n" +
			"napitune boot --device eth0         after eth0 was plugged in again\n" +
			"napitune boot ./edge.yaml           try a profile that is not installed",
		Flags:  flags,
		Action: func(c *cli.Context) error { return bootVerb(c, e) },
	}
}

// standing is one run of the verb: a profile that is being made to stand.
type standing struct {
	e       env
	m       *machine
	a       *apply.Applier
	file    string
	profile boot.Profile
	scope   boot.Scope
	limits  apply.Options
	// kept counts settings that stand as they are.
	kept int
	// failed says why a setting was given up, by its address.
	failed map[knob.Ref]string
	// refusals counts how often preflight refused a setting.
	refusals map[knob.Ref]int
	doc      report.Boot
}

func bootVerb(c *cli.Context, e env) error {
	if c.NArg() > 1 {
		return fmt.Errorf("boot takes one profile and not %d", c.NArg())
	}
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	wait, err := time.ParseDuration(c.String("wait"))
	if err != nil || wait < 0 || wait > time.Hour {
		return fmt.Errorf("--wait %q: not a time with its unit up to 1h, such as 10s", c.String("wait"))
	}
	limits, err := parseLimits(c)
	if err != nil {
		return err
	}
	// The profile is what the site has chosen, also against a program that would
	// choose otherwise.
	limits.Owners = map[string]apply.Choice{"": apply.Tell}
	if c.Bool("host-wide") && c.String("device") != "" {
		return errors.New("--host-wide and --device exclude each other")
	}
	if c.Bool("if-present") && c.String("device") == "" {
		return errors.New("--if-present needs --device: whether other devices may be missing, their entries say (optional: true)")
	}
	b := &standing{
		e: e, limits: limits, failed: map[knob.Ref]string{}, refusals: map[knob.Ref]int{}, file: installedProfile,
		scope: boot.Scope{HostOnly: c.Bool("host-wide"), Device: c.String("device"), IfPresent: c.Bool("if-present"), Except: map[knob.Ref]bool{}},
	}
	if c.NArg() == 1 {
		b.file = c.Args().First()
	}
	profile, mistakes, err := readProfile(b.file)
	if err != nil {
		return err
	}
	b.profile, b.doc = profile, report.NewBoot(profile.Name, b.file)
	// A part of the profile is not to blame for a mistake in another: one
	// misspelt key would fail a unit for every device. The run over everything
	// tells of them all.
	whole := !b.scope.HostOnly && b.scope.Device == "" || len(profile.Host)+len(profile.Entries) == 0
	for _, mistake := range mistakes {
		if whole {
			b.doc.Problems = append(b.doc.Problems, mistake.Error())
		}
	}
	if c.Bool("dry-run") {
		return b.rehearse(o)
	}
	if b.m, b.a, err = changeable(e, "boot", o); err != nil {
		return err
	}
	b.a.Unattended = true
	release := hold()
	defer release()
	problems, err := b.stand(c.Context, wait)
	return b.conclude(problems, err, o)
}

// readProfile reads what is right of a boot profile, and the mistakes in it.
func readProfile(path string) (boot.Profile, []*strict.Error, error) {
	data, err := readProfileFile(path)
	if err != nil {
		return boot.Profile{}, nil, err
	}
	p, mistakes := boot.ParseRest(path, data)
	return p, mistakes, nil
}

func readProfileFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && path == installedProfile {
		return nil, fmt.Errorf("no boot profile is installed (napitune profile install NAME|FILE does): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("boot profile: %w", err)
	}
	defer f.Close()
	// One byte more than a profile may have, so that the parser sees the excess.
	data, err := io.ReadAll(io.LimitReader(f, boot.MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("boot profile: %w", err)
	}
	return data, nil
}

// profilePlan is what on a machine differs from a boot profile now, ready to be
// applied, and what cannot be.
func profilePlan(m *machine, p boot.Profile, scope boot.Scope) (plan.Plan, []boot.Problem, error) {
	s, err := detect.Collect(m.last())
	if err != nil {
		return plan.Plan{}, nil, err
	}
	out, problems := p.Plan(s, scope)
	made := origin(s)
	out.Origin, out.Fingerprint = &made, made.Fingerprint()
	return out, problems, nil
}

const (
	// patience is how long to wait for another transaction, at boot there is one
	// unit for each device, and then for a host that changes while plans are made of
	// it: at least fewestPlans of them, where one takes seconds.
	patience    = 30 * time.Second
	fewestPlans = 10
	// settling is how long a setting is tried that others change meanwhile, or
	// whose owner does not answer: irqbalance listens some moments after its start.
	settling = 5 * time.Second
	recheck  = 200 * time.Millisecond
	// A boot of 60 settings holds the lock for some 10 ms.
	shortestPause, longestPause = 20 * time.Millisecond, time.Second
)

// stand sets what differs until everything stands, or until the time is over
// for devices that are missing or down, or to come.
func (b *standing) stand(ctx context.Context, wait time.Duration) ([]boot.Problem, error) {
	end := time.Now().Add(wait)
	for {
		coming := b.devicesCome() // before the look: afterwards some would be overlooked
		problems, err := b.once(ctx)
		if err != nil || !coming && !slices.ContainsFunc(problems, b.waits) || !time.Now().Before(end) {
			return problems, err
		}
		if err := pause(ctx, min(recheck, time.Until(end))); err != nil {
			return problems, err
		}
	}
}

// udevBusy is there while udev has events to work on (libudev,
// udev_queue_get_queue_is_empty).
const udevBusy = "run/udev/queue"

// devicesCome reports whether devices may appear that entries do without: what is
// missing of those is no problem that could be waited for.
func (b *standing) devicesCome() bool {
	if b.scope.HostOnly || b.scope.Device != "" {
		return false
	}
	_, err := fs.Stat(b.m.last().FS, udevBusy)
	return err == nil
}

// waits reports whether waiting may mend a problem. A port that is not in use keeps
// only the run for itself waiting, so that many are waited for at the same time.
func (b *standing) waits(p boot.Problem) bool {
	return p.Kind != boot.Impossible && !p.Excused() || p.Kind == boot.Down && b.scope.Device != ""
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// once plans and applies. Devices come and other processes work at the same
// time: then it plans anew.
func (b *standing) once(ctx context.Context) ([]boot.Problem, error) {
	begun, contention := time.Now(), shortestPause
	var refusedAt time.Time // the first time
	plans := 0
	for {
		p, problems, err := profilePlan(b.m, b.profile, b.scope)
		if err != nil {
			return nil, err
		}
		b.kept = len(p.Kept)
		silent, err := b.holdOff(&p)
		if err != nil {
			return problems, err
		}
		if silent != "" && time.Since(begun) < settling {
			if err := pause(ctx, recheck); err != nil {
				return problems, err
			}
			continue
		}
		if silent != "" {
			b.warn(silent)
		}
		if len(p.Changes) == 0 {
			return problems, nil
		}
		if b.leaveOutDisruptive(p) {
			continue
		}
		failures := len(b.failed)
		err = b.apply(ctx, p)
		switch {
		case err == nil && p.Complete && len(b.failed) == failures:
			b.kept += settingsOf(p.Changes)
			return problems, nil
		case err == nil:
			return b.left()
		}
		var refused *apply.Refused
		switch {
		case errors.As(err, &refused) && time.Since(begun) < patience && b.recovers(ctx, refused):
		case errors.As(err, &refused):
			if plans++; plans == 1 {
				refusedAt = time.Now()
			}
			waited := time.Since(refusedAt)
			if b.giveUp(refused, waited) {
				continue
			}
			if !mayPass(refused) || waited > patience && plans >= fewestPlans {
				return problems, err
			}
		case !errors.Is(err, apply.ErrLocked) || time.Since(begun) > patience:
			return problems, err
		}
		if err := pause(ctx, contention); err != nil {
			return problems, err
		}
		contention = min(2*contention, longestPause)
	}
}

// mayPass reports whether another plan may be carried out where this one was
// refused: devices came or went meanwhile, or a setting was not given up yet. An
// unfinished transaction that is left is for a person to end.
func mayPass(refused *apply.Refused) bool {
	passes := func(r apply.Refusal) bool { return r.Stale || len(r.Refs) > 0 }
	return !slices.ContainsFunc(refused.Refusals, barred) && slices.ContainsFunc(refused.Refusals, passes)
}

// barred tells a refusal for the sake of an unfinished transaction.
func barred(r apply.Refusal) bool { return r.Subject == "host" }

// recovers undoes what a unit or the guard left in the way when it was killed, and
// reports whether to try again.
func (b *standing) recovers(ctx context.Context, refused *apply.Refused) bool {
	if !slices.ContainsFunc(refused.Refusals, barred) {
		return false
	}
	results, err := b.a.Recover(ctx)
	for _, r := range results {
		b.warn("transaction " + r.ID + " was cut short and is undone")
	}
	return len(results) > 0 || errors.Is(err, apply.ErrLocked)
}

// settingsOf counts changes of the profile's settings: what an owner is told is
// none of them.
func settingsOf(changes []plan.Change) int {
	n := 0
	for _, c := range changes {
		if !tells(c.Ref) {
			n++
		}
	}
	return n
}

func tells(ref knob.Ref) bool {
	kind, ok := knob.Lookup(ref.Kind)
	return ok && kind.Except != nil
}

// holdOff adds to a plan what keeps others off the settings that stand. Those off
// whom a change must be kept are told by Apply, of all that the plan names. Of one
// that does not answer silent says what that means.
func (b *standing) holdOff(p *plan.Plan) (silent string, err error) {
	// Apply asks the same moments later, and reading all their files takes some
	// milliseconds.
	b.a.Owners = sync.OnceValues(func() ([]owner.Owner, error) { return findOwners(b.m) })
	owners, err := b.a.Owners()
	if err != nil {
		return "", fmt.Errorf("find out who else writes these settings: %w", err)
	}
	for _, o := range owners {
		if o.Exceptions == "" || slices.ContainsFunc(p.Changes, func(c plan.Change) bool { _, fights := o.Fights(c.Ref, c.After); return fights }) {
			continue
		}
		var stand []knob.Ref
		for _, kept := range p.Kept {
			if _, ok := o.Claim(kept.Ref); ok {
				stand = append(stand, kept.Ref)
			}
		}
		if len(stand) == 0 {
			continue
		}
		view, err := b.a.View()
		if err != nil {
			return "", err
		}
		c, err := apply.Exception(view, o, stand)
		means := fmt.Sprintf("%s writes %s as well, %s, and cannot be told to leave it: %v", o.Name, stand[0], o.When, err)
		switch {
		case apply.IsSilent(err):
			silent = means
		case err != nil:
			b.warn(means)
		case c.Before != c.After:
			p.Changes, p.Applyable = append(p.Changes, c), true
		}
	}
	return silent, nil
}

// warn tells something once.
func (b *standing) warn(text string) {
	if !slices.Contains(b.doc.Warnings, text) {
		b.doc.Warnings = append(b.doc.Warnings, text)
	}
}

// left is what cannot be after everything else was done.
func (b *standing) left() ([]boot.Problem, error) {
	p, problems, err := profilePlan(b.m, b.profile, b.scope)
	b.kept = len(p.Kept)
	for _, c := range p.Changes {
		problems = append(problems, boot.Problem{Subject: c.Ref.String(), Reason: "it is " + shownValue(c.Before) + " again after it was set to " + shownValue(c.After)})
	}
	return problems, err
}

func shownValue(value string) string {
	if value == "" {
		return "(none)"
	}
	return value
}

func (b *standing) apply(ctx context.Context, p plan.Plan) error {
	limits := b.limits
	limits.LeaveOut = func(ref knob.Ref, err error) { b.fail(ref, err.Error()) }
	limits.Replan = func(context.Context) (plan.Plan, error) {
		next, _, err := profilePlan(b.m, b.profile, b.scope)
		return next, err
	}
	result, err := b.a.Apply(ctx, p, limits)
	if err != nil {
		return err
	}
	b.doc.Transactions = append(b.doc.Transactions, result.ID)
	for _, warning := range result.Warnings {
		b.warn(warning)
	}
	for _, o := range result.Changes {
		if o.Verdict == apply.VerdictRefused {
			continue
		}
		b.doc.Changes = append(b.doc.Changes, o)
		if o.Verdict == apply.VerdictRounded {
			b.fail(o.Ref, "the driver made "+shownValue(o.Observed)+" of "+shownValue(o.After)+": write that into the profile")
		}
	}
	return nil
}

// leaveOutDisruptive gives up what disturbs traffic more than is allowed, and
// reports whether there was any.
func (b *standing) leaveOutDisruptive(p plan.Plan) bool {
	found := false
	for _, c := range p.Changes {
		if disruption(c.Disruption) > b.limits.MaxDisruption {
			b.fail(c.Ref, "left out: it disturbs traffic ("+c.Disruption+"), allowed is "+b.limits.MaxDisruption.String())
			found = true
		}
	}
	return found
}

// disruption is the meaning of the word in a plan; what is not known is the worst.
func disruption(word string) knob.Disruption {
	for _, d := range []knob.Disruption{knob.DisruptsNothing, knob.DisruptsPackets} {
		if d.String() == word {
			return d
		}
	}
	return knob.DisruptsLink
}

// fail gives a setting up: trying again would have the same end.
func (b *standing) fail(ref knob.Ref, reason string) {
	b.failed[ref], b.scope.Except[ref] = reason, true
}

// giveUp leaves out the settings that were refused again and again before
// anything was written, and reports whether there were any: once may be that
// another process just set them.
func (b *standing) giveUp(refused *apply.Refused, waited time.Duration) bool {
	const enough = 3
	found := false
	for _, r := range refused.Refusals {
		for _, ref := range r.Refs {
			if b.refusals[ref]++; b.refusals[ref] < enough || r.Stale && waited < settling {
				continue
			}
			reason := r.Reason
			if r.Subject != ref.String() {
				reason = "not set because of " + r.Subject + ": " + reason
			}
			b.fail(ref, reason)
			found = true
		}
	}
	return found
}

// conclude says what stands and what does not.
func (b *standing) conclude(problems []boot.Problem, err error, o options) error {
	b.take(problems)
	b.doc.Stood = b.kept
	for _, c := range b.doc.Changes {
		if b.failed[c.Ref] == "" && !tells(c.Ref) && b.doc.Stood > 0 {
			b.doc.Stood-- // it stands now because it was just set
		}
	}
	if o.format == "text" {
		for _, line := range b.doc.Problems {
			_, _ = fmt.Fprintln(b.e.Stderr, "napitune: "+report.Clean(line))
		}
	}
	if printed := printDocument(b.e, b.doc, o); printed != nil {
		err = errors.Join(err, printed)
	}
	if err == nil && len(b.doc.Problems) > 0 {
		return &ended{exitError, nil}
	}
	return err
}

// onceUp says who sets what a device does not take while it is down. The kernel
// tells udev of devices that appear and not of those that are brought up later
// (net/core/dev.c, __dev_open: a netlink message and no uevent), so that no rule
// can start a unit then.
func onceUp(dev string) string {
	return fmt.Sprintf("when it comes up, %s sets it where it runs (napitune profile install --guard), else systemctl start napitune-device@%s.service", guardUnit, dev)
}

// take writes problems as lines that begin with the place in the profile.
func (b *standing) take(problems []boot.Problem) {
	for _, p := range problems {
		line := b.file
		if p.Line > 0 {
			line = fmt.Sprintf("%s:%d", b.file, p.Line)
		}
		line += ": " + p.Subject + ": " + p.Reason
		if dev, _, ok := strings.Cut(p.Subject, "/"); ok && p.Kind == boot.Down {
			line += "; " + onceUp(dev)
		}
		if p.Excused() {
			b.warn(line)
			continue
		}
		b.doc.Problems = append(b.doc.Problems, line)
	}
	for _, ref := range slices.SortedFunc(maps.Keys(b.failed), func(x, y knob.Ref) int { return strings.Compare(x.String(), y.String()) }) {
		// The error of a write names the setting itself.
		reason := strings.TrimPrefix(b.failed[ref], ref.String()+": ")
		b.doc.Problems = append(b.doc.Problems, b.file+": "+ref.String()+": "+reason)
	}
}

// rehearse shows what would be done.
func (b *standing) rehearse(o options) error {
	var err error
	if b.m, err = b.e.Open(""); err != nil {
		return err
	}
	p, problems, err := profilePlan(b.m, b.profile, b.scope)
	if err != nil {
		return err
	}
	b.take(problems)
	b.doc.DryRun, b.doc.Stood = true, len(p.Kept)
	for _, c := range p.Changes {
		b.doc.Changes = append(b.doc.Changes, apply.Outcome{Ref: c.Ref, Before: c.Before, After: c.After, Why: c.Why})
	}
	for _, d := range p.Deferred {
		b.doc.Waiting = append(b.doc.Waiting, d.Ref.String())
	}
	if o.format == "text" {
		for _, line := range b.doc.Problems {
			_, _ = fmt.Fprintln(b.e.Stderr, "napitune: "+report.Clean(line))
		}
	}
	if err := printDocument(b.e, b.doc, o); err != nil {
		return err
	}
	if len(b.doc.Problems) > 0 {
		return &ended{exitError, nil}
	}
	return nil
}
