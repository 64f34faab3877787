package rules_test

import (
	"fmt"
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

// outcome is what a rule must do in a case.
type outcome uint8

const (
	silent  outcome = iota // no finding of this rule
	note                   // a finding that asks for nothing
	advice                 // a finding above a note
	problem                // measured harm
)

// ruleCase is one fixture of one rule. Every rule has at least one case that
// fires, one that must not, and one without the evidence.
type ruleCase struct {
	rule string
	role string // "fires", "must not", "missing"
	name string
	make func() *scene
	want outcome
	// changes are the changes of the whole plan that must come out, as
	// "ref value"; nil = do not look, empty = none may come out.
	changes []string
}

func scene4(f func(s *scene)) func() *scene { return sceneN(4, f) }

func sceneN(n int, f func(s *scene)) func() *scene {
	return func() *scene {
		s := newScene(n)
		f(s)
		return s
	}
}

var ruleCases = []ruleCase{
	{"irq-stacked", "fires", "four queues on CPU 0", scene4(func(s *scene) { s.nic("eth0", "physical", all(4, 0, 50_000), nil) }), advice,
		[]string{"eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-stacked", "fires", "XPS masks of two CPUs each, as virtio sets them: queues go where XPS sends already", sceneN(8, func(s *scene) {
		s.nic("eth0", "virtio", all(4, 0, 50_000), nil)
		for n, mask := range []string{"0-1", "2-3", "4-5", "6-7"} {
			s.set(knob.Tx("eth0", n, "xps.cpus"), mask)
		}
	}), advice, []string{"eth0/rx-1/irq.affinity 2", "eth0/rx-2/irq.affinity 4", "eth0/rx-3/irq.affinity 6"}},
	{"irq-on-isolated-cpu", "fires", "unequal queues, XPS names one housekeeping CPU for each: they change seats", sceneN(8, func(s *scene) {
		s.nic("eth0", "virtio", []fire{{4: 50_000}, {5: 40_000}, {6: 60_000}, {7: 45_000}}, nil)
		pin(s, "eth0", 4, 5, 6, 7)
		s.snap.Topo.Isolated = cpuset.Of(4, 5, 6, 7)
		for n, mask := range []string{"0,4", "1,5", "2,6", "3,7"} {
			s.set(knob.Tx("eth0", n, "xps.cpus"), mask)
		}
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-stacked", "fires", "unequal queues: the one stays that XPS sends on from there, not the lightest", scene4(func(s *scene) {
		s.nic("eth0", "virtio", []fire{{0: 60_000}, {0: 55_000}, {0: 50_000}, {0: 48_000}}, nil)
		for n := range 4 {
			s.set(knob.Tx("eth0", n, "xps.cpus"), fmt.Sprint(n))
		}
	}), advice, []string{"eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-stacked", "fires", "very unequal queues: the lightest stays with what CPU 0 does besides, and XPS follows", scene4(func(s *scene) {
		s.nic("eth0", "virtio", []fire{{0: 90_000}, {0: 50_000}, {0: 50_000}, {0: 10_000}}, nil)
		s.nic("eth1", "physical", []fire{{0: 50_000}}, nil)
		pin(s, "eth1", 0)
		for n := range 4 {
			s.set(knob.Tx("eth0", n, "xps.cpus"), fmt.Sprint(n))
		}
	}), advice, []string{"eth0/tx-0/xps.cpus 3", "eth0/tx-3/xps.cpus 0", "eth0/rx-0/irq.affinity 3", "eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2"}},
	{"irq-stacked", "fires", "the CPUs that XPS sends from are busy: balance comes first", sceneN(8, func(s *scene) {
		s.nic("eth0", "virtio", all(4, 0, 50_000), nil)
		s.nic("eth1", "physical", []fire{{1: 40_000}, {2: 40_000}, {3: 40_000}}, nil)
		pin(s, "eth1", 1, 2, 3)
		for n, mask := range []string{"0", "1", "2", "3"} {
			s.set(knob.Tx("eth0", n, "xps.cpus"), mask)
		}
	}), advice, []string{"eth0/rx-1/irq.affinity 4", "eth0/rx-2/irq.affinity 5", "eth0/rx-3/irq.affinity 6"}},
	{"irq-stacked", "fires", "irqaffinity= keeps interrupts to CPU 0 and 1: nowhere else", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
	}), advice, []string{"eth0/rx-2/irq.affinity 1", "eth0/rx-3/irq.affinity 1"}},
	{"irq-stacked", "fires", "irqaffinity= of CPU 0 and 1, and a policy that names CPU 4 to 7", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
		s.policy = func(p *profiles.Policy) { p.NetworkCPUs = cpuset.Range(4, 7) }
	}), advice, []string{"eth0/rx-0/irq.affinity 4", "eth0/rx-1/irq.affinity 5", "eth0/rx-2/irq.affinity 6", "eth0/rx-3/irq.affinity 7"}},
	{"irqaffinity-boot", "fires", "two of eight CPUs", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
	}), note, []string{}},
	{"irqaffinity-boot", "fires", "two of eight CPUs, both saturated: ask for more", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
		s.warm(2, 0.7)
	}), advice, []string{}},
	{"irqaffinity-boot", "must not", "all that are not isolated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.snap.Topo.Isolated = cpuset.Range(2, 7)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
	}), silent, []string{}},
	{"irqaffinity-boot", "must not", "a policy names the CPUs", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
		s.policy = func(p *profiles.Policy) { p.NetworkCPUs = cpuset.Range(0, 3) }
	}), silent, nil},
	{"irqaffinity-boot", "fires", "the driver set masks of its own: said, and the option is void", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{4: 50_000}, {5: 50_000}}, nil)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
		s.heat(0, 0.9)
		s.heat(1, 0.9)
	}), note, []string{}},
	{"irq-stacked", "fires", "irqaffinity= of the other node, and all interrupts fire outside it: no CPU of it is proposed", sceneN(16, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", []fire{{8: 50_000}, {8: 50_000}, {10: 50_000}, {11: 50_000}}, nil).Node = 1
		s.heat(8, 0.6)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-3"}
	}), problem, []string{"eth0/rx-1/irq.affinity 9"}},
	{"irqaffinity-boot", "missing", "command line unknown", sceneN(8, func(s *scene) { s.nic("eth0", "physical", even(2, 50_000), nil) }), silent, []string{}},
	{"irq-stacked", "fires", "saturated", scene4(func(s *scene) { s.nic("eth0", "physical", all(4, 0, 50_000), nil); s.heat(0, 0.9) }), problem, nil},
	{"irq-stacked", "fires", "two of four on one CPU, one CPU free: one moves", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {1: 50_000}, {2: 50_000}, {2: 50_000}}, nil)
		pin(s, "eth0", 0, 1, 2, 2)
	}), advice, []string{"eth0/rx-3/irq.affinity 3"}},
	{"irq-stacked", "fires", "two CPUs with two queues each, two free: each gives one away", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {1: 50_000}, {1: 50_000}}, nil)
		pin(s, "eth0", 0, 0, 1, 1)
	}), advice, []string{"eth0/rx-1/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-stacked", "fires", "two NICs, each on one CPU of its own", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(2, 0, 50_000), nil)
		s.nic("eth1", "physical", all(2, 4, 50_000), nil)
		pin(s, "eth0", 0, 0)
		pin(s, "eth1", 4, 4)
	}), advice, []string{"eth0/rx-1/irq.affinity 1", "eth1/rx-1/irq.affinity 2"}},
	{"irq-stacked", "fires", "three queues on a saturated CPU, every other has one: measured harm asks for less gain", sceneN(5, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {0: 50_000}, {1: 50_000}, {2: 50_000}, {3: 50_000}, {4: 50_000}}, nil)
		pin(s, "eth0", 0, 0, 0, 1, 2, 3, 4)
		s.heat(0, 0.9)
	}), problem, []string{"eth0/rx-2/irq.affinity 1"}},
	{"irq-stacked", "fires", "two devices, each with CPUs of its own", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", all(2, 0, 50_000), nil)
		s.nic("eth1", "physical", all(2, 0, 50_000), nil)
		s.policy = func(p *profiles.Policy) {
			p.NetworkCPUs = cpuset.Range(0, 1)
			p.Overrides = []profiles.Override{{Name: "eth1", NetworkCPUs: cpuset.Range(6, 7)}}
		}
	}), advice, []string{"eth0/rx-1/irq.affinity 1", "eth1/rx-0/irq.affinity 6", "eth1/rx-1/irq.affinity 7"}},
	{"irq-stacked", "must not", "three queues on a CPU that has time, every other has one", sceneN(5, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {0: 50_000}, {1: 50_000}, {2: 50_000}, {3: 50_000}, {4: 50_000}}, nil)
		pin(s, "eth0", 0, 0, 0, 1, 2, 3, 4)
	}), silent, []string{}},
	{"irq-stacked", "must not", "three queues on each of two CPUs, and no other", sceneN(2, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {0: 50_000}, {1: 50_000}, {1: 50_000}, {1: 50_000}}, nil)
		pin(s, "eth0", 0, 0, 0, 1, 1, 1)
		s.heat(0, 0.9)
		s.heat(1, 0.9)
	}), silent, []string{}},
	{"irq-stacked", "must not", "one queue per CPU", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil) }), silent, []string{}},
	{"irq-stacked", "must not", "idle", scene4(func(s *scene) { s.nic("eth0", "physical", all(4, 0, 900), nil) }), silent, []string{}},
	{"irq-stacked", "must not", "uneven hash", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 80_000}, {1: 40_000}, {2: 50_000}, {3: 60_000}}, nil)
	}), silent, []string{}},
	{"irq-stacked", "must not", "two queues on a CPU that has time, while one queue alone gives another more to do", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 200_000}, {2: 50_000}, {2: 50_000}, {3: 40_000}}, nil)
	}), silent, []string{}},
	{"irq-stacked", "must not", "a second NIC's only queue, while a wireless card keeps the other CPU busy", sceneN(2, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 20_000}}, nil)
		s.nic("eth1", "physical", []fire{{0: 160_000}}, nil)
		s.stranger("mwlwifi", fire{1: 220_000})
	}), silent, []string{}},
	{"irq-stacked", "must not", "many queues by chance: four on one CPU, three on five others", sceneN(8, func(s *scene) {
		var rx []fire
		for i := range 19 {
			rx = append(rx, fire{i % 6: 30_000})
		}
		s.nic("eth0", "physical", rx, nil)
	}), silent, []string{}},
	{"irq-stacked", "must not", "a management port with one interrupt in twenty of its CPU", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(4, 600_000), nil)
		s.nic("eno3", "physical", []fire{{0: 30_000}}, nil)
	}), silent, []string{}},
	{"irq-stacked", "fires", "a second NIC's only queue, the timer of the other CPU is no device", sceneN(2, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 20_000}}, nil)
		s.nic("eth1", "physical", []fire{{0: 160_000}}, nil)
		s.stranger("arch_timer", fire{0: 220_000, 1: 220_000})
	}), advice, []string{"eth0/rx-0/irq.affinity 1"}},
	{"irq-stacked", "must not", "totals since boot, and the masks of today give every queue a CPU", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 9_000_000}, {0: 9_000_000, 1: 50_000}, {0: 9_000_000, 2: 50_000}, {0: 9_000_000, 3: 50_000}}, nil)
		pin(s, "eth0", 0, 1, 2, 3)
		s.sinceBoot()
	}), silent, []string{}},
	{"irq-stacked", "must not", "only one CPU allowed", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.snap.Topo.Isolated = cpuset.Range(1, 3)
	}), silent, []string{}},
	{"irq-stacked", "missing", "interrupts of no queue known", scene4(func(s *scene) {
		d := s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		for i := range d.Queues {
			d.Queues[i].RxIRQ, d.Queues[i].TxIRQ, d.Queues[i].Why = -1, -1, "ambiguous"
		}
	}), silent, []string{}},

	{"qdisc-shared", "fires", "fq on a bond", scene4(func(s *scene) {
		s.sends(&detect.Device{Name: "bond0", Kind: "bond", Qdisc: "fq"}, 2_000_000)
	}), note, []string{}},
	{"qdisc-shared", "fires", "fq at the root of four queues", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil).Qdisc = "fq"
		s.obs.Device["eth0"] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxPackets: 1_000_000}}
	}), note, []string{}},
	{"qdisc-shared", "must not", "a discipline for each queue", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil).Qdisc = "mq"
		s.obs.Device["eth0"] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxPackets: 2_000_000}}
	}), silent, []string{}},
	{"qdisc-shared", "must not", "one queue", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 9000), nil).Qdisc = "fq_codel"
		s.obs.Device["eth0"] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, TxPackets: 2_000_000}}
	}), silent, []string{}},
	{"qdisc-shared", "must not", "a shaper for the whole device", scene4(func(s *scene) {
		s.sends(&detect.Device{Name: "bond0", Kind: "bond", Qdisc: "htb"}, 2_000_000)
	}), silent, []string{}},
	{"qdisc-shared", "must not", "hardly any packets", scene4(func(s *scene) {
		s.sends(&detect.Device{Name: "bond0", Kind: "bond", Qdisc: "fq"}, 999_990)
	}), silent, []string{}},
	{"qdisc-shared", "missing", "discipline not told", scene4(func(s *scene) {
		s.sends(&detect.Device{Name: "bond0", Kind: "bond"}, 2_000_000)
	}), silent, []string{}},

	{"irq-on-pinned-cpu", "fires", "the sibling of the core is no refuge", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		s.pinnedThread(900, "redis-server", 1, 0.6)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.35, Busy: 0.97, Idle: 0.03, Ticks: 1000}
		for _, cpu := range []int{0, 3, 4, 6, 7} {
			s.obs.CPU[cpu] = detect.CPUShare{Busy: 0.9, Idle: 0.1, Ticks: 1000}
		}
	}), advice, []string{"eth0/rx-0/irq.affinity 2"}},
	{"irq-on-pinned-cpu", "must not", "a thread on every CPU, and interrupts on every CPU", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 90_000), nil)
		for i := range 4 {
			s.pinnedThread(900+i, fmt.Sprintf("reactor-%d", i), i, 0.7)
			s.obs.CPU[i] = detect.CPUShare{Softirq: 0.25, Busy: 0.98, Idle: 0.02, Ticks: 1000}
		}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "must not", "there is time for both", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		s.pinnedThread(900, "redis-server", 1, 0.4)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.2, Busy: 0.6, Idle: 0.4, Ticks: 1000}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "must not", "softirqs of the disk, and a few packets", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 900}}, nil)
		s.pinnedThread(900, "postgres", 1, 0.6)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.35, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "must not", "the pinned thread sleeps, others fill the CPU", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		s.pinnedThread(900, "watchdog", 1, 0.01)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.3, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "must not", "the only free CPUs have another cache", sceneN(8, func(s *scene) {
		s.caches(4)
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		for i := range 4 {
			s.pinnedThread(900+i, "nginx", i, 0.6)
			s.obs.CPU[i] = detect.CPUShare{Softirq: 0.01, Busy: 0.65, Idle: 0.35, Ticks: 1000}
		}
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.3, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "must not", "a thread that may run elsewhere", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		s.thread(900, "redis-server", 1, 0.6)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.35, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},
	{"irq-on-pinned-cpu", "missing", "no processes", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.35, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},

	{"irq-vectors-full", "fires", "the next CPU is full: the plan passes it by", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(3, 0, 50_000), nil)
		s.snap.Vectors = detect.Vectors{Free: map[int]int{0: 3, 1: 0, 2: 9, 3: 9}, Counted: true}
	}), note, []string{"eth0/rx-1/irq.affinity 2", "eth0/rx-2/irq.affinity 3"}},
	{"irq-vectors-full", "fires", "pairs of two vectors, and room for three", scene4(func(s *scene) {
		s.nic("eth0", "virtio", all(3, 0, 50_000), all(3, 0, 50_000))
		s.snap.Vectors.Free = map[int]int{0: 0, 1: 3, 2: 1, 3: 4}
	}), note, []string{"eth0/rx-1/irq.affinity 1", "eth0/tx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 3", "eth0/tx-2/irq.affinity 3"}},
	{"irq-vectors-full", "fires", "queues must leave isolated CPUs, and no other has a vector", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{2: 50_000}, {3: 50_000}}, nil)
		s.snap.Topo.Isolated = cpuset.Range(2, 3)
		s.snap.Vectors.Free = map[int]int{0: 0, 1: 1, 2: 150, 3: 150}
	}), advice, []string{"eth0/rx-0/irq.affinity 1"}},
	{"irq-vectors-full", "fires", "both CPUs of a split pair", scene4(func(s *scene) {
		s.nic("eth0", "virtio", []fire{{0: 50_000}, {1: 50_000}}, []fire{{2: 40_000}, {3: 40_000}})
		s.snap.Vectors.Free = map[int]int{0: 0, 1: 90, 2: 90, 3: 90}
	}), note, nil},
	{"irq-vectors-full", "must not", "every CPU has room", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.snap.Vectors.Free = map[int]int{0: 90, 1: 1, 2: 9, 3: 9}
	}), silent, []string{"eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"irq-vectors-full", "must not", "only an isolated CPU is full", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(3, 50_000), nil)
		s.snap.Topo.Isolated = cpuset.Of(3)
		s.snap.Vectors.Free = map[int]int{0: 90, 1: 90, 2: 90, 3: 0}
	}), silent, []string{}},
	{"irq-vectors-full", "missing", "no table", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 50_000), nil) }), silent, []string{}},

	{"irq-smeared", "fires", "delivered round robin", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 19_000, 1: 19_000, 2: 19_000, 3: 19_000}}, nil)
	}), advice, nil},
	{"irq-smeared", "must not", "re-pinned once", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 20_000, 1: 20_000}}, nil)
	}), silent, []string{}},
	{"irq-smeared", "must not", "totals since boot, pinned by now", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 9_000_000, 1: 9_000_000, 2: 9_000_000, 3: 9_000_000}}, nil)
		pin(s, "eth0", 2)
		s.sinceBoot()
	}), silent, []string{}},
	{"irq-smeared", "fires", "totals since boot, one CPU in each mask but irqbalance writes them", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 9_000_000, 1: 9_000_000, 2: 9_000_000, 3: 9_000_000}}, nil)
		pin(s, "eth0", 2)
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance"}}
		s.sinceBoot()
	}), advice, nil},
	{"irq-smeared", "fires", "one queue over all CPUs, the others over more than two: all are pinned", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{
			{0: 20_000, 1: 20_000, 2: 20_000, 3: 20_000}, {0: 10_000, 1: 20_000, 3: 40_000}, {0: 40_000, 1: 20_000, 2: 10_000}, {2: 30_000, 3: 30_000},
		}, nil)
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2"}},
	{"irq-smeared", "missing", "hardly any interrupts", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 9, 1: 9, 2: 9, 3: 9}}, nil)
	}), silent, []string{}},

	{"queue-pair-split", "fires", "crossed", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{1: 50_000}, {0: 50_000}, {3: 50_000}, {2: 50_000}})
	}), advice, nil},
	{"queue-pair-split", "fires", "crossed, more completions than receive interrupts, XPS follows the receiving CPUs: the transmit sides go back", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{1: 60_000}, {0: 60_000}, {3: 60_000}, {2: 60_000}})
		for n := range 4 {
			s.set(knob.Tx("eth0", n, "xps.cpus"), fmt.Sprint(n))
		}
	}), advice, []string{"eth0/tx-0/irq.affinity 0", "eth0/tx-1/irq.affinity 1", "eth0/tx-2/irq.affinity 2", "eth0/tx-3/irq.affinity 3"}},
	{"queue-pair-split", "fires", "crossed, two of them with few completions: what took one apart took all", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{1: 60_000}, {0: 60_000}, {3: 5_000}, {2: 5_000}})
		for n := range 4 {
			s.set(knob.Tx("eth0", n, "xps.cpus"), fmt.Sprint(n))
		}
	}), advice, []string{"eth0/tx-0/irq.affinity 0", "eth0/tx-1/irq.affinity 1", "eth0/tx-2/irq.affinity 2", "eth0/tx-3/irq.affinity 3"}},
	{"queue-pair-split", "fires", "crossed, one of them without any completions: where it would fire counts beside the others", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{1: 60_000}, {}, {3: 60_000}, {2: 60_000}})
		s.effective("eth0-tx-1", 0)
		for n := range 4 {
			s.set(knob.Tx("eth0", n, "xps.cpus"), fmt.Sprint(n))
		}
	}), advice, []string{"eth0/tx-0/irq.affinity 0", "eth0/tx-1/irq.affinity 1", "eth0/tx-2/irq.affinity 2", "eth0/tx-3/irq.affinity 3"}},
	{"queue-pair-split", "must not", "together, one transmit interrupt would fire elsewhere and does not fire at all", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{0: 60_000}, {}, {2: 60_000}, {3: 60_000}})
		s.effective("eth0-tx-1", 0)
	}), silent, []string{}},
	{"queue-pair-split", "must not", "crossed, with few completions everywhere", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), []fire{{1: 5_000}, {0: 5_000}, {3: 5_000}, {2: 5_000}})
	}), silent, nil},
	{"queue-pair-split", "must not", "together", scene4(func(s *scene) { s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000)) }), silent, []string{}},
	{"queue-pair-split", "must not", "a single pair on two CPUs", scene4(func(s *scene) {
		s.nic("eth0", "virtio", []fire{{0: 50_000}}, []fire{{1: 50_000}})
	}), silent, []string{}},
	{"queue-pair-split", "must not", "totals since boot of interrupts that were moved", scene4(func(s *scene) {
		s.nic("eth0", "virtio", []fire{{0: 6_000_000, 1: 2_000_000, 2: 2_000_000}, {1: 9_000_000}}, []fire{{3: 6_000_000, 1: 3_000_000}, {1: 9_000_000}})
		s.sinceBoot()
	}), silent, []string{}},
	{"queue-pair-split", "missing", "transmit interrupts unknown", scene4(func(s *scene) {
		d := s.nic("eth0", "virtio", even(4, 50_000), even(4, 0))
		for i := range d.Queues {
			d.Queues[i].TxIRQ = -1
		}
	}), silent, []string{}},

	{"irq-remote-node", "fires", "queues on the other node", sceneN(8, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", []fire{{4: 50_000}, {5: 50_000}}, nil)
		s.heat(4, 0.06)
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1"}},
	{"irq-remote-node", "must not", "queues on the other node, which have next to nothing to do: a note", sceneN(8, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", []fire{{4: 20_000}, {5: 20_000}}, nil)
		s.heat(4, 0.03)
	}), note, []string{}},
	{"irq-remote-node", "must not", "idling on the other node beside a stack, which alone is placed", sceneN(16, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", []fire{{0: 60_000}, {0: 60_000}, {1: 50_000}, {2: 50_000}, {3: 50_000}, {4: 50_000}, {8: 50_000}, {9: 50_000}, {10: 50_000}}, nil)
		s.heat(0, 0.7)
	}), note, []string{"eth0/rx-1/irq.affinity 5"}},
	{"irq-remote-node", "must not", "local", sceneN(8, func(s *scene) { s.nodes(); s.nic("eth0", "physical", even(4, 50_000), nil) }), silent, []string{}},
	{"irq-remote-node", "missing", "node of the device not told", sceneN(8, func(s *scene) {
		s.nodes()
		s.nic("eth0", "physical", []fire{{4: 50_000}, {5: 50_000}}, nil).Node = -1
	}), silent, []string{}},

	{"irq-on-isolated-cpu", "fires", "queues on isolated CPUs", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{2: 50_000}, {3: 50_000}}, nil)
		s.snap.Topo.Isolated = cpuset.Range(2, 3)
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1"}},
	{"irq-on-isolated-cpu", "fires", "on CPUs that the policy keeps free", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{2: 50_000}, {3: 50_000}}, nil)
		s.policy = func(p *profiles.Policy) { p.NetworkCPUs = cpuset.Range(0, 1) }
	}), advice, []string{"eth0/rx-0/irq.affinity 0", "eth0/rx-1/irq.affinity 1"}},
	{"irq-on-isolated-cpu", "must not", "housekeeping CPUs", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil)
		s.snap.Topo.Isolated = cpuset.Range(2, 3)
	}), silent, []string{}},
	{"irq-on-isolated-cpu", "missing", "isolation not told", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{2: 50_000}, {3: 50_000}}, nil)
		s.snap.Topo.Known.Isolation = false
	}), silent, []string{}},

	{"affinity-not-honoured", "fires", "all on CPU 0 against their masks", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		pin(s, "eth0", 0, 1, 2, 3)
	}), advice, []string{}},
	{"affinity-not-honoured", "must not", "where the mask says", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil)
		pin(s, "eth0", 0, 1, 2, 3)
	}), silent, []string{}},
	{"affinity-not-honoured", "missing", "masks unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil)
		for i := range s.snap.IRQs.Rows {
			s.snap.IRQs.Rows[i].HasSMP = false
		}
	}), silent, []string{}},

	{"softirq-imbalance", "fires", "one hot CPU", scene4(func(s *scene) { s.obs.NetRx[2] = 90_000; s.heat(2, 0.8) }), advice, nil},
	{"softirq-imbalance", "fires", "uneven but light", scene4(func(s *scene) { s.obs.NetRx[2] = 90_000 }), note, []string{}},
	{"softirq-imbalance", "must not", "even", scene4(func(s *scene) {
		for i := range 4 {
			s.obs.NetRx[i] = 30_000
		}
	}), silent, []string{}},
	{"softirq-imbalance", "must not", "totals since boot of an idle machine", scene4(func(s *scene) { s.obs.NetRx[2] = 90_000; s.sinceBoot() }), silent, []string{}},
	{"softirq-imbalance", "must not", "columns for CPUs that are not there", scene4(func(s *scene) {
		for cpu := range 4 {
			s.obs.NetRx[cpu], s.obs.NetRx[cpu+4] = 90_000, 0
		}
		s.obs.NetRx[0] = 150_000
	}), silent, []string{}},
	{"softirq-imbalance", "missing", "no softirq source", scene4(func(s *scene) {
		s.obs.NetRx = map[int]uint64{}
		s.obs.Softnet = map[int]detect.SoftnetDelta{}
	}), silent, []string{}},

	{"virtio-queues-unused", "fires", "1 of 4 used", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(1, 50_000), nil).Channels.MaxCombined = 8
	}), advice, []string{"eth0/channels.combined 4"}},
	{"virtio-queues-unused", "must not", "1 of 8 used by 16 CPUs, 50 packets a second: a note", sceneN(16, func(s *scene) {
		s.nic("eth0", "virtio", even(1, 500), nil).Channels.MaxCombined = 8
		s.receive("eth0", 500)
	}), note, []string{}},
	{"virtio-queues-unused", "must not", "all used", scene4(func(s *scene) { s.nic("eth0", "virtio", even(4, 5000), nil) }), silent, []string{}},
	{"virtio-queues-unused", "missing", "channels unknown", scene4(func(s *scene) { s.nic("eth0", "virtio", even(1, 5000), nil).Channels = nil }), silent, []string{}},

	{"queues-unused", "fires", "2 of 16 used", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil).Channels.MaxCombined = 16
		s.heat(1, 0.3)
	}), advice, []string{"eth0/channels.combined 16"}},
	{"queues-unused", "must not", "4 of 32 used, their CPUs at 3 %: a note, no reset of the link", sceneN(32, func(s *scene) {
		s.nic("eth0", "physical", even(4, 15_000), nil).Channels.MaxCombined = 32
		s.warm(4, 0.03)
	}), note, []string{}},
	{"queues-unused", "must not", "2 of 16 used, at rest: a note", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(2, 5000), nil).Channels.MaxCombined = 16
	}), note, []string{}},
	{"policy-cpus", "fires", "CPUs 8 to 15 of 4", scene4(func(s *scene) {
		s.policy = func(p *profiles.Policy) {
			p.NetworkCPUs = cpuset.Range(2, 15)
			p.Lists = []profiles.CPUList{{File: "site.yaml", Line: 7, Key: "cpus.network", CPUs: p.NetworkCPUs}}
		}
	}), note, []string{}},
	{"policy-cpus", "fires", "none of them is there", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.policy = func(p *profiles.Policy) {
			p.NetworkCPUs = cpuset.Range(8, 15)
			p.Lists = []profiles.CPUList{{File: "site.yaml", Line: 7, Key: "cpus.network", CPUs: p.NetworkCPUs}}
		}
	}), advice, []string{}},
	{"policy-cpus", "must not", "all there", scene4(func(s *scene) {
		s.policy = func(p *profiles.Policy) {
			p.NetworkCPUs = cpuset.Range(2, 3)
			p.Lists = []profiles.CPUList{{File: "site.yaml", Line: 7, Key: "cpus.network", CPUs: p.NetworkCPUs}}
		}
	}), silent, []string{}},
	{"policy-cpus", "missing", "CPUs unknown", scene4(func(s *scene) {
		s.snap.Topo.Online = cpuset.Set{}
		s.policy = func(p *profiles.Policy) {
			p.Lists = []profiles.CPUList{{File: "site.yaml", Line: 7, Key: "cpus.network", CPUs: cpuset.Of(9)}}
		}
	}), silent, []string{}},

	{"queues-unused", "must not", "2 of 16 used, and irqaffinity= keeps interrupts to two CPUs", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(2, 50_000), nil).Channels.MaxCombined = 16
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
		s.warm(2, 0.3)
	}), silent, []string{}},
	{"queues-unused", "must not", "half used", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(8, 5000), nil).Channels.MaxCombined = 16
	}), silent, []string{}},
	{"queues-unused", "missing", "channels unknown", sceneN(16, func(s *scene) {
		s.nic("eth0", "physical", even(2, 5000), nil).Channels = nil
	}), silent, []string{}},

	{"virtio-host-single-queue", "fires", "one pair offered", scene4(func(s *scene) { s.nic("eth0", "virtio", even(1, 5000), nil) }), note, []string{}},
	{"virtio-host-single-queue", "fires", "and its CPU saturated", scene4(func(s *scene) { s.nic("eth0", "virtio", even(1, 90_000), nil); s.heat(0, 0.8) }), problem,
		[]string{"eth0/rx-0/rps.cpus 1-3"}},
	{"virtio-host-single-queue", "must not", "four offered", scene4(func(s *scene) { s.nic("eth0", "virtio", even(4, 5000), nil) }), silent, []string{}},
	{"virtio-host-single-queue", "must not", "one CPU", sceneN(1, func(s *scene) { s.nic("eth0", "virtio", even(1, 5000), nil) }), silent, []string{}},
	{"virtio-host-single-queue", "missing", "neither channels nor features nor queues", scene4(func(s *scene) {
		d := s.nic("eth0", "virtio", even(1, 5000), nil)
		d.Channels, d.Queues = nil, nil
	}), silent, []string{}},

	{"backlog-drops", "fires", "drops with idle CPU", scene4(func(s *scene) {
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 9000, Dropped: 50}
		s.set(knob.Global("net.core.netdev_max_backlog"), "1000")
	}), problem, []string{"net.core.netdev_max_backlog 2000"}},
	{"backlog-drops", "fires", "drops on a saturated CPU: no longer queue", scene4(func(s *scene) {
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 9000, Dropped: 50}
		s.heat(1, 0.9)
		s.set(knob.Global("net.core.netdev_max_backlog"), "1000")
	}), problem, []string{}},
	{"backlog-drops", "fires", "ten packets of ninety thousand in ten seconds", scene4(func(s *scene) { backlogLoss(s, 90_000, 10) }), problem, []string{"net.core.netdev_max_backlog 2000"}},
	{"backlog-drops", "fires", "nine packets: too few to act on", scene4(func(s *scene) { backlogLoss(s, 80_000, 9) }), note, []string{}},
	{"backlog-drops", "fires", "a single packet: too few to act on", scene4(func(s *scene) { backlogLoss(s, 9000, 1) }), note, []string{}},
	{"backlog-drops", "fires", "ten packets of a million: too small a part", scene4(func(s *scene) { backlogLoss(s, 1_000_000, 10) }), note, []string{}},
	{"backlog-drops", "must not", "no drops", scene4(func(s *scene) { s.set(knob.Global("net.core.netdev_max_backlog"), "1000") }), silent, []string{}},
	{"backlog-drops", "missing", "only totals since boot", scene4(func(s *scene) {
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 9000, Dropped: 50}
		s.set(knob.Global("net.core.netdev_max_backlog"), "1000")
		s.sinceBoot()
	}), note, []string{}},

	{"budget-oversized", "fires", "300 ms", scene4(func(s *scene) { s.set(knob.Global("net.core.netdev_budget_usecs"), "300000") }), advice,
		[]string{"net.core.netdev_budget_usecs 8000"}},
	{"budget-oversized", "fires", "65535 packets", scene4(func(s *scene) { s.set(knob.Global("net.core.netdev_budget"), "65535") }), note, []string{}},
	{"budget-oversized", "must not", "at the limit", scene4(func(s *scene) {
		s.set(knob.Global("net.core.netdev_budget_usecs"), "16000")
		s.set(knob.Global("net.core.netdev_budget"), "600")
	}), silent, []string{}},
	{"budget-oversized", "must not", "HZ=100 default", scene4(func(s *scene) {
		s.snap.Ident.HZ = 100
		s.set(knob.Global("net.core.netdev_budget_usecs"), "20000")
	}), silent, []string{}},
	{"budget-oversized", "missing", "settings unknown", scene4(func(s *scene) {}), silent, []string{}},

	{"budget-undersized", "fires", "a budget of 10, runs end early", scene4(func(s *scene) {
		s.set(knob.Global("net.core.netdev_budget"), "10")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 300_000, Squeezed: 30_000}
	}), advice, []string{"net.core.netdev_budget 300"}},
	{"budget-undersized", "fires", "zero, which the kernel accepts", scene4(func(s *scene) {
		s.set(knob.Global("net.core.netdev_budget"), "0")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 300_000, Squeezed: 30_000}
	}), advice, []string{"net.core.netdev_budget 300"}},
	{"budget-undersized", "must not", "a budget of 10, nothing left over: a note", scene4(func(s *scene) { s.set(knob.Global("net.core.netdev_budget"), "10") }), note, []string{}},
	{"budget-undersized", "must not", "room for one full poll", scene4(func(s *scene) {
		s.set(knob.Global("net.core.netdev_budget"), "64")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 300_000, Squeezed: 30_000}
	}), silent, []string{}},
	{"budget-undersized", "missing", "only totals since boot", scene4(func(s *scene) {
		s.set(knob.Global("net.core.netdev_budget"), "10")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 300_000, Squeezed: 30_000}
		s.sinceBoot()
	}), note, []string{}},

	{"rx-ring-overrun", "fires", "loss with idle CPU", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 5000)
	}), problem, []string{"eth0/ring.rx 1024"}},
	{"rx-ring-overrun", "fires", "loss on a saturated CPU: spread, no longer ring", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		lose(s, "eth0", 5000)
		s.heat(0, 0.9)
	}), problem, []string{"eth0/rx-1/irq.affinity 1", "eth0/rx-2/irq.affinity 2", "eth0/rx-3/irq.affinity 3"}},
	{"rx-ring-overrun", "must not", "a device whose policy tolerates more", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 900)
		s.policy = func(p *profiles.Policy) {
			p.Overrides = []profiles.Override{{Name: "eth0", Thresholds: map[string]float64{"ring-loss-share": 0.01}}}
		}
	}), silent, []string{}},
	{"rx-ring-overrun", "must not", "one packet on an idle host", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 10), nil)
		s.receive("eth0", 1000)
		lose(s, "eth0", 1)
	}), silent, []string{}},
	{"rx-ring-overrun", "must not", "below the threshold", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 99)
	}), silent, []string{}},
	{"rx-ring-overrun", "must not", "igb ran out of descriptors for moments, and its own memory held the packets", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.obs.Device["eth0"].Stats["rx_no_buffer_count"] = 90_000
	}), silent, []string{}},
	{"rx-ring-overrun", "must not", "the same small loss under three names", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 80)
		s.obs.Device["eth0"].Stats["rx_fifo_errors"] = 80
		s.obs.Device["eth0"].Stats["rx_queue_0_drops"] = 80
	}), silent, []string{}},
	{"rx-ring-overrun", "fires", "single queues of be2net tell", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.obs.Device["eth0"].Stats["rxq0: rx_drops_no_frags"] = 3000
		s.obs.Device["eth0"].Stats["rxq1: rx_drops_no_frags"] = 2000
	}), problem, []string{"eth0/ring.rx 1024"}},
	{"rx-ring-overrun", "must not", "frames that virtio_net could not use", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 9000), nil)
		s.obs.Device["eth0"].Stats["rx_queue_0_drops"] = 5000
	}), silent, []string{}},
	{"rx-ring-overrun", "missing", "much was lost since boot, nobody knows when: no change", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 50_000)
		s.sinceBoot()
	}), advice, []string{}},
	{"rx-ring-overrun", "missing", "a little was lost since boot: a note", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", 400)
		s.sinceBoot()
	}), note, []string{}},
	{"rx-ring-overrun", "missing", "ring sizes unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil).Rings = nil
		lose(s, "eth0", 5000)
	}), problem, []string{}},

	{"gro-off", "fires", "off", scene4(func(s *scene) { gro(s, host.Feature{On: false}) }), advice, []string{"eth0/feature.rx-gro on"}},
	{"gro-off", "must not", "few packets on cool CPUs: a note", scene4(func(s *scene) {
		gro(s, host.Feature{On: false})
		s.receive("eth0", 10_000)
	}), note, []string{}},
	{"gro-off", "must not", "a sensor wants packets as they were sent: a note", scene4(func(s *scene) {
		gro(s, host.Feature{})
		s.snap.Processes = []host.Process{{PID: 7, Comm: "Suricata-Main"}}
	}), note, []string{}},
	{"gro-off", "fires", "a sensor elsewhere, this port serves connections", scene4(func(s *scene) {
		gro(s, host.Feature{})
		s.sent("eth0", 900_000)
		s.snap.Processes = []host.Process{{PID: 7, Comm: "Suricata-Main"}}
	}), advice, []string{"eth0/feature.rx-gro on"}},
	{"gro-off", "must not", "totals since boot, and a sensor's mirror port: a note", scene4(func(s *scene) {
		gro(s, host.Feature{})
		s.snap.Processes = []host.Process{{PID: 7, Comm: "zeek"}}
		s.sinceBoot()
	}), note, []string{}},
	{"gro-off", "must not", "a sensor's mirror port on a host that routes for containers: a note", scene4(func(s *scene) {
		gro(s, host.Feature{})
		s.snap.Processes = []host.Process{{PID: 7, Comm: "zeek"}}
		s.snap.Forwarding.IPv4 = detect.Yes
	}), note, []string{}},
	{"gro-off", "must not", "no link", scene4(func(s *scene) {
		gro(s, host.Feature{On: false})
		s.snap.Devices[0].Carrier = detect.No
	}), silent, []string{}},
	{"gro-off", "must not", "fixed", scene4(func(s *scene) { gro(s, host.Feature{On: false, Fixed: true}) }), silent, []string{}},
	{"gro-off", "missing", "features unknown", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil).Features = nil }), silent, []string{}},

	{"lro-while-forwarding", "fires", "router", scene4(func(s *scene) { lro(s); s.snap.Forwarding.IPv4 = detect.Yes }), problem, []string{"eth0/feature.rx-lro off"}},
	{"lro-while-forwarding", "fires", "below a VLAN on a bond that is a bridge's port", scene4(func(s *scene) {
		lro(s)
		s.snap.Devices[0].Upper = []string{"bond0"}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0"}, Upper: []string{"bond0.7"}},
			&detect.Device{Name: "bond0.7", Kind: "vlan", Lower: []string{"bond0"}, Upper: []string{"br0"}}, &detect.Device{Name: "br0", Kind: "bridge", Lower: []string{"bond0.7"}})
	}), problem, []string{"eth0/feature.rx-lro off"}},
	{"lro-while-forwarding", "fires", "a port of Open vSwitch", scene4(func(s *scene) {
		lro(s)
		s.snap.Devices[0].Upper = []string{"ovs-system"}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "ovs-system", Kind: "virtual", Driver: "openvswitch", Lower: []string{"eth0"}})
	}), problem, []string{"eth0/feature.rx-lro off"}},
	{"lro-while-forwarding", "must not", "below a bond with an address", scene4(func(s *scene) {
		lro(s)
		s.snap.Devices[0].Upper = []string{"bond0"}
		s.snap.Devices = append(s.snap.Devices, &detect.Device{Name: "bond0", Kind: "bond", Lower: []string{"eth0"}, Upper: []string{"bond0"}})
	}), silent, []string{}},
	{"lro-while-forwarding", "must not", "end host", scene4(func(s *scene) { lro(s); s.snap.Forwarding.IPv4 = detect.No }), silent, []string{}},
	{"lro-while-forwarding", "missing", "forwarding unknown", scene4(lro), silent, []string{}},

	{"rps-needed", "fires", "one hot queue, idle neighbours", scene4(func(s *scene) { s.nic("eth0", "physical", even(1, 90_000), nil); s.heat(0, 0.9) }), problem,
		[]string{"eth0/rx-0/rps.cpus 1-3"}},
	{"rps-needed", "fires", "two queues, all there are, of eight CPUs saturated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 400_000), nil)
		s.heat(0, 0.95)
		s.heat(1, 0.95)
	}), problem, []string{"eth0/rx-0/rps.cpus 2-7", "eth0/rx-1/rps.cpus 2-7"}},
	{"rps-needed", "must not", "two of eight queues saturated", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(8, 400_000), nil)
		s.heat(0, 0.95)
		s.heat(1, 0.95)
	}), silent, []string{}},
	{"rps-needed", "must not", "CPUs set apart for the NIC, half busy", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(2, 400_000), nil)
		s.heat(0, 0.6)
		s.heat(1, 0.6)
	}), silent, []string{}},
	{"rps-needed", "must not", "light", scene4(func(s *scene) { s.nic("eth0", "physical", even(1, 90_000), nil) }), silent, []string{}},
	{"rps-needed", "must not", "two CPUs", sceneN(2, func(s *scene) { s.nic("eth0", "physical", even(1, 90_000), nil); s.heat(0, 0.9) }), silent, []string{}},
	{"rps-needed", "must not", "siblings are left out", sceneN(8, func(s *scene) {
		s.siblings()
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.9)
		for i := range 8 {
			if i != 0 && i != 4 {
				s.heat(i, 0.9)
			}
		}
	}), silent, []string{}},
	{"rps-needed", "fires", "behind USB, no interrupt of its own", scene4(func(s *scene) { s.usb("eth0", 800_000); s.heat(0, 0.9); s.obs.NetRx[0] = 300_000 }), problem,
		[]string{"eth0/rx-0/rps.cpus 1-3"}},
	{"rps-needed", "must not", "behind USB, another NIC carries as much", scene4(func(s *scene) {
		s.usb("eth0", 800_000)
		s.nic("eth1", "physical", even(4, 50_000), nil)
		s.heat(0, 0.9)
		s.obs.NetRx[0] = 300_000
	}), silent, []string{}},
	{"rps-needed", "must not", "the queue leaves its saturated CPU first", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(1, 200_000), nil)
		s.nic("eth1", "physical", even(1, 200_000), nil)
		s.heat(0, 0.95)
	}), silent, nil},
	{"rps-needed", "fires", "slow cores are left out", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{4: 200_000}}, nil)
		s.snap.Topo.Little = cpuset.Range(0, 3)
		s.heat(4, 0.95)
	}), problem, []string{"eth0/rx-0/rps.cpus 5-7"}},
	{"rps-needed", "missing", "CPU time unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.obs.CPU = map[int]detect.CPUShare{}
	}), silent, []string{}},

	{"arfs-off", "fires", "RFS on a driver that could steer", sceneN(8, func(s *scene) { steered(s, "ice", 100_000) }), advice,
		[]string{"eth0/feature.rx-ntuple-filter on"}},
	{"arfs-off", "must not", "a driver without flow steering", sceneN(8, func(s *scene) { steered(s, "ixgbe", 100_000) }), silent, []string{}},
	{"arfs-off", "must not", "few packets are moved", sceneN(8, func(s *scene) { steered(s, "ice", 1000) }), silent, []string{}},
	{"arfs-off", "must not", "it is on", sceneN(8, func(s *scene) {
		steered(s, "ice", 100_000).Features["rx-ntuple-filter"] = host.Feature{On: true, Requested: true}
	}), silent, []string{}},
	{"arfs-off", "missing", "features unknown", sceneN(8, func(s *scene) { steered(s, "ice", 100_000).Features = nil }), silent, []string{}},
	{"arfs-off", "missing", "no softnet_stat", sceneN(8, func(s *scene) { steered(s, "ice", 100_000); s.obs.Softnet = nil }), silent, []string{}},
	{"rps-narrows", "fires", "four queues on four CPUs, RPS of all to one", sceneN(8, func(s *scene) { gathered(s, 4, "7", 7) }), advice,
		[]string{"eth0/rx-0/rps.cpus ", "eth0/rx-1/rps.cpus ", "eth0/rx-2/rps.cpus ", "eth0/rx-3/rps.cpus "}},
	{"rps-narrows", "fires", "saturated", sceneN(8, func(s *scene) { gathered(s, 4, "7", 7); s.heat(7, 0.9) }), problem, nil},
	{"rps-narrows", "fires", "handing on takes next to nothing, the work is done elsewhere", sceneN(8, func(s *scene) { gatheredOf(s, 4, 5_000, "7", 7); s.heat(7, 0.3) }), advice,
		[]string{"eth0/rx-0/rps.cpus ", "eth0/rx-1/rps.cpus ", "eth0/rx-2/rps.cpus ", "eth0/rx-3/rps.cpus "}},
	{"rps-narrows", "must not", "next to nothing is gathered", sceneN(8, func(s *scene) { gatheredOf(s, 4, 5_000, "7", 7) }), silent, []string{}},
	{"rps-narrows", "must not", "RPS widens: more CPUs than interrupts have", sceneN(8, func(s *scene) { gathered(s, 2, "4-7", 4) }), silent, []string{}},
	{"rps-narrows", "must not", "as many CPUs as interrupts have", sceneN(8, func(s *scene) { gathered(s, 4, "4-7", 4) }), silent, []string{}},
	{"rps-narrows", "must not", "the policy gives packets those CPUs", sceneN(8, func(s *scene) {
		gathered(s, 4, "7", 7)
		s.policy = func(p *profiles.Policy) { p.NetworkCPUs = cpuset.Of(7) }
	}), silent, nil},
	{"rps-narrows", "must not", "RFS steers to the readers", sceneN(8, func(s *scene) {
		gathered(s, 4, "7", 7)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "32768")
	}), silent, nil},
	{"rps-narrows", "must not", "packets of the queues are idle chatter", sceneN(8, func(s *scene) {
		gathered(s, 4, "7", 7)
		for i := range 8 {
			s.obs.Softnet[i] = detect.SoftnetDelta{Processed: 1000}
		}
	}), silent, []string{}},
	{"rps-narrows", "missing", "masks unknown", sceneN(8, func(s *scene) {
		gathered(s, 4, "7", 7)
		delete(s.snap.Knobs, knob.Rx("eth0", 2, "rps.cpus"))
	}), silent, []string{}},
	{"rps-narrows", "missing", "no softnet_stat", sceneN(8, func(s *scene) {
		gathered(s, 4, "7", 7)
		s.obs.Softnet = nil
	}), silent, []string{}},
	{"rps-redundant", "fires", "RPS on every queue of a queue-per-CPU device", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		for i := range 4 {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "0-3")
		}
	}), advice, []string{"eth0/rx-0/rps.cpus ", "eth0/rx-1/rps.cpus ", "eth0/rx-2/rps.cpus ", "eth0/rx-3/rps.cpus "}},
	{"rps-redundant", "must not", "a device that hardly works: a note", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 900), nil)
		s.receive("eth0", 9000)
		for i := range 4 {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "0-3")
		}
	}), note, []string{}},
	{"rps-redundant", "must not", "no link", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 0), nil).Carrier = detect.No
		for i := range 4 {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "0-3")
		}
	}), silent, []string{}},
	{"rps-redundant", "must not", "irqaffinity= keeps 16 queues to two CPUs, RPS uses the others", sceneN(16, func(s *scene) {
		rx := make([]fire, 16)
		for i := range rx {
			rx[i] = fire{i % 2: 20_000}
		}
		s.nic("eth0", "physical", rx, nil)
		for i := range rx {
			s.set(knob.Rx("eth0", i, "rps.cpus"), "2-15")
		}
		s.warm(16, 0.3)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
	}), silent, []string{}},
	{"rps-redundant", "must not", "fewer queues than CPUs", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "0-7")
	}), silent, []string{}},
	{"rps-redundant", "missing", "masks unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		for i := range 4 {
			delete(s.snap.Knobs, knob.Rx("eth0", i, "rps.cpus"))
		}
	}), silent, []string{}},

	{"rx-ring-overrun", "fires", "at the end of the ring: said, and nothing changed", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil).Rings.Rx = 4096
		s.set(knob.Device("eth0", "ring.rx"), "4096")
		lose(s, "eth0", 9000)
	}), problem, []string{}},
	{"sensor-packets", "fires", "GRO on below a sensor's mirror port", scene4(func(s *scene) { s.sensor("suricata") }), advice, []string{"eth0/feature.rx-gro off"}},
	{"sensor-packets", "fires", "nothing merged, and a hash by direction: a note", scene4(func(s *scene) {
		s.sensor("zeek")
		s.snap.Devices[0].Features["rx-gro"] = host.Feature{}
	}), note, []string{}},
	{"sensor-packets", "must not", "nothing merged, and a symmetric key", scene4(func(s *scene) {
		s.sensor("zeek")
		s.snap.Devices[0].Features["rx-gro"] = host.Feature{}
		s.snap.Devices[0].RSS.Key = []byte{0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a}
	}), silent, []string{}},
	{"sensor-packets", "must not", "the port carries connections of this host", scene4(func(s *scene) {
		s.sensor("suricata")
		s.sent("eth0", 900_000)
	}), silent, []string{}},
	{"sensor-packets", "must not", "its bond sends through the other slave", scene4(func(s *scene) { s.sensor("suricata"); bonded(s, 2_500_000) }), silent, []string{}},
	{"sensor-packets", "fires", "a bond on two mirror ports", scene4(func(s *scene) { s.sensor("suricata"); bonded(s, 10) }), advice, []string{"eth0/feature.rx-gro off"}},
	{"sensor-packets", "must not", "what the other slave sends is not known", scene4(func(s *scene) {
		s.sensor("suricata")
		bonded(s, 10)
		s.obs.Device["eth1"] = detect.DeviceDelta{}
	}), silent, []string{}},
	{"sensor-packets", "must not", "a router: replies may leave through another port", scene4(func(s *scene) {
		s.sensor("suricata")
		s.snap.Forwarding.IPv6 = detect.Yes
	}), silent, []string{}},
	{"sensor-packets", "must not", "a port that leaves the packets of others alone", scene4(func(s *scene) {
		s.sensor("suricata")
		s.snap.Devices[0].Promiscuous = detect.No
	}), silent, []string{}},
	{"sensor-packets", "fires", "not known whether the port is promiscuous: a note, nothing to change", scene4(func(s *scene) {
		s.sensor("suricata")
		s.snap.Devices[0].Promiscuous = detect.Unknown
	}), note, []string{}},
	{"sensor-packets", "must not", "no sensor", scene4(func(s *scene) { s.sensor("nginx") }), silent, []string{}},
	{"sensor-packets", "missing", "packets unknown", scene4(func(s *scene) { s.sensor("suricata"); s.obs.Device["eth0"] = detect.DeviceDelta{} }), silent, []string{}},

	{"rps-unneeded", "fires", "four CPUs, a quarter of one is all the work", scene4(func(s *scene) { s.calledRPS(9_000, 0.1, 0.05) }), advice, []string{"eth0/rx-0/rps.cpus "}},
	{"rps-unneeded", "fires", "latency on eight CPUs, more than one should take alone: a word, no change", sceneN(8, func(s *scene) { s.calledRPS(9_000, 0.3, 0.2); s.latency = true }), advice, []string{}},
	{"rps-unneeded", "must not", "eight CPUs under the balanced policy", sceneN(8, func(s *scene) { s.calledRPS(9_000, 0.1, 0.02) }), silent, []string{}},
	{"rps-unneeded", "must not", "hardly any calls", scene4(func(s *scene) { s.calledRPS(400, 0.1, 0.05) }), silent, []string{}},
	{"rps-unneeded", "must not", "without RPS it would saturate", scene4(func(s *scene) { s.calledRPS(9_000, 0.3, 0.15) }), silent, []string{}},
	{"rps-unneeded", "must not", "a program leaves the interrupt's CPU no time for more", scene4(func(s *scene) {
		s.calledRPS(9_000, 0.12, 0.1)
		s.obs.CPU[0] = detect.CPUShare{Softirq: 0.12, Busy: 0.97, Idle: 0.03, Ticks: 1000}
	}), silent, []string{}},
	{"rps-unneeded", "fires", "the same, and latency comes first: a word, no change", scene4(func(s *scene) {
		s.calledRPS(9_000, 0.12, 0.1)
		s.obs.CPU[0] = detect.CPUShare{Softirq: 0.12, Busy: 0.97, Idle: 0.03, Ticks: 1000}
		s.latency = true
	}), advice, []string{}},
	{"rps-unneeded", "must not", "the interrupt's CPU loses packets", scene4(func(s *scene) {
		s.calledRPS(9_000, 0.1, 0.05)
		s.obs.Softnet[0] = detect.SoftnetDelta{Processed: 100_000, Dropped: 500}
	}), silent, nil},
	{"rps-unneeded", "must not", "RFS steers to the readers", scene4(func(s *scene) {
		s.calledRPS(9_000, 0.1, 0.05)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "32768")
		s.set(knob.Rx("eth0", 0, "rps.flow_cnt"), "32768")
	}), silent, nil},
	{"rps-unneeded", "missing", "time of a CPU unknown", scene4(func(s *scene) { s.calledRPS(9_000, 0.1, 0.05); delete(s.obs.CPU, 2) }), silent, []string{}},
	{"rps-unneeded", "missing", "no softnet_stat", scene4(func(s *scene) { s.calledRPS(9_000, 0.1, 0.05); s.obs.Softnet = nil }), silent, []string{}},
	{"rps-unneeded", "missing", "totals since boot", scene4(func(s *scene) { s.calledRPS(9_000, 0.1, 0.05); s.sinceBoot() }), silent, nil},

	{"rfs-size", "fires", "queue tables without the global one", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "0")
		s.set(knob.Rx("eth0", 0, "rps.flow_cnt"), "4096")
	}), advice, []string{"net.core.rps_sock_flow_entries 32768"}},
	{"rfs-size", "fires", "the global table alone", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "32768")
	}), advice, []string{"eth0/rx-0/rps.flow_cnt 16384", "eth0/rx-1/rps.flow_cnt 16384"}},
	{"rfs-size", "fires", "a global table of 1,024 entries for queues of 32,768 each", sceneN(8, func(s *scene) { rfs(s, 2, 1024, 32768) }), advice,
		[]string{"net.core.rps_sock_flow_entries 32768"}},
	{"rfs-size", "must not", "the queues' share of the global table", sceneN(8, func(s *scene) { rfs(s, 2, 16384, 8192) }), silent, []string{}},
	{"rfs-size", "must not", "queues of 32,768 each beside a global table of 32,768: memory, nothing else", sceneN(8, func(s *scene) { rfs(s, 4, 32768, 32768) }), silent, nil},
	{"rfs-size", "fires", "a router's queue tables without the global one: a note", sceneN(8, func(s *scene) {
		rfs(s, 2, 0, 4096)
		s.snap.Forwarding.IPv4 = detect.Yes
	}), note, []string{}},
	{"rfs-size", "fires", "a global table, and a queue for each core: a note", sceneN(8, func(s *scene) { rfs(s, 8, 32768, 0) }), note, []string{}},
	{"rfs-size", "fires", "a global table, and a queue for each core, of which irqaffinity= leaves two", sceneN(4, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 9000}, {1: 9000}, {0: 9000}, {1: 9000}}, nil)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "32768")
		s.snap.Cmdline = map[string]string{"irqaffinity": "0-1"}
	}), advice, nil},
	{"rfs-size", "fires", "a global table, and a NIC at rest: a note", sceneN(8, func(s *scene) {
		rfs(s, 2, 32768, 0)
		s.receive("eth0", 5000)
	}), note, []string{}},
	{"rfs-size", "fires", "a global table, and a site that prefers latency: a note", sceneN(8, func(s *scene) { rfs(s, 2, 32768, 0); s.latency = true }), note, []string{}},
	{"rfs-size", "must not", "off", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.set(knob.Global("net.core.rps_sock_flow_entries"), "0")
	}), silent, []string{}},
	{"rfs-size", "missing", "global table unknown", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(2, 9000), nil)
		s.set(knob.Rx("eth0", 0, "rps.flow_cnt"), "4096")
	}), silent, []string{}},

	{"rss-unused-queues", "fires", "two of four named", scene4(func(s *scene) { rss(s, 0, 1, 0, 1, 0, 1, 0, 1) }), advice, []string{"eth0/rss.table 0-3*2"}},
	{"rss-unused-queues", "must not", "two of four named, for next to nothing: a note", scene4(func(s *scene) {
		rss(s, 0, 1, 0, 1, 0, 1, 0, 1)
		s.receive("eth0", 9000)
	}), note, []string{}},
	{"rss-unused-queues", "must not", "all named", scene4(func(s *scene) { rss(s, 0, 1, 2, 3, 0, 1, 2, 3) }), silent, []string{}},
	{"rss-unused-queues", "missing", "table unknown", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil) }), silent, []string{}},

	{"rss-skew", "fires", "UDP hashed on addresses", scene4(func(s *scene) {
		spread(s, 900_000, 10_000, 10_000, 10_000).HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
		s.heat(0, 0.4)
	}), advice, []string{"eth0/rss.hash.udp4 sdfn"}},
	{"rss-skew", "fires", "a table that names one queue three times out of four", scene4(func(s *scene) {
		d := spread(s, 900_000, 100_000, 100_000, 100_000)
		d.RSS = &host.RSS{Table: []uint32{0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}}
		d.HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.table"), knob.FormatTable(d.RSS.Table))
		s.heat(0, 0.4)
	}), advice, []string{"eth0/rss.table " + knob.EvenTable(12, 4)}},
	{"rss-skew", "must not", "its CPU has room to spare: a note", scene4(func(s *scene) {
		spread(s, 900_000, 10_000, 10_000, 10_000).HashFields = map[string]string{"udp4": "sd"}
		s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
	}), note, []string{}},
	{"rss-skew", "fires", "no packet counters, interrupts tell", scene4(func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 900_000}, {1: 9000}, {2: 9000}, {3: 9000}}, nil)
		s.heat(0, 0.4)
	}), advice, []string{}},
	{"rss-skew", "must not", "interrupts differ, which moderation does as well", sceneN(8, func(s *scene) {
		s.nic("eth0", "physical", []fire{{0: 90_000}, {1: 20_000}, {2: 20_000}, {3: 20_000}, {4: 20_000}, {5: 20_000}, {6: 20_000}, {7: 20_000}}, nil)
		s.heat(0, 0.4)
	}), silent, []string{}},
	{"rss-skew", "must not", "even over the two queues of four that the table names: rss-unused-queues", scene4(func(s *scene) {
		spread(s, 52_000, 48_000, 0, 0).RSS = &host.RSS{Table: []uint32{0, 1, 0, 1, 0, 1, 0, 1}, RxRings: 4}
		s.set(knob.Device("eth0", "rss.table"), "0-1*4")
		s.heat(0, 0.4)
	}), silent, []string{"eth0/rss.table 0-3*2"}},
	{"rss-skew", "must not", "hash noise", scene4(func(s *scene) { spread(s, 36_000, 14_000, 15_000, 35_000) }), silent, []string{}},
	{"rss-skew", "missing", "no queue counters", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil) }), silent, []string{}},

	{"queues-exceed-cpus", "fires", "eight queues, four CPUs", scene4(func(s *scene) {
		s.nic("eth0", "physical", append(even(4, 9000), even(4, 9000)...), nil)
	}), note, []string{}},
	{"queues-exceed-cpus", "must not", "four queues", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil) }), silent, []string{}},
	{"queues-exceed-cpus", "missing", "queues only guessed from names", scene4(func(s *scene) {
		s.nic("eth0", "physical", append(even(4, 9000), even(4, 9000)...), nil).QueuesKnown = false
	}), silent, []string{}},

	{"xps-mismatch", "fires", "reversed", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000))
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(3-i))
		}
	}), advice, []string{"eth0/tx-0/xps.cpus 0", "eth0/tx-1/xps.cpus 1", "eth0/tx-2/xps.cpus 2", "eth0/tx-3/xps.cpus 3"}},
	{"xps-mismatch", "must not", "a driver that chooses queues itself: a note", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 50_000), nil).Driver = "ena"
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(3-i))
		}
	}), note, []string{}},
	{"xps-mismatch", "must not", "half of the queues idle on another node and stay there, and the masks suit them", sceneN(16, func(s *scene) {
		spreadOverNodes(s)
		for i := range 8 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprintf("%d-%d", 2*i, 2*i+1))
		}
	}), silent, []string{}},
	{"xps-mismatch", "must not", "aligned", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000))
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(i))
		}
	}), silent, []string{}},
	{"xps-mismatch", "must not", "all interrupts on one CPU, too quiet to move them", scene4(func(s *scene) {
		// The masks of the driver; no others would be less wrong.
		s.nic("eth0", "virtio", all(4, 2, 40), all(4, 2, 40))
		for _, row := range s.snap.IRQs.Rows {
			s.snap.IRQs.Row(row.Number).Affinity = cpuset.Of(2)
		}
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(i))
		}
	}), silent, []string{}},
	{"xps-mismatch", "must not", "pairs split, too quiet to bring them together: the masks suit the receive side", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 20), []fire{{2: 10}, {3: 10}, {0: 10}, {1: 10}})
		for i := range 4 {
			s.set(knob.Tx("eth0", i, "xps.cpus"), fmt.Sprint(i))
		}
		for i := range s.snap.IRQs.Rows {
			row := &s.snap.IRQs.Rows[i]
			row.Affinity = cpuset.Of(s.obs.IRQ[row.Number].Home)
		}
	}), silent, []string{}},
	{"xps-mismatch", "missing", "masks unknown", scene4(func(s *scene) {
		s.nic("eth0", "virtio", even(4, 50_000), even(4, 50_000))
		delete(s.snap.Knobs, knob.Tx("eth0", 2, "xps.cpus"))
	}), silent, []string{}},

	{"cpu-steal", "fires", "30 % stolen", scene4(func(s *scene) { s.obs.CPU[1] = detect.CPUShare{Steal: 0.3, Ticks: 1000} }), advice, []string{}},
	{"cpu-steal", "must not", "5 %", scene4(func(s *scene) { s.obs.CPU[1] = detect.CPUShare{Steal: 0.05, Ticks: 1000} }), silent, []string{}},
	{"cpu-steal", "missing", "too few ticks", scene4(func(s *scene) { s.obs.CPU[1] = detect.CPUShare{Steal: 0.3, Ticks: 9} }), silent, []string{}},

	{"irqbalance-active", "fires", "running", scene4(func(s *scene) { s.snap.Processes = []host.Process{{PID: 7, Comm: "irqbalance"}} }), note, []string{}},
	{"irqbalance-active", "fires", "running while interrupts must move", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.snap.Processes = []host.Process{{PID: 7, Comm: "irqbalance"}}
	}), advice, nil},
	{"irqbalance-active", "fires", "running, and queues that idle on another node stay there", sceneN(16, func(s *scene) {
		spreadOverNodes(s)
		s.snap.Processes = []host.Process{{PID: 7, Comm: "irqbalance"}}
	}), note, []string{}},
	{"irqbalance-active", "fires", "running, and interrupts that should move cannot be moved", scene4(func(s *scene) {
		s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		for i := range 4 {
			s.snap.Knobs[knob.Rx("eth0", i, "irq.affinity")] = knob.State{Status: knob.Locked}
		}
		s.snap.Processes = []host.Process{{PID: 7, Comm: "irqbalance"}}
	}), note, []string{}},
	{"irqbalance-active", "must not", "not running", scene4(func(s *scene) { s.snap.Processes = []host.Process{{PID: 7, Comm: "tuned"}} }), silent, []string{}},
	{"irqbalance-active", "missing", "process list unknown", scene4(func(s *scene) {}), silent, []string{}},

	{"loss-elsewhere", "fires", "UDP socket buffers", scene4(func(s *scene) { s.obs.Protocols["Udp.RcvbufErrors"] = 500 }), advice, []string{}},
	{"loss-elsewhere", "fires", "ten UDP packets of ninety thousand", scene4(func(s *scene) {
		s.obs.Protocols["Udp.InDatagrams"], s.obs.Protocols["Udp.RcvbufErrors"] = 90_000, 10
	}), advice, []string{}},
	{"loss-elsewhere", "fires", "UDP over IPv6", scene4(func(s *scene) { s.obs.Protocols["Udp6RcvbufErrors"] = 500 }), advice, []string{}},
	{"loss-elsewhere", "must not", "nine UDP packets", scene4(func(s *scene) { s.obs.Protocols["Udp.RcvbufErrors"] = 9 }), silent, []string{}},
	{"loss-elsewhere", "fires", "ten UDP packets of a million: perhaps all of one reader's, a note", scene4(func(s *scene) {
		s.obs.Protocols["Udp.InDatagrams"], s.obs.Protocols["Udp.RcvbufErrors"] = 1_000_000, 10
	}), note, []string{}},
	{"loss-elsewhere", "must not", "nine UDP packets of a million", scene4(func(s *scene) {
		s.obs.Protocols["Udp.InDatagrams"], s.obs.Protocols["Udp.RcvbufErrors"] = 1_000_000, 9
	}), silent, []string{}},
	{"loss-elsewhere", "fires", "the cloud refuses connections, few beside all packets", scene4(func(s *scene) {
		allowance(s, "conntrack_allowance_exceeded", 10)
	}), advice, []string{}},
	{"loss-elsewhere", "must not", "the cloud refused nine connections", scene4(func(s *scene) {
		allowance(s, "conntrack_allowance_exceeded", 9)
	}), silent, []string{}},
	{"loss-elsewhere", "fires", "the cloud drops queries of names", scene4(func(s *scene) {
		allowance(s, "linklocal_allowance_exceeded", 600)
	}), advice, []string{}},
	{"loss-elsewhere", "must not", "a burst over the packet allowance, of eight million packets", scene4(func(s *scene) {
		allowance(s, "pps_allowance_exceeded", 600)
	}), silent, []string{}},
	{"loss-elsewhere", "fires", "the packet allowance is used up, of eight million packets", scene4(func(s *scene) {
		allowance(s, "pps_allowance_exceeded", 900)
	}), advice, []string{}},
	{"loss-elsewhere", "fires", "the virtual function carries the load", scene4(func(s *scene) {
		s.nic("eth0", "synthetic", nil, nil)
		s.obs.Device["eth0"].Stats["vf_rx_packets"] = 900_000
	}), note, []string{}},
	{"loss-elsewhere", "fires", "the connection table is full", scene4(func(s *scene) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 65_536, Max: 65_536}
		s.obs.Conntrack = map[string]uint64{"drop": 0, "early_drop": 400}
	}), advice, []string{}},
	{"loss-elsewhere", "fires", "nearly full, nothing lost", scene4(func(s *scene) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 63_000, Max: 65_536}
	}), note, []string{}},
	{"loss-elsewhere", "fires", "nearly full now, whatever was lost since boot", scene4(func(s *scene) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 63_000, Max: 65_536}
		s.obs.Conntrack = map[string]uint64{"drop": 900_000}
		s.sinceBoot()
	}), note, []string{}},
	{"loss-elsewhere", "fires", "the same connection entered twice", scene4(func(s *scene) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 900, Max: 65_536}
		s.obs.Conntrack = map[string]uint64{"drop": 300, "insert_failed": 300}
	}), note, []string{}},
	{"loss-elsewhere", "must not", "refused as invalid, the table half empty", scene4(func(s *scene) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: 30_000, Max: 65_536}
		s.obs.Conntrack = map[string]uint64{"drop": 0, "insert_failed": 0}
	}), silent, []string{}},
	{"loss-elsewhere", "must not", "no limit", scene4(func(s *scene) { s.snap.Conntrack = detect.Conntrack{Known: true, Count: 30_000} }), silent, []string{}},
	{"loss-elsewhere", "fires", "mlx5 drops at the port: no ring helps", scene4(func(s *scene) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.obs.Device["eth0"].Stats["rx_discards_phy"] = 9000
	}), advice, []string{}},
	{"loss-elsewhere", "must not", "none", scene4(func(s *scene) { s.obs.Protocols["Udp.RcvbufErrors"] = 0 }), silent, []string{}},
	{"loss-elsewhere", "missing", "only totals since boot", scene4(func(s *scene) { s.obs.Protocols["Udp.RcvbufErrors"] = 500; s.sinceBoot() }), silent, []string{}},

	{"not-enough-evidence", "fires", "one sample", scene4(func(s *scene) { s.sinceBoot() }), note, []string{}},
	{"not-enough-evidence", "must not", "a window with all sources", scene4(func(s *scene) { s.nic("eth0", "physical", even(4, 9000), nil) }), silent, []string{}},
	{"not-enough-evidence", "missing", "interrupts hidden", scene4(func(s *scene) { s.snap.IRQs.Masked = true }), note, []string{}},
}

