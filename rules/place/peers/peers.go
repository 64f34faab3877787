// Package peers is test support: where other tools would put interrupts,
// written from descriptions of what they do and not from their code. Placements
// of napitune are held against them. Each tool works on interrupt lines, as it
// does in the field; none of them measures anything but irqbalance.
package peers

import (
	"cmp"
	"maps"
	"slices"
)

// CPU is an online CPU. Core and LLC are the lowest-numbered CPU of the core
// and of the last-level cache. Node is negative if not known.
type CPU struct {
	ID, Core, LLC, Node int
	// Base is load that stays, in the unit of Line.Load. Only irqbalance sees it.
	Base float64
}

// Side tells which packets a line announces.
type Side uint8

// Sides.
const (
	Both Side = iota
	Rx
	Tx
)

// Line is one interrupt of one queue.
type Line struct {
	Device string
	Queue  int
	Side   Side
	// Load is in any unit, as long as it is the same for all lines.
	Load float64
	// Now is the CPU the line fires on, negative if it has none.
	Now int
	// Node is the device's NUMA node, negative if not known.
	Node int
	// Virtio lines belong to a device whose interrupts are registered by its
	// PCI parent, which some tools do not look at.
	Virtio bool
}

// Tool is one way to place interrupts.
type Tool struct {
	Name string
	// Place gives a CPU for each line. CPUs are sorted by number, lines by
	// device, side and queue; a line that the tool does not find stays.
	Place func(cpus []CPU, lines []Line) []int
}

// Tools lists them.
func Tools() []Tool {
	return []Tool{
		{"irqbalance", irqbalance},
		{"rss-ladder", ladder},
		{"perftune", perftune},
		{"Intel local", intelLocal},
		{"Intel all", intelAll},
		{"systemd spread", spread},
	}
}

// ladder is rss-ladder of netutils-linux: the nth interrupt of one kind of a
// device goes to the nth CPU of the device's socket, around and around.
func ladder(cpus []CPU, lines []Line) []int {
	return deal(lines, func(l Line) []int { return ids(local(cpus, l.Node)) }, func(l Line) kin { return kin{l.Device, l.Side} })
}

// intelLocal is Intel's set_irq_affinity -x local: the nth interrupt of a
// device goes to the nth core of its node. On virtio it finds no interrupts.
func intelLocal(cpus []CPU, lines []Line) []int {
	return onlyMSI(lines, deal(lines, func(l Line) []int { return ids(local(cpus, l.Node)) }, ofDevice))
}

// intelAll is set_irq_affinity -x all: the nth interrupt to the nth CPU.
func intelAll(cpus []CPU, lines []Line) []int {
	return onlyMSI(lines, deal(lines, func(Line) []int { return ids(cpus) }, ofDevice))
}

// perftune is Scylla's perftune.py. Its interrupt CPUs are all of up to four
// CPUs, one CPU of up to four cores, core 0 of up to sixteen cores, else one
// core for every sixteen of each node. The interrupts of a device are dealt
// over them one by one.
func perftune(cpus []CPU, lines []Line) []int {
	cores := byCore(cpus)
	var set []int
	switch {
	case len(cpus) <= 4:
		set = ids(cpus)
	case len(cores) <= 4:
		set = cores[0][:1]
	case len(cores) <= 16:
		set = cores[0]
	default:
		set = sixteenth(cpus)
	}
	return deal(lines, func(Line) []int { return set }, ofDevice)
}

func sixteenth(cpus []CPU) []int {
	nodes := map[int][]CPU{}
	for _, c := range cpus {
		nodes[c.Node] = append(nodes[c.Node], c)
	}
	var set []int
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		cores := byCore(nodes[node])
		for _, core := range cores[:(len(cores)+15)/16] {
			set = append(set, core...)
		}
	}
	return set
}

// spread is systemd's IRQAffinityPolicy=spread: first siblings only, grouped by
// last-level cache; the caches in turn, and within one halfway, quarters,
// eighths. It looks for interrupts where virtio has none.
func spread(cpus []CPU, lines []Line) []int {
	var caches [][]int
	number := map[int]int{}
	for _, core := range byCore(cpus) {
		first := cpus[slices.IndexFunc(cpus, func(c CPU) bool { return c.ID == core[0] })]
		n, ok := number[first.LLC]
		if !ok {
			n = len(caches)
			number[first.LLC] = n
			caches = append(caches, nil)
		}
		caches[n] = append(caches[n], first.ID)
	}
	for i := range caches {
		caches[i] = equidistant(caches[i])
	}
	var order []int
	for n, left := 0, true; left; n++ {
		left = false
		for _, c := range caches {
			if n < len(c) {
				order, left = append(order, c[n]), true
			}
		}
	}
	return onlyMSI(lines, deal(lines, func(Line) []int { return order }, ofDevice))
}

