package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
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
	"github.com/napitune/napitune/rules/plan"
)

// guardFile is the state of the guard, beside the journals.
const guardFile = journalDir + "/guard.json"

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
		ArgsUsage: noArguments,
		Description: "Keeps the settings of the transactions of this boot that stand (napitune status lists them). It waits for\n" +
			"events and does nothing in between. A setting that a link flap, other queues or CPU hotplug reset is brought back\n" +
			"at once. One that another program writes a second time is left to it and reported, here, in napitune status and\n" +
			"in the journal of the system. SIGHUP reads the profile anew and takes up what was left; SIGTERM ends it. Ending\n" +
			"changes no setting.",
		Flags:  transactionFlags(),
		Action: func(c *cli.Context) error { return keepWatch(c, e) },
	}
}

func keepWatch(c *cli.Context, e env) error {
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
	a.Holder = fmt.Sprintf("napitune guard, process %d", os.Getpid())
	// What is read is gone after each look: a small heap is collected often and
	// cheaply. The service promises less than 30 MB.
	debug.SetGCPercent(25)
	events, err := e.Service.Events()
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	reload, stop := e.Service.Hangups()
	defer stop()
	l := guardLoop(e, m, a, events, reload)
	err = l.Run(c.Context)
	e.Service.Notify(daemon.SdNotifyStopping + "\nSTATUS=stopped; every setting stays as it is")
	return err
}

// guardLoop wires the loop.
func guardLoop(e env, m *machine, a *apply.Applier, events *host.Events, reload <-chan struct{}) *guarding.Loop {
	again := make(chan struct{})
	w := &watchman{e: e, m: m, a: a, again: again}
	go w.relay(reload)
	return &guarding.Loop{
		Events: events, Plan: w.plan, Applier: a, Tell: w.tell, Show: w.show, Reload: again,
		Alive: func() { e.Service.Notify(daemon.SdNotifyWatchdog) }, AliveEvery: e.Service.Watchdog / 2,
		Ready: func() { w.notify(daemon.SdNotifyReady) },
		Rest:  debug.FreeOSMemory,
	}
}

// watchman does for the loop what concerns this process and this machine.
type watchman struct {
	e      env
	m      *machine
	a      *apply.Applier
	again  chan struct{}
	status string
	boot   string
}

// relay passes a hangup on and tells the service manager of it (sd_notify(3)).
func (w *watchman) relay(hangups <-chan struct{}) {
	for range hangups {
		w.e.Service.Notify(daemon.SdNotifyReloading + "\nMONOTONIC_USEC=" + daemon.SdNotifyMonotonicUsec())
		w.again <- struct{}{}
		w.e.Service.Notify(daemon.SdNotifyReady)
	}
}

// plan compares the machine with what the standing transactions of this boot
// have set.
func (w *watchman) plan(context.Context) (plan.Plan, knob.View, error) {
	s, err := detect.Collect(w.m.last())
	if err != nil {
		return plan.Plan{}, knob.View{}, err
	}
	w.boot = s.Ident.BootID
	words, err := w.a.Words()
	if err != nil {
		return plan.Plan{}, knob.View{}, err
	}
	view := s.View()
	view.Host = w.m.last()
	finding := plan.Finding{ID: "guard"}
	for ref, word := range words {
		if word.Covers(word.Value) {
			if kind, ok := knob.Lookup(ref.Kind); ok && kind.Asked {
				s.Knobs[ref] = kind.Read(view, ref)
			}
			finding.Wants = append(finding.Wants, plan.Want{Ref: ref, Value: word.Value, Why: "transaction " + word.ID + " set it"})
		}
	}
	made := origin(s)
	p := plan.Build([]plan.Finding{finding}, plan.Input{Fingerprint: made.Fingerprint(), Profile: "transactions of this boot", States: s.Knobs, View: view})
	p.Origin = &made
	return p, view, nil
}

// show leaves the state in a file for other verbs, and in a line for the
// service manager.
func (w *watchman) show(r guarding.Report) error {
	r.PID, r.Boot = os.Getpid(), w.boot
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
