package guard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// scene drives a Keeper with a clock of its own.
type scene struct {
	t       *testing.T
	k       *Keeper
	now     time.Time
	words   map[knob.Ref]apply.Word
	running []owner.Owner
	blind   bool
	profile string
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, now: start, words: map[knob.Ref]apply.Word{}, profile: "web"}
	s.k = NewKeeper(start)
	s.k.Watch(map[string][]knob.Ref{"rps": {ref(t, rps)}, "irq": {ref(t, irq)}})
	return s
}

const (
	rps     = "eth0/rx-1/rps.cpus"
	irq     = "eth0/rx-1/irq.affinity"
	budget  = "net.core.netdev_budget"
	queues  = "eth0/channels.combined"
	gro     = "eth0/feature.rx-gro"
	flushes = "eth0/gro_flush_timeout"
)

func ref(t *testing.T, text string) knob.Ref {
	t.Helper()
	r, err := knob.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *scene) pass(d time.Duration) { s.now = s.now.Add(d) }

func (s *scene) event(e host.Event) { s.k.Take(s.now, []host.Event{e}) }

// look is one look at a host where these settings differ and the others of the
// scene are right.
func (s *scene) look(differing ...string) Decision {
	s.t.Helper()
	s.k.Begin(s.now)
	p := plan.Plan{Profile: s.profile}
	for _, text := range []string{rps, irq, budget, queues, gro, flushes} {
		differs := false
		for _, d := range differing {
			if name, present, _ := strings.Cut(d, "="); name == text {
				differs = true
				p.Changes = append(p.Changes, plan.Change{Ref: ref(s.t, text), Before: present, After: "2"})
			}
		}
		if !differs {
			p.Kept = append(p.Kept, plan.Kept{Ref: ref(s.t, text), Value: "2"})
		}
	}
	d := s.k.Decide(s.now, s.now, p, Around{Words: s.words, Owners: func() []owner.Owner { return s.running }, Blind: s.blind, Loaded: start})
	s.k.End(s.now, 0)
	return d
}

// made is look with what it decides to write being written.
func (s *scene) made(differing ...string) []string {
	s.t.Helper()
	d := s.look(differing...)
	var out []string
	for _, c := range append(d.Restore, d.Set...) {
		act := s.k.Made(s.now, d.Causes[c.Ref], apply.Outcome{Ref: c.Ref, Observed: c.After, Verdict: apply.VerdictApplied})
		out = append(out, fmt.Sprintf("%s: %s", act.Ref, act.Cause))
	}
	for _, act := range d.Tell {
		out = append(out, fmt.Sprintf("%s %s: %s, by %q", act.Kind, act.Ref, act.Reason, act.By))
	}
	return out
}

func (s *scene) want(what string, got []string, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s:\n%s", what, diff)
	}
}

func TestFirstLook(t *testing.T) {
	s := newScene(t)
	if at, ok := s.k.Next(); !ok || at != start {
		t.Errorf("first look at %v, %v", at, ok)
	}
	s.want("at the beginning", s.made(rps+"=1"), rps+": not as wanted when it was first looked at")
}

