package guard

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

// What a profile leaves to the host follows the CPUs that there are, as often as
// they come and go, and nobody is blamed for it. The number of queues does not:
// the link would go down for it.
func TestLoopSolves(t *testing.T) {
	k := newKeep(t, nil)
	profile, err := boot.Parse("p.yaml", []byte("boot-profile: 1\nname: fleet\ndevices:\n  - match: {name: eth0}\n    settings: {channels.combined: solve, rx-*/irq.affinity: solve}\n"))
	if err != nil {
		t.Fatal(err)
	}
	before := k.m.Dump()
	var offline cpuset.Set
	var solved map[knob.Ref]string
	k.Loop.Plan = func(context.Context) (plan.Plan, knob.View, error) {
		s, err := detect.Collect(k.m.Host(k.m.Samples() - 1))
		if err != nil {
			t.Fatal(err)
		}
		s.Topo.Online = s.Topo.Online.Minus(offline)
		p, problems := profile.Plan(s, boot.Scope{Solved: solved})
		if len(problems) > 0 {
			t.Errorf("problems: %v", problems)
		}
		solved = boot.StandingChannels(p, solved)
		origin, _ := k.origin()
		p.Origin, p.Fingerprint = &origin, origin.Fingerprint()
		return p, k.m.View(), nil
	}
	var causes []string
	k.Tell = func(a Action) {
		if a.Kind != Set && a.Kind != Restored {
			t.Errorf("%s %s: %s", a.Kind, a.Ref, a.Reason)
		}
		causes = append(causes, a.Cause)
	}
	journals := func() int {
		t.Helper()
		all, err := k.Applier.Status()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			for _, d := range s.Drift {
				if d.Drifted && d.By == "" {
					t.Errorf("drifted: %+v", d)
				}
			}
		}
		return len(all)
	}
	look := func(what string, cpus ...string) {
		t.Helper()
		for range 4 {
			k.after(time.Second)
		}
		got := []string{k.read(queues)}
		for _, rx := range []string{"0", "1", "2", "3"} {
			got = append(got, k.read("eth0/rx-"+rx+"/irq.affinity"))
		}
		if diff := cmp.Diff(append([]string{"4"}, cpus...), got); diff != "" {
			t.Errorf("%s: queues and CPUs (-want +got)\n%s", what, diff)
		}
	}
	look("at the beginning", "0", "1", "2", "3")
	causes = nil
	atFirst := 0
	for range 3 {
		k.now = k.now.Add(time.Minute)
		offline = cpuset.Of(3)
		k.keeper.Take(k.now, []host.Event{{Kind: host.CPUChanged}})
		look("CPU 3 offline", "0", "0", "1", "2")
		k.now = k.now.Add(time.Minute)
		offline = cpuset.Of()
		k.keeper.Take(k.now, []host.Event{{Kind: host.CPUChanged}})
		look("CPU 3 online", "0", "1", "2", "3")
		if atFirst == 0 {
			atFirst = journals()
		}
	}
	if n := journals(); n != atFirst {
		t.Errorf("%d journals, %d after the first time", n, atFirst)
	}
	for _, cause := range causes {
		if cause != "CPU hotplug" {
			t.Errorf("cause %q", cause)
		}
	}
	for range atFirst {
		if result, err := k.Applier.Rollback(context.Background(), ""); err != nil || result.State != apply.RolledBack {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if diff := cmp.Diff(before, k.m.Dump()); diff != "" {
		t.Errorf("rolled back (-before +after)\n%s", diff)
	}
}

// What the boot units set while a guard runs is no newer edition of the profile
// when the CPUs change later; what they set before the guard has seen it may be.
func TestWishChanges(t *testing.T) {
	s := newScene(t)
	s.look()
	s.words[ref(t, irq)] = apply.Word{ID: "A-1", State: apply.Confirmed, Value: "2", Profile: "web", At: start.Add(time.Minute)}
	s.pass(time.Hour)
	s.look()
	s.pass(time.Hour)
	d := s.decide(map[string]string{irq: "3"})
	if len(d.Set) != 1 || len(d.Tell) > 0 || !strings.Contains(d.Causes[ref(t, irq)].Cause, "another value is wanted by now") {
		t.Errorf("%+v", d)
	}
	if left := s.k.Report().Left; len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	s.pass(time.Hour)
	s.words[ref(t, rps)] = apply.Word{ID: "A-2", State: apply.Confirmed, Value: "1", Profile: "web", At: start.Add(time.Minute), Own: true}
	flap(s)
	s.event(host.Event{Kind: host.QueuesChanged, Dev: "eth0"})
	if d := s.look(rps + "=1"); len(d.Set) != 1 {
		t.Errorf("its own transaction counts as somebody else's: %+v", d)
	}
}

// decide is a look at a host where everything is 2 and some of it is wanted to be
// something else.
func (s *scene) decide(wanted map[string]string) Decision {
	s.t.Helper()
	s.k.Begin(s.now)
	p := plan.Plan{Profile: s.profile}
	for text, value := range wanted {
		p.Changes = append(p.Changes, plan.Change{Ref: ref(s.t, text), Before: "2", After: value})
	}
	d := s.k.Decide(s.now, s.now, p, Around{Words: s.words, Loaded: start})
	s.k.End(s.now, 0)
	return d
}
