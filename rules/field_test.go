package rules_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
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

// furtherScenarios are the field problems that one line of a scene does not tell.
var furtherScenarios = []scenario{
	{8, "a ban list leaves half of the CPUs, and all queues are on one of them", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", all(8, 2, 50_000), nil)
		s.policy = func(p *profiles.Policy) { p.ForbiddenCPUs = cpuset.Range(8, 15) }
	}), []string{"irq-stacked"}, []string{"irq.affinity"}, []string{"rps.cpus"}},
	{9, "interrupts that irqbalance was told to leave alone keep moving", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 80_000, 2: 15_000, 3: 5_000}, {1: 80_000, 3: 15_000, 0: 5_000}, {2: 80_000, 0: 15_000, 1: 5_000}, {3: 80_000, 1: 15_000, 2: 5_000}}, nil)
		moved(s, 4)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
	}), []string{"irq-churn", "irqbalance-active"}, []string{"rx-0/irq.affinity"}, append([]string{"rps.cpus"}, neverBudget...)},
	{10, "the CPU that is next has no interrupt vector left: another one", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(3, 0, 50_000), nil)
		s.snap.Vectors.Free = map[int]int{0: 90, 1: 0, 2: 150, 3: 150, 4: 150, 5: 150, 6: 150, 7: 150}
	}), []string{"irq-stacked"}, []string{"rx-1/irq.affinity", "rx-2/irq.affinity"}, []string{"value 1"}},
	{11, "more vectors than housekeeping CPUs could take: the rest fire on isolated ones", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(8, 50_000), nil)
		s.snap.Topo.Isolated = cpuset.Range(2, 7)
	}), []string{"irq-on-isolated-cpu"}, []string{"rx-7/irq.affinity"}, []string{"channels.combined", "rps.cpus"}},
	{12, "mask 0-1, fires on CPU 4, saturated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{4: 90_000}, {4: 90_000}}, nil)
		s.mask("eth0", cpuset.Range(0, 1))
		s.heat(4, 0.95)
		s.set(knob.Device("eth0", "threaded"), "off")
	}), []string{"affinity-not-honoured"}, []string{"eth0/threaded"}, []string{"irq.affinity"}},
	{13, "the interrupt controller refuses to move interrupts, CPU 0 saturated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(3, 0, 90_000), nil)
		for i := range 3 {
			s.snap.Knobs[knob.Rx("eth0", i, "irq.affinity")] = knob.State{Status: knob.Locked, Value: "0-7", Reason: "input/output error"}
		}
		s.heat(0, 0.97)
		s.set(knob.Device("eth0", "threaded"), "off")
	}), []string{"irq-stacked"}, []string{"eth0/threaded"}, []string{"irq.affinity"}},
	{14, "the mask was changed, and the NAPI polls on where it was", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 40}}, nil)
		s.mask("eth0", cpuset.Of(3))
		s.obs.NetRx[0] = 50_000
	}), nil, nil, []string{"irq.affinity", "threaded"}},
	{17, "the database owns CPU 0 and 1, and the queues sit there", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {1: 50_000}}, nil)
		s.policy = func(p *profiles.Policy) { p.ForbiddenCPUs = cpuset.Range(0, 1) }
	}), []string{"irq-on-isolated-cpu"}, []string{"rx-0/irq.affinity", "rx-1/irq.affinity"}, []string{"channels.combined"}},
	{18, "a pinned HAProxy seems to need more than its twins: interrupts are on its CPU", sceneN(8, func(s *scene) {
		s.caches(4)
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		for i := range 3 {
			s.pinnedThread(900+i, "haproxy", i, []float64{0.4, 0.7, 0.4}[i])
			s.obs.CPU[i] = detect.CPUShare{Busy: 0.45, Idle: 0.55, Ticks: 1000}
		}
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.3, Busy: 0.95, Idle: 0.05, Ticks: 1000}
	}), []string{"irq-on-pinned-cpu"}, []string{"rx-0/irq.affinity"}, []string{"value 0", "value 1", "value 2", "value 4", "value 5", "value 6", "value 7", "rps.cpus"}},
	{19, "eight queues, all there are, saturate 8 of 64 CPUs", sceneN(64, func(s *scene) {
		s.nic("eth0", "physical", even(8, 400_000), nil)
		for i := range 8 {
			s.heat(i, 0.95)
		}
	}), []string{"rps-needed"}, []string{"rx-7/rps.cpus"}, append([]string{"channels.combined", "irq.affinity"}, neverBudget...)},
	{24, "a guest without irqbalance, well placed", scene4(func(s *scene) { s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000)) }),
		nil, nil, []string{"irq.affinity"}},
	{25, "irqbalance holds 478 MiB: a note, and nothing to tune", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance", RSSKiB: 478 << 10}}
	}), nil, nil, []string{"irq.affinity"}},
	{27, "cheap packets, an idle CPU, full polls, and the time limit ends the runs", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global(budgetKnob), "65535")
		s.squeezed(1, 500, "time", 0.9, 2)
	}), []string{"budget-time"}, []string{usecsKnob}, []string{budgetKnob + "$"}},
	{30, "the rule to keep doubling, at its end", scene4(func(s *scene) {
		s.set(knob.Global(budgetKnob), "2400")
		s.set(knob.Global(usecsKnob), "16000")
		s.set(knob.Global(backlog), "10000")
		s.squeezed(1, 500, "packets", 0.9, 60)
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Squeezed: 500, Dropped: 400}
	}), []string{"backlog-drops", "budget-packets"}, nil, append([]string{backlog}, neverBudget...)},
	{32, "SYNs lost between nodes, no device counter moves", scene4(func(s *scene) {
		budgets(s)
		s.nic("eth0", "physical", even(4, 50_000), nil)
		s.set(knob.Global(backlog), "1000")
		s.obs.Softnet[2] = detect.SoftnetDelta{Processed: 90_000, Dropped: 30}
	}), []string{"backlog-drops"}, []string{backlog}, append([]string{"ring.rx", "irq.affinity"}, neverBudget...)},
	{34, "the connection table is full", scene4(func(s *scene) {
		budgets(s)
		s.nic("eth0", "physical", even(4, 50_000), nil)
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 262_100, Max: 262_144}
		s.obs.Conntrack = map[string]uint64{"drop": 4000, "early_drop": 900, "insert_failed": 0}
	}), []string{"loss-elsewhere"}, nil, append([]string{backlog, "ring.rx", "irq.affinity", "rps.cpus", "channels.combined"}, neverBudget...)},
	{35, "a veth pair on the CPU of its sender", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 5000), nil)
		s.veth("veth1", 3, 900_000)
		s.heat(3, 0.8)
	}), []string{"veth-softirq"}, []string{"veth1/rx-0/rps.cpus"}, []string{"irq.affinity", "channels.combined"}},
	{40, "GRE or PPPoE on one queue", scene4(func(s *scene) {
		oneFlow(s)
		pppoe(s)
	}), []string{"tunnel-hash"}, []string{"rx-0/rps.cpus"}, []string{"rss.table"}},
	{41, "VXLAN of all pods on one queue, UDP hashed over addresses", sceneN(8, func(s *scene) {
		d := spread(s, 930_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000)
		d.HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.heat(0, 0.95)
		s.thread(3, "ksoftirqd/0", 0, 0.5)
		budgets(s)
		s.squeezed(0, 900, "packets", 0.95, 6)
		s.tunnel("vxlan0", "vxlan", 900_000)
	}), []string{"rss-skew", "tunnel-hash"}, []string{"rss.hash.udp4"}, append([]string{"rps.cpus", "channels.combined"}, neverBudget...)},
	{41, "the same, hashed over ports: one flow of the underlay, nothing to set", sceneN(8, func(s *scene) {
		spread(s, 930_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000).HashFields = map[string]string{"udp4": "sdfn"}
		s.heat(0, 0.95)
		s.tunnel("vxlan0", "vxlan", 900_000)
	}), []string{"rss-skew"}, nil, append([]string{"rps.cpus", "rss.table"}, neverBudget...)},
	{42, "a WireGuard gateway, and its LAN port saturates a CPU with plain packets", sceneN(8, gateway), []string{"rps-needed"}, []string{"eth1/rx-0/rps.cpus"}, []string{"threaded"}},
	{47, "RPS calls sleeping CPUs 9,000 times a second, and the site prefers latency", sceneN(8, func(s *scene) { s.calledRPS(9_000, 0.12, 0.04); s.latency = true }),
		[]string{"rps-unneeded"}, []string{"eth0/rx-0/rps.cpus"}, []string{"rps.flow_cnt", "irq.affinity"}},
	{47, "the same, and one CPU could not do it alone: awake cores, no change", sceneN(8, func(s *scene) { s.calledRPS(9_000, 0.3, 0.2); s.latency = true }),
		[]string{"rps-unneeded"}, nil, []string{"rps.cpus"}},
	{47, "a saturated CPU, RPS off, and the site prefers latency", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.9)
		s.obs.NetRx[0] = 900_000
		s.latency = true
	}), []string{"softirq-imbalance"}, nil, []string{"rps.cpus"}},
	{49, "pods transmit on one queue of an ENA: the driver chooses", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil).Driver = "ena"
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(3-i))
		}
	}), nil, nil, []string{"xps.cpus"}},
	{50, "one fq on a bond: a note about the slaves, nothing to tune", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil).Qdisc = "mq"
		s.sends(&detect.Device{Name: "bond0", Kind: "bond", Qdisc: "fq", Lower: []string{"eth0"}}, 4_000_000)
	}), nil, nil, append([]string{"irq.affinity", "rps.cpus", "xps.cpus", backlog}, neverBudget...)},
	{51, "the synthetic device of Azure idles, its virtual function works", scene4(func(s *scene) {
		d := s.nic("eth0", "physical", even(4, 10), nil)
		d.Driver, d.Kind = "hv_netvsc", "synthetic"
		s.obs.Device["eth0"].Stats["vf_rx_packets"] = 900_000
		s.nic("eth1", "physical", all(4, 1, 50_000), nil).Driver = "mlx5_core"
	}), []string{"irq-stacked"}, []string{"eth1/rx-3/irq.affinity"}, []string{"eth0/rx-0/irq.affinity", "eth0/channels.combined"}},
	{55, "an IDS with the default RSS key on four queues, GRO and LRO off: no web server", scene4(func(s *scene) {
		s.sensor("Suricata-Main")
		s.snap.Devices[0].Features["rx-gro"], s.snap.Devices[0].Features["rx-lro"] = host.Feature{}, host.Feature{}
		s.set(knob.Device("eth0", "feature.rx-gro"), "off")
		s.set(knob.Device("eth0", "feature.rx-lro"), "off")
	}), nil, nil, []string{"feature.rx-gro", "feature.rx-lro", "feature.rx-gro-hw", "rps.cpus", "channels.combined", "irq.affinity", "gro_flush_timeout"}},
	{55, "an IDS whose NIC merges packets", scene4(func(s *scene) {
		s.sensor("zeek")
		s.snap.Devices[0].Features["rx-lro"] = host.Feature{On: true}
		s.set(knob.Device("eth0", "feature.rx-lro"), "on")
	}), []string{"sensor-packets"}, []string{"feature.rx-gro", "feature.rx-lro"}, []string{"rps.cpus", "gro_flush_timeout", "napi_defer_hard_irqs"}},
	{55, "a server with a bond, one slave of which sends everything, and an IDS", scene4(func(s *scene) { s.sensor("Suricata-Main"); bonded(s, 2_500_000) }),
		nil, nil, []string{"feature.rx-gro"}},
	{56, "busy polling in the application: softirqs away from the interrupts", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.obs.NetRx[5], s.obs.NetRx[6] = 400_000, 400_000
	}), nil, nil, []string{"irq.affinity", "rps.cpus"}},
	{59, "vmxnet3 with its default ring runs out of buffers", scene4(func(s *scene) {
		d := s.nic("ens192", "physical", even(4, 9000), nil)
		d.Driver, d.Rings.Rx = "vmxnet3", 256
		s.set(knob.Device("ens192", "ring.rx"), "256")
		s.obs.Device["ens192"].Stats["pkts rx out of buf"] = 5000
	}), []string{"rx-ring-overrun"}, []string{"ring.rx"}, append([]string{backlog}, neverBudget...)},
	{61, "ENA overruns while the CPU starves: the CPU first", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 2, 90_000), nil).Driver = "ena"
		s.obs.Device["eth0"].Stats["rx_overruns"] = 9000
		s.heat(2, 0.95)
	}), []string{"irq-stacked", "rx-ring-overrun"}, []string{"irq.affinity"}, []string{"ring.rx"}},
	{63, "a cap of the cloud that no counter tells: flat throughput, CPUs at rest", sceneN(8, func(s *scene) {
		s.nic("ens4", "physical", even(8, 20_000), nil).Driver = "gve"
		s.obs.Device["ens4"] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxPackets: 13_000_000, TxBytes: 20_000_000_000}}
	}), nil, nil, append([]string{"irq.affinity", "channels.combined", "rps.cpus", "xps.cpus", "ring.rx", "ring.tx", backlog}, neverBudget...)},
	{64, "a fixed delay switches adaptive moderation off: both are named", scene4(func(s *scene) {
		moderation(busyNIC(s, "physical", 100), true, 50)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "on")
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), "50")
		s.latency = true
	}), []string{"coalescing-for-wrong-load"}, []string{"coalesce.adaptive-rx", "coalesce.rx-usecs"}, nil},
	{67, "the device cannot moderate: asked and blocked", scene4(func(s *scene) {
		moderation(busyNIC(s, "physical", 250_000), false, 0)
		s.snap.Knobs[knob.Device("eth0", "coalesce.adaptive-rx")] = knob.State{Status: knob.Unsupported, Reason: "operation not supported"}
	}), []string{"coalescing-off"}, nil, []string{"changed adaptive-rx"}},
	{83, "queues cost vectors and memory: no more than CPUs", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(1, 90_000), nil).Channels.MaxCombined = 16
	}), []string{"virtio-queues-unused"}, []string{"channels.combined"}, []string{"value 16"}},
	{85, "sockets chosen by a program of the application: one window proves no gain", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(8, 40_000), nil)
		s.obs.NetRx[1], s.obs.NetRx[5] = 60_000, 90_000
		s.latency = true
	}), nil, nil, append([]string{"irq.affinity", "rps.cpus", "rps.flow_cnt", "xps.cpus", "channels.combined"}, neverBudget...)},
	{87, "totals even, the present all on CPU 0", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 90_000), nil)
		for i := range s.snap.IRQs.Rows {
			s.snap.IRQs.Rows[i].Counts = []uint32{9_000_000, 9_000_000, 9_000_000, 9_000_000}
		}
	}), []string{"irq-stacked"}, []string{"irq.affinity"}, nil},
}

