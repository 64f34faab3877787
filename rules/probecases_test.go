package rules_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
)

// squeezed adds n squeezes of one cause ("packets" or "time") on a CPU whose polls
// were mostly full, with napis polled per run.
func (s *scene) squeezed(cpu int, n uint64, cause string, full float64, napis uint64) {
	s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: 64 * 5 * n, Squeezed: n}
	b := counters.Budget{Runs: 2 * n, Polls: 10 * n, Full: uint64(full * float64(10*n)), Work: 640 * n, MaxPolls: napis}
	if cause == "packets" {
		b.SqueezedPackets = n
	} else {
		b.SqueezedTime = n
	}
	p := s.probe()
	p.CPUs = append(p.CPUs, counters.CPU{CPU: cpu, Budget: b})
	p.NAPIs = append(p.NAPIs, counters.NAPI{CPU: cpu, ID: 9, Device: "veth0", Polls: 10 * n, Work: 640 * n, TimedPolls: 10 * n, TimeNs: 640 * n * 1000})
}

func (s *scene) probe() *counters.Counters {
	if s.obs.Probes == nil {
		s.obs.Probes = &counters.Counters{TakenNs: uint64(10 * time.Second), AttachedNs: uint64(10 * time.Second)}
	}
	return s.obs.Probes
}

// polls sets how a device's receive NAPIs were polled.
func (s *scene) polls(dev string, polls, work uint64) {
	p := s.probe()
	p.NAPIs = append(p.NAPIs, counters.NAPI{Device: dev, ID: 7, CPU: 0, Polls: polls, Work: work, TimedPolls: polls, TimeNs: work * 1000})
}

// Network namespaces, by inode.
const ourNetNS, podNetNS = 4026531840, 4026532201

// pods says of which network namespace the rows of the probes are, and has a
// device of the same name and number in another one, listed first, that receives
// as short polls and merges as little as can be.
func (s *scene) pods() {
	p := s.probe()
	p.NetNS = ourNetNS
	for i := range p.NAPIs {
		p.NAPIs[i].NetNS = ourNetNS
	}
	for i := range p.GRO {
		p.GRO[i].NetNS = ourNetNS
	}
	p.NAPIs = append([]counters.NAPI{{NetNS: podNetNS, Device: "eth0", ID: 77, Polls: 400_000, Work: 500_000, TimedPolls: 400_000, TimeNs: 5e8}}, p.NAPIs...)
	p.GRO = append([]counters.GRO{{NetNS: podNetNS, Device: "eth0", In: 10_000, Normal: 10_000, Delivered: 10_000, Segments: 10_000, TCPSegments: 9_000}}, p.GRO...)
}

func (s *scene) merged(dev string, in, merged, tcp uint64) {
	p := s.probe()
	p.GRO = append(p.GRO, counters.GRO{Device: dev, In: in, Merged: merged, Normal: in - merged, Delivered: in - merged, Segments: in, TCPSegments: tcp})
}

// thread adds a thread that ran for a share of the window.
func (s *scene) thread(pid int, comm string, cpu int, share float64) {
	if s.obs.First == s.obs.Last {
		first := *s.snap
		first.Processes = nil
		s.obs.First = &first
	}
	s.obs.First.Processes = append(s.obs.First.Processes, host.Process{PID: pid, Comm: comm, CPU: cpu})
	s.snap.Processes = append(s.snap.Processes, host.Process{PID: pid, Comm: comm, CPU: cpu, Ticks: uint64(share * 1000)})
}

// receive sets a device's received packets in the window of ten seconds.
func (s *scene) receive(dev string, packets uint64) {
	d := s.obs.Device[dev]
	d.Counters.RxPackets = packets
	s.obs.Device[dev] = d
}

// packets is how many packets a CPU took up the stack in the window.
func (s *scene) packets(cpu int, n uint64) { s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: n} }

// vectors is what part of the window a CPU spent in each softirq.
func (s *scene) vectors(cpu int, shares map[string]float64) {
	softirq := map[string]counters.Softirq{}
	for name, share := range shares {
		softirq[name] = counters.Softirq{Runs: 100, TimedRuns: 100, TimeNs: uint64(share * float64(s.obs.Window))}
	}
	p := s.probe()
	p.CPUs = append(p.CPUs, counters.CPU{CPU: cpu, Softirq: softirq})
}

// received sets a device's received packets and bytes in the window.
func (s *scene) received(dev string, packets, bytes uint64) {
	d := s.obs.Device[dev]
	d.Counters.RxPackets, d.Counters.RxBytes = packets, bytes
	s.obs.Device[dev] = d
}

// sent sets a device's sent packets in the window.
func (s *scene) sent(dev string, packets uint64) {
	d := s.obs.Device[dev]
	d.Counters.TxPackets = packets
	s.obs.Device[dev] = d
}

func budgets(s *scene) {
	s.set(knob.Global("net.core.netdev_budget"), "300")
	s.set(knob.Global("net.core.netdev_budget_usecs"), "8000")
}

// busyNIC is a healthy four-queue device with warm CPUs.
func busyNIC(s *scene, kind string, count uint64) *detect.Device {
	d := s.nic("eth0", kind, even(4, count), nil)
	for i := range 4 {
		s.heat(i, 0.3)
	}
	s.set(knob.Device("eth0", "napi_defer_hard_irqs"), "0")
	s.set(knob.Device("eth0", "gro_flush_timeout"), "0")
	return d
}

func shortTCP(s *scene, kind string) *detect.Device {
	d := busyNIC(s, kind, 100_000)
	s.receive("eth0", 400_000)
	s.polls("eth0", 200_000, 400_000)
	s.merged("eth0", 10_000, 500, 9_000)
	return d
}

// tunnel adds a tunnel device that received so many of eth0's packets.
func (s *scene) tunnel(name, driver string, packets uint64) {
	s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: name, Kind: "tunnel", Driver: driver, Up: detect.Yes})
	s.obs.Device[name] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, RxPackets: packets}}
	s.set(knob.Device(name, "threaded"), "off")
}

func wireGuard(s *scene) { s.tunnel("wg0", "wireguard", 900_000) }

// gateway is a host whose tunnel comes in through eth0 and leaves through eth1, or
// the other way round: the counters allow both. The only queue of eth1 is busy.
func gateway(s *scene) {
	s.nic("eth0", "physical", even(4, 60_000), nil)
	s.nic("eth1", "physical", []fire{{5: 90_000}}, nil)
	s.heat(5, 0.9)
	s.received("eth0", 1_000_000, 1_400_000_000)
	s.received("eth1", 900_000, 1_250_000_000)
	s.tunnel("wg0", "wireguard", 0)
	s.received("wg0", 880_000, 1_200_000_000)
}

func pppoe(s *scene) { s.tunnel("ppp0", "", 900_000) }

func bits(set ...int) string {
	b := []byte(strings.Repeat("0", 64))
	for _, n := range set {
		b[n] = '1'
	}
	return string(b)
}

func moderation(d *detect.Device, adaptive bool, usecs int) {
	d.Coalesce = &host.Coalesce{AdaptiveRx: &adaptive, Values: map[string]int{"rx-usecs": usecs}}
}

