// Package faults holds what can be wrong with a host's packet path as a table:
// how to bring it about in a guest of the lab, what napitune must say of it,
// what it may change, and the figure that must be well again afterwards.
//
// The test of this package runs in guests ("lab faults"); on a host it checks
// the table and the parsers only.
package faults

import (
	"fmt"
	"slices"
	"strings"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/wire"
)

// Fault is one row: a thing that is wrong, on one machine.
type Fault struct {
	Name    string
	Machine lab.Machine
	Fast    bool   // part of the short run
	Prepare string // shell text that makes the machine healthy, where drivers leave it otherwise
	Inject  string // shell text that brings it about; empty: nothing is wrong
	Undo    string // shell text for what no file holds: channels, features, tables
	Load    Load
	Finding string   // that must be there; empty: there must be none, whatever was injected
	Subject string   // that it must be about; empty: whatever the driver calls it
	Beside  []string // patterns of other findings that the fault may bring about
	Looks   int      // how often nothing may be found; for rows without a finding
	Changes []string // patterns (path.Match) of the settings that may change; each must match one
	Metric  Metric
	// Well is how near to the healthy figure the mended one must come: at
	// least this share of it. 0 means 0.95.
	Well float64
	// Long is how many times as long as elsewhere is looked and measured; 0
	// means once.
	Long int
	// Probes: the finding rests on what eBPF programs count.
	Probes bool
	// Contested: another program writes the same settings, so that the state
	// after undoing is not the state before.
	Contested bool
	// Silent: emulation shows no harm, so that only the setting is judged.
	Silent bool
	// Untimed is why apply does not measure: where CPUs wake each other in the
	// middle of softirqs, the one thread of the emulation runs the woken one there
	// and then, and the time counts for both.
	Untimed string
	// Slow are the thresholds that the row is judged with instead of the
	// default, because they are times or rates of CPUs that are not emulated.
	Slow []Threshold
}

// Threshold is one value of a policy.
type Threshold struct {
	Name  string
	Value float64
	Why   string // without a colon: it is a plain word of YAML
}

func (t Threshold) String() string { return fmt.Sprintf("%s %g: %s", t.Name, t.Value, t.Why) }

// Load is traffic and the end that sends it.
type Load struct {
	wire.Load
	Guest bool // the guest sends, from CPU 0; else the host's end
	Least int  // packets a second that the test may lower the rate to; 0: half of them
	// Most is the part of its time that the busiest CPU of the healthy guest may
	// spend on it; 0: a quarter.
	Most float64
}

// udp is the load of the reference measurement, 256 flows and 10,000 packets.
// All rates are what a guest on an idle host digests easily; the test lowers them
// where it does not.
func udp() Load {
	return Load{Load: wire.Load{Kind: "udp", To: "10.99.0.9:9", Flows: 256, Packets: 10000, PerSecond: 6000}}
}

// dense is answered, and as much of it as leaves the healthy guest well and a CPU
// that gets most packets no room to spare: an uneven table is no fault while it
// has.
func dense() Load {
	l := answered()
	l.Packets, l.PerSecond, l.Least, l.Most = 20000, 10000, 3000, 0.4
	return l
}

// busy is enough for CPUs that only hand packets on to others to be seen.
func busy() Load {
	return Load{Load: wire.Load{Kind: "udp", To: "10.99.0.9:9", Flows: 256, Packets: 10000, PerSecond: 10000}}
}

// crowding is enough for a CPU that takes all of it to be seen at work by its time:
// interrupts come with the sender's bursts, a thousand a second, whatever is in them.
func crowding() Load {
	l := busy()
	l.Packets, l.PerSecond = 20000, 20000
	return l
}

// bursts fill the rings of NICs and leave the CPU idle in between: 128 packets
// for each of them, twice the weight of a NAPI.
func bursts(nics int) Load {
	to := make([]string, nics)
	for i := range to {
		to[i] = fmt.Sprintf("10.99.%d.9:9", i)
	}
	return Load{Load: wire.Load{Kind: "udp", To: strings.Join(to, ","), Flows: 16 * nics, PerSecond: 128 * nics * 10, Burst: 128 * nics, Seconds: 2}}
}

// gentle is for NICs whose every register is emulated.
func gentle() Load {
	return Load{Load: wire.Load{Kind: "udp", To: "10.99.0.2:10", Flows: 64, Packets: 2000, PerSecond: 800}}
}

// bulk is four megabytes a second for GRO, in writes of eleven segments; the
// guest's end is a sink of the test.
func bulk() Load {
	return Load{Load: wire.Load{Kind: "tcp", To: "10.99.0.2:5201", Flows: 2, Size: 16000, PerSecond: 250, Seconds: 2}}
}

