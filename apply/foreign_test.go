package apply

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// gentle kinds overwrite no setting besides their own.
func gentle(k *knob.Kind) bool { return !slices.ContainsFunc(knob.All(), k.MayChange) }

// What somebody else changes while a rollback is at work survives as well: at
// its first write they change the setting that it comes to last.
func TestForeignWriteDuringRollback(t *testing.T) {
	t.Parallel()
	eachSpec(t, func(t *testing.T, spec hosttest.Spec) {
		rng := seeds(t)
		tested := 0
		for range 200 {
			if tested == 5 {
				return
			}
			r := newRig(t, spec)
			p := r.randomPlan(rng, 5, gentle)
			applied, err := r.process(nil).Apply(background, p, anything)
			if err != nil || len(applied.Changes) < 2 {
				continue
			}
			victim := applied.Changes[0]
			at := address(r.m.View(), victim.Ref)
			if victim.Observed == victim.Before || at == address(r.m.View(), applied.Changes[len(applied.Changes)-1].Ref) {
				continue
			}
			foreign := ""
			r.gate = func(_ string, do func() error) error {
				r.gate = nil
				kind, _ := knob.Lookup(victim.Ref.Kind)
				if _, value, ok := candidate(rng, r.m.View(), kind, victim.Ref); ok && value != victim.Before && value != victim.After {
					if err := kind.Write(r.m.View(), r.m.Writer(), victim.Ref, value); err == nil {
						foreign = kind.Read(r.m.View(), victim.Ref).Value
					}
				}
				return do()
			}
			result, err := r.process(nil).Rollback(background, "")
			if foreign == "" || foreign == victim.Before || foreign == victim.Observed {
				continue
			}
			tested++
			if err != nil || result.State != Dirty {
				t.Fatalf("%s, %v: %+v", result.State, err, result.Restored)
			}
			for _, one := range result.Restored {
				if (address(r.m.View(), one.Ref) == at) != (one.Fate == FateForeign) {
					t.Errorf("%s is %s, the foreign one is %s", one.Ref, one.Fate, victim.Ref)
				}
			}
			for _, c := range p.Changes { // an earlier change may have moved what a later one found
				want := c.Before
				if address(r.m.View(), c.Ref) == at {
					want = foreign
				}
				if got := r.read(c.Ref.String()); got != want {
					t.Errorf("%s is %q, want %q (foreign: %s)\nplan %s", c.Ref, got, want, victim.Ref, describePlan(p))
				}
			}
		}
		t.Errorf("only %d plans were tested", tested)
	})
}

// What somebody else sets during a rollback, before the write that overwrites
// it, is theirs also where a crash follows that write.
func TestForeignSideDuringRollback(t *testing.T) {
	t.Parallel()
	for at := 0; ; at++ {
		r := newRig(t, small)
		r.write("eth0/rx-0/irq.affinity", "3")
		o := anything
		o.Replan = func(context.Context) (plan.Plan, error) { return r.plan("net.core.netdev_budget", "600"), nil }
		p := r.plan("eth0/channels.combined", "1")
		p.Complete = false
		if _, err := r.process(nil).Apply(background, p, o); err != nil {
			t.Fatal(err)
		}
		r.gate = func(_ string, do func() error) error { // the budget's
			r.gate = nil
			r.write("eth0/tx-0/irq.affinity", "1-2")
			r.write("eth0/rx-0/rps.cpus", "2")
			return do()
		}
		f := &fuse{at: at, after: true, torn: -1}
		result, err := r.process(f).Rollback(background, "")
		if at > 0 && f.steps < at {
			break
		}
		if at > 0 {
			result, err = r.process(nil).Rollback(background, "")
		}
		if r.gate != nil {
			continue // killed before it wrote anything
		}
		if err != nil || result.State != Dirty {
			t.Fatalf("killed after step %d: %s, %v", at, result.State, err)
		}
		for ref, value := range map[string]string{
			"eth0/tx-0/irq.affinity": "1-2", "eth0/rx-0/rps.cpus": "2", "eth0/rx-0/irq.affinity": "3",
			"eth0/channels.combined": "2", "net.core.netdev_budget": "300",
		} {
			if got := r.read(ref); got != value {
				t.Errorf("killed after step %d: %s is %q, want %q", at, ref, got, value)
			}
		}
	}
}

// A table that somebody made for queues that stay is theirs, also where undoing
// the number of queues has the driver make another one.
func TestForeignTableOfQueuesThatStay(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"i40e", "mlx5_core"} {
		r := newRig(t, hosttest.Spec{Driver: driver, CPUs: 8, QueuesPerNIC: 2, MaxQueues: 4})
		if _, err := r.process(nil).Apply(background, r.plan("eth0/channels.combined", "4"), anything); err != nil {
			t.Fatal(err)
		}
		slots, err := knob.ParseTable(r.read("eth0/rss.table"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range slots {
			slots[i] = uint32(i % 3 / 2)
		}
		foreign := knob.FormatTable(slots)
		r.write("eth0/rss.table", foreign)
		r.gate = func(what string, do func() error) error {
			err := do()
			if what == "channels eth0" {
				err = errors.Join(err, r.m.Writer().SetRSS("eth0", nil))
			}
			return err
		}
		result, err := r.process(nil).Rollback(background, "")
		if err != nil || result.State != Dirty || r.read("eth0/rss.table") != foreign || r.read("eth0/channels.combined") != "2" {
			t.Errorf("%s: %s, %v, %s: %+v", driver, result.State, err, r.read("eth0/rss.table"), result.Restored)
		}
	}
}
