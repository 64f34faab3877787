// Package soak walks at random through faults, applies, kills and disturbances
// in a guest, and checks after each round that the host is as it was recorded.
package soak

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Verb is what a step does.
type Verb string

const (
	// Fault spoils settings; the state after it is what a rollback must restore.
	Fault Verb = "fault"
	// Apply measures, plans and applies; where nothing is wanted, what the walk wants.
	Apply Verb = "apply"
	// Disturb changes the host behind the back of what was applied.
	Disturb Verb = "disturb"
	// Rollback takes back what Apply did.
	Rollback Verb = "rollback"
)

// Step is one step of a walk. It says all that is done; only where in a program
// a kill meets it is left to the guest's clock.
type Step struct {
	Verb   Verb
	Name   string        // in words, with its parameters
	Script string        // shell text: all of a fault or a disturbance; of Apply and Rollback what happens beside the program
	Policy string        // Apply: the profile that judges
	Signal string        // Apply, Rollback: sent to the program; empty: it ends by itself
	After  time.Duration // of the first write to the journal: when the signal is sent or the script begins
	Kind   Kind          // Disturb: what it is counted as; empty: not at all
	Wants  []Want        // Apply: what is applied where advise wants nothing
}

// Want is a setting and the values that it may get: the first that it has not.
type Want struct {
	Ref    string
	Values [2]string
}

// Kind is what a soak is to have met, or else it proved nothing.
type Kind string

// The kinds are what the log calls them.
const (
	Applied     Kind = "applied"
	KilledApply Kind = "killed amid apply"
	Interrupted Kind = "interrupted amid apply"
	CutRollback Kind = "cut amid rollback"
	Gone        Kind = "NIC gone"
	Offline     Kind = "CPU offline"
	Flap        Kind = "link flap"
)

// demand is one of a kind in so many rounds at least. Walks ask for four times as
// much (TestWalkAsks): a signal may come too late.
type demand struct {
	kind  Kind
	oneIn int
}

var demands = [...]demand{{Applied, 3}, {KilledApply, 20}, {Interrupted, 60}, {CutRollback, 24}, {Gone, 12}, {Offline, 40}, {Flap, 24}}

// judge says of which kinds rounds have met too few, and for which there were
// too few rounds to demand any.
func judge(met map[Kind]int, rounds int) (missing, short []string) {
	for _, d := range demands {
		switch least := rounds / d.oneIn; {
		case least == 0:
			short = append(short, fmt.Sprintf("%s (one in %d rounds)", d.kind, d.oneIn))
		case met[d.kind] < least:
			missing = append(missing, fmt.Sprintf("%s: %d, want at least %d in %d rounds", d.kind, met[d.kind], least, rounds))
		}
	}
	return missing, short
}

// String is the step as the walk is printed.
func (s Step) String() string {
	out := string(s.Verb)
	if s.Name != "" {
		out += " " + s.Name
	}
	if s.Signal != "" {
		out += fmt.Sprintf(", %s %v after it began to write", s.Signal, s.After)
	}
	if s.Script != "" && (s.Verb == Apply || s.Verb == Rollback) {
		out += fmt.Sprintf(" %v after it began to write", s.After)
	}
	return out
}

// Machine is what a walk is about: a guest whose eth0 is a virtio NIC.
type Machine struct {
	CPUs, Queues int
	RSS          bool // the NIC's table can be set
	Port         bool // the hypervisor can unplug the NIC
}

// Walk makes rounds. The same seed and machine give the same ones.
type Walk struct {
	random *rand.Rand
	Machine
}

// NewWalk starts a walk.
func NewWalk(seed uint64, m Machine) *Walk {
	return &Walk{rand.New(rand.NewPCG(seed, 0)), m}
}

// policies are profiles of napitune that want different things of one host.
var policies = [...]string{"balanced", "throughput", "latency", "virtual-guest"}

// Round is the next round: faults, an apply, disturbances and a rollback. Where
// the NIC is gone at the rollback, another follows when it is back.
func (w *Walk) Round() []Step {
	var out []Step
	// Left to itself a walk ends where one fault hides all others.
	if w.random.IntN(2) == 0 {
		out = append(out, Step{Verb: Fault, Name: "none: all as the driver has it", Script: w.clean()})
	}
	out = append(out, w.some(Fault, 1, w.faults())...)
	policy := policies[w.random.IntN(len(policies))]
	out = append(out, Step{Verb: Apply, Name: "by " + policy, Policy: policy, Wants: w.wants()})
	out = w.cut(out, 2)
	out = append(out, w.some(Disturb, 1, w.disturbances())...)
	back := []Step{{Verb: Rollback}}
	if w.Port && w.random.IntN(8) == 0 {
		out = append(out, Step{Verb: Disturb, Name: "the NIC is unplugged", Script: unplug, Kind: Gone})
		back = append(back, Step{Verb: Disturb, Name: "the NIC is plugged in", Script: plug}, Step{Verb: Rollback})
	} else {
		back = w.cut(back, 3)
	}
	return append(out, back...)
}