// pin gives the queues of a device one-CPU masks.
func pin(s *scene, dev string, cpus ...int) {
	n := 0
	for i := range s.snap.IRQs.Rows {
		if row := &s.snap.IRQs.Rows[i]; row.Device == dev {
			row.Affinity = cpuset.Of(cpus[n])
			s.set(knob.Rx(dev, n, "irq.affinity"), row.Affinity.String())
			n++
		}
	}
}

// steered is a device with RFS that moves so many packets per second.
func steered(s *scene, driver string, perSecond uint64) *detect.Device {
	d := s.nic("eth0", "physical", even(8, 50_000), nil)
	d.Driver = driver
	d.Features["rx-ntuple-filter"] = host.Feature{}
	s.set(knob.Device("eth0", "feature.rx-ntuple-filter"), "off")
	s.set(knob.Global("net.core.rps_sock_flow_entries"), "32768")
	for i := range 8 {
		s.set(knob.Rx("eth0", i, "rps.flow_cnt"), "4096")
	}
	s.obs.Softnet[3] = detect.SoftnetDelta{Processed: 100_000, ReceivedRPS: 10 * perSecond}
	return d
}

// gathered is a device with a queue per CPU whose RPS masks are all the same,
// on one of whose CPUs packets go up the stack.
func gathered(s *scene, queues int, mask string, cpu int) { gatheredOf(s, queues, 50_000, mask, cpu) }

