package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	guarding "github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

// guardFile is the state of the guard, beside the journals.
const guardFile = journalDir + "/guard.json"

// memoryLimit makes the collector work during a look that needs more, on hosts
// with thousands of queues. The program itself has some 14 MB in memory beside it.
const memoryLimit = 12 << 20

// service is what the guard takes from its surroundings besides env.
type service struct {
	// Events listens to the running machine.
	Events func() (*host.Events, error)
	// Notify tells the service manager; without one it does nothing.
	Notify func(state string)
	// Watchdog is the time within which the manager wants to hear of us; 0: never.
	Watchdog time.Duration
	// Hangups brings word of SIGHUP, and keeps it from ending the process.
	Hangups func() (c <-chan struct{}, stop func())
	// Log sends one entry with its fields to the journal of the system; nil
	// without one.
	Log func(message string, priority journal.Priority, fields map[string]string) error
}

func guardCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "guard",
		Usage:     "keep what was applied: bring back what drivers reset, and fight nobody",
		ArgsUsage: "[FILE]",
		Description: "Keeps a boot profile: FILE, or " + installedProfile + ". Where there is none, it keeps what the\n" +
			"transactions of this boot have set (napitune status lists them). It waits for events and does nothing in between.\n" +
			"A setting that a link flap, other queues or CPU hotplug reset is brought back at once. irqbalance is told to leave the\n" +
			"interrupts of a profile alone, also when it was started anew. A setting that another program\n" +
			"writes a second time is left to it and reported, here, in napitune status and in the journal of the system, where\n" +
			"entries have the fields NAPITUNE_ACTION, NAPITUNE_KNOB, NAPITUNE_DEVICE, NAPITUNE_BEFORE, NAPITUNE_AFTER,\n" +
			"NAPITUNE_CAUSE, NAPITUNE_BY, NAPITUNE_REASON and NAPITUNE_TOOK_USEC. SIGHUP (systemctl reload napitune-guard) reads the\n" +
			"profile anew and takes up what was left; SIGTERM ends it. Ending changes no setting.",
		Flags:  transactionFlags(),
		Action: func(c *cli.Context) error { return keepWatch(c, e) },
	}
}

func keepWatch(c *cli.Context, e env) error {
	if c.NArg() > 1 {
		return fmt.Errorf("guard takes one profile and not %d", c.NArg())
	}
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	if e.Service.Events == nil {
		return errors.New("this build listens to no kernel")
	}
	m, a, err := changeable(e, "guard", o)
	if err != nil {
		return err
	}
	a.Holder, a.Unattended = fmt.Sprintf("napitune guard, process %d", os.Getpid()), true
	// A look needs a few MB for a moment, which are collected and go back before
	// the next wait, and not while a setting waits to be restored.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	w := &watchman{e: e, m: m, a: a, file: c.Args().First(), again: make(chan struct{})}
	a.View, a.Origin = w.view, w.origin
	// That others write is seen; they need not be asked for before each write. Those
	// who can be told something are told by the loop.
	a.Owners = nil
	if err := w.load(); err != nil {
		return &ended{exitConfig, err}
	}
	events, err := e.Service.Events()
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	reload, stop := e.Service.Hangups()
	defer stop()
	go w.relay(reload)
	err = w.loop(events).Run(c.Context)
	e.Service.Notify(daemon.SdNotifyStopping + "\nSTATUS=stopped; every setting stays as it is")
	return err
}

// watchman does for the loop what concerns this process and this machine.
type watchman struct {
	e    env
	m    *machine
	a    *apply.Applier
	file string // the profile, "" for the installed one
	// profile is what is kept, as read at loaded; nil for the transactions of this
	// boot.
	profile *boot.Profile
	loaded  time.Time
	// mistakes are those of the file as last read.
	mistakes int
	// solved are the numbers of queues that stand since then.
	solved map[knob.Ref]string
	stale  atomic.Bool // the profile is to be read anew
	again  chan struct{}
	status string
	bootID string
	// last is the machine as last read, and unused: no transaction has begun
	// with it yet.
	last   *detect.Snapshot
	unused bool
}

// read reads the machine. That is most of what a restoration costs, so that the
// reading from which a plan is made also serves the transaction that follows:
// of it come the devices and the numbers of interrupts, while settings are read
// one by one again before each write.
func (w *watchman) read() (*detect.Snapshot, error) {
	s, err := detect.Collect(w.m.last())
	if err != nil {
		return nil, err
	}
	w.last, w.unused = s, true
	return s, nil
}

// view is the machine for a transaction, which asks again after each write that
// makes queues or interrupts.
func (w *watchman) view() (knob.View, error) {
	if w.last == nil || !w.unused {
		if _, err := w.read(); err != nil {
			return knob.View{}, err
		}
	}
	w.unused = false
	view := w.last.View()
	view.Host = w.m.last()
	return view, nil
}

