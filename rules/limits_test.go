package rules_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
)

// impossible says why no host like this one can be given a value, "" if it can.
// It knows nothing of kinds, their bounds or the builder, which has asked those:
// what it holds a value against is written down here a second time.
func impossible(host *scene, policy profiles.Policy, ref knob.Ref, value string) string {
	s := host.snap
	n, err := strconv.ParseInt(value, 10, 64)
	number := func(least, most int64) string {
		switch {
		case err != nil:
			return "not a number"
		case n < least || n > most:
			return fmt.Sprintf("outside %d to %d", least, most)
		}
		return ""
	}
	d := s.Device(ref.Dev)
	switch ref.Kind {
	case "irq.affinity":
		return outside(value, func(cpu int) bool { return mayInterrupt(host, policy, d, cpu) }, "an online CPU for the interrupts of this device")
	case "rps.cpus":
		return outside(value, func(cpu int) bool { return mayServe(s, policy, d, cpu) }, "an online CPU for network work")
	case "xps.cpus":
		return outside(value, s.Topo.Possible.Has, "a possible CPU")
	case "net.core.flow_limit_cpu_bitmap":
		return outside(value, s.Topo.Online.Has, "an online CPU")
	case "channels.combined":
		if d == nil || d.Channels == nil {
			return "the device has no channels"
		}
		return number(1, int64(min(d.Channels.MaxCombined, s.Topo.Online.Len())))
	case "ring.rx":
		if d == nil || d.Rings == nil {
			return "the device has no rings"
		}
		return number(1, int64(d.Rings.MaxRx))
	case "rss.table":
		return badTable(d, value)
	case "net.core.netdev_budget":
		return number(64, 2400)
	case "net.core.netdev_budget_usecs":
		if s.Ident.HZ <= 0 {
			return "HZ is not known"
		}
		jiffies := int64(2_000_000 / s.Ident.HZ)
		return number(jiffies, max(16_000, jiffies))
	case "net.core.netdev_max_backlog":
		return number(1000, 10_000)
	case "net.core.rps_sock_flow_entries", "rps.flow_cnt":
		if n&(n-1) != 0 {
			return "no power of two"
		}
		return number(0, 1<<29) // rps_sock_flow_sysctl refuses more
	case "napi_defer_hard_irqs":
		return number(0, 100)
	case "gro_flush_timeout":
		return number(0, 1_000_000)
	case "coalesce.rx-usecs":
		return number(0, 1000)
	case "threaded", "coalesce.adaptive-rx":
		return word(value, "on", "off")
	case "rss.hash.udp4", "rss.hash.udp6":
		return word(value, "sdfn")
	}
	if strings.HasPrefix(ref.Kind, "feature.") {
		if d == nil {
			return "no such device"
		}
		if f, there := d.Features[strings.TrimPrefix(ref.Kind, "feature.")]; !there || f.Fixed {
			return "the device does not let this feature be switched"
		}
		return word(value, "on", "off")
	}
	return "no rule asks for this setting, or nothing here says what it takes"
}

func word(value string, allowed ...string) string {
	for _, w := range allowed {
		if value == w {
			return ""
		}
	}
	return "not one of " + strings.Join(allowed, ", ")
}

// mayServe reports whether network work may go to a CPU: it runs, is not kept
// for something else, and the policy has not given it another role.
func mayServe(s *detect.Snapshot, policy profiles.Policy, d *detect.Device, cpu int) bool {
	network, forbidden := policy.NetworkCPUs.CPUs(), policy.ForbiddenCPUs.CPUs()
	for _, o := range policy.Overrides {
		if d == nil || o.Name != d.Name {
			continue
		}
		if !o.NetworkCPUs.IsEmpty() {
			network = o.NetworkCPUs.CPUs()
		}
		forbidden = append(forbidden, o.ForbiddenCPUs.CPUs()...)
	}
	isOne := func(of []int) bool {
		for _, id := range of {
			if id == cpu {
				return true
			}
		}
		return false
	}
	free := s.Topo.Online.Has(cpu) && !s.Topo.Isolated.Has(cpu) && !s.Topo.NohzFull.Has(cpu)
	return free && (len(network) == 0 || isOne(network)) && !isOne(forbidden)
}