func gatheredOf(s *scene, queues int, interrupts uint64, mask string, cpu int) {
	s.nic("eth0", "physical", even(queues, interrupts), nil)
	for i := range queues {
		s.set(knob.Rx("eth0", i, "rps.cpus"), mask)
	}
	s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: 1_000_000}
}

// spreadOverNodes is a NIC on node 0 whose queues take every second CPU of both
// nodes and hardly work.
func spreadOverNodes(s *scene) {
	s.nodes()
	rx := make([]fire, 8)
	for i := range rx {
		rx[i] = fire{2 * i: 15_000}
		s.heat(2*i, 0.03)
	}
	s.nic("eth0", "physical", rx, nil)
}

func lose(s *scene, dev string, packets uint64) {
	d := s.obs.Device[dev]
	d.Counters.RxMissed = packets
	s.obs.Device[dev] = d
}

func gro(s *scene, f host.Feature) {
	s.nic("eth0", "physical", even(4, 9000), nil).Features["rx-gro"] = f
	s.set(knob.Device("eth0", "feature.rx-gro"), "off")
}

func lro(s *scene) {
	s.nic("eth0", "physical", even(4, 9000), nil).Features["rx-lro"] = host.Feature{On: true}
	s.set(knob.Device("eth0", "feature.rx-lro"), "on")
}

