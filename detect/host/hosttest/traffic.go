package hosttest

import (
	"slices"
	"strconv"
	"strings"
)

// deltas maps interrupts to how often they fired per column of /proc/interrupts.
type deltas map[int][]uint64

// rearrange changes where interrupts fired between the first sample and each
// later one (with one sample: since boot), and moves what their CPUs did with
// them along: NET_RX and NET_TX runs, softnet counters and softirq time, in
// proportion to the interrupts that left a CPU. A capture without counters, or
// one whose CPUs changed between the samples, stays as it is.
func (m *Memory) rearrange(irqs []int, change func(cpus []int, was deltas) deltas) error {
	c, err := m.parsed()
	if err != nil {
		return err
	}
	m.weighNetwork(c, irqs)
	for i, t := range c.interrupts {
		first := c.interrupts[0]
		if t == nil || first == nil || (i == 0 && len(c.interrupts) > 1) || !slices.Equal(t.cpus, first.cpus) {
			continue
		}
		was := deltas{}
		for _, irq := range irqs {
			if r := t.find(strconv.Itoa(irq)); r != nil {
				was[irq] = r.since(previous(first, t, r))
			}
		}
		m.apply(c, i, was, change(t.cpus, was))
	}
	c.dirty = true
	return nil
}

// previous is the row of the first sample to count from; nil for since boot.
func previous(first, t *table, r *row) *row {
	if first == t {
		return nil
	}
	return first.find(strings.TrimSpace(r.label))
}

// weighNetwork sums the interrupts of network devices per CPU, and makes sure
// that irqs are among them.
func (m *Memory) weighNetwork(c *counters, irqs []int) {
	if c.network == nil {
		c.network = map[string]bool{}
		c.load = make([][]uint64, len(c.interrupts))
		for i, t := range c.interrupts {
			if t != nil {
				c.load[i] = make([]uint64, len(t.cpus))
			}
		}
		for _, irq := range m.networkInterrupts(c) {
			c.weigh(irq)
		}
	}
	for _, irq := range irqs {
		c.weigh(irq)
	}
}

// networkInterrupts are the lines of /proc/interrupts that bring packets: those
// that carry the number of a queue, and those named like a device. Captures
// without a device tree tell no more.
func (m *Memory) networkInterrupts(c *counters) []int {
	t := c.interrupts[len(c.interrupts)-1]
	if t == nil {
		return nil
	}
	names := map[string]bool{}
	for _, dev := range append(m.devices(), m.countedDevices()...) {
		names[dev] = true
	}
	var out []int
	for _, r := range t.rows {
		irq, err := strconv.Atoi(strings.TrimSpace(r.label))
		if err != nil || strings.Contains(r.rest, "nvme") {
			continue
		}
		_, queue := parseVector(r.rest, irq)
		for action := range strings.FieldsFuncSeq(r.rest, func(c rune) bool { return c == ' ' || c == ',' }) {
			queue = queue || names[action]
		}
		if queue {
			out = append(out, irq)
		}
	}
	return out
}

// countedDevices are the names in /proc/net/dev.
func (m *Memory) countedDevices() []string {
	text, err := m.last().tree.ReadFile("proc/net/dev")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			out = append(out, strings.TrimSpace(name))
		}
	}
	return out
}

func (c *counters) weigh(irq int) {
	label := strconv.Itoa(irq)
	if c.network[label] {
		return
	}
	c.network[label] = true
	for i, t := range c.interrupts {
		if r := t.find(label); r != nil && c.interrupts[0] != nil {
			for col, n := range r.since(previous(c.interrupts[0], t, r)) {
				c.load[i][col] += n
			}
		}
	}
}

// flow is what leaves and reaches the CPUs: the part of each CPU's network
// interrupts that leaves it, and each CPU's share of all that moves.
type flow struct {
	leaves map[int]float64
	enters map[int]float64
}

func (m *Memory) apply(c *counters, i int, was, will deltas) {
	t := c.interrupts[i]
	changed := make([]int64, len(t.cpus))
	for irq, delta := range was {
		r := t.find(strconv.Itoa(irq))
		for col := range delta {
			now := will[irq][col]
			r.add(col, now-delta[col])
			changed[col] += int64(now) - int64(delta[col])
		}
	}
	f := flow{leaves: map[int]float64{}, enters: map[int]float64{}}
	moved := 0.0
	for _, change := range changed {
		moved += float64(max(change, 0))
	}
	for col, change := range changed {
		switch {
		case change < 0:
			f.leaves[t.cpus[col]] = min(1, float64(-change)/float64(c.load[i][col]))
		case change > 0:
			f.enters[t.cpus[col]] = float64(change) / moved
		}
		c.load[i][col] = uint64(int64(c.load[i][col]) + change)
	}
	if len(f.leaves) == 0 || len(f.enters) == 0 {
		return
	}
	for _, name := range []string{"NET_RX", "NET_TX"} {
		t, first := c.softirqs[i], c.softirqs[0]
		f.shift(t, t.find(name), first.find(name), i)
	}
	for _, at := range []int{softnetProcessed, softnetDropped, softnetSqueezed} {
		f.shift(c.softnet[i], c.softnet[i].row(at), c.softnet[0].row(at), i)
	}
	for _, at := range []int{statSoftirq, statIRQ} {
		f.shiftTime(c.stat[i], c.stat[0], at, i)
	}
}

// shift moves a counter's rise between CPUs.
func (f flow) shift(t *table, r, first *row, i int) {
	for col, change := range f.changes(t, r, first, i) {
		r.add(col, uint64(change))
	}
}

// changes says by how much a counter changes per column: what leaves is pooled
// and handed out by shares. Nothing moves where a CPU has no column.
func (f flow) changes(t *table, r, first *row, i int) map[int]int64 {
	if t == nil || r == nil || (i > 0 && first == nil) {
		return nil
	}
	if i == 0 {
		first = nil
	}
	rise := r.since(first)
	out := map[int]int64{}
	pool := int64(0)
	for cpu, share := range f.leaves {
		col := t.column(cpu)
		if col < 0 || col >= len(rise) {
			return nil
		}
		amount := int64(float64(rise[col]) * share)
		out[col] -= amount
		pool += amount
	}
	rest := pool
	for n, cpu := range f.gainers() {
		col := t.column(cpu)
		if col < 0 || col >= len(rise) {
			return nil
		}
		amount := int64(float64(pool) * f.enters[cpu])
		if n == len(f.enters)-1 {
			amount = rest
		}
		out[col] += amount
		rest -= amount
	}
	return out
}

func (f flow) gainers() []int {
	cpus := make([]int, 0, len(f.enters))
	for cpu := range f.enters {
		cpus = append(cpus, cpu)
	}
	slices.Sort(cpus)
	return cpus
}

// shiftTime moves CPU time against idle time, so that every CPU keeps its
// total. A CPU that has no idle time left does not get more to do.
func (f flow) shiftTime(t, first *table, at, i int) {
	if t == nil || first == nil {
		return
	}
	r, idle := t.row(at), t.row(statIdle)
	if r == nil || idle == nil {
		return
	}
	free := idle.since(nil)
	if i > 0 {
		free = idle.since(first.row(statIdle))
	}
	for col, change := range f.changes(t, r, first.row(at), i) {
		if change > 0 {
			change = min(change, int64(free[col]))
		}
		r.add(col, uint64(change))
		idle.add(col, uint64(-change))
	}
}