// mayInterrupt reports whether a device's interrupts may go to a CPU: network work
// may, and irqaffinity= names it. The option counts for nothing where it names none
// of those, where the policy names CPUs, and for a device half of whose interrupts
// or more fire elsewhere.
func mayInterrupt(s *scene, policy profiles.Policy, d *detect.Device, cpu int) bool {
	if !mayServe(s.snap, policy, d, cpu) {
		return false
	}
	boot, err := cpuset.ParseList(s.snap.Cmdline["irqaffinity"])
	named := !policy.NetworkCPUs.IsEmpty()
	for _, o := range policy.Overrides {
		named = named || d != nil && o.Name == d.Name && !o.NetworkCPUs.IsEmpty()
	}
	if err != nil || named || d == nil || boot.Has(cpu) {
		return true
	}
	inside, elsewhere := 0.0, 0.0
	lines := map[int]bool{}
	for _, q := range d.Queues {
		lines[q.RxIRQ], lines[q.TxIRQ] = true, true
	}
	for irq, f := range s.obs.IRQ {
		for on, n := range f.CPU {
			switch {
			case !lines[irq] || on < 0 || on > cpuset.MaxCPU:
			case boot.Has(on):
				inside += float64(n)
			default:
				elsewhere += float64(n)
			}
		}
	}
	for _, other := range boot.CPUs() {
		if mayServe(s.snap, policy, d, other) {
			return elsewhere > 0 && elsewhere >= inside
		}
	}
	return true
}

// outside names the first CPU of a list such as "0-3,7" that is none of a kind. An
// empty list is none too: it switches RPS or XPS off.
func outside(list string, is func(cpu int) bool, kind string) string {
	if list == "" {
		return ""
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		low, err1 := strconv.Atoi(from)
		high, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || low < 0 || high < low || high > 1<<16 {
			return "not a list of CPUs"
		}
		for cpu := low; cpu <= high; cpu++ {
			if !is(cpu) {
				return fmt.Sprintf("CPU %d is not %s", cpu, kind)
			}
		}
	}
	return ""
}

// badTable holds an RSS table, as its runs are written ("0-3*16 1 2"), against
// the slots and queues of the device.
func badTable(d *detect.Device, value string) string {
	if d == nil || d.RSS == nil {
		return "the device has no RSS table"
	}
	queues, slots := 0, 0
	for _, q := range d.Queues {
		if q.Rx {
			queues++
		}
	}
	for group := range strings.FieldsSeq(value) {
		entries, text, repeated := strings.Cut(group, "*")
		times := 1
		if repeated {
			times, _ = strconv.Atoi(text)
		}
		from, to, ranged := strings.Cut(entries, "-")
		if !ranged {
			to = from
		}
		low, err1 := strconv.Atoi(from)
		high, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || low < 0 || high < low || times < 1 {
			return "not an RSS table"
		}
		if high >= queues {
			return fmt.Sprintf("queue %d of %d", high, queues)
		}
		slots += times * (high - low + 1)
	}
	if slots != len(d.RSS.Table) {
		return fmt.Sprintf("%d slots of %d", slots, len(d.RSS.Table))
	}
	return ""
}