// Every cause, with a setting that it explains and one that it does not.
func TestCauses(t *testing.T) {
	for _, test := range []struct {
		e          host.Event
		yes, no    string
		cause      string
		otherwise  string // what is said of no at the end of the grace
		afterGrace bool
	}{
		{host.Event{Kind: host.LinkChanged, Dev: "eth0"}, irq, rps, "link change of eth0", "written by somebody else", true},
		{host.Event{Kind: host.LinkChanged, Dev: "eth0"}, flushes, queues, "link change of eth0", "written by somebody else", true},
		{host.Event{Kind: host.QueuesChanged, Dev: "eth0"}, rps, budget, "queue change of eth0", "written by somebody else", true},
		{host.Event{Kind: host.DeviceChanged, Dev: "eth0"}, queues, budget, "device change of eth0", "written by somebody else", true},
		{host.Event{Kind: host.CPUChanged}, irq, rps, "CPU hotplug", "written by somebody else", true},
		{host.Event{Kind: host.SettingChanged, Dev: "eth0", Setting: "channels"}, rps, queues, "change of channels of eth0", "written by somebody else", false},
		{host.Event{Kind: host.SettingChanged, Dev: "eth0", Setting: "rings"}, irq, rps, "change of rings of eth0", "written by somebody else", true},
		{host.Event{Kind: host.SettingChanged, Dev: "eth0", Setting: "private flags"}, queues, budget, "change of private flags of eth0", "written by somebody else", true},
		{host.Event{Kind: host.EventsLost}, rps, budget, "more events than could be told", "written by somebody else", true},
		{host.Event{Kind: host.DeviceChanged}, gro, budget, "device change", "written by somebody else", true},
	} {
		t.Run(describe(test.e)+" "+test.yes, func(t *testing.T) {
			s := newScene(t)
			s.look()
			s.pass(time.Hour)
			s.event(test.e)
			s.pass(100 * time.Millisecond)
			got := s.made(test.yes+"=1", test.no+"=1")
			if !test.afterGrace {
				s.want("both", got, test.yes+": "+test.cause, test.no+": "+test.otherwise)
				return
			}
			s.want("explained", got, test.yes+": "+test.cause)
			s.pass(grace)
			s.want("not explained", s.made(test.no+"=1"), test.no+": "+test.otherwise)
		})
	}
}

// Events of another device explain nothing.
func TestOtherDevice(t *testing.T) {
	s := newScene(t)
	s.look()
	s.pass(time.Hour)
	for _, kind := range []host.EventKind{host.DeviceChanged, host.LinkChanged, host.QueuesChanged, host.AddressChanged} {
		s.event(host.Event{Kind: kind, Dev: "eth1"})
	}
	s.event(host.Event{Kind: host.AddressChanged, Dev: "eth0"})
	s.pass(100 * time.Millisecond)
	s.want("at once", s.made(irq+"=1"))
	s.pass(grace)
	s.want("after the grace", s.made(irq+"=1"), irq+": written by somebody else")
}

// A cause may come after the difference was seen: the kernel tells last.
func TestLateCause(t *testing.T) {
	s := newScene(t)
	s.look()
	s.pass(time.Hour)
	s.want("at once", s.made(irq+"=1"))
	s.pass(grace / 2)
	s.event(host.Event{Kind: host.LinkChanged, Dev: "eth0"})
	s.pass(quiet)
	s.want("explained", s.made(irq+"=1"), irq+": link change of eth0")
}

func flap(s *scene) {
	s.event(host.Event{Kind: host.LinkChanged, Dev: "eth0"})
	s.pass(100 * time.Millisecond)
}

// What drivers undo is brought back each time.
func TestManyFlaps(t *testing.T) {
	s := newScene(t)
	s.look()
	for range 200 {
		s.pass(time.Minute)
		flap(s)
		s.want("flap", s.made(irq+"=1"), irq+": link change of eth0")
		s.pass(time.Second)
		s.want("in between", s.made())
	}
	if r := s.k.Report(); r.Restorations != 200 || len(r.Left) > 0 {
		t.Errorf("%+v", r)
	}
}

// A link that flaps for hours is not written to for hours.
func TestEndlessFlapping(t *testing.T) {
	s := newScene(t)
	s.look()
	for range 7200 {
		s.pass(400 * time.Millisecond)
		flap(s)
		s.made(irq + "=1")
	}
	// An hour has 360 refills.
	if n := s.k.Report().Restorations; n < 360 || n > 360+burst+1 {
		t.Errorf("%d restorations in an hour", n)
	}
	if _, ok := s.k.Next(); !ok {
		t.Error("what is held back is forgotten")
	}
	s.pass(time.Hour)
	s.want("later", s.made(irq+"=1"), irq+": link change of eth0")
}