// capturedProblems are field problems that a captured host of TestCapturedHosts is.
var capturedProblems = map[int]string{
	21: "issues/irqbalance81_xen_vif_4cpu",
	23: "netutils-linux/kvm.l3.masterconf",
	79: "sysstat/root7",
	80: "pcp/hpe_1152cpu_i40e",
}

// heldElsewhere are the field problems whose answer is no finding, with the
// tests of other packages that hold it.
var heldElsewhere = map[int][]packageTest{
	// Names of interrupts that a pattern does not know: the kernel's own edges
	// come first, names of every driver after.
	22: {{"detect", "TestNetlinkFirst"}, {"detect", "TestDriverNames"}, {"detect", "TestFunctionNames"}},
	// EBUSY of ethtool -L: the cause is named, nothing is tried again.
	54: {{"detect/knob", "TestWriteErrorsSayWhatToDo"}, {"apply", "TestBusyChannels"}},
	// Settings lost at a link flap or ethtool -L are restored.
	73: {{"apply/guard", "TestManyFlaps"}, {"apply/guard", "TestWriteDuringFlap"}},
	// A boot profile that does not hold ends the boot unit with an error.
	74: {{"cmd/napitune", "TestBoot"}},
	// Names of NICs change places between boots: entries match by bus or address.
	75: {{"profiles/boot", "TestNamesSwapped"}},
	// What is exported does not grow with interrupts and CPUs.
	81: {{"cmd/napitune/report", "TestMetricsAreFew"}},
	// The probes keep their own cost within a limit, and detach for that.
	82: {{"probes", "TestAccountHolds"}, {"probes", "TestAccountOverWindows"}},
	// Counters of 32 bits that wrap.
	86: {{"detect", "TestBetweenWindow"}},
}