// cut has the program of the last step killed, interrupted as by Ctrl-C or
// robbed of its NIC, in one case of some.
func (w *Walk) cut(steps []Step, oneIn int) []Step {
	s := &steps[len(steps)-1]
	hit, after, how := w.random.IntN(oneIn) == 0, time.Duration(w.random.IntN(40))*time.Millisecond, w.random.IntN(4)
	if !hit {
		return steps
	}
	s.Signal, s.After = "KILL", after
	switch {
	case how == 0:
		s.Signal = "INT"
	case how == 1 && w.Port:
		s.Name, s.Script, s.Signal = strings.TrimSpace(s.Name+" while the NIC is unplugged"), unplug, ""
		steps = append(steps, Step{Verb: Disturb, Name: "the NIC is plugged in", Script: plug})
		if s.Verb == Rollback {
			steps = append(steps, Step{Verb: Rollback})
		}
	}
	return steps
}

// some picks least of the choices, or one more.
func (w *Walk) some(verb Verb, least int, choices []Step) []Step {
	n := least + w.random.IntN(2)
	var out []Step
	for range n {
		s := choices[w.random.IntN(len(choices))]
		s.Verb = verb
		out = append(out, s)
	}
	return out
}

// wants are a few settings that every host of the walk can take, once its CPUs
// are back. So many writes leave a kill the time to come amid them.
func (w *Walk) wants() []Want {
	two := func(value func() string) [2]string {
		first, second := value(), value()
		for second == first {
			second = value()
		}
		return [2]string{first, second}
	}
	number := func(n, unit int) func() string {
		return func() string { return fmt.Sprint(unit * (1 + w.random.IntN(n))) }
	}
	mask := func() string { return "0x" + w.mask() }
	cpu := func() string { return fmt.Sprint(w.random.IntN(w.CPUs)) }
	all := []Want{
		{"net.core.netdev_budget", two(number(8, 100))},
		{"net.core.netdev_max_backlog", two(number(8, 500))},
		{"eth0/feature.rx-gro", [2]string{"on", "off"}},
		{"eth0/gro_flush_timeout", two(number(8, 10000))},
	}
	for q := range w.Queues {
		all = append(all,
			Want{fmt.Sprintf("eth0/rx-%d/rps.cpus", q), two(mask)}, Want{fmt.Sprintf("eth0/tx-%d/xps.cpus", q), two(mask)},
			Want{fmt.Sprintf("eth0/rx-%d/irq.affinity", q), two(cpu)}, Want{fmt.Sprintf("eth0/tx-%d/irq.affinity", q), two(cpu)})
	}
	w.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:6+w.random.IntN(len(all)-6)]
}

// clean undoes faults. Setting the channels makes the driver choose affinities
// and XPS anew.
func (w *Walk) clean() string {
	return "ethtool -K eth0 gro on\n" + w.channels("1") + w.channels(fmt.Sprint(w.Queues)) +
		masks("rx-*/rps_cpus", "0") + "\nsysctl -qw net.core.netdev_max_backlog=1000 net.core.netdev_budget=300"
}

// channels sets their number. ethtool fails where it is so already, and the
// kernel where the RSS table names a queue that would go.
func (w *Walk) channels(n string) string {
	table := ""
	if w.RSS {
		table = "ethtool -X eth0 default; "
	}
	return fmt.Sprintf("[ %s = %s ] || { %sethtool -L eth0 combined %s; }\n", combined, n, table, n)
}

// combined is how many channels there are.
const combined = "$(ethtool -l eth0 | awk '/^Combined/ {n = $2} END {print n}')"

// mask is a CPU mask in hexadecimal that is not empty.
func (w *Walk) mask() string { return fmt.Sprintf("%x", 1+w.random.IntN(1<<w.CPUs-1)) }

func (w *Walk) faults() []Step {
	one, two, queue, few := w.random.IntN(w.CPUs), w.random.IntN(w.CPUs), w.random.IntN(w.Queues), 1+w.random.IntN(w.Queues)
	mask, other, backlog := w.mask(), w.mask(), 1+w.random.IntN(2000)
	out := []Step{
		{Name: fmt.Sprintf("all queue interrupts on CPU %d", one), Script: interrupts(fmt.Sprint(one))},
		{Name: fmt.Sprintf("interrupts of direction input on CPU %d, output on CPU %d", one, two),
			Script: interruptsOf("input", fmt.Sprint(one)) + "\n" + interruptsOf("output", fmt.Sprint(two))},
		{Name: "RPS mask " + mask, Script: masks("rx-*/rps_cpus", mask)},
		{Name: fmt.Sprintf("RPS mask %s on queue %d", mask, queue), Script: masks(fmt.Sprintf("rx-%d/rps_cpus", queue), mask)},
		{Name: fmt.Sprintf("XPS masks %s and %s", mask, other), Script: masks("tx-*/xps_cpus", mask) + "\n" + masks("tx-0/xps_cpus", other)},
		{Name: fmt.Sprintf("backlog of %d under RPS", backlog), Script: fmt.Sprintf("sysctl -qw net.core.netdev_max_backlog=%d\n", backlog) + masks("rx-*/rps_cpus", mask)},
		{Name: "GRO off", Script: "ethtool -K eth0 gro off"},
		{Name: "GRO on", Script: "ethtool -K eth0 gro on"},
		{Name: fmt.Sprintf("%d channels", few), Script: w.channels(fmt.Sprint(few))},
		{Name: "budget of 150", Script: "sysctl -qw net.core.netdev_budget=150"},
	}
	if w.RSS {
		out = append(out, Step{Name: fmt.Sprintf("RSS table over %d queues, or all if fewer", few),
			Script: fmt.Sprintf("n=%s; [ $n -lt %d ] || n=%d; ethtool -X eth0 equal $n", combined, few, few)})
	}
	return out
}