// Two rewrites are one too many, and who wrote is said.
func TestTwoWriters(t *testing.T) {
	balancing := []owner.Owner{{Name: "irqbalance", Habit: owner.Always, Claims: []owner.Claim{{Kind: "irq.affinity"}}}}
	for _, test := range []struct {
		name    string
		event   host.Event
		running []owner.Owner
		setting string
		first   string
		left    string
	}{
		{"told", host.Event{Kind: host.FileWritten, Path: "rps", PID: 7, By: "sh"}, nil, rps,
			rps + ": written by sh", "left " + rps + `: written 2 times by somebody else within 10s, by "sh"`},
		{"told and ended", host.Event{Kind: host.FileWritten, Path: "rps", PID: 7}, nil, rps,
			rps + ": written by process 7, which has ended", "left " + rps + `: written 2 times by somebody else within 10s, by "process 7, which has ended"`},
		{"not told", host.Event{Kind: host.FileWritten, Path: "irq"}, balancing, irq,
			irq + ": written by irqbalance (it runs here and writes such settings)",
			"left " + irq + `: written 2 times by somebody else within 10s, by "irqbalance (it runs here and writes such settings)"`},
		{"nobody known", host.Event{Kind: host.FileWritten, Path: "rps"}, balancing, rps,
			rps + ": written by somebody else", "left " + rps + `: written 2 times by somebody else within 10s, by ""`},
		{"ethtool", host.Event{Kind: host.SettingChanged, Dev: "eth0", Setting: "channels"}, nil, queues,
			queues + ": written by somebody else", "left " + queues + `: written 2 times by somebody else within 10s, by ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			s.running = test.running
			s.look()
			s.pass(time.Hour)
			s.event(test.event)
			s.pass(quiet)
			s.want("first", s.made(test.setting+"=1"), test.first)
			s.pass(10*time.Second - quiet)
			s.event(test.event)
			s.pass(quiet)
			s.want("second", s.made(test.setting+"=1"), test.left)
			for range 3 {
				s.pass(time.Hour)
				flap(s)
				s.want("afterwards", s.made(test.setting+"=1"))
			}
			if got := s.k.Report().Left; len(got) != 1 || !got[0].Contested || got[0].Present != "1" || got[0].Want != "2" {
				t.Errorf("report: %+v", got)
			}
			s.pass(time.Hour)
			s.k.Reload(s.now)
			s.want("told to begin anew", s.made(test.setting+"=1"), test.setting+": not as wanted when it was first looked at")
		})
	}
}

// A write that is seen counts though a link flap would explain the change.
func TestWriteDuringFlap(t *testing.T) {
	s := newScene(t)
	s.look()
	for i, want := range []string{irq + ": written by irqbalance", "left " + irq + `: written 2 times by somebody else within 10s, by "irqbalance"`} {
		s.pass(10*time.Second - 100*time.Millisecond)
		s.event(host.Event{Kind: host.FileWritten, Path: "irq", PID: 9, By: "irqbalance"})
		flap(s)
		s.want(fmt.Sprint(i), s.made(irq+"=1"), want)
	}
}

// Without its name, somebody who writes beside a link flap, or some seconds after
// it, is somebody all the same; what the guard wrote itself is nobody's.
func TestUntoldWriteBesideFlap(t *testing.T) {
	untold := host.Event{Kind: host.FileWritten, Path: "irq"}
	left := "left " + irq + `: written 2 times by somebody else within 1m0s, by ""`
	for name, write := range map[string]func(*scene){
		"before the flap": func(s *scene) { s.event(untold); flap(s) },
		"after the flap":  func(s *scene) { flap(s); s.event(untold); s.pass(quiet) },
		"when the guard had looked": func(s *scene) {
			flap(s)
			s.want("kept", s.made())
			s.pass(5 * time.Second)
			s.event(untold)
			s.pass(quiet)
		},
		"when the guard had mended it": func(s *scene) {
			flap(s)
			s.want("mended", s.made(irq+"=1"), irq+": link change of eth0")
			s.pass(20 * time.Millisecond)
			s.event(untold)
			s.pass(quiet)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.look()
			for _, want := range []string{irq + ": written by somebody else", left} {
				s.pass(30 * time.Second)
				begin := s.now
				write(s)
				s.want("written", s.made(irq+"=1"), want)
				s.pass(30*time.Second - s.now.Sub(begin))
			}
		})
	}
	s := newScene(t)
	s.look()
	for range 20 {
		s.pass(30 * time.Second)
		flap(s)
		d := s.look(irq + "=1")
		s.event(untold) // its own, taken in before the outcome
		for _, c := range d.Set {
			s.k.Made(s.now, d.Causes[c.Ref], apply.Outcome{Ref: c.Ref, Observed: c.After, Verdict: apply.VerdictApplied})
		}
	}
	if r := s.k.Report(); len(r.Left) > 0 || r.Restorations != 20 {
		t.Errorf("its own writes are held against others: %+v", r)
	}
}

// Rewrites further apart than the memory are no fight.
func TestRareRewrites(t *testing.T) {
	s := newScene(t)
	s.look()
	for range 5 {
		s.pass(memory + time.Hour)
		s.event(host.Event{Kind: host.FileWritten, Path: "rps", PID: 7, By: "sh"})
		s.pass(quiet)
		s.want("rare", s.made(rps+"=1"), rps+": written by sh")
	}
}

// A difference that cannot be mended at once is counted once.
func TestCountedOnce(t *testing.T) {
	s := newScene(t)
	s.look()
	s.pass(time.Hour)
	s.event(host.Event{Kind: host.FileWritten, Path: "rps", PID: 7, By: "sh"})
	for range 5 {
		s.pass(quiet)
		if d := s.look(rps + "=1"); len(d.Set) != 1 || len(d.Tell) > 0 {
			t.Fatalf("%+v", d)
		}
		s.k.Wait(s.now, "somebody holds the lock")
	}
}

// What people did with napitune is not undone.
func TestPeopleDecide(t *testing.T) {
	for _, test := range []struct {
		name  string
		word  apply.Word
		found string
		want  []string
	}{
		{"rolled back", apply.Word{ID: "A-1", State: apply.RolledBack, Value: "1"}, "1", []string{"left " + rps + `: transaction A-1 was rolled back, by "napitune"`}},
		{"half rolled back", apply.Word{ID: "A-1", State: apply.Dirty, Value: "2"}, "1", []string{"left " + rps + `: somebody began to roll transaction A-1 back, by "napitune"`}},
		{"set otherwise", apply.Word{ID: "A-2", State: apply.Confirmed, Value: "1"}, "1", []string{"left " + rps + `: transaction A-2 set it, by "napitune"`}},
		{"an older edition", apply.Word{ID: "A-2", State: apply.Confirmed, Value: "1", Profile: "web", At: start.Add(-time.Minute)}, "1", []string{rps + ": link change of eth0"}},
		{"a newer edition", apply.Word{ID: "A-2", State: apply.Confirmed, Value: "1", Profile: "web", At: start.Add(time.Minute)}, "1",
			[]string{"left " + rps + `: transaction A-2 set it for an edition of the profile that the guard has not read, by "napitune"`}},
		{"rounded by the host", apply.Word{ID: "A-2", State: apply.Confirmed, Value: "1", Wanted: "2", Profile: "web", At: start.Add(time.Minute)}, "1", []string{rps + ": link change of eth0"}},
		{"being decided", apply.Word{ID: "A-2", State: apply.Unconfirmed, Value: "1"}, "1", nil},
		{"it stands", apply.Word{ID: "A-1", State: apply.Confirmed, Value: "2"}, "1", []string{rps + ": link change of eth0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			s.look()
			s.pass(time.Hour)
			s.words[ref(t, rps)] = test.word
			s.event(host.Event{Kind: host.QueuesChanged, Dev: "eth0"})
			flap(s)
			got := s.made(rps + "=" + test.found)
			for i := range got {
				got[i] = strings.Replace(got[i], "queue change", "link change", 1)
			}
			s.want("decided", got, test.want...)
			s.words[ref(t, rps)] = apply.Word{ID: "A-3", State: apply.Confirmed, Value: "2"}
			s.pass(time.Hour)
			s.event(host.Event{Kind: host.QueuesChanged, Dev: "eth0"})
			s.pass(100 * time.Millisecond)
			if len(test.want) == 1 && strings.HasPrefix(test.want[0], "left") {
				s.want("set again", s.made(), "took up "+rps+`: transaction A-3 set it again, by ""`)
			}
		})
	}
}

// Settings with a standing transaction are restored, others set.
func TestRestoreOrSet(t *testing.T) {
	s := newScene(t)
	s.words[ref(t, rps)] = apply.Word{ID: "A-1", State: apply.Confirmed, Value: "2"}
	d := s.look(rps+"=1", irq+"=1")
	if len(d.Restore) != 1 || d.Restore[0].Ref != ref(t, rps) || len(d.Set) != 1 || d.Set[0].Ref != ref(t, irq) {
		t.Errorf("%+v", d)
	}
}

func TestRefusals(t *testing.T) {
	s := newScene(t)
	c := plan.Change{Ref: ref(t, irq), Before: "1", After: "2"}
	d := s.look(irq + "=1")
	if len(d.Set) != 1 {
		t.Fatalf("%+v", d)
	}
	if act := s.k.Refuse(s.now, c, "EIO"); act.Kind != Refused {
		t.Errorf("first: %+v", act)
	}
	s.pass(time.Second)
	s.want("too early", s.made(irq+"=1"))
	if at, ok := s.k.Next(); !ok || at.After(s.now.Add(retryRefused)) {
		t.Errorf("no retry: %v %v", at, ok)
	}
	s.pass(retryRefused)
	if d := s.look(irq + "=1"); len(d.Set) != 1 {
		t.Errorf("it is not tried again: %+v", d)
	}
	if act := s.k.Refuse(s.now, c, "EIO"); act.Kind != LeftIt || !strings.Contains(act.Reason, "EIO") {
		t.Errorf("second: %+v", act)
	}
	s.pass(time.Hour)
	s.want("left", s.made(irq+"=1"))
	if got := s.k.Report().Left; len(got) != 1 || got[0].Contested {
		t.Errorf("report: %+v", got)
	}
}

// A change that was refused amid somebody's change of queues is made when that is done.
func TestRefusedAmidChange(t *testing.T) {
	s := newScene(t)
	s.look()
	s.event(host.Event{Kind: host.QueuesChanged, Dev: "eth0"})
	s.pass(quiet)
	d := s.look(rps + "=0")
	if len(d.Set) != 1 {
		t.Fatalf("%+v", d)
	}
	s.pass(time.Millisecond)
	s.k.Refuse(s.now, d.Set[0], "no such queue")
	s.pass(time.Millisecond)
	s.event(host.Event{Kind: host.QueuesChanged, Dev: "eth0"})
	s.pass(quiet)
	if d = s.look(rps + "=0"); len(d.Set) != 1 {
		t.Fatalf("the queues are there again: %+v", d)
	}
	// Once: by then the host means it.
	if act := s.k.Refuse(s.now, d.Set[0], "no such queue"); act.Kind != LeftIt {
		t.Errorf("second: %+v", act)
	}
}

// What was refused while the link was down is tried when it comes up, at once, and
// after longer and longer waits where that does not help.
func TestRefusedUntilSomethingHappens(t *testing.T) {
	c := plan.Change{Ref: ref(t, irq), Before: "1", After: "2"}
	leftBy := func() *scene {
		s := newScene(t)
		s.look()
		for range tooManyRefusals {
			s.pass(time.Hour)
			s.look(irq + "=1")
			s.k.Refuse(s.now, c, "ENETDOWN")
		}
		if got := s.k.Report().Left; len(got) != 1 {
			t.Fatalf("left: %+v", got)
		}
		s.pass(time.Hour)
		s.want("nothing happened", s.made(irq+"=1"))
		return s
	}
	s := leftBy()
	s.event(host.Event{Kind: host.LinkChanged, Dev: "eth1"})
	s.pass(quiet)
	s.want("another device", s.made(irq+"=1"))
	flap(s)
	took := "took up " + irq + `: it was refused before this link change of eth0, by ""`
	s.want("up", s.made(irq+"=1"), irq+": written by somebody else", took)
	if got := s.k.Report().Left; len(got) > 0 {
		t.Errorf("left: %+v", got)
	}

	// A driver that takes its link down and up at each attempt.
	s = leftBy()
	attempts := 0
	begin := s.now
	flap(s)
	for s.now.Sub(begin) < 4*time.Hour {
		if d := s.look(irq + "=1"); len(d.Set) > 0 {
			attempts++
			s.k.Refuse(s.now, c, "EIO")
			s.pass(time.Second)
			flap(s)
		}
		at, ok := s.k.Next()
		if !ok {
			break
		}
		s.now = latest(at, s.now.Add(time.Second))
	}
	// At 0, 30 s, 1, 2, 4, 8, 16, 32 minutes, and each hour.
	if attempts < 6 || attempts > 13 {
		t.Errorf("%d attempts in four hours", attempts)
	}

	// What is right by itself is kept again.
	s = leftBy()
	s.want("right", s.made())
	s.pass(time.Hour)
	flap(s)
	s.want("kept", s.made(irq+"=1"), irq+": link change of eth0")
}

// A value that the kernel rounds is not wanted again and again.
func TestRounded(t *testing.T) {
	s := newScene(t)
	d := s.look(budget + "=1")
	s.k.Made(s.now, d.Causes[ref(t, budget)], apply.Outcome{Ref: ref(t, budget), Observed: "4", Verdict: apply.VerdictRounded})
	s.pass(time.Second)
	s.want("rounded", s.made(budget+"=4"))
}

// The clock of looks: quiet after an event, bounded in a storm, none at rest.
func TestWhen(t *testing.T) {
	s := newScene(t)
	s.look()
	if at, ok := s.k.Next(); ok {
		t.Errorf("nothing happened and a timer is set to %v", at.Sub(s.now))
	}
	s.pass(time.Hour)
	first := s.now
	for range 100 {
		flapAt := s.now
		s.event(host.Event{Kind: host.LinkChanged, Dev: "eth0"})
		at, ok := s.k.Next()
		if !ok || at.After(first.Add(longest)) || at.After(flapAt.Add(quiet)) {
			t.Fatalf("look at %v after the first event, %v", at.Sub(first), ok)
		}
		s.pass(10 * time.Millisecond)
	}
	s.pass(time.Second)
	s.look()
	s.pass(lateFollowUp)
	s.look()
	if _, ok := s.k.Next(); ok {
		t.Error("a timer is set though all is quiet")
	}
	s.event(host.Event{Kind: host.LinkChanged, Dev: "eth0"})
	s.pass(quiet)
	s.look()
	var gaps []time.Duration
	for {
		at, ok := s.k.Next()
		if !ok {
			break
		}
		gaps = append(gaps, at.Sub(s.now))
		s.now = at
		s.look()
		if len(gaps) > 5 {
			break
		}
	}
	if diff := cmp.Diff([]time.Duration{followUp, lateFollowUp - followUp}, gaps); diff != "" {
		t.Errorf("looks after the last event:\n%s", diff)
	}
	// Of what is not kept, such as the devices of containers, there is no late one.
	s.event(host.Event{Kind: host.DeviceChanged, Dev: "veth7"})
	s.pass(quiet)
	s.look()
	s.pass(followUp)
	s.look()
	if at, ok := s.k.Next(); ok {
		t.Errorf("a look is due in %s because of a device that is not kept", at.Sub(s.now))
	}
}

// What a driver undoes long after the event is found: the kernel tells nothing
// then.
func TestUndoneLate(t *testing.T) {
	s := newScene(t)
	s.look()
	s.pass(time.Hour)
	flap(s)
	s.want("at once", s.made())
	for s.now.Before(start.Add(time.Hour + 10*time.Second)) {
		at, ok := s.k.Next()
		if !ok {
			t.Fatal("there is no late look")
		}
		if at.After(start.Add(time.Hour + 10*time.Second)) {
			break
		}
		s.now = at
		s.want("soon after", s.made())
	}
	at, ok := s.k.Next() // meanwhile the firmware is back
	if !ok || at.After(start.Add(time.Hour+lateFollowUp+time.Second)) {
		t.Fatalf("late look: %v %v", at, ok)
	}
	s.now = at
	s.made(irq + "=1")
	s.pass(grace)
	if got := s.made(irq + "=1"); len(got) > 1 || s.k.Report().Restorations != 1 {
		t.Errorf("%v, %+v", got, s.k.Report())
	}
}

// In a storm that does not end, looks take a tenth of the time, and the first
// ones come at once.
func TestStorm(t *testing.T) {
	for _, took := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 300 * time.Millisecond} {
		s := newScene(t)
		s.look()
		s.pass(time.Hour)
		var spent, worst time.Duration
		begin := s.now
		for s.now.Sub(begin) < time.Minute {
			s.event(host.Event{Kind: host.LinkChanged, Dev: "eth0"})
			at, _ := s.k.Next()
			if late := at.Sub(s.now); late > worst {
				worst = late
			}
			if at.After(s.now.Add(time.Millisecond)) {
				s.pass(time.Millisecond)
				continue
			}
			s.k.Begin(s.now)
			s.pass(took)
			spent += took
			s.k.End(s.now, took)
			if s.now.Sub(begin) < allowance && worst > quiet {
				t.Fatalf("looks of %v: a pause of %v at the beginning", took, worst)
			}
		}
		if limit := time.Minute/share + 2*allowance; spent > limit {
			t.Errorf("looks of %v: %v of a minute", took, spent)
		}
		if worst > maxPause {
			t.Errorf("looks of %v: a pause of %v", took, worst)
		}
	}
}

// After a restoration there are two more looks and no others.
func TestFollowUps(t *testing.T) {
	s := newScene(t)
	s.look()
	s.pass(time.Hour)
	flap(s)
	at := s.now
	s.made(irq + "=1")
	var gaps []time.Duration
	for range 6 {
		next, ok := s.k.Next()
		if !ok {
			break
		}
		s.now = next
		gaps = append(gaps, next.Sub(at))
		s.look()
	}
	if diff := cmp.Diff([]time.Duration{followUp, lateFollowUp}, gaps); diff != "" {
		t.Errorf("looks after a restoration:\n%s", diff)
	}
}

// Without watching files the guard looks now and then, as long as a program
// that would write them runs.
func TestBlind(t *testing.T) {
	balancing := []owner.Owner{{Name: "irqbalance", Habit: owner.Always, Claims: []owner.Claim{{Kind: "irq.affinity"}}}}
	for _, test := range []struct {
		blind   bool
		running []owner.Owner
		want    bool
	}{
		{true, balancing, true}, {true, nil, false}, {false, balancing, false}, {true, []owner.Owner{{Name: "a file", Habit: owner.AtBoot, Claims: []owner.Claim{{Kind: "irq.affinity"}}}}, false},
	} {
		s := newScene(t)
		s.blind, s.running = test.blind, test.running
		s.look()
		at, ok := s.k.Next()
		if ok != test.want || ok && at.Sub(s.now) != blindly {
			t.Errorf("%+v: %v %v", test, at.Sub(s.now), ok)
		}
	}
}

func TestWaiting(t *testing.T) {
	s := newScene(t)
	s.look()
	var told int
	var last time.Duration
	for range 10 {
		if _, news := s.k.Wait(s.now, "locked"); news {
			told++
		}
		at, ok := s.k.Next()
		if !ok {
			t.Fatal("no further look")
		}
		last = at.Sub(s.now)
		s.now = at
		s.k.Begin(s.now)
	}
	if told != 1 || last != waitLongest || s.k.Report().Waiting != "locked" {
		t.Errorf("told %d times, last pause %v, %+v", told, last, s.k.Report())
	}
	s.k.Works()
	if _, ok := s.k.Next(); ok || s.k.Report().Waiting != "" {
		t.Error("it waits on")
	}
}

// Memory does not grow with what happens.
func TestBounded(t *testing.T) {
	s := newScene(t)
	for i := range 3 * maxCauses {
		s.event(host.Event{Kind: host.DeviceChanged, Dev: fmt.Sprint("veth", i)})
		s.event(host.Event{Kind: host.FileWritten, Path: fmt.Sprint("file", i), PID: i})
	}
	if n := len(s.k.causes); n > maxCauses {
		t.Errorf("%d causes are remembered", n)
	}
	s.look()
	s.k.Decide(s.now, s.now, plan.Plan{}, Around{})
	if n := len(s.k.accounts); n != 0 {
		t.Errorf("%d settings are remembered that nobody wants any more", n)
	}
}
