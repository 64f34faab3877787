package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// path is one queue pair of one device and how its interrupts fired: the unit
// that is placed on a CPU.
type path struct {
	dev   *detect.Device
	queue *detect.Queue
	rx    fired // of the receive or combined interrupt
	tx    fired // of a transmit interrupt of its own; zero value otherwise
	// load is the pair's interrupts over the window; share is its part of
	// all NIC interrupts.
	load  uint64
	share float64
	// fixed says why the pair must not be moved; "" if it may.
	fixed string
}

// fired is how one interrupt fired over the window.
type fired struct {
	irq   int // -1: none
	total uint64
	cpu   map[int]uint64
	home  int
	share float64 // of home
	moves int
}

// id names the pair for people: "eth0/rx-3".
func (p *path) id() string {
	side := "rx"
	if !p.queue.Rx {
		side = "tx"
	}
	return fmt.Sprintf("%s/%s-%d", p.dev.Name, side, p.queue.N)
}

// home is the CPU that takes most of the pair's interrupts, -1 if it was idle.
func (p *path) home() int {
	if p.rx.total >= p.tx.total {
		return p.rx.home
	}
	return p.tx.home
}

// spread is over how many CPUs the busier interrupt of the pair fired,
// weighted: the inverse Simpson index, 1 for a single CPU, N for N equal ones.
func (f *fired) spread() float64 {
	if f.total == 0 {
		return 0
	}
	var sum float64
	for _, cpu := range slices.Sorted(maps.Keys(f.cpu)) { // sums of floats depend on their order
		share := float64(f.cpu[cpu]) / float64(f.total)
		sum += share * share
	}
	if sum == 0 {
		return 0
	}
	return 1 / sum
}

// wide is the spread of the wider of a pair's interrupts.
func (p *path) wide() float64 { return max(p.rx.spread(), p.tx.spread()) }

// cpus are the CPUs on which the interrupt fired.
func (f *fired) cpus() cpuset.Set { return cpuset.Collect(maps.Keys(f.cpu)) }

func (c *Case) fired(irq int) fired {
	d, ok := c.IRQ[irq]
	if irq < 0 || !ok {
		return fired{irq: -1, home: -1}
	}
	f := fired{irq: irq, total: d.Total, cpu: d.CPU, home: d.Home, share: d.HomeShare, moves: d.Moves}
	if impossible := func(cpu int, _ uint64) bool { return cpu < 0 || cpu > cpuset.MaxCPU }; anyOf(f.cpu, impossible) {
		f.cpu = maps.Clone(f.cpu)
		maps.DeleteFunc(f.cpu, impossible)
	}
	if f.home > cpuset.MaxCPU {
		f.home = -1
	}
	if c.Basis == detect.BasisBoot {
		c.followMask(&f)
	}
	return f
}

// followMask puts totals since boot where the interrupt fires now: it has fired
// on CPUs of its present mask and on others before the mask was set. With
// irqbalance at work a mask is as short-lived as what was before it.
func (c *Case) followMask(f *fired) {
	row := c.row(f.irq)
	if row == nil || !row.HasSMP || c.runsIrqbalance() {
		return
	}
	var within uint64
	for cpu, n := range f.cpu {
		if row.Affinity.Has(cpu) {
			within += n
		}
	}
	if within == 0 || within == f.total {
		return
	}
	now := map[int]uint64{}
	for cpu, n := range f.cpu {
		if row.Affinity.Has(cpu) {
			now[cpu] = uint64(float64(n) * float64(f.total) / float64(within))
		}
	}
	f.cpu, f.home = now, busiest(now)
	f.share = float64(now[f.home]) / float64(f.total)
}

func (c *Case) runsIrqbalance() bool {
	return slices.ContainsFunc(c.Last.Processes, func(p host.Process) bool { return p.Comm == "irqbalance" })
}

func anyOf(counts map[int]uint64, match func(int, uint64) bool) bool {
	for cpu, n := range counts {
		if match(cpu, n) {
			return true
		}
	}
	return false
}

// paths lists the queue pairs whose interrupts are known, by device and number.
func (c *Case) buildPaths() []*path {
	var out []*path
	var all uint64
	for _, dev := range c.Last.Devices {
		if !c.wanted(dev.Name) {
			continue
		}
		for i := range dev.Queues {
			q := &dev.Queues[i]
			p := &path{dev: dev, queue: q, rx: c.fired(q.RxIRQ), tx: fired{irq: -1, home: -1}}
			if q.TxIRQ != q.RxIRQ {
				p.tx = c.fired(q.TxIRQ)
			}
			if p.rx.irq < 0 && p.tx.irq < 0 {
				continue
			}
			p.load = p.rx.total + p.tx.total
			p.fixed = c.whyFixed(p)
			all += p.load
			out = append(out, p)
		}
	}
	for _, p := range out {
		if all > 0 {
			p.share = float64(p.load) / float64(all)
		}
	}
	return out
}

// whyFixed says why a pair cannot or must not be moved.
func (c *Case) whyFixed(p *path) string {
	for _, irq := range []int{p.rx.irq, p.tx.irq} {
		if irq < 0 {
			continue
		}
		row := c.row(irq)
		if row != nil && len(slices.Compact(slices.Sorted(slices.Values(row.Actions)))) > 1 {
			return fmt.Sprintf("interrupt %d is a line shared by %q", irq, row.Actions)
		}
	}
	if sharedVector(p.dev) {
		return fmt.Sprintf("interrupt %d serves all queues of %s", p.rx.irq, p.dev.Name)
	}
	return ""
}