// answered is traffic that the guest's kernel answers on the CPU that received
// it: each packet to the closed port brings an ICMP message, which costs an
// emulated CPU three times what receiving does.
func answered() Load {
	return Load{Load: wire.Load{Kind: "udp", To: "10.99.0.2:10", Flows: 256, Packets: 12000, PerSecond: 6000}}
}

// pairwise is answered, with both interrupts of a pair worth a move: whoever asks
// has emulated CPUs look busier than they are.
func pairwise() Load {
	l := answered()
	l.Most = 0.5
	return l
}

// sending is 16 flows out of the guest, a thousand interrupts a second or more.
func sending() Load {
	return Load{Guest: true, Load: wire.Load{Kind: "udp", To: "10.99.0.1:9", Flows: 16, Packets: 10000, PerSecond: 10000}}
}

func virtio(queues int, words ...string) lab.NIC {
	nic := lab.NIC{Model: "virtio", Queues: queues}
	for _, w := range words {
		nic.RSS = nic.RSS || w == "rss"
		nic.Plain = nic.Plain || w == "plain"
	}
	return nic
}

func machine(kernel string, cpus int, nic lab.NIC, more ...func(*lab.Machine)) lab.Machine {
	m := lab.Machine{Kernel: kernel, CPUs: cpus, NICs: []lab.NIC{nic}}
	for _, change := range more {
		change(&m)
	}
	return m
}

func smt(m *lab.Machine)      { m.SMT = true }
func twoNodes(m *lab.Machine) { m.Nodes = 2 }

func isolated(cpus string) func(*lab.Machine) {
	return func(m *lab.Machine) { m.Append = append(m.Append, "isolcpus="+cpus, "nohz_full="+cpus) }
}

// Shell text. The interrupts of pair Q are virtioN-input.Q and -output.Q.
const (
	// The driver allows each pair a group of CPUs and the kernel picks one for
	// either side: pin both to the first of the group.
	pinPairs = `for f in /proc/irq/*/virtio*put.*; do l=${f%/*}/smp_affinity_list; read a <$l; echo ${a%%[-,]*} >$l; done`
	// The driver knows no nodes: pair Q goes to CPU Q, which is on the NIC's.
	pinLocal = `for f in /proc/irq/*/virtio*put.*; do echo ${f##*.} >${f%/*}/smp_affinity_list; done
cd /sys/class/net/eth0/queues; n=$(ls -d tx-* | wc -l); for q in $(seq 0 $((n - 1))); do m=0; c=$q; while [ $c -lt 8 ]; do m=$((m | 1 << c)); c=$((c + n)); done; printf %x $m >tx-$q/xps_cpus; done`
	// Six full polls are 384 packets: more than the default of 300.
	roomyBudget = `sysctl -qw net.core.netdev_budget=600`
	// Each packet meets filters of 16,200 instructions, so that six full polls, 384
	// packets, take a CPU with a nanosecond to each 8 ms or more whoever asks, and
	// less than 12: of two ticks of 4 ms one may be over when a run starts, of four too.
	dearFilters = `sysctl -qw net.core.netdev_budget=600 net.core.netdev_budget_usecs=16000
set -e; f=$(yes '4 0 0 1' | head -n 1798 | tr '\n' ,)
for d in 0 1 2 3 4 5; do tc qdisc add dev eth$d clsact; for n in $(seq 9); do tc filter add dev eth$d ingress prio $n bpf bytecode "1800,0 0 0 0,${f}6 0 0 0"; done; done`
	shortTime = `sysctl -qw net.core.netdev_budget_usecs=8000`
	forward   = `sysctl -qw net.ipv4.ip_forward=1`
	noBacklog = `sysctl -qw net.core.netdev_max_backlog=1`
	stackIRQs = `for f in /proc/irq/*/virtio*put.*; do echo 0 >${f%/*}/smp_affinity_list; done`
	splitIRQs = `for f in /proc/irq/*/virtio*-input.*; do q=${f##*.}; read a <${f%/*}/smp_affinity_list; set -- $(ls -d /proc/irq/*/virtio*-output.$(((q + 2) % 4))); echo $a >${1%/*}/smp_affinity_list; done`
	isolIRQs  = `for f in /proc/irq/*/virtio*put.*; do q=${f##*.}; echo $((4 + q)) >${f%/*}/smp_affinity_list; done`
)

