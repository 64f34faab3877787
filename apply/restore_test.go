package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
)

var restored = []string{"net.core.netdev_budget", "eth0/rx-0/rps.cpus", "eth0/rx-1/irq.affinity"}

// baseRig is a machine on which a transaction set three values.
func baseRig(t *testing.T) (*rig, string, Result) {
	t.Helper()
	r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
	before := r.dump(false)
	result, err := r.process(nil).Apply(context.Background(), r.plan(restored[0], "600", restored[1], "1-3", restored[2], "2"), anything)
	if err != nil {
		t.Fatal(err)
	}
	return r, before, result
}

// disturb is what a driver or another program does to two of the values.
func disturb(r *rig) {
	r.write(restored[1], "")
	r.write(restored[2], "3")
}

// Restorations leave nothing behind, and the transaction whose values they
// bring back can be rolled back to where the machine was.
func TestRestoreLeavesNoJournal(t *testing.T) {
	t.Parallel()
	r, before, base := baseRig(t)
	history := string(r.disk.files["var/lib/napitune/history.jsonl"])
	for range 50 {
		disturb(r)
		result, err := r.process(nil).Restore(context.Background(), r.plan(restored[1], "1-3", restored[2], "2"), anything)
		if err != nil || result.State != Confirmed || len(result.Changes) != 2 {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if got := r.disk.journals(""); len(got) != 2 {
		t.Errorf("files after 50 restorations: %q, want one journal and the history", got)
	}
	if diff := cmp.Diff(history, string(r.disk.files["var/lib/napitune/history.jsonl"])); diff != "" {
		t.Errorf("history:\n%s", diff)
	}
	result, err := r.process(nil).Rollback(context.Background(), "")
	if err != nil || result.ID != base.ID || result.State != RolledBack {
		t.Fatalf("%+v, %v", result, err)
	}
	if diff := cmp.Diff(before, r.dump(false)); diff != "" {
		t.Errorf("rolled back:\n%s", diff)
	}
}

func TestRestoreRefusesWhatWasNotSet(t *testing.T) {
	t.Parallel()
	r, _, _ := baseRig(t)
	disturb(r)
	for _, pairs := range [][]string{
		{restored[1], "2"}, // not the value of the transaction
		{"net.core.dev_weight", "128"},
		{restored[1], "1-3", "net.core.dev_weight", "128"},
	} {
		now := r.dump(false)
		result, err := r.process(nil).Restore(context.Background(), r.plan(pairs...), anything)
		if !errors.Is(err, ErrRefused) || result.ID != "" || r.dump(false) != now {
			t.Errorf("%q: %+v, %v", pairs, result, err)
		}
	}
	if result, err := r.process(nil).Rollback(context.Background(), ""); err != nil || result.State != Dirty {
		t.Errorf("the rollback took the disturbance for its own: %+v, %v", result, err)
	}
	if _, err := r.process(nil).Restore(context.Background(), r.plan(restored[1], "1-3"), anything); err == nil {
		t.Error("what is dirty from a rollback was brought back")
	}
}

// Wherever a restoration dies, recovering clears the way and the first
// transaction can still be rolled back to where the machine was.
func TestRestoreCrashAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		r, before, base := baseRig(t)
		disturb(r)
		f := &fuse{at: at, after: at%2 == 0, torn: -1}
		_, err := r.process(f).Restore(context.Background(), r.plan(restored[1], "1-3", restored[2], "2"), anything)
		if err == nil && !f.dead {
			if at < 8 {
				t.Fatalf("a restoration has %d steps", at)
			}
			return
		}
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			r.disk.locks = map[string]string{}
			if _, err := r.process(nil).Recover(context.Background()); err != nil {
				t.Fatalf("recover: %v", err)
			}
			open, err := r.process(nil).Unfinished()
			if err != nil || len(open) > 0 {
				t.Fatalf("unfinished: %+v, %v", open, err)
			}
			if left := r.disk.journals(undoneSuffix); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			var pairs []string
			for ref, want := range map[string]string{restored[1]: "1-3", restored[2]: "2"} {
				if r.read(ref) != want {
					pairs = append(pairs, ref, want)
				}
			}
			if len(pairs) > 0 {
				if _, err := r.process(nil).Restore(context.Background(), r.plan(pairs...), anything); err != nil {
					t.Fatal(err)
				}
			}
			if result, err := r.process(nil).Rollback(context.Background(), ""); err != nil || result.ID != base.ID {
				t.Fatalf("%+v, %v", result, err)
			}
			if diff := cmp.Diff(before, r.dump(false)); diff != "" {
				t.Errorf("rolled back:\n%s", diff)
			}
		})
	}
}

// refusesOnce is a gate that refuses the first write to a file of that name.
func refusesOnce(name string) func(what string, do func() error) error {
	failed := false
	return func(what string, do func() error) error {
		if !failed && strings.Contains(what, name) {
			failed = true
			return errors.New("refused by the test")
		}
		return do()
	}
}

