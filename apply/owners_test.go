package apply

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

const banned = "irqbalance.banned"

// others are owners of settings: one that can be told, one that cannot, one
// that writes at boot.
func others() []owner.Owner {
	return []owner.Owner{
		{
			Name: "irqbalance", Habit: owner.Always, When: "every 10 s", Remedy: "stop it", Exceptions: banned,
			Claims: []owner.Claim{{Kind: "irq.affinity"}},
		},
		{
			Name: "tuned", Habit: owner.OnEvent, When: "when its profile is applied", Remedy: "tuned-adm off",
			Claims: []owner.Claim{{Kind: "net.core.netdev_budget"}},
		},
		{
			Name: "sysctl.d", Habit: owner.AtBoot, When: "at boot", Remedy: "edit the file",
			Claims: []owner.Claim{{Kind: "ring.rx", Dev: "eth0"}},
		},
	}
}

// ownedRig has the owners, and a plan that moves interrupts.
func ownedRig(t *testing.T) (*rig, plan.Plan) {
	t.Helper()
	r := newRig(t, hosttest.Spec{CPUs: 4, Driver: "ice", QueuesPerNIC: 4, IRQStacked: true})
	r.owners = func() ([]owner.Owner, error) { return others(), nil }
	return r, r.plan("eth0/rx-1/irq.affinity", "1", "eth0/rx-2/irq.affinity", "2", "eth0/ring.rx", "1024")
}

func allowing(owners map[string]Choice) Options {
	o := anything
	o.Owners = owners
	return o
}

// What an owner would undo is refused with every way out, and nothing is written.
func TestOwnerRefused(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	before := r.dump(false)
	_, err := r.process(nil).Apply(context.Background(), p, anything)
	want := "irqbalance: it writes eth0/rx-1/irq.affinity, eth0/rx-2/irq.affinity again, every 10 s: " +
		"--owner ban tells it to leave them alone, --owner leave leaves them out, --owner take changes them all the same"
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
	if diff := cmp.Diff(before, r.dump(false)); diff != "" {
		t.Errorf("written: %s", diff)
	}
	// One that writes on an event only is named.
	p = r.plan("net.core.netdev_budget", "600")
	result, err := r.process(nil).Apply(context.Background(), p, anything)
	if err != nil || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "tuned writes net.core.netdev_budget as well, when its profile is applied") {
		t.Errorf("%v %q", err, result.Warnings)
	}
}

func TestOwnerChoices(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		owners           map[string]Choice
		changes, skipped int
		list             string // of banned interrupts afterwards
		warns            string
	}{
		// The two queues that stay are left alone as well: told something, irqbalance
		// looks at all interrupts anew.
		"ban":           {map[string]Choice{"": Ban}, 4, 0, "3,7,", "sysctl.d writes eth0/ring.rx"},
		"tell":          {map[string]Choice{"": Tell}, 4, 0, "3,7,", "sysctl.d writes eth0/ring.rx"},
		"leave":         {map[string]Choice{"": Leave}, 1, 2, "", "sysctl.d writes eth0/ring.rx"},
		"take":          {map[string]Choice{"": Take}, 3, 0, "", "irqbalance writes eth0/rx-1/irq.affinity"},
		"by name":       {map[string]Choice{"irqbalance": Leave, "": Ban}, 1, 2, "", "sysctl.d"},
		"a file, named": {map[string]Choice{"sysctl.d": Leave, "": Take}, 2, 1, "", "irqbalance writes"},
		"of no concern": {map[string]Choice{"irqbalance": Take, "": Leave}, 3, 0, "", "irqbalance writes"},
	} {
		r, p := ownedRig(t)
		before := r.dump(false)
		result, err := r.process(nil).Apply(context.Background(), p, allowing(test.owners))
		if err != nil || len(result.Changes) != test.changes || len(result.Skipped) != test.skipped || !strings.Contains(strings.Join(result.Warnings, "\n"), test.warns) {
			t.Errorf("%s: %v, %d changes, skipped %+v, warnings %q", name, err, len(result.Changes), result.Skipped, result.Warnings)
			continue
		}
		list := r.read(banned)
		if test.list != "" && (!strings.HasPrefix(list, test.list) || list != "3,7,40,41,42,43" || result.Changes[0].Ref.Kind != banned) {
			t.Errorf("%s: banned are %s, first change %+v", name, list, result.Changes[0])
		}
		if test.list == "" && list != "3,7" {
			t.Errorf("%s: banned are %s", name, list)
		}
		if back, err := r.process(nil).Rollback(context.Background(), ""); err != nil || back.State != RolledBack {
			t.Errorf("%s: rollback: %s, %v", name, back.State, err)
		}
		if diff := cmp.Diff(before, r.dump(false)); diff != "" {
			t.Errorf("%s: after the rollback: %s", name, diff)
		}
	}
}