func (w *Walk) disturbances() []Step {
	cpu, few := 1+w.random.IntN(w.CPUs-1), 1+w.random.IntN(w.Queues)
	off := fmt.Sprintf("echo 0 >/sys/devices/system/cpu/cpu%d/online", cpu)
	on := fmt.Sprintf("echo 1 >/sys/devices/system/cpu/cpu%d/online", cpu)
	out := append(w.faults(),
		Step{Name: "link flap", Script: "ip link set eth0 down; ip link set eth0 up", Kind: Flap},
		Step{Name: "link flap", Script: "ip link set eth0 down; sleep 0.2; ip link set eth0 up", Kind: Flap},
		Step{Name: fmt.Sprintf("CPU %d goes and comes back", cpu), Script: off + "\n" + on, Kind: Offline},
		Step{Name: fmt.Sprintf("CPU %d goes", cpu), Script: off, Kind: Offline},
		Step{Name: fmt.Sprintf("%d channels for a moment", few), Script: "was=" + combined + "\n" + w.channels(fmt.Sprint(few)) + w.channels("$was")},
		Step{Name: "one pass of irqbalance", Script: "irqbalance --oneshot --foreground"},
		Step{Name: "the NIC's driver is taken off and put on", Script: rebind, Kind: Gone},
		Step{Name: "the NIC is removed from the bus and found anew", Script: rescan, Kind: Gone},
	)
	if w.Port {
		out = append(out,
			Step{Name: "the NIC is unplugged and plugged in", Script: unplug + plug, Kind: Gone},
			Step{Name: "the NIC is unplugged and plugged in", Script: unplug + plug, Kind: Gone},
			Step{Name: "the cable is pulled and put back", Script: "lab nic link-down 0; sleep 0.2; lab nic link-up 0", Kind: Flap},
		)
	}
	return out
}

// What takes a NIC away and brings it back, as seen by the kernel: its driver
// goes, its device goes (pci_stop_and_remove_bus_device), or the hypervisor
// takes it out of its port and puts it in again.
const (
	appear = "\nfor i in $(seq 300); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done\n[ -e /sys/class/net/eth0 ] || { echo the NIC does not appear; exit 1; }\n" +
		"ip address add 10.99.0.2/24 dev eth0; ip link set eth0 up\n"
	vanish = "\nfor i in $(seq 300); do [ -e /sys/class/net/eth0 ] || break; sleep 0.1; done\n[ ! -e /sys/class/net/eth0 ] || { echo the NIC does not vanish; exit 1; }\n"
	rebind = `device=$(basename $(readlink -f /sys/class/net/eth0/device))
echo $device >/sys/bus/virtio/drivers/virtio_net/unbind` + vanish + `echo $device >/sys/bus/virtio/drivers/virtio_net/bind` + appear
	rescan = `card=$(readlink -f /sys/class/net/eth0/device/..)
echo 1 >$card/remove` + vanish + `echo 1 >/sys/bus/pci/rescan` + appear
	unplug = "lab nic unplug 0" + vanish
	plug   = "lab nic plug 0" + appear
)

func interrupts(cpu string) string { return interruptsOf("*put", cpu) }

// interruptsOf sets those of the queues of virtio NICs; a queue that is not
// used keeps its interrupt. A CPU that is gone takes none, which is no failure.
func interruptsOf(direction, cpu string) string {
	return fmt.Sprintf("for f in /proc/irq/*/virtio*-%s.*; do cpu %s || break; echo %s >${f%%/*}/smp_affinity_list; done",
		direction, cpu, cpu)
}

// prelude begins every script: one that fails halfway has not disturbed what its
// name says. CPU 0 has no file and cannot go.
const prelude = "set -e\ncpu() { [ $1 = 0 ] || [ $(cat /sys/devices/system/cpu/cpu$1/online) = 1 ]; }\n"

// masks writes to the files of queues that are there.
func masks(files, mask string) string {
	return fmt.Sprintf("for f in /sys/class/net/eth0/queues/%s; do [ ! -e $f ] || echo %s >$f; done", files, mask)
}