func rss(s *scene, table ...uint32) {
	s.nic("eth0", "physical", even(4, 9000), nil).RSS = &host.RSS{Table: table, RxRings: 4}
	s.set(knob.Device("eth0", "rss.table"), "0-1*4")
}

func spread(s *scene, packets ...uint64) *detect.Device {
	d := s.nic("eth0", "physical", even(len(packets), 9000), nil)
	for i, n := range packets {
		s.obs.Device["eth0"].Queue[detect.QueueID{N: i}] = map[string]uint64{"packets": n}
	}
	return d
}

// allowance is a device of a cloud that dropped packets of eight million by one of
// its limits.
func allowance(s *scene, counter string, dropped uint64) {
	s.nic("eth0", "physical", even(4, 9000), nil).Stats = host.Stats{{Name: counter}}
	s.receive("eth0", 4_000_000)
	s.sent("eth0", 4_000_000)
	s.obs.Device["eth0"].Stats[counter] = dropped
}

// backlogLoss drops some of the packets that CPU 1 should have processed.
func backlogLoss(s *scene, processed, dropped uint64) {
	s.set(knob.Global("net.core.netdev_max_backlog"), "1000")
	s.obs.Softnet[1] = detect.SoftnetDelta{Processed: processed, Dropped: dropped}
}