// What is as it should be already is to stay so.
func TestOwnerLeavesKept(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	stays := knob.Rx("eth0", 0, "irq.affinity")
	p.Kept = []plan.Kept{{Ref: stays, Value: r.read(stays.String())}, {Ref: knob.Device("eth0", "ring.rx"), Value: r.read("eth0/ring.rx")}}
	if _, err := r.process(nil).Apply(context.Background(), p, allowing(map[string]Choice{"": Ban})); err != nil {
		t.Fatal(err)
	}
	if list := r.read(banned); list != "3,7,40,41,42,43" {
		t.Errorf("banned are %s, want 3, 7 and all four queues", list)
	}
}

// Told already, an owner is no obstacle and is not told again.
func TestOwnerToldAlready(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	var irqs []int
	v := r.m.View()
	for q := range 4 {
		irq, err := v.IRQ("eth0", false, q)
		if err != nil {
			t.Fatal(err)
		}
		irqs = append(irqs, irq)
	}
	r.m.RunIrqbalance(irqs...)
	for _, o := range []Options{anything, allowing(map[string]Choice{"": Ban})} {
		result, err := r.process(nil).Apply(context.Background(), p, o)
		if err != nil || len(result.Changes) != 3 {
			t.Errorf("%v, %+v", err, result.Changes)
		}
		if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil {
			t.Error(err)
		}
	}
}

// Who cannot be told, or not so much, is a refusal that names the remedy.
func TestOwnerCannotBeTold(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	ban := allowing(map[string]Choice{"": Ban})
	refused := func(p plan.Plan, want string) {
		t.Helper()
		if _, err := r.process(nil).Apply(context.Background(), p, ban); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	refused(r.plan("net.core.netdev_budget", "600"), "tuned: it writes net.core.netdev_budget as well and cannot be told to leave them: tuned-adm off, or choose --owner tuned=leave or tuned=take")
	var many []int
	for irq := range 200 {
		many = append(many, 1000+irq)
	}
	r.m.RunIrqbalance(many...)
	refused(p, "more interrupts than irqbalance takes at once: ban the device in a policy script instead")
	r.m.StopIrqbalance()
	refused(p, "irqbalance.banned: unsupported: irqbalance is not running")
	// Nobody to choose: who writes on an event only is no obstacle.
	told := allowing(map[string]Choice{"": Tell})
	result, err := r.process(nil).Apply(context.Background(), r.plan("net.core.netdev_budget", "600"), told)
	if err != nil || !strings.Contains(strings.Join(result.Warnings, "\n"), "tuned writes net.core.netdev_budget as well") {
		t.Errorf("%v, warnings %q", err, result.Warnings)
	}
	r.owners = func() ([]owner.Owner, error) { return nil, errors.New("no processes") }
	if _, err := r.process(nil).Apply(context.Background(), p, ban); err == nil || !strings.Contains(err.Error(), "no processes") {
		t.Errorf("owners unknown: %v", err)
	}
}

// A refusal because of somebody else carries the settings, and whether asking
// again may help.
func TestOwnerRefusalCarriesSettings(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	held := []knob.Ref{knob.Rx("eth0", 1, "irq.affinity"), knob.Rx("eth0", 2, "irq.affinity")}
	for name, test := range map[string]struct {
		choice Choice
		stale  bool
		change func(*owner.Owner)
	}{
		"not chosen":     {"", false, func(*owner.Owner) {}},
		"not answering":  {Tell, true, func(*owner.Owner) { r.m.StopIrqbalance() }},
		"cannot be told": {Tell, false, func(o *owner.Owner) { o.Exceptions = "" }},
	} {
		all := others()
		test.change(&all[0])
		r.owners = func() ([]owner.Owner, error) { return all, nil }
		_, err := r.process(nil).Apply(context.Background(), p, allowing(map[string]Choice{"": test.choice}))
		var refused *Refused
		if !errors.As(err, &refused) || len(refused.Refusals) != 1 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := refused.Refusals[0]
		if diff := cmp.Diff(held, got.Refs); diff != "" || got.Subject != "irqbalance" || got.Stale != test.stale {
			t.Errorf("%s: %+v\n%s", name, got, diff)
		}
		r.m.RunIrqbalance(irqbalanceHas...)
	}
}

// A program that ended or began anew has forgotten what it was told: that is
// undone, and what somebody else told it since is left alone.
func TestOwnerRestarts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meanwhile func(*hosttest.Memory)
		state     State
		list      string
	}{
		"stopped":     {func(m *hosttest.Memory) { m.StopIrqbalance() }, RolledBack, "unsupported"},
		"restarted":   {func(m *hosttest.Memory) { m.RunIrqbalance(irqbalanceHas...) }, RolledBack, "3,7"},
		"told others": {func(m *hosttest.Memory) { m.RunIrqbalance(99) }, Dirty, "99"},
	} {
		r, p := ownedRig(t)
		if _, err := r.process(nil).Apply(context.Background(), p, allowing(map[string]Choice{"": Ban})); err != nil {
			t.Fatal(err)
		}
		test.meanwhile(r.m)
		back, _ := r.process(nil).Rollback(context.Background(), "")
		if back.State != test.state || r.read(banned) != test.list {
			t.Errorf("%s: %s, banned are %q; %+v", name, back.State, r.read(banned), back.Restored)
		}
		if got := r.read("eth0/rx-1/irq.affinity"); got != p.Changes[0].Before {
			t.Errorf("%s: the interrupt is on %s", name, got)
		}
	}
}

