package disk_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/disk"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// A whole life of a transaction with journal, lock and history in real files.
func TestTransaction(t *testing.T) {
	t.Parallel()
	samples, err := hosttest.Generate(hosttest.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	origin := plan.Origin{BootID: "boot-1", Release: "6.12.0"}
	root := t.TempDir()
	process := func() *apply.Applier {
		return &apply.Applier{
			Machine: apply.Machine{
				View:   func() (knob.View, error) { return m.View(), nil },
				Origin: func() (plan.Origin, error) { return origin, nil },
				Writer: m.Writer(),
			},
			Files: disk.Open(root), Dir: "/run/napitune", History: "/var/lib/napitune/history.jsonl", Holder: "test",
		}
	}
	before := m.Dump()
	p := plan.Plan{Fingerprint: origin.Fingerprint(), Applyable: true, Complete: true, Changes: []plan.Change{
		{Seq: 1, Ref: knob.Global("net.core.netdev_budget"), Before: "300", After: "600"},
		{Seq: 2, Ref: knob.Rx("eth0", 0, "rps.cpus"), Before: "", After: "1-2"},
	}}
	ctx := context.Background()
	done, err := process().Apply(ctx, p, apply.Options{MaxDisruption: knob.DisruptsLink})
	if err != nil || done.State != apply.Confirmed {
		t.Fatalf("%s, %v", done.State, err)
	}
	journal := filepath.Join(root, "run/napitune/boot-1", done.ID)
	if _, err := os.Stat(journal + ".journal"); err != nil {
		t.Error(err)
	}
	if all, err := process().Status(); err != nil || len(all) != 1 || all[0].Changes != 2 {
		t.Errorf("status %+v, %v", all, err)
	}
	back, err := process().Rollback(ctx, "")
	if err != nil || back.State != apply.RolledBack || back.ID != done.ID || len(back.Warnings) > 0 {
		t.Errorf("%+v, %v", back, err)
	}
	if diff := cmp.Diff(before, m.Dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if _, err := os.Stat(journal + ".undone"); err != nil {
		t.Error(err)
	}
	events, damaged, err := process().Events()
	if err != nil || damaged > 0 || len(events) != 2 {
		t.Errorf("%d events, %d damaged, %v", len(events), damaged, err)
	}
}