// packageTest is a test function and the directory of its package, from the
// root of the module.
type packageTest struct{ dir, name string }

// exists reports whether the package has the test.
func (p packageTest) exists(t *testing.T) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(p.dir), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == p.name {
				return true
			}
		}
	}
	return false
}

func allScenarios() []scenario {
	return slices.Concat(scenarios, furtherScenarios, inventedHosts)
}

// TestFieldProblems: every numbered problem is a scenario, a captured host, or
// held by tests of other packages, and only one of these.
func TestFieldProblems(t *testing.T) {
	rows := map[int]bool{}
	for _, sc := range allScenarios() {
		rows[sc.field] = true
	}
	for n := 1; n <= fieldProblems; n++ {
		places := 0
		if rows[n] {
			places++
		}
		if name := capturedProblems[n]; name != "" {
			places++
			if _, judged := expectations[name]; !judged {
				t.Errorf("problem %d: nothing is expected of the captured host %s", n, name)
			}
		}
		if tests := heldElsewhere[n]; tests != nil {
			places++
			for _, test := range tests {
				if !test.exists(t) {
					t.Errorf("problem %d: package %s has no %s", n, test.dir, test.name)
				}
			}
		}
		if places != 1 {
			t.Errorf("problem %d is in %d places, want one: a scenario, a captured host, or tests elsewhere", n, places)
		}
	}
}