// Killed at any step of an apply that tells an owner, a rollback tells it back.
func TestOwnerCrashAnywhere(t *testing.T) {
	t.Parallel()
	r, p := ownedRig(t)
	before := r.dump(false)
	whole := &fuse{torn: -1}
	ban := allowing(map[string]Choice{"": Ban})
	if _, err := r.process(whole).Apply(context.Background(), p, ban); err != nil {
		t.Fatal(err)
	}
	told := 0
	for at := 1; at <= whole.steps; at++ {
		for _, after := range []bool{false, true} {
			r, p := ownedRig(t)
			_, _ = r.process(&fuse{at: at, after: after, torn: -1}).Apply(context.Background(), p, ban)
			if r.read(banned) != "3,7" {
				told++
			}
			r.disk.locks = map[string]string{}
			if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil && !errors.Is(err, ErrNoTransaction) {
				t.Errorf("step %d %v: %v", at, after, err)
			}
			if diff := cmp.Diff(before, r.dump(false)); diff != "" {
				t.Errorf("step %d %v (%s): %s", at, after, whole.log[at-1], diff)
			}
		}
	}
	if told < 5 {
		t.Errorf("the owner was told in %d of %d crashes: nothing was tested", told, 2*whole.steps)
	}
}

// A program that writes all the time has often written again since the plan was
// made. Where it is told to stop, or is written over, that is no obstacle: the
// changes are made, what the plan found right comes back, and a rollback restores
// what was there last. What nobody chose to overrule is refused as ever.
func TestOwnerOutrunsThePlan(t *testing.T) {
	t.Parallel()
	for _, choice := range []Choice{Ban, Take} {
		r, p := ownedRig(t)
		kept := knob.Rx("eth0", 3, "irq.affinity")
		p.Kept = []plan.Kept{{Ref: kept, Value: r.read(kept.String())}}
		r.write("eth0/rx-1/irq.affinity", "3")
		r.write(kept.String(), "2")
		before := r.dump(false)
		for _, o := range []Options{anything, allowing(map[string]Choice{"": Leave, "sysctl.d": Take})} {
			if _, err := r.process(nil).Apply(context.Background(), p, o); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `it is "3" now and was "0"`) {
				t.Errorf("%v: %v", o.Owners, err)
			}
		}
		result, err := r.process(nil).Apply(context.Background(), p, allowing(map[string]Choice{"": choice}))
		if err != nil {
			t.Fatalf("%s: %v", choice, err)
		}
		if want := "irqbalance wrote eth0/rx-1/irq.affinity, eth0/rx-3/irq.affinity after the plan was made"; !strings.Contains(strings.Join(result.Warnings, "\n"), want) {
			t.Errorf("%s: %q", choice, result.Warnings)
		}
		for ref, want := range map[string]string{"eth0/rx-1/irq.affinity": "1", "eth0/rx-2/irq.affinity": "2", kept.String(): p.Kept[0].Value} {
			if got := r.read(ref); got != want {
				t.Errorf("%s: %s is %s, want %s", choice, ref, got, want)
			}
		}
		if _, err := r.process(nil).Rollback(context.Background(), ""); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, r.dump(false)); diff != "" {
			t.Errorf("%s: after the rollback: %s", choice, diff)
		}
		// What it does not write is nobody's to overrule.
		r.write("eth0/ring.rx", "2048")
		if _, err := r.process(nil).Apply(context.Background(), p, allowing(map[string]Choice{"": choice})); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "irq.affinity") {
			t.Errorf("%s, the ring: %v", choice, err)
		}
	}
}