// A restoration that the host refuses is undone and leaves nothing either.
func TestRestoreThatFails(t *testing.T) {
	t.Parallel()
	r, _, _ := baseRig(t)
	disturb(r)
	now := r.dump(false)
	r.gate = refusesOnce("smp_affinity")
	result, err := r.process(nil).Restore(context.Background(), r.plan(restored[1], "1-3", restored[2], "2"), anything)
	if err == nil || result.State != RolledBack {
		t.Fatalf("%+v, %v", result, err)
	}
	if diff := cmp.Diff(now, r.dump(false)); diff != "" {
		t.Error(diff)
	}
	if left := r.disk.journals(undoneSuffix); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The same killed anywhere: whoever recovers leaves nothing of it, also where the
// undone journal had not been archived yet.
func TestFailedRestoreCrashAnywhere(t *testing.T) {
	t.Parallel()
	for step := 2; ; step++ {
		at := step / 2
		r, _, _ := baseRig(t)
		disturb(r)
		now := r.dump(false)
		r.gate = refusesOnce("smp_affinity")
		f := &fuse{at: at, after: step%2 == 0, torn: -1}
		_, err := r.process(f).Restore(context.Background(), r.plan(restored[1], "1-3", restored[2], "2"), anything)
		if !f.dead {
			if err == nil || at < 8 {
				t.Fatalf("a restoration that fails has %d steps and ends with %v", at, err)
			}
			return
		}
		r.disk.locks, r.gate = map[string]string{}, nil
		if _, err := r.process(nil).Recover(context.Background()); err != nil {
			t.Fatalf("killed at step %d, recover: %v", at, err)
		}
		if left := r.disk.journals(undoneSuffix); len(left) > 0 {
			t.Errorf("killed at step %d, left behind: %q", at, left)
		}
		if diff := cmp.Diff(now, r.dump(false)); diff != "" {
			t.Errorf("killed at step %d:\n%s", at, diff)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	r, _, base := baseRig(t)
	ref := knob.Global(restored[0])
	word := func() Word {
		t.Helper()
		all, err := r.process(nil).Words()
		if err != nil {
			t.Fatal(err)
		}
		return all[ref]
	}
	check := func(what string, want Word, covers string) {
		t.Helper()
		got := word()
		at, err := time.Parse("20060102-150405", want.ID[:15])
		if err != nil {
			t.Fatal(err)
		}
		want.At, want.Own = at, true
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
		if got.Covers("600") != (covers == "600") || got.Covers("700") != (covers == "700") {
			t.Errorf("%s: covers 600 %v, 700 %v", what, got.Covers("600"), got.Covers("700"))
		}
	}
	check("applied", Word{ID: base.ID, State: Confirmed, Profile: "test", Value: "600", Wanted: "600"}, "600")
	second, err := r.process(nil).Apply(context.Background(), r.plan(restored[0], "700"), anything)
	if err != nil {
		t.Fatal(err)
	}
	check("applied again", Word{ID: second.ID, State: Confirmed, Profile: "test", Value: "700", Wanted: "700", Earlier: []string{"600"}}, "700")
	if _, err := r.process(nil).Rollback(context.Background(), second.ID); err != nil {
		t.Fatal(err)
	}
	check("rolled back", Word{ID: base.ID, State: Confirmed, Profile: "test", Value: "600", Wanted: "600"}, "600")
	if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	check("all rolled back", Word{ID: base.ID, State: RolledBack, Profile: "test", Value: "300", Wanted: "300"}, "")
}

// Wherever a service is killed, the next one puts the machine back, and nothing
// stands in anybody's way. What a person began is left to people.
func TestRecoverAnywhere(t *testing.T) {
	t.Parallel()
	for _, service := range []bool{true, false} {
		for at := 1; ; at++ {
			r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
			before := r.dump(false)
			f := &fuse{at: at, after: at%2 == 0, torn: -1}
			killed := r.process(f)
			killed.Unattended = service
			_, err := killed.Apply(context.Background(), r.plan(restored[0], "600", restored[1], "1-3", restored[2], "2"), anything)
			if err == nil && !f.dead {
				break
			}
			r.disk.locks = map[string]string{}
			open, err := r.process(nil).Unfinished()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.process(nil).Recover(context.Background()); err != nil {
				t.Fatalf("step %d: %v", at, err)
			}
			left, err := r.process(nil).Unfinished()
			switch {
			case err != nil:
				t.Fatal(err)
			case !service && len(left) != len(open):
				t.Errorf("step %d: a person's transaction is undone: %+v", at, open)
			case service && (len(left) > 0 || len(open) > 0 && r.dump(false) != before):
				t.Errorf("step %d: left %+v; the machine:\n%s", at, left, cmp.Diff(before, r.dump(false)))
			}
		}
	}
}

// What somebody else changed meanwhile does not block the host either.
func TestRecoverForeign(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
	killed := r.process(&fuse{at: 5, after: true, torn: -1})
	killed.Unattended = true
	if _, err := killed.Apply(context.Background(), r.plan(restored[0], "600", restored[1], "1-3"), anything); err == nil {
		t.Fatal("it was not killed")
	}
	r.disk.locks = map[string]string{}
	r.write(restored[0], "900")
	results, err := r.process(nil).Recover(context.Background())
	if err != nil || len(results) != 1 || results[0].State != Dirty || r.read(restored[0]) != "900" {
		t.Errorf("%+v, %v, %s", results, err, r.read(restored[0]))
	}
	if _, err := r.process(nil).Apply(context.Background(), r.plan(restored[1], "2"), anything); err != nil {
		t.Error(err)
	}
}
