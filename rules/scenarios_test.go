package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// scenario is one problem as it is met in the field: the machine, the findings
// that name it, and the remedies that people wrongly reach for.
type scenario struct {
	// field is its number among the field problems, 0 for one of our own.
	field int
	name  string
	make  func() *scene
	// find are the findings above a note that must be there; none at all
	// means that the host is healthy and must be left alone.
	find []string
	// wants are settings that must be asked for, by suffix.
	wants []string
	// wrong are settings that must not be asked for, by suffix.
	wrong []string
}

// fieldProblems is how many problems from the field are numbered.
const fieldProblems = 87

const (
	budgetKnob = "net.core.netdev_budget"
	usecsKnob  = "net.core.netdev_budget_usecs"
	backlog    = "net.core.netdev_max_backlog"
)

var neverBudget = []string{budgetKnob, usecsKnob}

var scenarios = []scenario{
	{1, "all packets of 46 vCPUs on CPU 0, masks allow all, squeezes there", sceneN(46, func(s *scene) {
		budgets(s)
		s.nic("ens192", "physical", all(8, 0, 90_000), nil)
		s.heat(0, 0.95)
		s.squeezed(0, 500, "packets", 0.9, 8)
	}), []string{"irq-stacked", "cpu-saturated"}, []string{"irq.affinity"}, neverBudget},
	{2, "irqbalance runs and everything is still on CPU 0", sceneN(32, func(s *scene) {
		s.nic("eth0", "physical", all(8, 0, 50_000), nil)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
	}), []string{"irq-stacked", "irqbalance-active"}, []string{"irq.affinity"}, neverBudget},
	{3, "distinct masks, all on CPU 0: the platform ignores them", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(8, 0, 50_000), nil)
		pin(s, "eth0", 0, 1, 2, 3, 4, 5, 6, 7)
	}), []string{"affinity-not-honoured"}, nil, []string{"irq.affinity"}},
	{4, "two busy queues on one of eight CPUs, one CPU free", sceneN(8, func(s *scene) {
		rx := even(8, 50_000)
		rx[5] = fire{7: 50_000}
		s.nic("eth0", "physical", rx, nil)
		pin(s, "eth0", 0, 1, 2, 3, 4, 7, 6, 7)
	}), []string{"irq-stacked"}, []string{"rx-7/irq.affinity"}, []string{"rx-0/irq.affinity", "rx-1/irq.affinity", "rps.cpus"}},
	{5, "queues spread over both nodes of a two-node host", sceneN(16, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", even(16, 50_000)[:12], nil)
		s.warm(12, 0.3)
	}), []string{"irq-remote-node"}, []string{"rx-8/irq.affinity"}, []string{"rx-0/irq.affinity"}},
	{6, "the APIC delivers every queue to every CPU", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 20_000, 1: 20_000, 2: 20_000, 3: 20_000}, {0: 20_000, 1: 20_000, 2: 20_000, 3: 20_000}}, nil)
	}), []string{"irq-smeared"}, []string{"irq.affinity"}, nil},
	{7, "irqbalance moves every interrupt every ten seconds, totals are flat over eight CPUs", sceneN(8, func(s *scene) { s.wandering("eth0", 8, 5) }),
		[]string{"irq-smeared", "irqbalance-active"}, []string{"rx-0/irq.affinity", "rx-7/irq.affinity"}, []string{"rps.cpus", "channels.combined"}},
	{7, "irqbalance moved some interrupts twice, each has a CPU most of the time", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 80_000, 4: 15_000, 5: 5_000}, {1: 80_000, 5: 15_000, 6: 5_000}, {2: 80_000, 6: 15_000, 7: 5_000}, {3: 100_000}}, nil)
		moved(s, 2)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
	}), []string{"irq-churn", "irqbalance-active"}, []string{"rx-0/irq.affinity", "rx-2/irq.affinity"}, []string{"rps.cpus"}},
	{16, "NIC interrupts on isolated CPUs", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{4: 50_000}, {5: 50_000}, {6: 50_000}, {7: 50_000}}, nil)
		s.snap.Topo.Isolated = cpuset.Range(4, 7)
	}), []string{"irq-on-isolated-cpu"}, []string{"irq.affinity"}, nil},
	{15, "interrupts on the little cores of a big.LITTLE board", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}}, nil)
		s.snap.Topo.Little = cpuset.Range(0, 3)
		s.heat(0, 0.4)
	}), []string{"irq-little-core"}, []string{"irq.affinity"}, []string{"rps.cpus"}},
	{20, "a tuner cut 16 queues to 2", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(2, 90_000), nil).Channels.MaxCombined = 16
		s.set(knob.Device("eth0", "channels.combined"), "2")
		s.warm(2, 0.4)
	}), []string{"queues-unused"}, []string{"channels.combined"}, nil},
	{26, "a few squeezes an hour and nothing else", scene4(func(s *scene) {
		budgets(s)
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.squeezed(1, 3, "time", 0.1, 1)
	}), nil, nil, append(neverBudget, backlog)},
	{72, "budget of 65535 without effect: the time limit ends the runs, packets are dear", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global(budgetKnob), "65535")
		s.squeezed(1, 500, "time", 0.9, 2)
		s.obs.Probes.NAPIs[0].TimeNs *= 10
	}), []string{"budget-time"}, nil, neverBudget},
	{28, "squeezes on a CPU at 100 % softirq, others idle", scene4(func(s *scene) {
		budgets(s)
		s.nic("eth0", "physical", all(4, 2, 90_000), nil)
		s.heat(2, 1)
		s.squeezed(2, 900, "packets", 0.95, 4)
	}), []string{"cpu-saturated", "irq-stacked"}, []string{"irq.affinity"}, neverBudget},
	{29, "a tuner drove the time limit to 300 ms, and bursts overrun the backlog of veths", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global(usecsKnob), "300000")
		s.set(knob.Global(backlog), "1000")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400}
	}), []string{"budget-oversized", "backlog-drops"}, []string{usecsKnob, backlog}, []string{budgetKnob}},
	{31, "backlog drops with a thousand containers", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global(backlog), "1000")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400}
	}), []string{"backlog-drops"}, []string{backlog}, append(neverBudget, "ring.rx")},
	{33, "UDP loss in the socket buffer, softnet clean", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.obs.Protocols["Udp.RcvbufErrors"] = 900
	}), []string{"loss-elsewhere"}, nil, append(neverBudget, backlog, "rps.cpus", "ring.rx")},
	{36, "guest with one of four queues, ksoftirqd busy", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(1, 90_000), nil).Channels.MaxCombined = 4
		s.heat(0, 0.95)
		s.thread(3, "ksoftirqd/0", 0, 0.5)
	}), []string{"virtio-queues-unused", "ksoftirqd-busy"}, []string{"channels.combined"}, []string{"irq.affinity", "rps.cpus"}},
	{37, "guest with one queue of one, idle", scene4(func(s *scene) { s.nic("eth0", "virtio", even(1, 9000), nil) }),
		nil, nil, []string{"channels.combined", "rps.cpus"}},
	{37, "guest with one queue of one, saturated", scene4(func(s *scene) { s.nic("eth0", "virtio", even(1, 90_000), nil); s.heat(0, 0.9) }),
		[]string{"virtio-host-single-queue", "rps-needed"}, []string{"rps.cpus"}, []string{"channels.combined"}},
	{38, "one vCPU", sceneN(1, func(s *scene) { s.nic("eth0", "virtio", even(1, 90_000), nil); s.heat(0, 0.9) }),
		[]string{"cpu-saturated"}, nil, []string{"channels.combined", "rps.cpus"}},
	{39, "eight queues, one gets 90 %: UDP hashed on addresses", sceneN(8, func(s *scene) {
		spread(s, 900_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000).HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.heat(0, 0.4)
	}), []string{"rss-skew"}, []string{"rss.hash.udp4"}, []string{"ring.rx"}},
	{42, "WireGuard on one queue", scene4(func(s *scene) { oneFlow(s); wireGuard(s) }), []string{"tunnel-hash"}, []string{"wg0/threaded"}, []string{"rss.table", "rps.cpus"}},
	{38, "one flow", scene4(func(s *scene) { oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"} }), []string{"single-flow-bound"}, nil, []string{"channels.combined", "rps.cpus", budgetKnob}},
	{43, "RPS left on with a queue per core", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil)
		for i := range 4 {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "0-3")
		}
	}), []string{"rps-redundant"}, []string{"rps.cpus"}, []string{"rps.flow_cnt"}},
	{44, "a small router with RPS on, far from saturated", scene4(func(s *scene) { s.calledRPS(9_000, 0.12, 0.08) }),
		[]string{"rps-unneeded"}, []string{"eth0/rx-0/rps.cpus"}, []string{"rps.flow_cnt", "irq.affinity", "channels.combined"}},
	{44, "a small router that RPS keeps from saturation", scene4(func(s *scene) { s.calledRPS(9_000, 0.4, 0.3) }), nil, nil, []string{"rps.cpus"}},
	{44, "a small router with two CPUs and RPS off", sceneN(2, func(s *scene) { s.nic("eth0", "physical", even(1, 90_000), nil); s.heat(0, 0.6) }), nil, nil, []string{"rps.cpus"}},
	{45, "RPS mask names only the interrupt's sibling", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "4")
	}), []string{"rps-covers-irq-cpu"}, []string{"rps.cpus"}, nil},
	{45, "RPS masks name the siblings of both interrupt cores", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "virtio", even(2, 4000), even(2, 10))
		for cpu := range 2 {
			s.set(knob.Rx("eth0", cpu, "rps.cpus"), "4-5")
			s.heat(4+cpu, 0.4)
			s.obs.Softnet[4+cpu] = detect.SoftnetDelta{Processed: 50_000, ReceivedRPS: 3900}
		}
	}), []string{"rps-covers-irq-cpu"}, []string{"rx-0/rps.cpus", "rx-1/rps.cpus"}, []string{"irq.affinity", "channels.combined"}},
	{46, "RFS half configured", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "0")
		s.set(knob.Rx("eth0", 0, "rps.flow_cnt"), "4096")
	}), []string{"rfs-size"}, []string{"rps_sock_flow_entries"}, nil},
	{48, "XPS against the interrupts", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000))
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(3-i))
		}
	}), []string{"xps-mismatch"}, []string{"xps.cpus"}, []string{"irq.affinity"}},
	{52, "an owner's script placed everything well: keep out", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000))
		s.snap.Processes = []host.Process{{PID: 4, Comm: "google_guest_ag"}}
	}), nil, nil, []string{"irq.affinity", "xps.cpus"}},
	{53, "more queues in use than CPUs", scene4(func(s *scene) { s.nic("eth0", "physical", append(even(4, 9000), even(4, 9000)...), nil) }), nil, nil, []string{"irq.affinity"}},
	{57, "NAPI threads of a WLAN card all on CPU 3", scene4(func(s *scene) {
		for i := range 6 {
			s.thread(40+i, fmt.Sprintf("napi/phy0-%d", i), 3, 0.16)
		}
	}), []string{"napi-thread-placement"}, nil, []string{"irq.affinity"}},
	{58, "loss in the NIC's ring, CPUs have time", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil); lose(s, "eth0", 9000) }),
		[]string{"rx-ring-overrun"}, []string{"ring.rx"}, append(neverBudget, backlog)},
	{58, "loss in the NIC's ring, its CPU saturated", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 9000)
		s.heat(1, 0.95)
	}), []string{"rx-ring-overrun"}, nil, []string{"ring.rx", backlog}},
	{60, "small ring, no loss", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil) }), nil, nil, []string{"ring.rx"}},
	{62, "the cloud's packet allowance is used up", scene4(func(s *scene) {
		d := s.nic("eth0", "physical", even(4, 9000), nil)
		d.Stats = host.Stats{{Name: "pps_allowance_exceeded", Value: 5000}}
		s.obs.Device["eth0"].Stats["pps_allowance_exceeded"] = 5000
	}), []string{"loss-elsewhere"}, nil, append(neverBudget, "ring.rx", "irq.affinity")},
	{62, "the cloud drops DNS queries, few beside all packets", scene4(func(s *scene) { allowance(s, "linklocal_allowance_exceeded", 600) }),
		[]string{"loss-elsewhere"}, nil, append(neverBudget, "ring.rx", "irq.affinity")},
	{66, "latency service with adaptive moderation", scene4(func(s *scene) {
		moderation(busyNIC(s, "physical", 100), true, 50)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "on")
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), "50")
		s.latency = true
	}), []string{"coalescing-for-wrong-load"}, []string{"coalesce.adaptive-rx", "coalesce.rx-usecs"}, nil},
	{65, "the same host under the balanced policy", scene4(func(s *scene) { moderation(busyNIC(s, "physical", 100), true, 50) }), nil, nil, []string{"coalesce.rx-usecs"}},
	{68, "router with LRO", scene4(func(s *scene) { lro(s); s.snap.Forwarding.IPv4 = detect.Yes }), []string{"lro-while-forwarding"}, []string{"feature.rx-lro"}, []string{"feature.rx-gro", "feature.rx-gro-hw"}},
	{69, "router with GRO_HW on virtio: keep it", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 9000), nil).Features["rx-gro-hw"] = host.Feature{On: true}
		s.set(knob.Device("eth0", "feature.rx-gro-hw"), "on")
		s.snap.Forwarding.IPv4 = detect.Yes
	}), nil, nil, []string{"feature.rx-gro-hw"}},
	{70, "UDP forwarding offload is a matter of the path: never planned", scene4(udpRouter), nil, nil, []string{"rx-udp-gro-forwarding"}},
	{71, "GRO switched off", scene4(func(s *scene) { gro(s, host.Feature{}) }), []string{"gro-off"}, []string{"feature.rx-gro"}, nil},
	{76, "another writer in the window", scene4(func(s *scene) { drifted(s, true) }), nil, nil, []string{"irq.affinity"}},
	{77, "capture without queue files: unknown, not off", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		delete(s.snap.Knobs, knob.Rx("eth0", 0, "rps.cpus"))
	}), nil, nil, []string{"rps.cpus"}},
	{78, "three years of uptime, one sample", scene4(func(s *scene) {
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400, Squeezed: 90_000}
		s.set(knob.Global(backlog), "1000")
		s.sinceBoot()
	}), nil, nil, append(neverBudget, backlog)},
	{84, "queue per core, CPUs nearly idle", sceneN(8, func(s *scene) { s.nic("eth0", "physical", even(8, 20_000), nil) }), nil, nil, []string{"irq.affinity", "rps.cpus", "rps.flow_cnt"}},
	{0, "steal behind squeezes by time", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.9, 2)
		s.obs.CPU[1] = detect.CPUShare{Steal: 0.3, Idle: 0.6, Ticks: 1000}
	}), []string{"cpu-steal", "budget-time"}, nil, neverBudget},
}