// rfs sets a global flow table, and one for each queue.
func rfs(s *scene, queues, global, each int) {
	s.nic("eth0", "physical", even(queues, 9000), nil)
	s.set(knob.Global("net.core.rps_sock_flow_entries"), fmt.Sprint(global))
	for n := range queues {
		s.set(knob.Rx("eth0", n, "rps.flow_cnt"), fmt.Sprint(each))
	}
}

func allCases() []ruleCase { return slices.Concat(ruleCases, probeCases) }

func TestRuleCases(t *testing.T) {
	for _, tc := range allCases() {
		t.Run(tc.rule+"/"+tc.role+"/"+tc.name, func(t *testing.T) {
			s := tc.make()
			policy := profiles.Balanced()
			policy.Latency = s.latency
			if s.policy != nil {
				s.policy(&policy)
			}
			findings := rules.Evaluate(s.obs, policy)
			got := silent
			for _, f := range findings {
				if f.ID == tc.rule {
					got = max(got, outcome(f.Severity)+1)
				}
			}
			if got != tc.want {
				t.Errorf("outcome %d, want %d", got, tc.want)
			}
			p := plan.Build(findings, plan.Input{States: s.snap.Knobs})
			var changes []string
			for _, c := range p.Changes {
				changes = append(changes, c.Ref.String()+" "+c.After)
			}
			if tc.changes != nil && !slices.Equal(changes, tc.changes) {
				t.Errorf("changes %q, want %q", changes, tc.changes)
			}
			if len(p.Conflicts) > 0 {
				t.Errorf("conflicts: %v", p.Conflicts)
			}
			if t.Failed() {
				for _, f := range findings {
					t.Logf("%s %s [%s]: %s", f.Severity, f.ID, f.Subject, f.Claim)
				}
				for _, b := range p.Blocked {
					t.Logf("blocked %s: %s", b.Ref, b.Reason)
				}
			}
		})
	}
}