// TestImpossible: the law that the mutated observations are held against can fail.
func TestImpossible(t *testing.T) {
	s := newScene(4)
	d := s.nic("eth0", "physical", even(4, 9000), nil)
	d.RSS = &host.RSS{Table: make([]uint32, 8)}
	d.Features["rx-lro"] = host.Feature{Fixed: true}
	s.snap.Topo.Isolated = s.snap.Topo.Online.Intersect(s.snap.Topo.Online.Minus(mustCPUs(t, "0-2")))
	policy := profiles.Balanced()
	policy.ForbiddenCPUs = mustCPUs(t, "2")
	s.nic("eth2", "physical", even(1, 9000), nil)
	s.snap.Cmdline = map[string]string{"irqaffinity": "0"}
	for _, tt := range []struct {
		ref    knob.Ref
		value  string
		breaks bool
	}{
		{knob.Rx("eth0", 0, "irq.affinity"), "1", false}, {knob.Rx("eth0", 0, "irq.affinity"), "2", true}, {knob.Rx("eth0", 0, "irq.affinity"), "3", true}, {knob.Rx("eth0", 0, "irq.affinity"), "4", true},
		{knob.Rx("eth2", 0, "irq.affinity"), "0", false}, {knob.Rx("eth2", 0, "irq.affinity"), "1", true}, {knob.Rx("eth2", 0, "rps.cpus"), "1", false},
		{knob.Rx("eth0", 0, "rps.cpus"), "", false}, {knob.Rx("eth0", 0, "rps.cpus"), "0-3", true}, {knob.Rx("eth0", 0, "rps.cpus"), "x", true},
		{knob.Tx("eth0", 0, "xps.cpus"), "0-3", false}, {knob.Tx("eth0", 0, "xps.cpus"), "3-4", true},
		{knob.Device("eth0", "channels.combined"), "4", false}, {knob.Device("eth0", "channels.combined"), "5", true}, {knob.Device("eth0", "channels.combined"), "0", true},
		{knob.Device("eth0", "ring.rx"), "4096", false}, {knob.Device("eth0", "ring.rx"), "4097", true}, {knob.Device("eth0", "ring.rx"), "-1", true},
		{knob.Device("eth0", "rss.table"), "0-3*2", false}, {knob.Device("eth0", "rss.table"), "0-4*2", true}, {knob.Device("eth0", "rss.table"), "0-3", true},
		{knob.Global(budgetKnob), "64", false}, {knob.Global(budgetKnob), "63", true}, {knob.Global(budgetKnob), "2401", true},
		{knob.Global(usecsKnob), "8000", false}, {knob.Global(usecsKnob), "7999", true}, {knob.Global(usecsKnob), "16001", true}, {knob.Global(usecsKnob), "", true},
		{knob.Global(backlog), "10001", true}, {knob.Global("net.core.rps_sock_flow_entries"), "3000", true}, {knob.Device("eth0", "threaded"), "maybe", true},
		{knob.Device("eth0", "feature.rx-gro"), "on", false}, {knob.Device("eth0", "feature.rx-lro"), "off", true}, {knob.Device("eth0", "feature.tx-gso"), "off", true},
		{knob.Device("eth1", "ring.rx"), "8", true}, {knob.Global("net.core.dev_weight"), "64", true},
	} {
		if got := impossible(s, policy, tt.ref, tt.value); (got != "") != tt.breaks {
			t.Errorf("%s %q: %q", tt.ref, tt.value, got)
		}
	}
}