// TestLowerDevices: asking about a VLAN on a bond is asking about the NICs below.
func TestLowerDevices(t *testing.T) {
	s := newScene(4)
	s.nic("eth0", "physical", all(4, 0, 50_000), nil)
	s.nic("eth1", "physical", all(4, 0, 50_000), nil)
	s.snap.Devices = append(s.snap.Devices,
		&detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0"}},
		&detect.Device{Name: "bond0.7", Kind: "vlan", Lower: []string{"bond0"}})
	policy := profiles.Balanced()
	policy.Devices = []string{"bond0.7"}
	p := plan.Build(rules.Evaluate(s.obs, policy), plan.Input{States: s.snap.Knobs, View: s.snap.View()})
	refs := asked(p)
	if len(refs) == 0 {
		t.Fatal("nothing is asked of the device below the bond")
	}
	for _, ref := range refs {
		if !strings.HasPrefix(ref, "eth0/") {
			t.Errorf("asks for %s, which is not below bond0.7", ref)
		}
	}
}

// TestScenarios holds the advice against problems from the field: the right
// finding, the right remedy, and none of the remedies that are wrong there.
func TestScenarios(t *testing.T) {
	for _, sc := range allScenarios() {
		t.Run(fmt.Sprintf("%d %s", sc.field, sc.name), func(t *testing.T) {
			s := sc.make()
			policy := profiles.Balanced()
			policy.Latency = s.latency
			if s.policy != nil {
				s.policy(&policy)
			}
			findings := rules.Evaluate(s.obs, policy)
			objection := func(ref knob.Ref, value string) string {
				return policy.Objection(ref, value, "", knob.DisruptsNothing)
			}
			p := plan.Build(findings, plan.Input{States: s.snap.Knobs, View: s.snap.View(), Objection: objection})
			check(t, expectation{find: sc.find, wants: sc.wants, silent: len(sc.find) == 0}, findings, p, false)
			for _, wrong := range wrongly(sc, p) {
				t.Errorf("asks for %s, the wrong remedy here", wrong)
			}
		})
	}
}

// TestCauses: what is said of a CPU refers to the device that keeps it busy, and
// the cause comes first.
func TestCauses(t *testing.T) {
	s := newScene(4)
	s.nic("eth0", "virtio", even(1, 90_000), nil)
	s.heat(0, 0.95)
	s.thread(3, "ksoftirqd/0", 0, 0.5)
	s.squeezed(0, 500, "time", 0.9, 1)
	seen := map[string]string{}
	for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
		seen[f.ID] = f.Because
	}
	for _, id := range []string{"cpu-saturated", "ksoftirqd-busy"} {
		if seen[id] != "virtio-host-single-queue/eth0" {
			t.Errorf("%s is because of %q", id, seen[id])
		}
	}
	if because, found := seen["virtio-host-single-queue"]; !found || because != "" {
		t.Errorf("the cause is found: %v, because of %q", found, because)
	}
}
