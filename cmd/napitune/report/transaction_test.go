package report

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
)

func at(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }

func outcomes() []apply.Outcome {
	return []apply.Outcome{
		{Ref: knob.Device("eth0", "channels.combined"), Before: "2", After: "4", Observed: "4", Verdict: apply.VerdictApplied,
			Moved: map[string]string{"eth0/rx-0/irq.affinity": "0-3"}, Why: "two queues for four cores"},
		{Ref: knob.Device("eth0", "ring.rx"), Before: "512", After: "4000", Observed: "4096", Verdict: apply.VerdictRounded, Why: "the ring ran over"},
		{Ref: knob.Rx("eth0", 1, "irq.affinity"), Address: "IRQ 45", Before: "0-3", After: "1", Observed: "1", Verdict: apply.VerdictPending,
			Reason: "IRQ 45 fires on CPU 2 until its next occurrence", Why: "all queues on one CPU"},
	}
}

func appliedTransaction() Transaction {
	return NewTransaction("apply", apply.Result{
		ID: "20260301-120000-001", State: apply.Unconfirmed, Complete: false, Deadline: at(1), Changes: outcomes(),
		Skipped:  []apply.Skipped{{Ref: knob.Device("eth1", "ring.rx"), Disruption: "link"}},
		Warnings: []string{"history of 20260301-120000-001: no space left on device"},
	})
}

func dirtyTransaction() Transaction {
	return NewTransaction("rollback", apply.Result{
		ID: "20260301-120000-001", State: apply.Dirty,
		Restored: []apply.Restoration{
			{Ref: knob.Rx("eth0", 1, "irq.affinity"), Want: "0-3", Present: "2", Fate: apply.FateForeign},
			{Ref: knob.Rx("eth0", 0, "rps.cpus"), Want: "", Present: "0-1", Fate: apply.FateForeign, By: "20260301-120500-002"},
			{Ref: knob.Device("eth0", "ring.rx"), Want: "512", Present: "512", Fate: apply.FateRestored},
			{Ref: knob.Global("net.core.netdev_budget"), Want: "300", Present: "300", Fate: apply.FateAlready},
			{Ref: knob.Device("eth1", "ring.rx"), Want: "512", Fate: apply.FateGone, Reason: "no such device"},
			{Ref: knob.Device("eth0", "channels.combined"), Want: "2", Present: "4", Fate: apply.FateFailed, Reason: "device or resource busy"},
			{Ref: knob.Device("eth0", "gro_flush_timeout"), NAPI: "NAPI of eth0/rx-1", Want: "gro_flush_timeout 50000", Present: "gro_flush_timeout 77777", Fate: apply.FateForeign},
		},
	})
}

func undoneTransaction() Transaction {
	return NewTransaction("rollback", apply.Result{
		ID: "20260301-120000-001", State: apply.Dirty, Undone: true,
		Restored: []apply.Restoration{{Ref: knob.Device("eth0", "ring.rx"), Want: "512", Present: "512", Fate: apply.FateRestored}},
	})
}

func testStatus() Status {
	return NewStatus([]apply.Summary{
		{ID: "20260301-120000-001", At: at(0), State: apply.Confirmed, Profile: "throughput", Changes: 3, Drift: []apply.Drift{
			{Ref: knob.Device("eth0", "ring.rx"), Before: "512", Wrote: "4096", Present: "4096"},
			{Ref: knob.Rx("eth0", 1, "irq.affinity"), Before: "0-3", Wrote: "1", Present: "2", Drifted: true,
				Suspects: []string{"irqbalance sets it every 10 s (process 812)"}},
			{Ref: knob.Rx("eth0", 0, "rps.cpus"), Before: "", Wrote: "1", Present: "0-1", Drifted: true, By: "20260301-120500-002"},
			{Ref: knob.Rx("eth1", 0, "rps.cpus"), Before: "", Wrote: "1", Drifted: true, Reason: "the device has no such receive queue"},
		}},
		{ID: "20260301-120500-002", At: at(5), State: apply.Unconfirmed, Deadline: at(6), Changes: 1, Unfinished: true},
		{ID: "20260301-121000-003", At: at(10), State: apply.Applying, Changes: 7, Unfinished: true, Damage: "line 4: no checksum"},
		{ID: "20260301-121500-004", At: at(15), State: apply.Dirty, Changes: 2, Unfinished: true, NetNS: "4026532201/7"},
		{ID: "20260301-122000-005", At: at(20), State: apply.Confirmed, Changes: 1, Unfinished: true, Newer: true,
			Damage: "a newer napitune wrote it: its form is 2 and this version reads up to 1"},
		{ID: "20260301-122500-006", At: at(25), State: apply.Dirty, Changes: 2, Unfinished: true},
		{ID: "20260301-123000-007", At: at(30), State: apply.Dirty, Changes: 2, Unfinished: true, Damage: "line 4: no checksum", Undone: true},
	})
}

func testHistory() History {
	return NewHistory([]apply.Event{
		{At: at(0), Boot: "11111111-2222-4333-8444-555555555555", ID: "20260301-120000-001", Event: apply.EventApplied, State: apply.Confirmed, Profile: "throughput", Changes: outcomes()},
		{At: at(1), Boot: "11111111-2222-4333-8444-555555555555", ID: "20260301-120000-001", Event: apply.EventMeasured, Brought: "softirq time 31 % → 12 %"},
		{At: at(2), Boot: "11111111-2222-4333-8444-555555555555", ID: "20260301-120000-001", Event: apply.EventRolledBack, State: apply.Dirty, Restored: dirtyTransaction().Restored},
	}, 1)
}

// Texts of transactions: what went wrong and the next step are in them.
func TestTransactionGoldens(t *testing.T) {
	here := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = here })
	for name, write := range map[string]func(io.Writer, Style) error{
		"transaction":        appliedTransaction().Text,
		"transaction-dirty":  dirtyTransaction().Text,
		"transaction-undone": undoneTransaction().Text,
		"status":             testStatus().Text,
		"status-none":        NewStatus(nil).Text,
		"history":            testHistory().Text,
	} {
		var out bytes.Buffer
		if err := write(&out, Style{Verbose: true}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", out.String())
	}
}

// The schemas can refuse what is not theirs.
func TestTransactionSchemasRefuse(t *testing.T) {
	for schema, test := range map[string]struct {
		value any
		list  string // a list in it whose first object is spoilt
	}{
		"transaction": {appliedTransaction(), "changes"}, "status": {testStatus(), "transactions"}, "history": {testHistory(), "events"},
	} {
		compiled := compileSchema(t, schema)
		for name, spoil := range map[string]func(document, inner map[string]any){
			"added":       func(d, _ map[string]any) { d["surprise"] = 1 },
			"missing":     func(d, _ map[string]any) { delete(d, "schema") },
			"null":        func(d, _ map[string]any) { d[test.list] = nil },
			"inner added": func(_, i map[string]any) { i["surprise"] = 1 },
			"inner word": func(_, i map[string]any) {
				for _, key := range []string{"verdict", "state"} {
					if _, ok := i[key]; ok {
						i[key] = "fine"
					}
				}
			},
		} {
			var out bytes.Buffer
			if err := JSON(&out, test.value); err != nil {
				t.Fatal(err)
			}
			document := decode(t, out.Bytes()).(map[string]any)
			spoil(document, document[test.list].([]any)[0].(map[string]any))
			if compiled.Validate(document) == nil {
				t.Errorf("%s, %s: accepted", schema, name)
			}
		}
	}
}