// sharedVector reports whether one interrupt serves every receive queue of a
// device: it got fewer vectors than queues.
func sharedVector(d *detect.Device) bool {
	n := 0
	for i := range d.Queues {
		if d.Queues[i].Rx {
			n++
			if d.Queues[i].RxIRQ < 0 || d.Queues[i].RxIRQ != d.Queues[0].RxIRQ {
				return false
			}
		}
	}
	return n > 1
}

// wanted reports whether the policy wants this device judged.
func (c *Case) wanted(dev string) bool {
	return len(c.Policy.Devices) == 0 || slices.Contains(c.Policy.Devices, dev)
}

// row finds an interrupt of the last sample, nil if it is not there.
func (c *Case) row(irq int) *detect.IRQ { return c.rows[irq] }

func rowsByNumber(t *detect.IRQTable) map[int]*detect.IRQ {
	out := make(map[int]*detect.IRQ, len(t.Rows))
	for i := range t.Rows {
		out[t.Rows[i].Number] = &t.Rows[i]
	}
	return out
}

// byDevice groups pairs by device in the order of devices.
func byDevice(paths []*path) [][]*path {
	var out [][]*path
	for _, p := range paths {
		if n := len(out); n > 0 && out[n-1][0].dev == p.dev {
			out[n-1] = append(out[n-1], p)
			continue
		}
		out = append(out, []*path{p})
	}
	return out
}

// cpuLoads adds up the interrupts of pairs per CPU. A line that several
// devices share counts once.
func cpuLoads(paths []*path) map[int]uint64 {
	out := map[int]uint64{}
	counted := map[int]bool{}
	for _, p := range paths {
		for _, f := range []fired{p.rx, p.tx} {
			if f.irq < 0 || counted[f.irq] {
				continue
			}
			counted[f.irq] = true
			for cpu, n := range f.cpu {
				out[cpu] += n
			}
		}
	}
	return out
}

// byLoad lists CPUs by falling load, the lowest number first among equals.
func byLoad(loads map[int]uint64) []int {
	return slices.SortedFunc(maps.Keys(loads), func(a, b int) int {
		return cmp.Or(cmp.Compare(loads[b], loads[a]), cmp.Compare(a, b))
	})
}

// busiest is the CPU with the highest value, the lowest number among equals;
// -1 for an empty map.
func busiest[V cmp.Ordered](loads map[int]V) int {
	best := -1
	for _, cpu := range slices.Sorted(maps.Keys(loads)) {
		if best < 0 || loads[cpu] > loads[best] {
			best = cpu
		}
	}
	return best
}

// active reports whether this many interrupts on one CPU in the window are
// worth judging: by softirq time where it is known, else by rate, else by count.
func (c *Case) active(interrupts uint64, cpu int) bool {
	if c.Basis == detect.BasisWindow {
		if share, ok := c.CPU[cpu]; ok && share.Softirq+share.IRQ >= c.At(activeSoftirq) {
			return interrupts > 0
		}
		return c.atLeast(interrupts, c.At(activeRate))
	}
	if c.Window > 0 {
		return c.atLeast(interrupts, c.At(activeAverage))
	}
	if c.Basis == detect.BasisUntimed {
		return interrupts > 0 && float64(interrupts) >= c.At(activeTotal)/100
	}
	return float64(interrupts) >= c.At(activeTotal)
}

func (c *Case) atLeast(n uint64, perSecond float64) bool {
	rate, ok := c.PerSecond(n)
	return ok && rate >= perSecond
}

// hot reports whether a CPU spent a large part of the window on interrupts
// and softirqs. Averages since boot are never hot: they hide idle nights.
func (c *Case) hot(cpu int) bool {
	share, ok := c.CPU[cpu]
	return ok && c.Basis == detect.BasisWindow && share.Softirq+share.IRQ >= c.At(hotSoftirq)
}

// atRest reports whether a device is known to have hardly worked in the window:
// none of its queues' CPUs has an amount of network work worth judging.
func (c *Case) atRest(d *detect.Device) bool {
	known := false
	for _, p := range c.Paths {
		if p.dev != d {
			continue
		}
		known = true
		for cpu, n := range p.interrupts() {
			if c.active(n, cpu) {
				return false
			}
		}
	}
	return known && c.Basis == detect.BasisWindow && len(c.CPU) > 0
}

// quiet is atRest for a device that may work elsewhere than on the CPUs it
// interrupts (RPS), or hide many packets behind few interrupts (moderation).
func (c *Case) quiet(d *detect.Device) bool {
	rate, known := c.packetRate(d)
	return c.atRest(d) && !(known && rate >= c.At(groPackets))
}

// interrupts are those of both sides of a pair, per CPU.
func (p *path) interrupts() map[int]uint64 {
	out := map[int]uint64{}
	for _, f := range []fired{p.rx, p.tx} {
		for cpu, n := range f.cpu {
			out[cpu] += n
		}
	}
	return out
}

// cool reports whether a CPU is known to have had room to spare in the window.
func (c *Case) cool(cpu int) bool {
	_, known := c.CPU[cpu]
	return known && c.Basis == detect.BasisWindow && c.softirq(cpu) < c.At(warmSoftirq)
}

// lossy reports whether a CPU's backlog lost packets worth judging in the window.
func (c *Case) lossy(cpu int) bool {
	d, ok := c.Softnet[cpu]
	return ok && c.Basis == detect.BasisWindow && c.losesMany(d.Dropped, d.Processed)
}

// isolated are the CPUs that must not get network work.
func (c *Case) isolated() cpuset.Set {
	return c.Last.Topo.Isolated.Union(c.Last.Topo.NohzFull)
}