// TestCatalogue holds every rule to what the catalogue promises.
func TestCatalogue(t *testing.T) {
	roles := map[string]map[string]bool{}
	for _, tc := range allCases() {
		if roles[tc.rule] == nil {
			roles[tc.rule] = map[string]bool{}
		}
		roles[tc.rule][tc.role] = true
	}
	for _, r := range rules.All() {
		for _, role := range []string{"fires", "must not", "missing"} {
			if !roles[r.ID][role] {
				t.Errorf("%s has no case that %q", r.ID, role)
			}
		}
		for part, text := range map[string]string{"title": r.Title, "meaning": r.Page.Meaning, "evidence": r.Page.Evidence, "cause": r.Page.Cause,
			"remedy": r.Page.Remedy, "side effects": r.Page.SideEffects, "when not to": r.Page.NotWhen, "source": r.Page.Source} {
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s: the manual page has no %s", r.ID, part)
			}
		}
		delete(roles, r.ID)
	}
	for id := range roles {
		t.Errorf("cases for %q, which is no rule", id)
	}
	for _, th := range rules.Thresholds() {
		if th.Source == "" || th.Change == "" || th.Name == "" {
			t.Errorf("threshold %+v lacks a source or what would change it", th)
		}
	}
}

// TestReasons: a finding of harm that asks for nothing says why.
func TestReasons(t *testing.T) {
	for name, tc := range map[string]struct {
		rule, want string
		make       func(s *scene)
	}{
		"ring at the device's end": {"rx-ring-overrun", "all that the device offers", func(s *scene) {
			s.nic("eth0", "physical", even(4, 9000), nil).Rings.Rx = 4096
			lose(s, "eth0", 9000)
		}},
		"ring at the ceiling": {"rx-ring-overrun", "costs more cache", func(s *scene) {
			*s.nic("eth0", "physical", even(4, 9000), nil).Rings = host.Rings{MaxRx: 8192, Rx: 4096}
			lose(s, "eth0", 9000)
		}},
		"backlog at its end": {"backlog-drops", "may hold 10000 packets already", func(s *scene) {
			s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400}
			s.set(knob.Global(backlog), "10000")
		}},
		"packet budget at its end": {"budget-packets", "the budget is 2400 already", func(s *scene) {
			budgets(s)
			s.set(knob.Global(budgetKnob), "2400")
			s.squeezed(1, 500, "packets", 0.9, 60)
		}},
		"units that the hardware merged": {"budget-time", "whether packets are dear is not known", func(s *scene) {
			timeOver(s, 8).Features["rx-gro-hw"] = host.Feature{On: true}
		}},
		"a tickless CPU": {"budget-packets", "the CPU is isolated", func(s *scene) {
			budgets(s)
			s.squeezed(1, 500, "packets", 0.9, 6)
			s.snap.Topo.NohzFull = cpuset.Of(1)
		}},
		"moderation is on": {"gro-short-polls", "moderates its interrupts already", func(s *scene) { moderation(shortTCP(s, "physical"), true, 8) }},
		"time limit at its end": {"budget-time", "the limit is 4 ticks", func(s *scene) {
			budgets(s)
			s.set(knob.Global(usecsKnob), "16000")
			s.squeezed(1, 500, "time", 0.9, 3)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(4)
			tc.make(s)
			for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
				if f.ID == tc.rule && len(f.Wants) == 0 && strings.Contains(f.Claim, tc.want) {
					return
				}
			}
			t.Errorf("no %s that says %q", tc.rule, tc.want)
		})
	}
}