// rpsTo sets the RPS mask of all queues, in hexadecimal.
func rpsTo(mask string) string {
	return "for f in /sys/class/net/eth0/queues/rx-*/rps_cpus; do echo " + mask + " >$f; done"
}

// reverseXPS gives CPU Q the transmit queue that is last but Q.
const reverseXPS = `cd /sys/class/net/eth0/queues; n=$(ls -d tx-* | wc -l); for q in $(seq 0 $((n - 1))); do printf %x $((1 << (n - 1 - q))) >tx-$q/xps_cpus; done`

// setup is a machine with what makes it healthy.
type setup struct {
	machine lab.Machine
	prepare string
}

// on makes a row for each of some machines; only the first may be fast.
func (f Fault) on(machines ...setup) []Fault {
	out := make([]Fault, len(machines))
	for i, s := range machines {
		out[i] = f
		out[i].Machine, out[i].Prepare, out[i].Fast = s.machine, s.prepare, f.Fast && i == 0
	}
	return out
}

// Table lists all faults, each on two machines, and every machine without one.
func Table() []Fault {
	var (
		four      = setup{machine("6.1", 8, virtio(4)), pinPairs}
		fourNodes = setup{machine("6.12", 8, virtio(4, "rss"), twoNodes), pinLocal}
		two       = setup{machine("6.12", 8, virtio(2), twoNodes), pinLocal}
		three     = setup{machine("6.1", 8, virtio(3), twoNodes), pinLocal}
		twoSMT    = setup{machine("6.1", 8, virtio(2), smt), pinPairs}
		each      = setup{machine("6.1", 4, virtio(4, "rss")), ""}
		eight     = setup{machine("6.12", 8, virtio(8, "rss"), smt), ""}
		plain     = setup{machine("6.1", 4, virtio(4, "plain")), ""}
		plainNew  = setup{machine("new", 8, virtio(2, "plain")), pinPairs}
		vmware    = setup{machine("6.1", 4, lab.NIC{Model: "vmxnet3", Queues: 1}), ""}
		vmwareNew = setup{machine("6.12", 8, lab.NIC{Model: "vmxnet3", Queues: 1}), ""}
		// Bursts come at once whatever the clock does, so guests that only get bursts
		// need not see how busy the host is.
		six    = setup{lab.Machine{Steady: true, Kernel: "6.1", CPUs: 1, NICs: slices.Repeat([]lab.NIC{virtio(1)}, 6)}, roomyBudget}
		sixNew = setup{lab.Machine{Steady: true, Kernel: "6.12", CPUs: 1, NICs: slices.Repeat([]lab.NIC{virtio(1)}, 6)}, roomyBudget}
		// Where no other CPU counts jiffies, a softirq that interrupts an idle CPU
		// runs without end: its tick is stopped, and the time limit stands still.
		dearly    = setup{lab.Machine{Steady: true, Kernel: "6.1", CPUs: 1, NICs: slices.Repeat([]lab.NIC{virtio(1)}, 6), Append: []string{"nohz=off"}}, dearFilters}
		dearlyNew = setup{lab.Machine{Steady: true, Kernel: "6.12", CPUs: 1, NICs: slices.Repeat([]lab.NIC{virtio(1)}, 6), Append: []string{"nohz=off"}}, dearFilters}
		apart     = setup{machine("6.1", 8, virtio(4), isolated("4-7")), pinLocal}
		apartSMT  = setup{machine("6.12", 8, virtio(4, "rss"), smt, isolated("4-7")), pinLocal}
		affinity  = []string{"eth0/[rt]x-*/irq.affinity"}
		masks     = []string{"eth0/rx-*/rps.cpus"}
		table     = []string{"eth0/rss.table"}
		budget    = []string{"net.core.netdev_budget"}
		timeLimit = []string{"net.core.netdev_budget_usecs"}
		backlog   = []string{"net.core.netdev_max_backlog"}
		// A queue or CPU that gets most of the packets may have too much to do.
		crowded = []string{"cpu-saturated", "softirq-imbalance", "rx-ring-overrun", "virtio-ring-starved"}
		// XPS is judged by where interrupts are, which is what was changed.
		displaced = []string{"xps-mismatch"}
		moved     = slices.Concat(crowded, displaced, []string{"queue-pair-split", "irq-stacked", "irq-churn", "contested-setting"})
		steering  = []string{"backlog-drops"}
	)
	return slices.Concat(
		Fault{Name: "healthy", Fast: true, Looks: 10, Load: udp(), Metric: maxShare()}.on(four, fourNodes, two, three, twoSMT, apart, apartSMT),
		Fault{Name: "healthy, one queue", Looks: 10, Load: gentle(), Metric: maxShare()}.on(vmware, vmwareNew),
		Fault{Name: "healthy, a queue for each CPU", Looks: 10, Load: udp(), Metric: maxShare()}.on(each, eight),
		Fault{Name: "healthy, bulk", Looks: 10, Load: bulk(), Metric: merged()}.on(plain, plainNew),
		Fault{Name: "healthy, bursts to six NAPIs", Looks: 10, Probes: true, Load: bursts(6), Metric: squeezed()}.on(six, sixNew),
		Fault{Name: "healthy, dear packets", Looks: 10, Probes: true, Load: bursts(6), Metric: squeezed(), Slow: dear()}.on(dearly, dearlyNew),
		// Merging that can be undone is right where packets leave again: rx-gro-hw
		// is the guest offloads of virtio, and must stay.
		Fault{Name: "healthy, GRO_HW while forwarding", Looks: 2, Inject: forward + "; ethtool -k eth0 | grep -q 'rx-gro-hw: on'",
			Load: answered(), Metric: maxShare()}.on(four, fourNodes),
		Fault{Name: "all queue interrupts on one CPU", Fast: true, Inject: stackIRQs, Load: udp(),
			Finding: "irq-stacked", Subject: "CPU 0", Beside: slices.Concat(crowded, displaced), Changes: affinity, Metric: maxShare()}.on(four, fourNodes),
		// The times of polls hold the turns of other CPUs, of up to 100 ms, which only
		// a longer look evens out over the queues.
		Fault{Name: "all queue interrupts on one CPU, seen by probes", Inject: stackIRQs, Load: udp(), Probes: true, Long: 3, Slow: turns(),
			Finding: "irq-stacked", Subject: "CPU 0", Beside: slices.Concat(crowded, displaced), Changes: affinity, Metric: maxShare()}.on(four, fourNodes),
		Fault{Name: "queue pairs split", Inject: splitIRQs, Load: pairwise(), Slow: rare(),
			Finding: "queue-pair-split", Subject: "eth0", Beside: displaced, Changes: affinity, Metric: split()}.on(four, fourNodes),
		Fault{Name: "interrupts on isolated CPUs", Inject: isolIRQs, Load: udp(),
			Finding: "irq-on-isolated-cpu", Subject: "eth0", Beside: displaced, Changes: affinity, Metric: onCPUs(4, 5, 6, 7)}.on(apart, apartSMT),
		Fault{Name: "RPS mask of another node's CPUs", Inject: rpsTo("f0"), Load: busy(),
			Finding: "rps-covers-irq-cpu", Beside: steering, Changes: masks, Metric: onCPUs(4, 5, 6, 7)}.on(two, three),
		Fault{Name: "RPS mask of the interrupt's own core", Inject: rpsTo("22"), Load: busy(),
			Untimed: "waking more CPUs took 77 % → 141 % of a CPU, on one thread",
			Finding: "rps-covers-irq-cpu", Beside: steering, Changes: masks, Metric: onCPUs(1, 5)}.on(twoSMT),
		Fault{Name: "RPS on top of RSS", Fast: true, Inject: rpsTo("f"), Load: udp(),
			Finding: "rps-redundant", Subject: "eth0", Beside: steering, Changes: masks, Metric: steered()}.on(each, eight),
		Fault{Name: "packet budget too small for six busy NAPIs", Inject: "sysctl -qw net.core.netdev_budget=300", Load: bursts(6), Probes: true,
			Finding: "budget-packets", Subject: "CPU 0", Changes: budget, Metric: squeezed()}.on(six, sixNew),
		// Kernels since 6.14, and the older ones of the lab, take nothing below two
		// ticks, 8000 at HZ=250: too small it is where a round of full polls takes longer.
		Fault{Name: "time limit too small for busy NAPIs", Inject: shortTime, Load: bursts(6), Probes: true, Slow: dear(),
			Finding: "budget-time", Subject: "CPU 0", Changes: timeLimit, Metric: squeezed()}.on(dearly, dearlyNew),
		Fault{Name: "backlog too short for RPS", Fast: true, Load: udp(), Inject: rpsTo("aa") + "; " + noBacklog,
			Finding: "backlog-drops", Subject: "host", Changes: backlog, Metric: dropped()}.on(four),
		Fault{Name: "backlog too short for RPS", Load: udp(), Inject: rpsTo("c") + "; " + noBacklog,
			Finding: "backlog-drops", Subject: "host", Changes: backlog, Metric: dropped()}.on(two),
		Fault{Name: "GRO off", Fast: true, Inject: "ethtool -K eth0 gro off", Undo: "ethtool -K eth0 gro on", Load: bulk(),
			Slow:    seldom(),
			Finding: "gro-off", Subject: "eth0", Changes: []string{"eth0/feature.rx-gro"}, Metric: merged(), Well: 0.8}.on(plain, plainNew),
		Fault{Name: "LRO while forwarding", Inject: forward + "; ethtool -K eth0 lro on", Undo: "ethtool -K eth0 lro on", Load: gentle(),
			Finding: "lro-while-forwarding", Subject: "eth0", Changes: []string{"eth0/feature.rx-lro"}, Metric: none(), Silent: true}.on(vmware, vmwareNew),
		Fault{Name: "XPS reversed", Inject: reverseXPS, Load: sending(),
			Finding: "xps-mismatch", Subject: "eth0", Changes: []string{"eth0/tx-*/xps.cpus"}, Metric: crossed(0)}.on(each, eight),
		Fault{Name: "one of four queues used", Fast: true, Inject: "ethtool -L eth0 combined 1", Undo: "ethtool -L eth0 combined 4", Load: crowding(),
			Finding: "virtio-queues-unused", Subject: "eth0", Beside: crowded, Changes: []string{"eth0/channels.combined"}, Metric: maxShare()}.on(four, fourNodes),
		Fault{Name: "RSS table skewed", Inject: "ethtool -X eth0 weight 9 1 1 1", Undo: "ethtool -X eth0 equal 4", Load: dense(),
			Finding: "rss-skew", Subject: "eth0", Beside: slices.Concat(crowded, []string{"virtio-steering-skew"}), Changes: table, Metric: maxShare()}.on(each),
		Fault{Name: "RSS table skewed", Inject: "ethtool -X eth0 weight 16 1 1 1 1 1 1 1", Undo: "ethtool -X eth0 equal 8", Load: dense(),
			Finding: "rss-skew", Subject: "eth0", Beside: slices.Concat(crowded, []string{"virtio-steering-skew"}), Changes: table, Metric: maxShare()}.on(eight),
		Fault{Name: "RSS table without most queues", Inject: "ethtool -X eth0 equal 2", Undo: "ethtool -X eth0 equal 4", Load: dense(),
			Finding: "rss-unused-queues", Subject: "eth0", Beside: crowded, Changes: table, Metric: maxShare()}.on(each),
		Fault{Name: "RSS table without most queues", Inject: "ethtool -X eth0 equal 2", Undo: "ethtool -X eth0 equal 8", Load: dense(),
			Finding: "rss-unused-queues", Subject: "eth0", Beside: crowded, Changes: table, Metric: maxShare()}.on(eight),
		// It takes the two interrupts of a pair for two that have nothing to do with
		// each other.
		Fault{Name: "irqbalance fights", Inject: "irqbalance --interval=5; sleep 12", Undo: "kill $(pidof irqbalance); sleep 1", Load: pairwise(), Contested: true,
			Finding: "irqbalance-active", Subject: "host", Beside: moved, Changes: append(affinity, "eth0/tx-*/xps.cpus"), Metric: split()}.on(four, fourNodes),
	)
}

