package apply

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/knob"
)

// encode is the text of a journal.
func encode(t *testing.T, records ...record) []byte {
	t.Helper()
	var out []byte
	for _, r := range records {
		line, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, line...)
	}
	return out
}

// One journal that this version cannot read is in nobody's way but its own: it
// is told, refused with the remedy, and can be forgotten.
func TestOneBadJournal(t *testing.T) {
	t.Parallel()
	const bad = "20260101-000000-900"
	begin := record{Type: recordBegin, Version: journalVersion, Number: 900, Tool: "9.1"}
	newer := begin
	newer.Version++
	weight := knob.Global("net.core.dev_weight")
	intent := record{Type: recordIntent, Seq: 1, Ref: &weight, Before: "64", After: "32"}
	unreadable := errors.New("input/output error")
	for name, tt := range map[string]struct {
		text    []byte
		damage  string // part of what is told
		refused string // part of what a rollback of it says; "" if it does what it can
	}{
		"newer form":          {encode(t, newer, intent), "its form is 2 and this version reads up to 1", "roll it back with the newer napitune that wrote it (9.1), or leave the host as it is (napitune forget " + bad + ")"},
		"unknown record":      {encode(t, begin, intent, record{Type: "paused"}), `no record "paused"`, "/" + bad + journalSuffix},
		"step without intent": {encode(t, begin, record{Type: recordDone, Seq: 7}), "change 7, which was never begun", ""},
		"not an address":      {encode(t, begin, record{Type: recordIntent, Seq: 1, Ref: &weight, Sides: map[string]string{"a/b/c/d": "1"}}), "more parts", ""},
		"not readable":        {nil, "input/output error", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small)
			r.disk.files[testDir+"/"+testBoot+"/"+bad+undoneSuffix] = tt.text
			a := r.process(nil)
			read := a.Files.ReadFile
			a.Files.ReadFile = func(name string) ([]byte, error) {
				if tt.text == nil && strings.Contains(name, bad) && !strings.HasPrefix(name, "var") {
					return nil, unreadable
				}
				return read(name)
			}
			before := r.m.Dump()
			o := anything
			o.ConfirmWithin = 1e9
			// Archived, it is nothing to anybody.
			first, err := a.Apply(background, r.plan("net.core.netdev_budget", "600"), o)
			if err != nil {
				t.Fatal(err)
			}
			if open, err := a.Unfinished(); err != nil || len(open) != 1 || open[0].ID != first.ID {
				t.Errorf("archived: %+v, %v", open, err)
			}
			delete(r.disk.files, testDir+"/"+testBoot+"/"+bad+undoneSuffix)
			r.disk.files[testDir+"/"+testBoot+"/"+bad+journalSuffix] = tt.text
			all, err := a.Status()
			if err != nil || len(all) != 2 || !all[1].Unfinished && !all[0].Unfinished {
				t.Fatalf("status %+v, %v", all, err)
			}
			for _, s := range all {
				if s.ID == bad && (!strings.Contains(s.Damage, tt.damage) || !s.Unfinished || s.Newer != (tt.refused != "")) {
					t.Errorf("status: %+v", s)
				}
			}
			if result, err := a.Confirm(first.ID); err != nil || result.State != Confirmed {
				t.Errorf("confirm of another: %s, %v", result.State, err)
			}
			if result, err := a.RollbackUnconfirmed(background, first.ID); err != nil || result.State != Confirmed {
				t.Errorf("timer of another: %s, %v", result.State, err)
			}
			if result, err := a.Rollback(background, first.ID); err != nil || result.State != RolledBack {
				t.Errorf("rollback of another: %s, %v", result.State, err)
			}
			if _, err := a.Words(); err != nil {
				t.Errorf("words: %v", err)
			}
			if _, err := a.Recover(background); err != nil {
				t.Errorf("recover restorations: %v", err)
			}
			_, err = a.Preflight(r.plan("net.core.netdev_budget", "600"), anything)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), bad) {
				t.Errorf("an apply beside it: %v", err)
			}
			if tt.refused != "" {
				kept := len(r.disk.files[testDir+"/"+testBoot+"/"+bad+journalSuffix])
				for what, act := range map[string]func() (Result, error){
					"rollback": func() (Result, error) { return a.Rollback(background, bad) },
					"last":     func() (Result, error) { return a.Rollback(background, "") },
					"timer":    func() (Result, error) { return a.RollbackUnconfirmed(background, bad) },
					"confirm":  func() (Result, error) { return a.Confirm(bad) },
				} {
					if result, err := act(); err == nil || !strings.Contains(err.Error(), tt.refused) || result.ID != "" {
						t.Errorf("%s of it: %+v, %v", what, result, err)
					}
				}
				if got := len(r.disk.files[testDir+"/"+testBoot+"/"+bad+journalSuffix]); got != kept {
					t.Error("its journal was written to")
				}
			}
			if result, err := a.Forget(bad); err != nil || result.State != Forgotten {
				t.Errorf("forget: %s, %v", result.State, err)
			}
			if open, err := a.Unfinished(); err != nil || len(open) != 0 {
				t.Errorf("after forgetting: %+v, %v", open, err)
			}
			if r.m.Dump() != before {
				t.Error("the machine is changed")
			}
		})
	}
}