var probeCases = []ruleCase{
	{"cpu-saturated", "fires", "hot and squeezed with full polls", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 6); s.heat(1, 0.9) }), problem, []string{}},
	{"cpu-saturated", "must not", "squeezed with time left", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 6) }), silent, nil},
	{"cpu-saturated", "fires", "one busy queue: nearly no time left, not a single squeeze", scene4(func(s *scene) { s.heat(1, 0.9); s.obs.NetRx[1] = 20_000 }), advice, []string{}},
	{"cpu-saturated", "fires", "no squeeze, and its backlog overflows", scene4(func(s *scene) {
		s.heat(1, 0.9)
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400}
	}), problem, []string{}},
	{"cpu-saturated", "fires", "no squeeze, and ksoftirqd takes over", scene4(func(s *scene) { s.heat(1, 0.9); s.packets(1, 90_000); s.thread(11, "ksoftirqd/1", 1, 0.4) }), problem, []string{}},
	{"cpu-saturated", "fires", "hot and squeezed, nobody saw the polls: no proof of work left over", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "packets", 0.9, 6)
		s.heat(1, 0.6)
		s.obs.Probes = nil
	}), advice, []string{}},
	{"cpu-saturated", "must not", "hot and squeezed, nothing waits", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.2, 6); s.heat(1, 0.6) }), silent, []string{}},
	{"cpu-saturated", "must not", "busy with room for bursts, no squeeze", scene4(func(s *scene) { s.heat(1, 0.84); s.packets(1, 90_000) }), silent, []string{}},
	{"cpu-saturated", "must not", "a disk controller's CPU, and a queue with little to do", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 3000}, {1: 3000}, {7: 3000}}, nil)
		s.obs.CPU[7] = detect.CPUShare{Softirq: 0.55, IRQ: 0.33, Busy: 0.92, Idle: 0.08, Ticks: 1000}
	}), silent, []string{}},
	{"cpu-saturated", "fires", "the packets' CPU, half of it in interrupts", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 3000}, {1: 3000}, {7: 90_000}}, nil)
		s.obs.CPU[7] = detect.CPUShare{Softirq: 0.55, IRQ: 0.33, Busy: 0.92, Idle: 0.08, Ticks: 1000}
	}), advice, []string{}},
	{"cpu-saturated", "must not", "packets, and probes that see the time in BLOCK", scene4(func(s *scene) {
		s.heat(1, 0.9)
		s.packets(1, 90_000)
		s.vectors(1, map[string]float64{"BLOCK": 0.7, "NET_RX": 0.2})
	}), silent, []string{}},
	{"cpu-saturated", "fires", "XDP drops everything: only probes see the work", scene4(func(s *scene) {
		s.heat(1, 0.9)
		s.vectors(1, map[string]float64{"TIMER": 0.1, "NET_RX": 0.8})
	}), advice, []string{}},
	{"cpu-saturated", "missing", "no CPU time", scene4(func(s *scene) { s.squeezed(1, 500, "packets", 0.9, 6); s.obs.CPU = map[int]detect.CPUShare{} }), silent, []string{}},

	{"budget-packets", "fires", "six full NAPIs, CPU idle: one step up", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 6) }), advice, []string{"net.core.netdev_budget 600"}},
	{"budget-packets", "fires", "four NAPIs cannot use it up", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 4) }), advice, []string{}},
	{"budget-packets", "fires", "at the ceiling", scene4(func(s *scene) {
		budgets(s)
		s.set(knob.Global("net.core.netdev_budget"), "2400")
		s.squeezed(1, 500, "packets", 0.9, 60)
	}), advice, []string{}},
	{"budget-packets", "fires", "stacked queues: spread, no budget", scene4(func(s *scene) {
		budgets(s)
		s.nic("eth0", "physical", all(6, 1, 50_000), nil)
		s.squeezed(1, 500, "packets", 0.9, 6)
	}), advice, []string{"eth0/rx-2/irq.affinity 0", "eth0/rx-3/irq.affinity 0", "eth0/rx-4/irq.affinity 2", "eth0/rx-5/irq.affinity 3"}},
	{"budget-packets", "fires", "a real-time kernel: no longer runs", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "packets", 0.9, 6)
		s.snap.Ident.Realtime = true
	}), advice, []string{}},
	{"budget-packets", "fires", "a tickless CPU: no longer runs", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "packets", 0.9, 6)
		s.snap.Topo.NohzFull = cpuset.Of(1)
	}), advice, []string{}},
	{"budget-packets", "must not", "polls not full", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.2, 6) }), silent, []string{}},
	{"budget-packets", "must not", "a few squeezes", scene4(func(s *scene) { budgets(s); s.squeezed(1, 90, "packets", 0.9, 6) }), silent, []string{}},
	{"budget-packets", "missing", "no probes", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 6); s.obs.Probes = nil }), silent, []string{}},

	{"budget-time", "fires", "cheap packets, idle CPU, full polls", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "time", 0.9, 3) }), advice, []string{"net.core.netdev_budget_usecs 16000"}},
	{"budget-time", "fires", "half of the polls are of transmit queues", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.4, 6)
		s.obs.Probes.NAPIs = append(s.obs.Probes.NAPIs, counters.NAPI{CPU: 1, Device: "eth0", Polls: 2500, Empty: 2500})
	}), advice, []string{"net.core.netdev_budget_usecs 16000"}},
	{"budget-time", "fires", "half of the polls find little: no change", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "time", 0.4, 6) }), advice, []string{}},
	{"budget-time", "fires", "dear packets: no change", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.9, 3)
		s.obs.Probes.NAPIs[0].TimeNs *= 10
	}), advice, []string{}},
	{"budget-time", "fires", "steal: no change", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.9, 3)
		s.obs.CPU[1] = detect.CPUShare{Steal: 0.2, Idle: 0.7, Ticks: 1000}
	}), advice, []string{}},
	{"budget-time", "fires", "GRO off on what it polls comes first", scene4(func(s *scene) {
		timeOver(s, 3).Features["rx-gro"] = host.Feature{}
		s.set(knob.Device("eth0", "feature.rx-gro"), "off")
	}), advice, []string{"eth0/feature.rx-gro on"}},
	{"budget-time", "fires", "8 µs for what the hardware merged: not known to be dear, not known to be cheap", scene4(func(s *scene) {
		timeOver(s, 8).Features["rx-gro-hw"] = host.Feature{On: true}
	}), advice, []string{}},
	{"budget-time", "fires", "8 µs for ten packets that the hardware merged: cheap", scene4(func(s *scene) {
		timeOver(s, 8).Features["rx-gro-hw"] = host.Feature{On: true}
		s.obs.Probes.GRO = []counters.GRO{{Device: "eth0", In: 1000, Delivered: 1000, Segments: 10_000}}
	}), advice, []string{"net.core.netdev_budget_usecs 16000"}},
	{"budget-time", "fires", "a real-time kernel: no longer runs", scene4(func(s *scene) { timeOver(s, 1); s.snap.Ident.Realtime = true }), advice, []string{}},
	{"budget-time", "fires", "a tickless CPU: no longer runs", scene4(func(s *scene) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.9, 3)
		s.snap.Topo.NohzFull = cpuset.Of(1)
	}), advice, []string{}},
	{"budget-time", "fires", "one tick where two are the least: two", scene4(func(s *scene) { timeOver(s, 1); s.set(knob.Global(usecsKnob), "2000") }), advice,
		[]string{"net.core.netdev_budget_usecs 8000"}},
	{"budget-time", "fires", "two ticks of ten milliseconds are the least", scene4(func(s *scene) {
		timeOver(s, 1)
		s.snap.Ident.HZ = 100
		s.set(knob.Global(usecsKnob), "2000")
	}), advice, []string{"net.core.netdev_budget_usecs 20000"}},
	{"budget-time", "fires", "three ticks to four: no part of a tick", scene4(func(s *scene) { timeOver(s, 1); s.set(knob.Global(usecsKnob), "10000") }), advice,
		[]string{"net.core.netdev_budget_usecs 16000"}},
	{"budget-time", "fires", "four ticks already", scene4(func(s *scene) { timeOver(s, 1); s.set(knob.Global(usecsKnob), "16000") }), advice, []string{}},
	{"budget-time", "must not", "packets are the cause", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "packets", 0.9, 6) }), silent, nil},
	{"budget-time", "missing", "no probes", scene4(func(s *scene) { budgets(s); s.squeezed(1, 500, "time", 0.9, 3); s.obs.Probes = nil }), silent, []string{}},

	{"ksoftirqd-busy", "fires", "40 %", scene4(func(s *scene) { s.thread(11, "ksoftirqd/2", 2, 0.4) }), advice, []string{}},
	{"ksoftirqd-busy", "must not", "5 %", scene4(func(s *scene) { s.thread(11, "ksoftirqd/2", 2, 0.05) }), silent, []string{}},
	{"ksoftirqd-busy", "missing", "one sample", scene4(func(s *scene) { s.thread(11, "ksoftirqd/2", 2, 0.4); s.sinceBoot() }), silent, []string{}},

	{"softirq-latency", "fires", "p99 of 8 ms", scene4(func(s *scene) { waiting(s, 8_000_000) }), advice, []string{}},
	{"softirq-latency", "fires", "p99 beyond the histogram", scene4(func(s *scene) { waiting(s, 500_000_000) }), advice, []string{}},
	{"softirq-latency", "must not", "p99 of 50 µs", scene4(func(s *scene) { waiting(s, 50_000) }), silent, []string{}},
	{"softirq-latency", "missing", "no probes", scene4(func(s *scene) {}), silent, []string{}},

	{"irq-churn", "fires", "three moves", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil); moved(s, 3) }), advice, []string{}},
	{"irq-churn", "fires", "each between two CPUs: pinned where it fired most", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 30_000, 1: 20_000}, {1: 30_000, 2: 20_000}, {2: 30_000, 3: 20_000}, {3: 30_000, 0: 20_000}}, nil)
		moved(s, 3)
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-churn", "must not", "interrupts that hardly fire", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 500), nil); moved(s, 3) }), silent, []string{}},
	{"irq-churn", "must not", "one move", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil); moved(s, 1) }), silent, []string{}},
	{"irq-churn", "missing", "no interrupts", scene4(func(s *scene) {}), silent, []string{}},

	{"affinity-drift", "fires", "mask changed in the window", scene4(func(s *scene) { drifted(s, true) }), note, []string{}},
	{"affinity-drift", "must not", "mask the same", scene4(func(s *scene) { drifted(s, false) }), silent, []string{}},
	{"affinity-drift", "missing", "one sample", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil) }), silent, []string{}},

	{"irq-smt-shared", "fires", "siblings busy, cores free", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", []fire{{0: 50_000}, {4: 50_000}}, nil)
		s.heat(0, 0.4)
		s.heat(4, 0.4)
	}), advice, []string{"eth0/rx-0/irq.affinity 1"}},
	{"irq-smt-shared", "fires", "eight queues on the eight threads of one core", sceneN(32, func(s *scene) {
		for id, cpu := range s.snap.Topo.CPUs {
			cpu.Core = id / 8
			s.snap.Topo.CPUs[id] = cpu
		}
		s.nic("eth0", "physical", even(8, 90_000), nil)
		s.warm(8, 0.4)
	}), advice, []string{"eth0/rx-0/irq.affinity 8", "eth0/rx-1/irq.affinity 16", "eth0/rx-2/irq.affinity 24", "eth0/rx-3/irq.affinity 9",
		"eth0/rx-4/irq.affinity 17", "eth0/rx-5/irq.affinity 25"}},
	{"irq-smt-shared", "must not", "all cores serve a queue", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", even(8, 50_000), nil)
		for i := range 8 {
			s.heat(i, 0.4)
		}
	}), silent, []string{}},
	{"irq-smt-shared", "must not", "the other cores have idle queues", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", []fire{{0: 50_000}, {4: 50_000}, {}, {}, {}}, nil)
		for n, cpu := range []int{0, 4, 1, 2, 3} {
			s.snap.IRQs.Rows[n].Effective = cpuset.Of(cpu)
		}
		s.heat(0, 0.4)
		s.heat(4, 0.4)
	}), silent, []string{}},
	{"irq-smt-shared", "missing", "siblings unknown", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {4: 50_000}}, nil)
		s.heat(0, 0.4)
		s.heat(4, 0.4)
		s.snap.Topo.Known.SMT = false
	}), silent, []string{}},

	{"irq-little-core", "fires", "queues on slow cores", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {1: 50_000}}, nil)
		s.snap.Topo.Little = cpuset.Range(0, 1)
		s.heat(0, 0.4)
		s.heat(1, 0.4)
	}), advice, []string{"eth0/rx-0/irq.affinity 2", "eth0/rx-1/irq.affinity 3"}},
	{"irq-little-core", "must not", "with room to spare", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {1: 50_000}}, nil)
		s.snap.Topo.Little = cpuset.Range(0, 1)
	}), silent, []string{}},
	{"irq-little-core", "must not", "fast cores", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{2: 50_000}, {3: 50_000}}, nil)
		s.snap.Topo.Little = cpuset.Range(0, 1)
	}), silent, []string{}},
	{"irq-little-core", "missing", "core types not told", scene4(func(s *scene) { s.nic("eth0", "physical", []fire{{0: 50_000}, {1: 50_000}}, nil) }), silent, []string{}},

	{"napi-thread-placement", "fires", "three threads on CPU 3", scene4(func(s *scene) {
		for i := range 3 {
			s.thread(20+i, fmt.Sprintf("napi/phy0-%d", i), 3, 0.3)
		}
	}), advice, []string{}},
	{"napi-thread-placement", "must not", "one each", scene4(func(s *scene) {
		for i := range 3 {
			s.thread(20+i, fmt.Sprintf("napi/phy0-%d", i), i, 0.3)
		}
	}), silent, []string{}},
	{"napi-thread-placement", "missing", "one sample", scene4(func(s *scene) { s.thread(20, "napi/phy0-1", 3, 0.6); s.sinceBoot() }), silent, []string{}},

	{"single-flow-bound", "fires", "one queue saturated, ports hashed", scene4(func(s *scene) { oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"} }), advice, []string{}},
	{"single-flow-bound", "must not", "even", scene4(func(s *scene) {
		spread(s, 30_000, 30_000, 30_000, 30_000).HashFields = map[string]string{"udp4": "sdfn"}
		s.heat(0, 0.9)
	}), silent, []string{}},
	{"single-flow-bound", "missing", "hash unknown", scene4(func(s *scene) { oneFlow(s) }), silent, nil},

	{"gro-ineffective", "fires", "bulk TCP that does not merge, no receive hash", scene4(func(s *scene) {
		d := shortTCP(s, "physical")
		s.obs.Probes.NAPIs[0].Polls = 10_000
		d.Features["rx-hashing"] = host.Feature{}
		s.set(knob.Device("eth0", "feature.rx-hashing"), "off")
	}), advice, []string{"eth0/feature.rx-hashing on"}},
	{"gro-ineffective", "must not", "merges well", scene4(func(s *scene) {
		shortTCP(s, "physical")
		s.obs.Probes.GRO[0].Merged = 9_000
		s.obs.Probes.GRO[0].Normal = 1_000
	}), silent, []string{}},
	{"gro-ineffective", "must not", "mostly UDP", scene4(func(s *scene) { shortTCP(s, "physical"); s.obs.Probes.GRO[0].TCPSegments = 100 }), silent, []string{}},
	{"gro-ineffective", "must not", "a pod's eth0 does not merge, ours does", scene4(func(s *scene) {
		shortTCP(s, "physical")
		s.obs.Probes.GRO[0].Merged, s.obs.Probes.GRO[0].Normal = 9_000, 1_000
		s.pods()
	}), silent, []string{}},
	{"gro-ineffective", "missing", "no probes", scene4(func(s *scene) { shortTCP(s, "physical"); s.obs.Probes = nil }), silent, nil},

	{"gro-short-polls", "fires", "two packets per poll", scene4(func(s *scene) { shortTCP(s, "physical") }), advice, []string{"eth0/gro_flush_timeout 20000", "eth0/napi_defer_hard_irqs 2"}},
	{"gro-short-polls", "fires", "moderation is offered and off, below what coalescing-off judges: moderation, no deferral", scene4(func(s *scene) {
		moderation(shortTCP(s, "physical"), false, 0)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "off")
	}), advice, []string{"eth0/coalesce.adaptive-rx on"}},
	{"gro-short-polls", "fires", "coalescing-off asks for moderation: no deferral beside it", scene4(func(s *scene) {
		d := busyNIC(s, "physical", 250_000)
		s.receive("eth0", 2_000_000)
		s.polls("eth0", 1_000_000, 2_000_000)
		s.merged("eth0", 10_000, 500, 9_000)
		moderation(d, false, 0)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "off")
	}), advice, []string{"eth0/coalesce.adaptive-rx on"}},
	{"gro-short-polls", "fires", "adaptive moderation is on: nothing to add", scene4(func(s *scene) { moderation(shortTCP(s, "physical"), true, 8) }), advice, []string{}},
	{"gro-short-polls", "fires", "virtio that coalesces: its delay, no deferral", scene4(func(s *scene) {
		shortTCP(s, "virtio")
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), "0")
	}), advice, []string{"eth0/coalesce.rx-usecs 20"}},
	{"gro-short-polls", "fires", "virtio that coalesces, an interrupt for every third packet: below the other rule", scene4(func(s *scene) {
		shortTCP(s, "virtio")
		s.receive("eth0", 1_200_000)
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), "0")
	}), advice, []string{"eth0/coalesce.rx-usecs 20"}},
	{"gro-short-polls", "must not", "long polls", scene4(func(s *scene) { shortTCP(s, "physical"); s.obs.Probes.NAPIs[0].Polls = 10_000 }), silent, []string{}},
	{"gro-short-polls", "must not", "the short polls are a pod's eth0", scene4(func(s *scene) { shortTCP(s, "physical"); s.obs.Probes.NAPIs[0].Polls = 10_000; s.pods() }), silent, []string{}},
	{"gro-short-polls", "fires", "short polls, namespace of the reader unknown", scene4(func(s *scene) { shortTCP(s, "physical"); s.pods(); s.obs.Probes.NetNS = 0 }), advice, []string{"eth0/gro_flush_timeout 20000", "eth0/napi_defer_hard_irqs 2"}},
	{"gro-short-polls", "missing", "deferral not there: never one alone", scene4(func(s *scene) {
		shortTCP(s, "physical")
		delete(s.snap.Knobs, knob.Device("eth0", "napi_defer_hard_irqs"))
	}), advice, []string{}},

	{"gro-latency", "fires", "deferral under a latency policy", scene4(func(s *scene) {
		busyNIC(s, "physical", 100)
		s.set(knob.Device("eth0", "gro_flush_timeout"), "20000")
		s.set(knob.Device("eth0", "napi_defer_hard_irqs"), "2")
		s.latency = true
	}), advice, []string{"eth0/gro_flush_timeout 0", "eth0/napi_defer_hard_irqs 0"}},
	{"gro-latency", "must not", "no deferral", scene4(func(s *scene) { busyNIC(s, "physical", 100); s.latency = true }), silent, []string{}},
	{"gro-latency", "missing", "setting unknown", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 100), nil); s.latency = true }), silent, []string{}},

	{"gro-udp-forwarding", "fires", "router of UDP", scene4(func(s *scene) { udpRouter(s) }), note, []string{}},
	{"gro-udp-forwarding", "must not", "end host", scene4(func(s *scene) { udpRouter(s); s.snap.Forwarding.IPv4 = detect.No }), silent, []string{}},
	{"gro-udp-forwarding", "missing", "no probes", scene4(func(s *scene) { udpRouter(s); s.obs.Probes = nil }), silent, []string{}},

	{"virtio-interrupt-per-packet", "fires", "coalescing offered", scene4(func(s *scene) { perPacket(s); s.set(knob.Device("eth0", "coalesce.rx-usecs"), "0") }), advice, []string{"eth0/coalesce.rx-usecs 20"}},
	{"virtio-interrupt-per-packet", "fires", "none offered: deferral", scene4(perPacket), advice, []string{"eth0/gro_flush_timeout 20000", "eth0/napi_defer_hard_irqs 2"}},
	{"virtio-interrupt-per-packet", "must not", "ten packets per interrupt", scene4(func(s *scene) { perPacket(s); s.receive("eth0", 9_000_000) }), silent, []string{}},
	{"virtio-interrupt-per-packet", "missing", "packets unknown", scene4(func(s *scene) { perPacket(s); s.obs.Device["eth0"] = detect.DeviceDelta{} }), silent, []string{}},

	{"virtio-ring-starved", "fires", "a ring that can grow", scene4(func(s *scene) { starved(s, 500) }), problem, []string{"eth0/ring.rx 1024"}},
	{"virtio-interrupt-per-packet", "must not", "one interrupt for four queues is counted once", scene4(func(s *scene) {
		s.oneVector("eth0", 4, 150_000)
		s.heat(0, 0.4)
		s.receive("eth0", 400_000)
	}), silent, []string{}},
	{"virtio-ring-starved", "must not", "once", scene4(func(s *scene) { starved(s, 1) }), silent, []string{}},
	{"virtio-ring-starved", "must not", "a pod's ring", scene4(func(s *scene) {
		starved(s, 500)
		s.obs.Probes.NetNS, s.obs.Probes.Virtio[0].NetNS = ourNetNS, podNetNS
	}), silent, []string{}},
	{"virtio-ring-starved", "missing", "no probes", scene4(func(s *scene) { starved(s, 500); s.obs.Probes = nil }), silent, []string{}},

	{"virtio-tx-stopped", "fires", "100 stops a second", scene4(func(s *scene) { stops(s, 1000) }), advice, []string{}},
	{"virtio-tx-stopped", "must not", "one", scene4(func(s *scene) { stops(s, 1) }), silent, []string{}},
	{"virtio-tx-stopped", "missing", "no queue statistics", scene4(func(s *scene) { s.nic("eth0", "virtio", even(4, 9000), nil) }), silent, []string{}},

	{"virtio-ctrl-slow", "fires", "50 ms", scene4(func(s *scene) { control(s, 50_000_000) }), note, []string{}},
	{"virtio-ctrl-slow", "must not", "20 µs", scene4(func(s *scene) { control(s, 20_000) }), silent, []string{}},
	{"virtio-ctrl-slow", "fires", "50 ms by a read of our own", scene4(func(s *scene) { controlRead(s, 50_000_000) }), note, []string{}},
	{"virtio-ctrl-slow", "must not", "20 µs by a read of our own", scene4(func(s *scene) { controlRead(s, 20_000) }), silent, []string{}},
	{"virtio-ctrl-slow", "must not", "20 µs by commands, 50 ms by a read", scene4(func(s *scene) { control(s, 20_000); controlRead(s, 50_000_000) }), silent, []string{}},
	{"virtio-ctrl-slow", "missing", "no probes", scene4(func(s *scene) {}), silent, []string{}},

	{"virtio-steering-skew", "fires", "no RSS, one queue", scene4(func(s *scene) { hostSteers(s, bits(22), 900_000) }), advice, []string{}},
	{"virtio-steering-skew", "must not", "with RSS", scene4(func(s *scene) { hostSteers(s, bits(22, 60), 900_000) }), silent, nil},
	{"virtio-steering-skew", "must not", "even", scene4(func(s *scene) { hostSteers(s, bits(22), 10_000) }), silent, []string{}},
	{"virtio-steering-skew", "missing", "features unknown", scene4(func(s *scene) { hostSteers(s, "", 900_000) }), silent, nil},

	{"rss-udp-hash", "fires", "half UDP, hashed on addresses", scene4(func(s *scene) { udpHost(s, "sd", 600) }), note, []string{}},
	{"rss-udp-hash", "must not", "hashed on ports", scene4(func(s *scene) { udpHost(s, "sdfn", 600) }), silent, []string{}},
	{"rss-udp-hash", "must not", "hardly any UDP", scene4(func(s *scene) { udpHost(s, "sd", 10) }), silent, []string{}},
	{"rss-udp-hash", "missing", "hash unknown", scene4(func(s *scene) { udpHost(s, "", 600) }), silent, []string{}},

	{"tunnel-hash", "fires", "PPPoE on one queue", scene4(func(s *scene) { oneFlow(s); pppoe(s) }), problem, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"tunnel-hash", "fires", "WireGuard on one queue", scene4(func(s *scene) { oneFlow(s); wireGuard(s) }), problem, []string{"wg0/threaded on"}},
	{"tunnel-hash", "must not", "another queue's CPU is hot", scene4(func(s *scene) {
		spread(s, 990_000, 1000, 1000, 1000)
		pppoe(s)
		s.heat(2, 0.9)
	}), silent, []string{}},
	{"tunnel-hash", "fires", "WireGuard behind the only queue: its thread, no RPS", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.9)
		wireGuard(s)
	}), problem, []string{"wg0/threaded on"}},
	{"tunnel-hash", "fires", "the tunnel's packets were merged before it: bytes tell", scene4(func(s *scene) {
		oneFlow(s)
		s.tunnel("gre1", "", 100_000)
		for name, bytes := range map[string]uint64{"eth0": 1_500_000_000, "gre1": 1_300_000_000} {
			d := s.obs.Device[name]
			d.Counters.RxBytes = bytes
			s.obs.Device[name] = d
		}
	}), problem, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"tunnel-hash", "fires", "VXLAN, and UDP hashed over addresses: the hash, no RPS", scene4(func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.tunnel("flannel.1", "vxlan", 900_000)
	}), problem, []string{"eth0/rss.hash.udp4 sdfn"}},
	{"tunnel-hash", "fires", "VXLAN over two queues: the hash, no RPS", scene4(func(s *scene) {
		spread(s, 990_000, 1000).HashFields = map[string]string{"udp4": "sd"}
		s.heat(0, 0.9)
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.tunnel("flannel.1", "vxlan", 900_000)
	}), problem, []string{"eth0/rss.hash.udp4 sdfn"}},
	{"tunnel-hash", "fires", "PPPoE, and UDP hashed over addresses: RPS, no hash", scene4(func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		pppoe(s)
	}), problem, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"tunnel-hash", "must not", "tunl0 is there and down", scene4(func(s *scene) {
		oneFlow(s)
		s.tunnel("tunl0", "", 900_000)
		s.snap.Devices[1].Up = detect.No
	}), silent, []string{}},
	{"tunnel-hash", "must not", "a tunnel that carries a third", scene4(func(s *scene) { oneFlow(s); s.tunnel("gre1", "", 330_000) }), silent, []string{}},
	{"tunnel-hash", "must not", "a tunnel over another NIC", scene4(func(s *scene) {
		oneFlow(s)
		s.tunnel("gre1", "", 900_000)
		s.snap.Devices[1].Lower = []string{"eth9"}
	}), silent, []string{}},
	{"tunnel-hash", "must not", "the LAN port of a WireGuard gateway: either NIC may have brought the tunnel", sceneN(8, gateway), silent, []string{"eth1/rx-0/rps.cpus 0-4,6-7"}},
	{"rps-needed", "fires", "the LAN port of a WireGuard gateway", sceneN(8, gateway), problem, nil},
	{"tunnel-hash", "must not", "the counters of the other NIC are not known", sceneN(8, func(s *scene) {
		gateway(s)
		s.obs.Device["eth0"] = detect.DeviceDelta{}
	}), silent, []string{"eth1/rx-0/rps.cpus 0-4,6-7"}},
	{"tunnel-hash", "fires", "WireGuard behind one of two NICs, the other too quiet to have brought half of it", sceneN(8, func(s *scene) {
		gateway(s)
		s.received("eth0", 300_000, 60_000_000)
	}), problem, []string{"wg0/threaded on"}},
	{"tunnel-hash", "fires", "few large packets through the other NIC: bytes clear it, packets do not", sceneN(8, func(s *scene) {
		gateway(s)
		s.received("eth0", 900_000, 60_000_000)
	}), problem, []string{"wg0/threaded on"}},
	{"tunnel-hash", "fires", "VXLAN over a bond: both slaves bring their part", sceneN(8, func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sd"}
		s.nic("eth1", "physical", []fire{{5: 9000}}, nil)
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.tunnel("vxlan0", "vxlan", 1_900_000)
		s.snap.Devices[2].Lower = []string{"bond0"}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0", "eth1"}, Up: detect.Yes})
	}), problem, []string{"eth0/rss.hash.udp4 sdfn"}},
	{"tunnel-hash", "fires", "WireGuard in a guest with one CPU: nobody to hand it to", sceneN(1, func(s *scene) {
		s.nic("eth0", "virtio", even(1, 90_000), nil)
		s.heat(0, 0.6)
		wireGuard(s)
	}), problem, []string{}},
	{"tunnel-hash", "fires", "WireGuard, and the other CPUs are busy", scene4(func(s *scene) {
		oneFlow(s)
		wireGuard(s)
		for cpu := 1; cpu < 4; cpu++ {
			s.obs.CPU[cpu] = detect.CPUShare{Busy: 0.8, Idle: 0.2, Ticks: 1000}
		}
	}), problem, []string{}},
	{"tunnel-hash", "fires", "WireGuard, and one other CPU is half idle", sceneN(2, func(s *scene) {
		s.nic("eth0", "virtio", even(1, 90_000), nil)
		s.heat(0, 0.9)
		wireGuard(s)
	}), problem, []string{"wg0/threaded on"}},
	{"single-flow-bound", "must not", "PPPoE that may have come through this NIC or the other", sceneN(8, func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"}
		s.nic("eth1", "physical", []fire{{5: 9000}}, nil)
		pppoe(s)
	}), silent, []string{}},
	{"single-flow-bound", "fires", "one flow, and a tunnel device that carries nothing", scene4(func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"}
		s.tunnel("sit0", "", 0)
	}), advice, []string{}},
	{"single-flow-bound", "fires", "VXLAN hashed over the ports: one flow inside", scene4(func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"}
		s.tunnel("flannel.1", "vxlan", 900_000)
	}), advice, []string{}},
	{"single-flow-bound", "must not", "GRE of many flows", scene4(func(s *scene) {
		oneFlow(s).HashFields = map[string]string{"udp4": "sdfn"}
		s.tunnel("gre1", "", 900_000)
	}), silent, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"tunnel-hash", "must not", "no tunnel", scene4(func(s *scene) { oneFlow(s) }), silent, nil},
	{"tunnel-hash", "missing", "no queue counters", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil); s.heat(0, 0.9); wireGuard(s) }), silent, []string{}},

	{"rps-covers-irq-cpu", "fires", "only the sibling", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "4")
	}), advice, []string{"eth0/rx-0/rps.cpus 1-3,5-7"}},
	{"rps-covers-irq-cpu", "fires", "siblings of both interrupt cores, four cores idle", sceneN(12, func(s *scene) {
		s.siblings()
		s.nic("eth0", "virtio", even(2, 50_000), even(2, 20_000))
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "6-7")
		s.set(knob.Rx("eth0", 1, "rps.cpus"), "6-7")
	}), advice, []string{"eth0/rx-0/rps.cpus 2-5,8-11", "eth0/rx-1/rps.cpus 2-5,8-11"}},
	{"rps-covers-irq-cpu", "must not", "the mask evens out what the hash does not, on the interrupts' own CPUs", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "0-1")
		s.set(knob.Rx("eth0", 1, "rps.cpus"), "0-1")
	}), silent, nil},
	{"rps-covers-irq-cpu", "must not", "hardly any packets", sceneN(12, func(s *scene) {
		s.siblings()
		s.nic("eth0", "virtio", even(2, 4000), even(2, 10))
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "6-7")
		s.set(knob.Rx("eth0", 1, "rps.cpus"), "6-7")
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "must not", "siblings, and whole cores beside them", sceneN(12, func(s *scene) {
		s.siblings()
		s.nic("eth0", "virtio", even(2, 50_000), even(2, 20_000))
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "6-9")
		s.set(knob.Rx("eth0", 1, "rps.cpus"), "6-9")
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "must not", "neighbours, not saturated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "0-3")
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "fires", "another node does the work", sceneN(8, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", even(1, 5_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "4-7")
		s.heat(5, 0.1)
	}), advice, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"rps-covers-irq-cpu", "must not", "another node has next to nothing to do", sceneN(8, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", even(1, 5_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "4-7")
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "fires", "one other CPU, saturated, while two idle", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.3)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "1")
		s.heat(1, 0.99)
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 900_000, Dropped: 5000}
	}), problem, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"rps-covers-irq-cpu", "fires", "its two CPUs are busy and lose packets, one more has time", scene4(func(s *scene) { s.lossyTargets(0.6) }), problem, []string{"eth0/rx-0/rps.cpus 1-3"}},
	{"rps-covers-irq-cpu", "must not", "its two CPUs lose packets with time to spare: their backlogs are short", scene4(func(s *scene) { s.lossyTargets(0.4) }), silent, nil},
	{"rps-covers-irq-cpu", "must not", "its CPUs are busy with what they are there for", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "4-7")
		s.warm(8, 0.8)
		for cpu := range 4 {
			s.heat(cpu, 0.1)
		}
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "fires", "its CPUs are full, and one is none for network work", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "6-7")
		s.heat(6, 0.95)
		s.heat(7, 0.95)
		s.policy = func(p *profiles.Policy) { p.ForbiddenCPUs = cpuset.Of(7) }
	}), problem, []string{"eth0/rx-0/rps.cpus 1-6"}},
	{"rps-covers-irq-cpu", "fires", "two saturated queues to one saturated CPU", sceneN(8, func(s *scene) {
		gathered(s, 2, "2", 2)
		s.warm(3, 0.95)
	}), problem, []string{"eth0/rx-0/rps.cpus 2-7", "eth0/rx-1/rps.cpus 2-7"}},
	{"rps-covers-irq-cpu", "must not", "one other CPU, saturated, and nobody idles", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.warm(4, 0.99)
		s.heat(0, 0.3)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "1")
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "must not", "one of two others has time", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.3)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "1-2")
		s.heat(1, 0.99)
	}), silent, []string{}},
	{"rps-covers-irq-cpu", "fires", "the saturated interrupt's CPU and five busy ones, which stay; two idle", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "0-5")
		s.warm(6, 0.6)
	}), advice, []string{"eth0/rx-0/rps.cpus 1-7"}},
	{"rps-covers-irq-cpu", "fires", "a queue per core, all kept to a saturated CPU by irqaffinity=", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		for i := range 4 {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "0-3")
		}
		s.heat(0, 0.9)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0"}
	}), advice, []string{"eth0/rx-0/rps.cpus 1-3", "eth0/rx-1/rps.cpus 1-3", "eth0/rx-2/rps.cpus 1-3", "eth0/rx-3/rps.cpus 1-3"}},
	{"rps-covers-irq-cpu", "missing", "mask unknown", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		delete(s.snap.Knobs, knob.Rx("eth0", 0, "rps.cpus"))
	}), silent, []string{}},

	{"coalescing-off", "fires", "100,000 interrupts a second", scene4(func(s *scene) {
		moderation(busyNIC(s, "physical", 250_000), false, 0)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "off")
	}), advice, []string{"eth0/coalesce.adaptive-rx on"}},
	{"coalescing-off", "fires", "igb, whose own moderation has a number and no switch", scene4(func(s *scene) {
		d := busyNIC(s, "physical", 250_000)
		d.Driver, d.Coalesce = "igb", &host.Coalesce{Values: map[string]int{"rx-usecs": 0}}
		s.set(knob.Device(d.Name, "coalesce.rx-usecs"), "0")
	}), advice, []string{"eth0/coalesce.rx-usecs 3"}},
	{"coalescing-off", "must not", "adaptive", scene4(func(s *scene) { moderation(busyNIC(s, "physical", 250_000), true, 0) }), silent, []string{}},
	{"coalescing-off", "missing", "moderation unknown", scene4(func(s *scene) { busyNIC(s, "physical", 250_000) }), silent, []string{}},

	{"coalescing-for-wrong-load", "fires", "50 µs under a latency policy", scene4(func(s *scene) {
		moderation(busyNIC(s, "physical", 100), true, 50)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "on")
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), "50")
		s.latency = true
	}), advice, []string{"eth0/coalesce.adaptive-rx off", "eth0/coalesce.rx-usecs 0"}},
	{"coalescing-for-wrong-load", "fires", "a CPU at 92 %: no more interrupts for it", scene4(func(s *scene) {
		delayed(s)
		s.heat(2, 0.92)
	}), note, []string{}},
	{"coalescing-for-wrong-load", "fires", "a port that receives 10 packets a second", scene4(func(s *scene) { delayed(s); s.receive("eth0", 100) }), note, []string{}},
	{"coalescing-for-wrong-load", "fires", "a service of 200 requests a second, its CPUs at rest", scene4(func(s *scene) {
		delayed(s)
		s.receive("eth0", 2000)
		s.warm(4, 0.01)
	}), advice, []string{"eth0/coalesce.adaptive-rx off", "eth0/coalesce.rx-usecs 0"}},
	{"coalescing-for-wrong-load", "must not", "balanced policy", scene4(func(s *scene) { moderation(busyNIC(s, "physical", 100), true, 50) }), silent, []string{}},
	{"coalescing-for-wrong-load", "missing", "moderation unknown", scene4(func(s *scene) { busyNIC(s, "physical", 100); s.latency = true }), silent, []string{}},

	{"tx-softirq-deferred", "fires", "a fifth of a CPU", scene4(func(s *scene) { transmitting(s, 2*time.Second) }), note, []string{}},
	{"tx-softirq-deferred", "must not", "little", scene4(func(s *scene) { transmitting(s, 10*time.Millisecond) }), silent, []string{}},
	{"tx-softirq-deferred", "missing", "no probes", scene4(func(s *scene) {}), silent, []string{}},

	{"tx-requeues", "fires", "ring full", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 100), nil)
		s.obs.Device["eth0"].Stats["tx_busy"] = 50_000
	}), note, []string{}},
	{"tx-requeues", "must not", "rarely", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 100), nil)
		s.obs.Device["eth0"].Stats["tx_busy"] = 50
	}), silent, []string{}},
	{"tx-requeues", "missing", "no such counter", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 100), nil) }), silent, []string{}},

	{"veth-softirq", "fires", "container traffic on CPU 3", scene4(func(s *scene) { s.veth("veth1", 3, 900_000); s.heat(3, 0.8) }), advice, []string{"veth1/rx-0/rps.cpus 0-2"}},
	{"veth-softirq", "must not", "with time to spare", scene4(func(s *scene) { s.veth("veth1", 3, 900_000); s.heat(3, 0.3) }), silent, []string{}},
	{"veth-softirq", "must not", "the NIC's interrupts are there", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{3: 90_000}}, nil)
		s.veth("veth1", 3, 900_000)
		s.heat(3, 0.8)
	}), silent, nil},
	{"veth-softirq", "missing", "packet rates unknown", scene4(func(s *scene) {
		s.veth("veth1", 3, 900_000)
		s.heat(3, 0.8)
		delete(s.obs.Device, "veth1")
	}), silent, []string{}},

	{"vhost-shares-irq-cpu", "fires", "on a hot CPU", scene4(func(s *scene) { s.heat(1, 0.6); s.thread(30, "vhost-4242", 1, 0.3) }), advice, []string{}},
	{"vhost-shares-irq-cpu", "must not", "on a cool CPU", scene4(func(s *scene) { s.heat(1, 0.6); s.thread(30, "vhost-4242", 2, 0.3) }), silent, []string{}},
	{"vhost-shares-irq-cpu", "missing", "CPU time unknown", scene4(func(s *scene) { s.thread(30, "vhost-4242", 1, 0.3); s.obs.CPU = map[int]detect.CPUShare{} }), silent, []string{}},

	{"tap-drops", "fires", "guest too slow", scene4(func(s *scene) { tap(s, 5000) }), problem, []string{}},
	{"tap-drops", "fires", "ten packets", scene4(func(s *scene) { tap(s, 10) }), problem, []string{}},
	{"tap-drops", "must not", "nine packets", scene4(func(s *scene) { tap(s, 9) }), silent, []string{}},
	{"tap-drops", "must not", "one packet", scene4(func(s *scene) { tap(s, 1) }), silent, []string{}},
	{"tap-drops", "must not", "none", scene4(func(s *scene) { tap(s, 0) }), silent, []string{}},
	{"tap-drops", "missing", "one sample", scene4(func(s *scene) { tap(s, 5000); s.sinceBoot() }), silent, []string{}},

	{"contested-setting", "fires", "irqbalance writes two interrupts of a NIC", scene4(func(s *scene) {
		for q := range 2 {
			s.contest(knob.Rx("eth0", q, "irq.affinity"), "1", "3", "irqbalance")
		}
	}), advice, []string{}},
	{"contested-setting", "fires", "nobody knows who writes a setting of the host", scene4(func(s *scene) { s.contest(knob.Global("net.core.netdev_budget"), "600", "300", "") }), advice, []string{}},
	{"contested-setting", "must not", "the value was put right since", scene4(func(s *scene) { s.contest(knob.Rx("eth0", 0, "irq.affinity"), "1", "1", "sh") }), silent, []string{}},
	{"contested-setting", "missing", "no guard has left word", scene4(func(s *scene) { s.set(knob.Rx("eth0", 0, "irq.affinity"), "3") }), silent, []string{}},
	{"other-tuner", "fires", "bpftune", scene4(func(s *scene) { s.snap.Processes = []host.Process{{PID: 5, Comm: "bpftune"}} }), note, []string{}},
	{"other-tuner", "must not", "an ordinary daemon", scene4(func(s *scene) { s.snap.Processes = []host.Process{{PID: 5, Comm: "kubelet"}} }), silent, []string{}},
	{"other-tuner", "missing", "process list unknown", scene4(func(s *scene) {}), silent, []string{}},

	{"managed-irq", "fires", "read-only masks", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.snap.Knobs[knob.Rx("eth0", 0, "irq.affinity")] = knob.State{Status: knob.Locked, Value: "0", Reason: "managed"}
	}), note, []string{}},
	{"managed-irq", "must not", "ordinary", scene4(func(s *scene) { s.nic("eth0", "physical", even(2, 9000), nil) }), silent, []string{}},
	{"managed-irq", "missing", "masks unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.snap.Knobs[knob.Rx("eth0", 0, "irq.affinity")] = knob.State{Status: knob.Unknown, Reason: "not captured"}
	}), silent, []string{}},

	{"backlog-flow-limit", "fires", "limited", scene4(func(s *scene) { s.obs.Softnet[0] = detect.SoftnetDelta{FlowLimit: 500} }), note, []string{}},
	{"backlog-flow-limit", "must not", "nine packets", scene4(func(s *scene) { s.obs.Softnet[0] = detect.SoftnetDelta{FlowLimit: 9} }), silent, []string{}},
	{"backlog-flow-limit", "must not", "none", scene4(func(s *scene) {}), silent, []string{}},
	{"backlog-flow-limit", "missing", "one sample", scene4(func(s *scene) { s.obs.Softnet[0] = detect.SoftnetDelta{FlowLimit: 500}; s.sinceBoot() }), silent, []string{}},
}