func mustCPUs(t *testing.T, list string) cpuset.Set {
	t.Helper()
	set, err := cpuset.ParseList(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// narrowings leave a host just less room than a rule would like to have.
var narrowings = map[string]func(s *scene, policy *profiles.Policy){
	"as it is":               func(*scene, *profiles.Policy) {},
	"rings nearly as large":  eachDevice(func(d *detect.Device) { d.Rings = &host.Rings{Rx: 512, Tx: 512, MaxRx: 600, MaxTx: 600} }),
	"rings odd":              eachDevice(func(d *detect.Device) { d.Rings = &host.Rings{Rx: 3000, Tx: 3000, MaxRx: 3500, MaxTx: 3500} }),
	"one channel more":       eachDevice(func(d *detect.Device) { d.Channels = &host.Channels{Combined: 1, MaxCombined: 2} }),
	"channels without end":   eachDevice(func(d *detect.Device) { d.Channels = &host.Channels{Combined: 1, MaxCombined: 65_535} }),
	"a table of three slots": eachDevice(func(d *detect.Device) { d.RSS = &host.RSS{Table: []uint32{0, 0, 0}, RxRings: 2} }),
	"HZ=100":                 ticks(100, "20000"),
	"HZ=100, one tick":       ticks(100, "2000"),
	"HZ=250, one tick":       ticks(250, "2000"),
	"HZ=300":                 ticks(300, "6666"),
	"HZ=1000":                ticks(1000, "2000"),
	"HZ=1000, three ticks":   ticks(1000, "3000"),
	"HZ unknown":             ticks(0, "8000"),
	"time without end":       ticks(250, "2147483647"),
	"budget between steps":   sets(budgetKnob, "1500"),
	"budget of one":          sets(budgetKnob, "1"),
	"budget below nothing":   sets(budgetKnob, "-300"),
	"backlog between steps":  sets(backlog, "7000"),
	"backlog of one":         sets(backlog, "1"),
	"all but CPU 0 isolated": func(s *scene, _ *profiles.Policy) { s.snap.Topo.Isolated = s.snap.Topo.Online.Minus(cpuset.Of(0)) },
	"all CPUs isolated":      func(s *scene, _ *profiles.Policy) { s.snap.Topo.Isolated = s.snap.Topo.Online },
	"only CPU 1 tickful":     func(s *scene, _ *profiles.Policy) { s.snap.Topo.NohzFull = s.snap.Topo.Online.Minus(cpuset.Of(1)) },
	"CPU 1 offline":          func(s *scene, _ *profiles.Policy) { s.snap.Topo.Online = s.snap.Topo.Online.Minus(cpuset.Of(1)) },
	"CPU 0 for programs":     func(_ *scene, p *profiles.Policy) { p.ForbiddenCPUs = cpuset.Of(0) },
	"network on CPU 0 and 1": func(_ *scene, p *profiles.Policy) { p.NetworkCPUs, p.Overrides = cpuset.Of(0, 1), nil },
	"irqaffinity=0":          func(s *scene, _ *profiles.Policy) { s.snap.Cmdline = map[string]string{"irqaffinity": "0"} },
	"irqaffinity=1-2":        func(s *scene, _ *profiles.Policy) { s.snap.Cmdline = map[string]string{"irqaffinity": "1-2"} },
	"latency":                func(_ *scene, p *profiles.Policy) { p.Latency = true },
}

func eachDevice(f func(d *detect.Device)) func(*scene, *profiles.Policy) {
	return func(s *scene, _ *profiles.Policy) {
		for _, d := range s.snap.Devices {
			f(d)
		}
	}
}

func ticks(hz int, usecs string) func(*scene, *profiles.Policy) {
	return func(s *scene, _ *profiles.Policy) {
		s.snap.Ident.HZ = hz
		s.set(knob.Global(usecsKnob), usecs)
	}
}

func sets(name, value string) func(*scene, *profiles.Policy) {
	return func(s *scene, _ *profiles.Policy) { s.set(knob.Global(name), value) }
}

// TestNarrowHosts: whatever room a host has, no rule asks for more. Settings that
// a rule could raise twice are at a value from which the step is too long.
func TestNarrowHosts(t *testing.T) {
	scenes := map[string]func() *scene{}
	for _, tc := range allCases() {
		scenes[tc.rule+"/"+tc.name] = tc.make
	}
	for _, sc := range allScenarios() {
		scenes[sc.name] = sc.make
	}
	for name, make := range scenes {
		for how, narrow := range narrowings {
			s, policy := make(), profiles.Balanced()
			if s.policy != nil {
				s.policy(&policy)
			}
			narrow(s, &policy)
			for _, f := range rules.Evaluate(s.obs, policy) {
				for _, w := range f.Wants {
					if why := impossible(s, policy, w.Ref, w.Value); why != "" {
						t.Errorf("%s, %s: %s asks for %s = %s: %s", name, how, f.ID, w.Ref, w.Value, why)
					}
				}
			}
		}
	}
}