// TestIrqbalanceMemory: the note says how much, and what to do only where it is much.
func TestIrqbalanceMemory(t *testing.T) {
	for _, tt := range []struct {
		kib   uint64
		shown float64
		leaks bool
	}{{0, 0, false}, {6 << 10, 6, false}, {99 << 10, 99, false}, {100 << 10, 100, true}, {478 << 10, 478, true}} {
		s := newScene(4)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance", RSSKiB: tt.kib}}
		for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
			if f.ID != "irqbalance-active" {
				continue
			}
			var shown float64
			for _, e := range f.Evidence {
				if e.Metric == "irqbalance_memory" {
					shown = e.Value
				}
			}
			if shown != tt.shown || strings.Contains(f.Claim, "leak") != tt.leaks || strings.Contains(f.Operator, "restart") != tt.leaks {
				t.Errorf("%d KiB: evidence of %g MiB, %q, %q", tt.kib, shown, f.Claim, f.Operator)
			}
		}
	}
}

// What moves was weighed against what stays: irqbalance must not have moved that
// by the time the plan is applied. Where nothing moves, nothing has to stay, nor
// what nobody uses, nor a queue whose mask leaves open where it is.
func TestIrqbalanceMovesTheRest(t *testing.T) {
	kept := func(eth0 ...int) []string {
		s := newScene(8)
		s.nic("eth0", "physical", []fire{{eth0[0]: 50_000}, {eth0[1]: 50_000}, {eth0[2]: 50_000}, {5: 50_000}, {}}, nil)
		pin(s, "eth0", append(eth0, 5, 6)...)
		s.set(knob.Rx("eth0", 3, "irq.affinity"), "0-7")
		s.nic("eth1", "physical", []fire{{4: 50_000}}, nil)
		pin(s, "eth1", 4)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
		p := plan.Build(rules.Evaluate(s.obs, profiles.Balanced()), plan.Input{States: s.snap.Knobs})
		var out []string
		for _, k := range p.Kept {
			if k.Ref.Kind == "irq.affinity" {
				out = append(out, fmt.Sprintf("%s %s %v", k.Ref, k.Value, k.Findings))
			}
		}
		return out
	}
	if got, want := kept(0, 0, 2), []string{"eth0/rx-0/irq.affinity 0 [irqbalance-active]", "eth0/rx-2/irq.affinity 2 [irqbalance-active]"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	if got := kept(0, 1, 2); got != nil {
		t.Errorf("nothing moves, and kept are %q", got)
	}
}

// wrongly says which of the wrong remedies of a scenario a plan asks for. A
// remedy is a suffix of an address; "changed x" names only changes, not what
// is blocked; "value x" a value; a closing $ makes no difference to a suffix.
func wrongly(sc scenario, p plan.Plan) []string {
	var out []string
	for _, wrong := range sc.wrong {
		value, isValue := strings.CutPrefix(wrong, "value ")
		suffix, onlyChanged := strings.CutPrefix(strings.TrimSuffix(wrong, "$"), "changed ")
		for _, c := range p.Changes {
			if isValue && c.After == value || !isValue && strings.HasSuffix(c.Ref.String(), suffix) {
				out = append(out, c.Ref.String()+" "+c.After)
			}
		}
		for _, b := range p.Blocked {
			if !isValue && !onlyChanged && strings.HasSuffix(b.Ref.String(), suffix) {
				out = append(out, b.Ref.String()+" (blocked)")
			}
		}
	}
	return out
}

// mask gives all interrupts of a device one mask at both ends of the window.
func (s *scene) mask(dev string, cpus cpuset.Set) {
	for i := range s.snap.IRQs.Rows {
		if row := &s.snap.IRQs.Rows[i]; row.Device == dev {
			row.Affinity = cpus
		}
	}
}

// wandering is a device whose interrupts fired on several CPUs in turn, as irqbalance
// moved them in each of its rounds: every CPU took as many as any other.
func (s *scene) wandering(dev string, queues, stays int) {
	rx := make([]fire, queues)
	for q := range rx {
		rx[q] = fire{}
		for n := range stays {
			rx[q][(q+3*n)%queues] = 20_000
		}
	}
	s.nic(dev, "physical", rx, nil)
	moved(s, stays-1)
	s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
}

// sensor is a program that looks at packets as they were sent, and its busy NIC.
func (s *scene) sensor(comm string) {
	d := s.nic("eth0", "physical", even(4, 90_000), nil)
	d.RSS, d.Promiscuous = &host.RSS{Table: table(128, 4), RxRings: 4}, detect.Yes
	s.receive("eth0", 2_000_000)
	for i := range 4 {
		s.heat(i, 0.4)
	}
	s.snap.Processes = []host.Process{{PID: 77, Comm: comm}}
}

// bonded puts the sensor's NIC under a bond, beside a slave that sends.
func bonded(s *scene, sent uint64) {
	s.nic("eth1", "physical", even(4, 20_000), nil).Upper = []string{"bond0"}
	s.sent("eth1", sent)
	s.snap.Devices[0].Upper = []string{"bond0"}
	s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0", "eth1"}, Up: detect.Yes})
}

// calledRPS is a device with one queue on CPU 0 whose packets all other CPUs take.
func (s *scene) calledRPS(callsPerSecond uint64, home, others float64) {
	n := len(s.snap.Topo.CPUs)
	s.nic("eth0", "physical", even(1, 90_000), nil)
	s.set(knob.Rx("eth0", 0, "rps.cpus"), fmt.Sprintf("1-%d", n-1))
	s.heat(0, home)
	for cpu := 1; cpu < n; cpu++ {
		s.heat(cpu, others)
		s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: 20 * callsPerSecond, ReceivedRPS: 10 * callsPerSecond}
	}
}

// pinnedThread adds a thread of a program that may run on one CPU alone.
func (s *scene) pinnedThread(tid int, comm string, cpu int, share float64) {
	s.thread(tid, comm, cpu, share)
	p := &s.snap.Processes[len(s.snap.Processes)-1]
	p.Pinned, p.Allowed = true, fmt.Sprint(cpu)
}

// sends adds a device that sent so many packets in the window.
func (s *scene) sends(d *detect.Device, packets uint64) {
	s.snap.Devices = append(s.snap.Devices, d)
	s.obs.Device[d.Name] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxPackets: packets}}
}

// veth adds one end of a virtual link whose packets are taken on a CPU.
func (s *scene) veth(name string, cpu int, packets uint64) {
	s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: name, Kind: "veth", Up: detect.Yes,
		Queues: []detect.Queue{{N: 0, Rx: true, Tx: true, RxIRQ: -1, TxIRQ: -1, NAPI: -1, VMBusCPU: -1}}, QueuesKnown: true})
	s.obs.Device[name] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, RxPackets: packets}}
	s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: packets}
	s.set(knob.Rx(name, 0, "rps.cpus"), "")
}