// TestRPSArithmetic: rps-needed shows how it comes to its targets.
func TestRPSArithmetic(t *testing.T) {
	s := newScene(8)
	s.siblings() // 0 and 4, 1 and 5, 2 and 6, 3 and 7
	s.nic("eth0", "physical", even(1, 90_000), nil)
	s.heat(0, 0.9)
	s.snap.Topo.Isolated = cpuset.Of(7)
	s.obs.CPU[6] = detect.CPUShare{Busy: 0.8, Idle: 0.2, Ticks: 1000}
	for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
		if f.ID != "rps-needed" {
			continue
		}
		const want = "for 7 CPUs, keeps CPU 0 at 90 % softirq time; of the 8 CPUs of its cache, without its core (0,4), kept free (7), busy (6), CPUs 1-3,5 are idle enough to help"
		if !strings.Contains(f.Claim, want) {
			t.Errorf("claims %q,\nwant %q in it", f.Claim, want)
		}
		values := map[string]float64{}
		for _, e := range f.Evidence {
			values[e.Metric] = e.Value
		}
		for metric, want := range map[string]float64{"rx_queues": 1, "cpus_near": 8, "left_out_core": 2, "left_out_kept_free": 1, "left_out_busy": 1, "rps_targets": 4} {
			if got, has := values[metric]; !has || got != want {
				t.Errorf("%s is %v (there: %v), want %v", metric, got, has, want)
			}
		}
		return
	}
	t.Error("no rps-needed")
}