func (w *watchman) origin() (plan.Origin, error) {
	if w.last == nil {
		if _, err := w.read(); err != nil {
			return plan.Origin{}, err
		}
	}
	return origin(w.last), nil
}

// loop wires the loop.
func (w *watchman) loop(events *host.Events) *guarding.Loop {
	return &guarding.Loop{
		Events: events, Plan: w.plan, Loaded: func() time.Time { return w.loaded }, Applier: w.a, Owners: w.owners, Tell: w.tell, Show: w.show, Reload: w.again,
		Alive: func() { w.e.Service.Notify(daemon.SdNotifyWatchdog) }, AliveEvery: w.e.Service.Watchdog / 2,
		Ready: func() { w.notify(daemon.SdNotifyReady) },
		Rest:  debug.FreeOSMemory,
		Cost:  w.cost(),
	}
}

// owners are those who write settings as well. Without a profile nobody is told
// anything but what the transactions say: who made them chose.
func (w *watchman) owners() ([]owner.Owner, error) {
	all, err := findOwners(w.m)
	if w.profile == nil {
		for i := range all {
			all[i].Exceptions = ""
		}
	}
	return all, err
}

// cost is the processor time of this process; nil where that cannot be told.
func (w *watchman) cost() func() time.Duration {
	if w.e.Usage == nil {
		return nil
	}
	return func() time.Duration { return time.Duration(w.e.Usage().CPUSeconds * float64(time.Second)) }
}

// load reads the profile. Mistakes in it are told; what is right is kept, unless
// there is an earlier profile, which then stays in force.
func (w *watchman) load() error {
	if _, err := os.Stat(installedProfile); w.file == "" && errors.Is(err, fs.ErrNotExist) {
		w.profile, w.mistakes = nil, 0
		return nil
	}
	at := time.Now()
	p, mistakes, err := readProfile(cmp.Or(w.file, installedProfile))
	if err != nil {
		return err
	}
	for _, mistake := range mistakes {
		w.tell(guarding.Action{Kind: guarding.Failed, At: time.Now(), Reason: mistake.Error()})
	}
	switch w.mistakes = len(mistakes); {
	case w.mistakes > 0 && w.profile != nil:
		return errors.New("the new one has mistakes")
	case w.mistakes > 0 && len(p.Host)+len(p.Entries) == 0:
		// A guard that keeps nothing would look as if it kept all.
		return fmt.Errorf("nothing of the profile can be read: %w", mistakes[0])
	}
	w.profile, w.loaded, w.solved = &p, at, nil
	return nil
}

// relay passes a hangup on and tells the service manager of it (sd_notify(3)).
func (w *watchman) relay(hangups <-chan struct{}) {
	for range hangups {
		w.e.Service.Notify(daemon.SdNotifyReloading + "\nMONOTONIC_USEC=" + daemon.SdNotifyMonotonicUsec())
		w.stale.Store(true)
		w.again <- struct{}{}
		w.e.Service.Notify(daemon.SdNotifyReady)
	}
}

// plan compares the machine with what is kept. A profile that cannot be read
// anew leaves the one before it in force.
func (w *watchman) plan(context.Context) (plan.Plan, knob.View, error) {
	if w.stale.Swap(false) {
		if err := w.load(); err != nil {
			w.tell(guarding.Action{Kind: guarding.Failed, At: time.Now(), Reason: fmt.Sprintf("the profile from before stays in force: %v", err)})
		}
	}
	s, err := w.read()
	if err != nil {
		return plan.Plan{}, knob.View{}, err
	}
	w.bootID = s.Ident.BootID
	view := s.View()
	view.Host = w.m.last()
	made := origin(s)
	var p plan.Plan
	if w.profile != nil {
		p, _ = w.profile.Plan(s, boot.Scope{Solved: w.solved}) // what cannot be is told by napitune boot
		w.solved = boot.StandingChannels(p, w.solved)
	} else if p, err = w.applied(s, view); err != nil {
		return plan.Plan{}, knob.View{}, err
	}
	p.Origin, p.Fingerprint = &made, made.Fingerprint()
	return p, view, nil
}

// applied compares the machine with what the standing transactions have set.
func (w *watchman) applied(s *detect.Snapshot, view knob.View) (plan.Plan, error) {
	words, err := w.a.Words()
	if err != nil {
		return plan.Plan{}, err
	}
	finding := plan.Finding{ID: "guard"}
	for ref, word := range words {
		if !word.Covers(word.Value) {
			continue
		}
		if kind, ok := knob.Lookup(ref.Kind); ok && kind.Asked {
			s.Knobs[ref] = kind.Read(view, ref)
		}
		finding.Wants = append(finding.Wants, plan.Want{Ref: ref, Value: word.Value, Why: "transaction " + word.ID + " set it"})
	}
	return plan.Build([]plan.Finding{finding}, plan.Input{Profile: "transactions of this boot", States: s.Knobs, View: view}), nil
}