// timeOver is a NIC that is polled on CPU 1, where runs end by time, at so many
// microseconds for each unit of work.
func timeOver(s *scene, cost uint64) *detect.Device {
	budgets(s)
	d := s.nic("eth0", "physical", even(4, 50_000), nil)
	s.squeezed(1, 500, "time", 0.9, 3)
	s.obs.Probes.NAPIs[0].Device = "eth0"
	s.obs.Probes.NAPIs[0].TimeNs *= cost
	return d
}

// TestBudgetClaims: the numbers of a claim are those of the cause it names.
func TestBudgetClaims(t *testing.T) {
	for cause, want := range map[string]string{"packets": "ended 260 receive runs at the packet budget, of 500", "time": "ended 260 receive runs because their time was up, of 500"} {
		s := newScene(4)
		budgets(s)
		s.squeezed(1, 500, cause, 0.9, 6)
		b := &s.obs.Probes.CPUs[0].Budget
		b.SqueezedPackets, b.SqueezedTime = 260, 240
		if cause == "time" {
			b.SqueezedPackets, b.SqueezedTime = 240, 260
		}
		found := false
		for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
			if f.ID != "budget-"+cause {
				continue
			}
			found = true
			if !strings.Contains(f.Claim, want) {
				t.Errorf("%s: %q, want %q in it", f.ID, f.Claim, want)
			}
			if len(f.Wants) != 1 || !strings.HasPrefix(f.Wants[0].Why, "260 runs") {
				t.Errorf("%s: wants %v, want one for 260 runs", f.ID, f.Wants)
			}
		}
		if !found {
			t.Errorf("no budget-%s", cause)
		}
	}
}

