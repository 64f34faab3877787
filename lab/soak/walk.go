// Package soak walks at random through faults, applies, kills and disturbances
// in a guest, and checks after each round that the host is as it was recorded.
package soak

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Verb is what a step does.
type Verb string

const (
	// Fault spoils settings; the state after it is what a rollback must restore.
	Fault Verb = "fault"
	// Apply measures, plans and applies.
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
	Script string        // shell text of a fault or a disturbance; empty for the others
	Signal string        // Apply, Rollback: sent to the program; empty: it ends by itself
	After  time.Duration // of the first write to the journal, when the signal is sent
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
	return out
}

// Walk makes rounds. The same seed, CPUs and queues give the same ones.
type Walk struct {
	random       *rand.Rand
	cpus, queues int
	rss          bool
}

// NewWalk starts a walk on a machine whose eth0 is a virtio NIC; rss says that
// its table can be set.
func NewWalk(seed uint64, cpus, queues int, rss bool) *Walk {
	return &Walk{random: rand.New(rand.NewPCG(seed, 0)), cpus: cpus, queues: queues, rss: rss}
}

// Round is the next round: faults, an apply, disturbances and a rollback.
func (w *Walk) Round() []Step {
	var out []Step
	// Left to itself a walk ends where one fault hides all others.
	if w.random.IntN(2) == 0 {
		out = append(out, Step{Verb: Fault, Name: "none: all as the driver has it", Script: w.clean()})
	}
	out = append(out, w.some(Fault, 1, w.faults())...)
	out = append(out, Step{Verb: Apply})
	w.cut(&out[len(out)-1], 3)
	out = append(out, w.some(Disturb, 0, w.disturbances())...)
	undo := Step{Verb: Rollback}
	w.cut(&undo, 4)
	return append(out, undo)
}

// cut has a program killed, or interrupted as by Ctrl-C, in one case of some.
func (w *Walk) cut(s *Step, oneIn int) {
	kill, after, terminate := w.random.IntN(oneIn) == 0, time.Duration(w.random.IntN(40))*time.Millisecond, w.random.IntN(4) == 0
	if !kill {
		return
	}
	s.Signal, s.After = "KILL", after
	if terminate {
		s.Signal = "INT"
	}
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

// clean undoes faults. Setting the channels makes the driver choose affinities
// and XPS anew.
func (w *Walk) clean() string {
	return fmt.Sprintf("ethtool -K eth0 gro on\nethtool -X eth0 default 2>/dev/null\nethtool -L eth0 combined 1 2>/dev/null\nethtool -L eth0 combined %d\n", w.queues) +
		masks("rx-*/rps_cpus", "0") + "\nsysctl -qw net.core.netdev_max_backlog=1000 net.core.netdev_budget=300"
}

// mask is a CPU mask in hexadecimal that is not empty.
func (w *Walk) mask() string { return fmt.Sprintf("%x", 1+w.random.IntN(1<<w.cpus-1)) }

func (w *Walk) faults() []Step {
	one, two, queue, few := w.random.IntN(w.cpus), w.random.IntN(w.cpus), w.random.IntN(w.queues), 1+w.random.IntN(w.queues)
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
		{Name: fmt.Sprintf("%d channels", few), Script: fmt.Sprintf("ethtool -L eth0 combined %d", few)},
		{Name: "budget of 150", Script: "sysctl -qw net.core.netdev_budget=150"},
	}
	if w.rss {
		out = append(out, Step{Name: fmt.Sprintf("RSS table over %d queues", few), Script: fmt.Sprintf("ethtool -X eth0 equal %d", few)})
	}
	return out
}

func (w *Walk) disturbances() []Step {
	cpu, few := 1+w.random.IntN(w.cpus-1), 1+w.random.IntN(w.queues)
	off := fmt.Sprintf("echo 0 >/sys/devices/system/cpu/cpu%d/online", cpu)
	on := fmt.Sprintf("echo 1 >/sys/devices/system/cpu/cpu%d/online", cpu)
	return append(w.faults(),
		Step{Name: "link flap", Script: "ip link set eth0 down; ip link set eth0 up"},
		Step{Name: "link flap", Script: "ip link set eth0 down; sleep 0.2; ip link set eth0 up"},
		Step{Name: fmt.Sprintf("CPU %d goes and comes back", cpu), Script: off + "\n" + on},
		Step{Name: fmt.Sprintf("CPU %d goes", cpu), Script: off},
		Step{Name: fmt.Sprintf("%d channels for a moment", few), Script: fmt.Sprintf("was=$(ethtool -l eth0 | awk '/^Combined/ {n = $2} END {print n}')\nethtool -L eth0 combined %d\nethtool -L eth0 combined $was", few)},
		Step{Name: "one pass of irqbalance", Script: "irqbalance --oneshot --foreground >/dev/null 2>&1"},
		Step{Name: "the NIC is unplugged and comes back", Script: replug},
		Step{Name: "the NIC is unplugged and comes back", Script: replug},
	)
}

// replug takes the PCI device away as an unplug request of the hypervisor does
// (pci_stop_and_remove_bus_device) and has the bus look for it anew.
const replug = `card=$(readlink -f /sys/class/net/eth0/device/..)
echo 1 >$card/remove
while [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
echo 1 >/sys/bus/pci/rescan
for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
ip address add 10.99.0.2/24 dev eth0; ip link set eth0 up`

func interrupts(cpus string) string { return interruptsOf("*put", cpus) }

// interruptsOf sets those of the queues of virtio NICs; a queue that is not
// used keeps its interrupt.
func interruptsOf(direction, cpus string) string {
	return fmt.Sprintf("for f in /proc/irq/*/virtio*-%s.*; do echo %s >${f%%/*}/smp_affinity_list; done", direction, cpus)
}

// masks writes to the files of queues that are there.
func masks(files, mask string) string {
	return fmt.Sprintf("for f in /sys/class/net/eth0/queues/%s; do [ ! -e $f ] || echo %s >$f; done", files, mask)
}