// show leaves the state in a file for other verbs, and in a line for the
// service manager.
func (w *watchman) show(r guarding.Report) error {
	r.PID, r.Boot, r.Mistakes = os.Getpid(), w.bootID, w.mistakes
	w.status = guardStatus(r)
	if !r.Ended {
		w.notify()
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// A reader must never see half of it.
	next := guardFile + ".new"
	if err := w.e.Files.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.e.Files.MkdirAll(journalDir); err != nil {
		return err
	}
	if err := w.e.Files.Append(next, append(data, '\n')); err != nil {
		return err
	}
	return w.e.Files.Rename(next, guardFile)
}

func (w *watchman) notify(states ...string) {
	if w.status != "" {
		states = append(states, "STATUS="+w.status)
	}
	if len(states) > 0 {
		w.e.Service.Notify(strings.Join(states, "\n"))
	}
}

// guardStatus is the state in one line.
func guardStatus(r guarding.Report) string {
	parts := []string{fmt.Sprintf("keeping %d settings", r.Keeps), fmt.Sprintf("restored %d", r.Restorations)}
	if r.Mistakes > 0 {
		parts = append(parts, report.Mistakes(r.Mistakes))
	}
	if r.Waiting != "" {
		parts = append(parts, "waiting: "+report.Clean(r.Waiting))
	}
	if n := len(r.Left); n > 0 {
		parts = append(parts, fmt.Sprintf("left alone %d (%s: %s)", n, report.Clean(r.Left[0].Ref.String()), report.Clean(r.Left[0].Reason)))
	}
	return strings.Join(parts, "; ")
}

// tell writes one action to the journal of the system, with its fields, or to
// stderr where there is none.
func (w *watchman) tell(a guarding.Action) {
	text := report.GuardLine(a)
	if w.e.Service.Log != nil {
		if err := w.e.Service.Log(text, priority(a), journalFields(a)); err == nil {
			return
		}
	}
	_, _ = fmt.Fprintln(w.e.Stderr, "napitune: "+text)
}

func priority(a guarding.Action) journal.Priority {
	switch a.Kind {
	case guarding.LeftIt, guarding.Refused, guarding.Waiting:
		return journal.PriWarning
	case guarding.Failed:
		return journal.PriErr
	default:
		return journal.PriNotice
	}
}

// journalFields are the fields of an entry; empty ones are left out. They are
// documented in the manual.
func journalFields(a guarding.Action) map[string]string {
	out := map[string]string{
		"NAPITUNE_ACTION": string(a.Kind), "NAPITUNE_BEFORE": a.Before, "NAPITUNE_AFTER": a.After,
		"NAPITUNE_CAUSE": a.Cause, "NAPITUNE_BY": a.By, "NAPITUNE_REASON": a.Reason,
	}
	if a.Ref.Kind != "" {
		out["NAPITUNE_KNOB"], out["NAPITUNE_DEVICE"] = a.Ref.String(), a.Ref.Dev
	}
	if a.Took > 0 {
		out["NAPITUNE_TOOK_USEC"] = fmt.Sprint(a.Took.Microseconds())
	}
	for name, value := range out {
		if value == "" && name != "NAPITUNE_BEFORE" && name != "NAPITUNE_AFTER" {
			delete(out, name)
		}
	}
	return out
}

// guardReport reads the state that a guard of this boot has left, nil if none has.
func guardReport(e env, boot string) (*guarding.Report, error) {
	data, err := e.Files.ReadFile(guardFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r guarding.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", guardFile, err)
	}
	if r.Boot != boot {
		return nil, nil
	}
	r.Left = slices.Clip(r.Left)
	return &r, nil
}

// warnContested tells who asks what napitune can do here of settings that the
// guard has left to somebody else. Who asks for advice has a finding of them.
func warnContested(e env, verb string) {
	if verb != "doctor" || e.Files.ReadFile == nil {
		return
	}
	// Without the file, or the right to read it, nothing is known.
	if _, err := e.Files.ReadFile(guardFile); err != nil {
		return
	}
	m, err := e.Open("")
	if err != nil {
		return
	}
	ident, err := m.last().Ident()
	if err != nil {
		return
	}
	r, err := guardReport(e, ident.BootID)
	if err != nil {
		_, _ = fmt.Fprintf(e.Stderr, "napitune: state of the guard: %v\n", err)
		return
	}
	if r == nil {
		return
	}
	for _, line := range report.Contested(*r) {
		_, _ = fmt.Fprintln(e.Stderr, "napitune: "+line)
	}
}