// delayed is a NIC that may wait 50 µs, where the site prefers latency.
func delayed(s *scene) {
	moderation(busyNIC(s, "physical", 100), true, 50)
	s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "on")
	s.set(knob.Device("eth0", "coalesce.rx-usecs"), "50")
	s.latency = true
}

func waiting(s *scene, ns uint64) {
	buckets := make([]uint64, 65)
	buckets[counters.Bucket(1000)] = 9000
	buckets[counters.Bucket(ns)] = 1000
	p := s.probe()
	p.CPUs = append(p.CPUs, counters.CPU{CPU: 1, Rx: counters.NetSoftirq{RaiseToEntryNs: counters.NewHist(buckets, 1000*ns)}})
}

func moved(s *scene, n int) {
	for irq, d := range s.obs.IRQ {
		d.Moves = n
		s.obs.IRQ[irq] = d
	}
	s.obs.Samples = 5
}

func drifted(s *scene, change bool) {
	s.nic("eth0", "physical", even(4, 50_000), nil)
	first := *s.snap
	first.IRQs.Rows = append([]detect.IRQ(nil), s.snap.IRQs.Rows...)
	if change {
		first.IRQs.Rows[0].Affinity = cpuset.Of(3)
	}
	s.obs.First = &first
}

// oneFlow is a device with one saturated queue.
func oneFlow(s *scene) *detect.Device {
	d := spread(s, 990_000, 1000, 1000, 1000)
	s.heat(0, 0.9)
	return d
}