// What is damaged for good does not block for good: once a rollback has undone all
// that can be read, everybody is sent to forget it, and not to roll back again.
func TestNextStepOfADamagedJournal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spoil  bool // somebody else has changed a setting
		undone bool
		remedy string
	}{
		"all restored":   {false, true, "nothing that its damaged journal still tells is left to undo: look at the host, then forget it (napitune forget "},
		"something left": {true, false, "roll it back again (napitune rollback "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small)
			a := r.process(nil)
			p := r.plan("net.core.netdev_budget", "600")
			done, err := a.Apply(background, r.plan("net.core.netdev_budget", "600", "net.core.dev_weight", "32"), anything)
			if err != nil {
				t.Fatal(err)
			}
			name := testDir + "/" + testBoot + "/" + done.ID + journalSuffix
			lines := strings.SplitAfter(string(r.disk.files[name]), "\n")
			at := slices.IndexFunc(lines, func(line string) bool {
				return strings.Contains(line, `"intent"`) && strings.Contains(line, "dev_weight")
			})
			lines[at] = "00000000" + lines[at][8:]
			r.disk.files[name] = []byte(strings.Join(lines, ""))
			if tt.spoil {
				r.write("net.core.netdev_budget", "777")
			}
			for range 2 {
				if result, err := a.Rollback(background, ""); err == nil || result.State != Dirty || result.Undone != tt.undone {
					t.Errorf("%s, undone %v, %v", result.State, result.Undone, err)
				}
				if open, err := a.Unfinished(); err != nil || len(open) != 1 || open[0].Damage == "" || open[0].Undone != tt.undone {
					t.Errorf("%+v, %v", open, err)
				}
				_, err := a.Preflight(p, anything)
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.remedy) || !strings.Contains(err.Error(), "napitune forget "+done.ID) {
					t.Errorf("the next apply: %v", err)
				}
			}
			if _, err := a.Forget(done.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Preflight(r.plan("net.core.netdev_budget", "600"), anything); err != nil {
				t.Errorf("after forgetting: %v", err)
			}
		})
	}
}

// A journal may have settings that this version does not know: that is told of
// each, all others are restored, and its plan is no damage either.
func TestUnknownSettingInJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	a := r.process(nil)
	a.Version = "9.1"
	done, err := a.Apply(background, r.plan("net.core.netdev_budget", "600", "net.core.dev_weight", "32"), anything)
	if err != nil {
		t.Fatal(err)
	}
	name := testDir + "/" + testBoot + "/" + done.ID + journalSuffix
	records, _, err := parseJournal(r.disk.files[name])
	if err != nil {
		t.Fatal(err)
	}
	future := knob.Global("net.core.future")
	for i := range records {
		if records[i].Ref != nil && records[i].Ref.Kind == "net.core.dev_weight" {
			records[i].Ref = &future
		}
	}
	records[0].Plan.Changes = r.plan("net.core.netdev_budget", "600").Changes
	records[0].Plan.Changes[0].Ref = future
	r.disk.files[name] = encode(t, records...)
	const reason = "this version of napitune has no such setting: the one that wrote the journal has (9.1)"
	all, err := a.Status()
	if err != nil || len(all) != 1 || all[0].Damage != "" || all[0].Profile != "test" || len(all[0].Drift) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, d := range all[0].Drift {
		if unknown := d.Ref == future; d.Drifted != unknown || (d.Reason == reason) != unknown {
			t.Errorf("status: %+v", d)
		}
	}
	result, err := a.Rollback(background, done.ID)
	if err == nil || result.State != Dirty || !strings.Contains(err.Error(), "net.core.future") {
		t.Errorf("%s, %v", result.State, err)
	}
	for _, one := range result.Restored {
		if unknown := one.Ref == future; unknown != (one.Fate == FateFailed) || unknown && one.Reason != reason {
			t.Errorf("%+v", one)
		}
	}
	if r.read("net.core.netdev_budget") != "300" {
		t.Error("the rest was not restored")
	}
	events, damaged, err := a.Events()
	if err != nil || damaged > 0 || len(events) != 2 || len(events[0].Changes) != 2 || events[0].Changes[0].Observed == "" {
		t.Fatalf("history: %+v, %d damaged, %v", events, damaged, err)
	}
	if diff := cmp.Diff(result.Restored, events[1].Restored); diff != "" {
		t.Errorf("history (-told +read)\n%s", diff)
	}
}

// A journal that is archived while the list is read is not lost from view.
func TestArchivedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	a := r.process(nil)
	done, err := a.Apply(background, r.plan("net.core.netdev_budget", "600"), anything)
	if err != nil {
		t.Fatal(err)
	}
	list := a.Files.ReadDir
	a.Files.ReadDir = func(dir string) ([]string, error) {
		names, err := list(dir)
		a.Files.ReadDir = list
		if _, err := r.process(nil).Rollback(background, done.ID); err != nil {
			t.Error(err)
		}
		return names, err
	}
	words, err := a.Words()
	if word := words[knob.Global("net.core.netdev_budget")]; err != nil || word.State != RolledBack {
		t.Errorf("%+v, %v", words, err)
	}
	a.Files.ReadDir = func(string) ([]string, error) { return []string{"20260101-000000-900" + journalSuffix}, nil }
	if all, err := a.Status(); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