func equidistant(in []int) []int {
	var out []int
	for step := len(in); step >= 1; step /= 2 {
		for i := 0; i < len(in); i += step {
			if !slices.Contains(out, in[i]) {
				out = append(out, in[i])
			}
		}
	}
	return out
}

// passes is how often irqbalance looks: 100 seconds at its ten.
const passes = 10

// irqbalance applies the level rule until nothing moves: a line leaves its CPU
// if the least loaded CPU would end below what stays behind, never a CPU's only
// line and never one without load, heaviest first. What left goes down the tree
// of node, cache and CPU, each time to the least loaded branch.
func irqbalance(cpus []CPU, lines []Line) []int {
	b := balance{cpus: cpus, lines: lines, load: map[int]float64{}, count: map[int]int{}, at: make([]int, len(lines))}
	for _, c := range cpus {
		b.load[c.ID] = c.Base
	}
	order := make([]int, len(lines))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(lines[y].Load, lines[x].Load) })
	known := ids(cpus)
	for _, i := range order {
		b.at[i] = -1
		if slices.Contains(known, lines[i].Now) {
			b.put(i, lines[i].Now)
		}
	}
	for _, i := range order {
		if b.at[i] < 0 {
			b.put(i, b.descend(lines[i]))
		}
	}
	for range passes {
		if !b.pass(order) {
			break
		}
	}
	return b.at
}

type balance struct {
	cpus  []CPU
	lines []Line
	load  map[int]float64
	count map[int]int
	at    []int
}

func (b *balance) put(i, cpu int) {
	b.at[i] = cpu
	b.load[cpu] += b.lines[i].Load
	b.count[cpu]++
}

func (b *balance) take(i int) {
	b.load[b.at[i]] -= b.lines[i].Load
	b.count[b.at[i]]--
}

// pass is one look; it reports whether a line moved.
func (b *balance) pass(order []int) bool {
	least := b.load[slices.MinFunc(ids(b.cpus), func(x, y int) int { return cmp.Compare(b.load[x], b.load[y]) })]
	var leaving []int
	for _, i := range order {
		load, from := b.lines[i].Load, b.at[i]
		if b.count[from] > 1 && load > 0 && least+load < b.load[from]-load {
			b.take(i)
			least += load
			leaving = append(leaving, i)
		}
	}
	moved := false
	for _, i := range leaving {
		from := b.at[i]
		b.put(i, b.descend(b.lines[i]))
		moved = moved || b.at[i] != from
	}
	return moved
}

// descend chooses the CPU for a line: node, then cache, then CPU.
func (b *balance) descend(l Line) int {
	in := local(b.cpus, l.Node)
	for _, level := range []func(CPU) int{func(c CPU) int { return c.Node }, func(c CPU) int { return c.LLC }, func(c CPU) int { return c.ID }} {
		sum, branch := map[int]float64{}, map[int][]CPU{}
		for _, c := range in {
			sum[level(c)] += b.load[c.ID]
			branch[level(c)] = append(branch[level(c)], c)
		}
		in = branch[slices.MinFunc(slices.Sorted(maps.Keys(sum)), func(x, y int) int { return cmp.Compare(sum[x], sum[y]) })]
	}
	return in[0].ID
}

// kin are lines that are counted together.
type kin struct {
	device string
	side   Side
}

func ofDevice(l Line) kin { return kin{device: l.Device} }

// deal gives the nth line of each kin the nth of its targets.
func deal(lines []Line, targets func(Line) []int, of func(Line) kin) []int {
	next := map[kin]int{}
	out := make([]int, len(lines))
	for i, l := range lines {
		set := targets(l)
		out[i] = set[next[of(l)]%len(set)]
		next[of(l)]++
	}
	return out
}

// onlyMSI leaves virtio lines where they are.
func onlyMSI(lines []Line, place []int) []int {
	for i, l := range lines {
		if l.Virtio {
			place[i] = l.Now
		}
	}
	return place
}

// local are the CPUs of a node, all of them if it is not known or has none.
func local(cpus []CPU, node int) []CPU {
	if in := slices.DeleteFunc(slices.Clone(cpus), func(c CPU) bool { return c.Node != node }); node >= 0 && len(in) > 0 {
		return in
	}
	return cpus
}

func ids(cpus []CPU) []int {
	out := make([]int, len(cpus))
	for i, c := range cpus {
		out[i] = c.ID
	}
	return out
}

func byCore(cpus []CPU) [][]int {
	var out [][]int
	number := map[int]int{}
	for _, c := range cpus {
		k, ok := number[c.Core]
		if !ok {
			k = len(out)
			number[c.Core] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], c.ID)
	}
	return out
}
