package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// Where journals and history are: settings and journals end with the boot, as
// /run does; the history does not (hier(7), file-hierarchy(7)).
const (
	journalDir  = "/run/napitune"
	historyFile = "/var/lib/napitune/history.jsonl"
)

// applier is the transaction machinery over the running machine, with the
// privileges of this process. Without a Writer in the surroundings it can only look.
func applier(e env, m *machine, o options) (*apply.Applier, error) {
	a := &apply.Applier{
		Machine: apply.Machine{
			View:   func() (knob.View, error) { return currentView(m) },
			Origin: func() (plan.Origin, error) { return currentOrigin(m) },
			Owners: func() ([]owner.Owner, error) { return findOwners(m) },
		},
		Files: e.Files, Dir: journalDir, History: historyFile,
		Holder:  fmt.Sprintf("napitune, process %d", os.Getpid()),
		Version: e.Version, Log: o.log,
	}
	if e.Writer == nil {
		return a, nil
	}
	w, err := e.Writer()
	if err != nil {
		return nil, err
	}
	a.Writer = *w
	if a.Privileges, err = ownRights(m.last()); err != nil {
		return nil, fmt.Errorf("own privileges unknown: %w", err)
	}
	return a, nil
}

func currentView(m *machine) (knob.View, error) {
	s, err := detect.Collect(m.last())
	if err != nil {
		return knob.View{}, err
	}
	view := s.View()
	view.Host = m.last()
	return view, nil
}

func currentOrigin(m *machine) (plan.Origin, error) {
	s, err := detect.Collect(m.last())
	if err != nil {
		return plan.Origin{}, err
	}
	return origin(s), nil
}

// ownRights reads what this process may do to settings.
func ownRights(h *host.Host) (*apply.Privileges, error) {
	text, err := h.ReadFile("proc/self/status")
	if err != nil {
		return nil, err
	}
	uid, effective, err := parseStatus(string(text))
	if err != nil {
		return nil, err
	}
	// include/uapi/linux/capability.h
	const dacOverride, netAdmin = 1, 12
	return &apply.Privileges{
		Root: uid == 0, NetAdmin: effective&(1<<netAdmin) != 0, Override: effective&(1<<dacOverride) != 0,
	}, nil
}

// changeable opens the running machine for a verb that changes it, and refuses
// where the journal could not be kept, before anybody waits or is asked.
func changeable(e env, verb string, o options) (*machine, *apply.Applier, error) {
	m, err := e.Open("")
	if err != nil {
		return nil, nil, err
	}
	if e.Writer == nil || e.Files.ReadDir == nil {
		return nil, nil, errors.New("this build changes no settings")
	}
	a, err := applier(e, m, o)
	if err != nil {
		return nil, nil, err
	}
	if !a.Privileges.Root && !a.Privileges.Override {
		return nil, nil, fmt.Errorf("%s needs root: settings and %s are root's (sudo napitune %s)", verb, journalDir, verb)
	}
	return m, a, nil
}

// warnUnfinished tells on stderr of transactions that a crash or a failed
// rollback left. Verbs that deal with them tell themselves.
func warnUnfinished(e env, verb string) {
	switch verb {
	case "confirm", "rollback", "status", "forget":
		return
	}
	list, err := unfinished(e)
	switch {
	case errors.Is(err, fs.ErrPermission):
		// Journals are root's, and so is the remedy.
	case err != nil:
		_, _ = fmt.Fprintf(e.Stderr, "napitune: journals in %s: %v\n", journalDir, err)
	}
	for _, s := range list {
		_, _ = fmt.Fprintln(e.Stderr, "napitune: "+unfinishedText(s))
	}
}

// unfinished reads nothing of the host but the boot ID, and that only if there
// are journals at all.
func unfinished(e env) ([]apply.Summary, error) {
	if e.Files.ReadDir == nil {
		return nil, nil
	}
	boots, err := e.Files.ReadDir(journalDir)
	if errors.Is(err, fs.ErrNotExist) || len(boots) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := e.Open("")
	if err != nil {
		return nil, err
	}
	a := apply.Applier{Files: e.Files, Dir: journalDir}
	a.Origin = func() (plan.Origin, error) {
		ident, err := m.last().Ident()
		return plan.Origin{BootID: ident.BootID, NetNS: ident.NetNS}, err
	}
	return a.Unfinished()
}

func unfinishedText(s apply.Summary) string {
	switch {
	case s.NetNS != "":
		return fmt.Sprintf("transaction %s of another network namespace (%s) is unfinished (%s): napitune rollback in that one puts it back, napitune forget %s if that one is gone", s.ID, s.NetNS, s.State, s.ID)
	case s.Newer:
		return fmt.Sprintf("the journal of transaction %s cannot be undone by this version (%s): the newer one rolls it back, napitune forget %s leaves the host as it is", s.ID, s.Damage, s.ID)
	case s.Undone:
		return fmt.Sprintf("the journal of transaction %s is damaged (%s), and nothing that it still tells is left to undo: look at the host, then napitune forget %s", s.ID, s.Damage, s.ID)
	case s.State == apply.Dirty:
		damaged := ""
		if s.Damage != "" {
			damaged = "its journal is damaged (" + s.Damage + "), and "
		}
		return fmt.Sprintf("transaction %s is unfinished (%s, %d writes begun): %sa rollback could not restore everything: napitune rollback %s tries again, napitune forget %s leaves the host as it is", s.ID, s.State, s.Changes, damaged, s.ID, s.ID)
	case s.Damage != "":
		return fmt.Sprintf("the journal of transaction %s is damaged (%s): napitune rollback %s undoes what it still tells", s.ID, s.Damage, s.ID)
	case s.State == apply.Unconfirmed:
		until := ""
		if !s.Deadline.IsZero() {
			until = ", deadline " + s.Deadline.Local().Format(time.DateTime)
		}
		return fmt.Sprintf("transaction %s is not confirmed%s: napitune confirm %s keeps it, napitune rollback %s undoes it", s.ID, until, s.ID, s.ID)
	default:
		return fmt.Sprintf("transaction %s is unfinished (%s, %d writes begun): unless it is still at work, napitune rollback %s puts the host back", s.ID, s.State, s.Changes, s.ID)
	}
}