// dear is the cost of a packet that counts as plain where each instruction is
// emulated.
func dear() []Threshold {
	return []Threshold{{"packet-cost", 200000, "an emulated CPU takes 20 to 60 µs for a packet that costs a real one 0.5 to 2"}}
}

// rare is the rate of interrupts that counts as work on such a CPU.
func rare() []Threshold {
	return []Threshold{{"active-interrupt-rate", 100, "an emulated CPU takes 20 to 60 µs for an interrupt with its poll that costs a real one 2 to 5"}}
}

// seldom is the rate from which merging packets pays on such a CPU.
func seldom() []Threshold {
	return []Threshold{{"gro-packet-rate", 1000, "an emulated guest digests some thousand packets a second and not the 20000 from which merging saves a real CPU one percent"}}
}

// turns is what a softirq may wait for where CPUs take turns on one thread: QEMU
// ends a turn after 100 ms (accel/tcg/tcg-accel-ops-rr.c, TCG_KICK_PERIOD).
func turns() []Threshold {
	return []Threshold{{"softirq-wait-p99", 200e6, "emulated CPUs wait for turns of up to 100 ms on one thread, and the default is 2 ms"}}
}

// Slow are all thresholds that are figures of CPUs that are not emulated.
func Slow() []Threshold { return slices.Concat(dear(), rare(), seldom(), turns()) }