// TestSaturatedTogether: many CPUs alike are one finding, which does not send work
// to CPUs that have no time either.
func TestSaturatedTogether(t *testing.T) {
	for name, tc := range map[string]struct {
		make        func(s *scene)
		claim, want string
		findings    int
	}{
		"all eight":      {func(s *scene) { s.warm(8, 0.95) }, "CPUs 0-7 each spend 95 %", "no other CPU is half idle", 1},
		"four of eight":  {func(s *scene) { s.warm(4, 0.95) }, "CPUs 0-3 each spend 95 %", "giving part of it to other CPUs does", 1},
		"three of eight": {func(s *scene) { s.warm(3, 0.95) }, "CPU 0 spends 95 %", "giving part of it to other CPUs does", 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(8)
			tc.make(s)
			for cpu := range 8 {
				s.packets(cpu, 90_000)
			}
			var claims []string
			for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
				if f.ID == "cpu-saturated" {
					claims = append(claims, f.Claim)
				}
			}
			if len(claims) != tc.findings || !strings.Contains(claims[0], tc.claim) || !strings.Contains(claims[0], tc.want) {
				t.Errorf("%d claims %q, want %d with %q and %q", len(claims), claims, tc.findings, tc.claim, tc.want)
			}
		})
	}
}

// TestSaturatedCause: CPUs told together refer to the device that keeps them busy.
func TestSaturatedCause(t *testing.T) {
	s := newScene(16)
	s.nic("eth0", "physical", even(4, 400_000), nil)
	s.warm(4, 0.95)
	var told []string
	for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
		if f.ID == "cpu-saturated" {
			told = append(told, f.Subject+" because of "+f.Because)
		}
	}
	if want := []string{"CPUs 0-3 because of rps-needed/eth0"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestFullTargetsSettle: CPUs that RPS fills get company until they have room, and
// nothing is asked for after that, when those left alone idle again. The work is
// split over the mask, as flows without number would be.
func TestFullTargetsSettle(t *testing.T) {
	for name, tc := range map[string]struct {
		cpus int
		mask string
		work float64 // of a CPU, on all CPUs of the mask together
		want string  // where it ends
	}{
		"two full, three idle":                 {6, "1-2", 1.9, "1-5"},
		"four busy beside three that idle":     {8, "4-7", 2.1, "4-7"},
		"one full, and only one CPU beside it": {3, "1", 0.95, "1-2"},
		"more than all can do":                 {4, "3", 4, "1-3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(tc.cpus)
			s.nic("eth0", "physical", even(1, 90_000), nil)
			ref := knob.Rx("eth0", 0, "rps.cpus")
			mask, asked := tc.mask, true
			for round := 0; asked && round < 3; round++ {
				s.set(ref, mask)
				s.warm(tc.cpus, 0.01)
				s.heat(0, 0.45)
				cpus := mustCPUs(t, mask)
				for cpu := range cpus.All() {
					s.heat(cpu, min(1, tc.work/float64(cpus.Len())))
				}
				asked = false
				for _, f := range rules.Evaluate(s.obs, profiles.Balanced()) {
					for _, w := range f.Wants {
						if w.Ref == ref {
							mask, asked = w.Value, true
						}
					}
				}
			}
			if asked || mask != tc.want {
				t.Errorf("the mask ends as %s, want %s (asked again: %t)", mask, tc.want, asked)
			}
		})
	}
}
