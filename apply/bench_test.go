package apply

import (
	"context"
	"fmt"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// hundred is a plan of 100 changes: interrupts, RPS, RFS and XPS of 25 queues.
func hundred(r *rig) plan.Plan {
	var pairs []string
	for q := range 25 {
		at := fmt.Sprintf("eth0/rx-%d/", q)
		cpu := fmt.Sprint(q%31 + 1)
		pairs = append(pairs, at+"rps.cpus", cpu, at+"rps.flow_cnt", "1024",
			fmt.Sprintf("eth0/tx-%d/xps.cpus", q), cpu, at+"irq.affinity", cpu)
	}
	return r.plan(pairs...)
}

func BenchmarkApply100(b *testing.B) {
	r := newRig(b, hosttest.Spec{CPUs: 32, QueuesPerNIC: 32, Driver: "ice", IRQStacked: true})
	p := hundred(r)
	// The rollback, which makes room for the next apply, is not counted.
	for b.Loop() {
		if _, err := r.process(nil).Apply(context.Background(), p, anything); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil {
			b.Fatal(err)
		}
		r.disk = newDisk()
		b.StartTimer()
	}
}

func BenchmarkRollback100(b *testing.B) {
	r := newRig(b, hosttest.Spec{CPUs: 32, QueuesPerNIC: 32, Driver: "ice", IRQStacked: true})
	p := hundred(r)
	for b.Loop() {
		b.StopTimer()
		r.disk = newDisk()
		if _, err := r.process(nil).Apply(context.Background(), p, anything); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPreflight(b *testing.B) {
	r := newRig(b, hosttest.Spec{CPUs: 32, QueuesPerNIC: 32, Driver: "ice", IRQStacked: true})
	p := hundred(r)
	if len(p.Changes) != 100 {
		b.Fatalf("%d changes", len(p.Changes))
	}
	for b.Loop() {
		if _, err := r.process(nil).Preflight(p, Options{MaxDisruption: knob.DisruptsLink}); err != nil {
			b.Fatal(err)
		}
	}
}

// What 100 changes cost must not grow with their number but for the writes and
// their records: the host is read whole a few times only, and each change puts
// two records on disk. The live host is held against the clock in cmd/napitune.
func TestCostOfHundredChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{CPUs: 32, QueuesPerNIC: 32, Driver: "ice", IRQStacked: true})
	p := hundred(r)
	a := r.process(nil)
	views, writes := 0, 0
	read := a.View
	a.View = func() (knob.View, error) {
		views++
		return read()
	}
	r.gate = func(_ string, do func() error) error {
		writes++
		return do()
	}
	if _, err := a.Apply(context.Background(), p, anything); err != nil {
		t.Fatal(err)
	}
	// begin, applied, confirmed, and a line of the history.
	if records := r.disk.appends; views > 2 || writes != 100 || records != 2*100+4 {
		t.Errorf("apply: %d readings of the host, %d writes, %d records", views, writes, records)
	}
	views, writes, r.disk.appends = 0, 0, 0
	if _, err := a.Rollback(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	if records := r.disk.appends; views > 2 || writes != 100 || records != 2*100+3 {
		t.Errorf("rollback: %d readings of the host, %d writes, %d records", views, writes, records)
	}
}