func udpRouter(s *scene) {
	shortTCP(s, "physical").Features["rx-udp-gro-forwarding"] = host.Feature{}
	s.obs.Probes.GRO[0].TCPSegments = 100
	s.snap.Forwarding.IPv4 = detect.Yes
}

func perPacket(s *scene) {
	busyNIC(s, "virtio", 200_000)
	s.receive("eth0", 900_000)
}

func starved(s *scene, n uint64) {
	s.nic("eth0", "virtio", even(4, 9000), nil).Index = 4
	p := s.probe()
	p.Virtio = append(p.Virtio, counters.Virtio{IfIndex: 4, RingReads: 10_000, Starved: n})
}

func stops(s *scene, n uint64) {
	s.nic("eth0", "virtio", even(4, 9000), nil)
	s.obs.Device["eth0"].Queue[detect.QueueID{Tx: true}] = map[string]uint64{"stops": n}
}

func control(s *scene, ns uint64) {
	buckets := make([]uint64, 65)
	buckets[counters.Bucket(ns)] = 9
	p := s.probe()
	p.Control = append(p.Control, counters.Control{CommandNs: counters.NewHist(buckets, 9*ns)})
}

func controlRead(s *scene, ns uint64) {
	p := s.probe()
	p.ControlReads = append(p.ControlReads, counters.ControlRead{Device: "eth0", Reads: 5, MedianNs: ns, MostNs: 2 * ns})
}

