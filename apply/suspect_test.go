package apply

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

func TestSuspects(t *testing.T) {
	t.Parallel()
	was := plan.Origin{Devices: []plan.OriginDevice{
		{Name: "eth0", Driver: "ice", Bus: "0000:01:00.0", Index: 2}, {Name: "eth1", Driver: "ice", Bus: "0000:01:00.1", Index: 3},
	}}
	now := plan.Origin{Devices: []plan.OriginDevice{
		{Name: "eth0", Driver: "ice", Bus: "0000:01:00.0", Index: 2}, {Name: "eth1", Driver: "ice", Bus: "0000:01:00.1", Index: 9},
	}}
	w := witness{view: knob.View{OnlineCPUs: "0-3"}, where: devices{was: was, now: now}, owners: []owner.Owner{
		{Name: "irqbalance", When: "every 10 s", Claims: []owner.Claim{{Kind: "irq.affinity", Source: "process 812"}}},
		{Name: "NetworkManager", When: "when a connection comes up", Claims: []owner.Claim{{Kind: "ring.rx", Dev: "eth0", Source: "lan.nmconnection"}}},
	}}
	const irqbalance = "irqbalance sets it every 10 s (process 812)"
	for _, test := range []struct {
		ref            knob.Ref
		wrote, present string
		want           []string
	}{
		{knob.Rx("eth0", 0, "irq.affinity"), "2", "1", []string{irqbalance}},
		{knob.Rx("eth0", 0, "irq.affinity"), "2,5", "2", []string{"CPUs of the old value are offline", irqbalance}},
		{knob.Rx("eth0", 0, "irq.affinity"), "5", "0-3", []string{"CPUs of the old value are offline", irqbalance}},
		{knob.Rx("eth0", 0, "rps.cpus"), "2", "1", nil},
		{knob.Device("eth0", "ring.rx"), "2048", "512", []string{"NetworkManager sets it when a connection comes up (lan.nmconnection)"}},
		{knob.Rx("eth1", 0, "rps.cpus"), "2", "1", []string{"the device was made anew since (interface index 3, now 9)"}},
		{knob.Rx("eth9", 0, "rps.cpus"), "2", "1", nil},
		{knob.Global("net.core.netdev_budget"), "600", "300", nil},
		{knob.Ref{Kind: "nonsense"}, "1", "2", nil},
	} {
		if diff := cmp.Diff(test.want, w.suspects(test.ref, test.ref, test.wrote, test.present)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.ref, diff)
		}
	}
}

// Namespaces often share /run: a transaction of another one is neither undone
// nor confirmed by chance, blocks nothing here, is named, and can be forgotten.
func TestTransactionsOfOtherNamespaces(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	in := func(name string) {
		r.origin = func(o plan.Origin) plan.Origin {
			o.NetNS = name
			return o
		}
	}
	in("4026531840/1")
	const ref = "eth0/rx-0/rps.cpus"
	done, err := r.process(nil).Apply(background, r.plan(ref, "1"), Options{MaxDisruption: knob.DisruptsLink, ConfirmWithin: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	in("4026532201/7")
	a := r.process(nil)
	all, err := a.Status()
	if err != nil || len(all) != 1 || all[0].NetNS != "4026531840/1" || all[0].Drift != nil {
		t.Errorf("status: %+v, %v", all, err)
	}
	if open, err := a.Unfinished(); err != nil || len(open) != 1 || open[0].NetNS == "" {
		t.Errorf("unfinished: %+v, %v", open, err)
	}
	if _, err := a.Rollback(background, ""); err == nil || !strings.Contains(err.Error(), "nothing was applied") {
		t.Errorf("the last of another namespace: %v", err)
	}
	before := r.m.Dump()
	if _, err := a.Rollback(background, done.ID); err == nil || !strings.Contains(err.Error(), "made in network namespace 4026531840/1 and this is 4026532201/7") {
		t.Errorf("by its ID: %v", err)
	}
	if r.m.Dump() != before {
		t.Error("the rollback wrote")
	}
	own, err := a.Apply(background, r.plan(ref, "2"), anything)
	if err != nil {
		t.Fatalf("an apply beside it: %v", err)
	}
	if back, err := a.Rollback(background, ""); err != nil || back.ID != own.ID {
		t.Errorf("%+v, %v", back, err)
	}
	in("4026531840/1")
	if back, err := r.process(nil).Rollback(background, ""); err != nil || back.ID != done.ID || r.read(ref) != "" {
		t.Errorf("at home: %+v, %v; %q", back, err, r.read(ref))
	}
	// Without a name on either side it is from here.
	in("")
	if _, err := r.process(nil).Apply(background, r.plan(ref, "1"), anything); err != nil {
		t.Fatal(err)
	}
	in("4026532201/7")
	if back, err := r.process(nil).Rollback(background, ""); err != nil || back.State != RolledBack {
		t.Errorf("an older journal: %+v, %v", back, err)
	}
	in("4026532999/8")
	lost, err := r.process(nil).Apply(background, r.plan(ref, "1"), Options{MaxDisruption: knob.DisruptsLink, ConfirmWithin: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	in("4026531840/1")
	if forgotten, err := r.process(nil).Forget(lost.ID); err != nil || forgotten.State != Forgotten {
		t.Errorf("forget: %+v, %v", forgotten, err)
	}
	if open, err := r.process(nil).Unfinished(); err != nil || len(open) > 0 {
		t.Errorf("after forgetting: %+v, %v", open, err)
	}
	if _, err := r.process(nil).Forget(""); err == nil {
		t.Error("forgot without an ID")
	}
}

// A plan of another namespace is another host's, though all devices have the
// same names there.
func TestPlanOfAnotherNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{})
	p := r.plan("eth0/rx-0/rps.cpus", "1")
	p.Origin.NetNS = "1"
	p.Fingerprint = p.Origin.Fingerprint()
	r.origin = func(o plan.Origin) plan.Origin { o.NetNS = "2"; return o }
	if _, err := r.process(nil).Apply(background, p, anything); err == nil || !strings.Contains(err.Error(), `the network namespace is "2", the plan was made with "1"`) {
		t.Errorf("%v", err)
	}
}