func hostSteers(s *scene, features string, first uint64) {
	d := spread(s, first, 10_000, 10_000, 10_000)
	d.Kind, d.VirtioFeatures = "virtio", features
	s.heat(0, 0.4)
}

func udpHost(s *scene, fields string, udp uint64) {
	d := s.nic("eth0", "physical", even(4, 9000), nil)
	if fields != "" {
		d.HashFields = map[string]string{"udp4": fields}
	}
	s.obs.Protocols["Ip.InDelivers"], s.obs.Protocols["Udp.InDatagrams"] = 1000, udp
}

func transmitting(s *scene, busy time.Duration) {
	p := s.probe()
	p.CPUs = append(p.CPUs, counters.CPU{CPU: 2, Softirq: map[string]counters.Softirq{"NET_TX": {Runs: 100, TimeNs: uint64(busy), TimedRuns: 100}}})
}

func tap(s *scene, dropped uint64) {
	s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "vnet0", Kind: "tap"})
	s.obs.Device["vnet0"] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxDropped: dropped}}
}

// lossyTargets hands the packets of one queue to two CPUs that spend that part of
// their time on softirqs and lose packets, while a third has time.
func (s *scene) lossyTargets(softirq float64) {
	s.nic("eth0", "physical", even(1, 90_000), nil)
	s.warm(3, 0.4)
	s.set(knob.Rx("eth0", 0, "rps.cpus"), "1-2")
	for cpu := 1; cpu < 3; cpu++ {
		s.heat(cpu, softirq)
		s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: 900_000, Dropped: 5000}
	}
}
