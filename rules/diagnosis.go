package rules

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/topo"
)

// diagnosis is what is wrong with where interrupts fire, worked out once, so
// that several findings about one queue share one placement instead of
// contradicting each other.
type diagnosis struct {
	stacked   []stack            // CPUs that took the work of several queues
	smeared   []*path            // one interrupt over many CPUs
	churned   []*path            // moved again and again between samples
	split     []*path            // the two sides of a pair on different CPUs
	remote    []*path            // on a node that is not the device's
	idling    []*path            // there as well, with next to nothing to do
	isolated  []*path            // on isolated or tickless CPUs
	little    []*path            // on slow cores
	siblings  [][]*path          // two busy pairs on the threads of one core
	defied    map[string][]*path // device → pairs that fire outside their mask
	squatted  []squatted         // pinned threads and queues on one CPU
	placement *placement
}

// stack is one CPU that does the work of several queue pairs while others
// could share it.
type stack struct {
	cpu   int
	pairs []*path // active pairs at home there
	share float64 // of all NIC interrupts
	left  float64 // what the busiest CPU would have after a spreading, as a part of loads
	loads uint64
	// lone is set when not the load but the company is wrong: a device's
	// only pair sits with other devices' queues while a CPU is nearly idle.
	lone bool
	// company are all stacked CPUs where they are too many to name one by one;
	// they make one finding. Empty for a stack that is a finding of its own.
	company cpuset.Set
	// movable are the pairs that the placement may move to mend it.
	movable []*path
}

var (
	stackedShare = threshold("stacked-share", 0.75, "of all NIC interrupts",
		"captured faults show 77 to 100 % of the interrupts on one CPU; healthy hosts with as few as four queues at most 41 %",
		"hosts with two CPUs, where one half is even")
	stackedGain = threshold("stacked-gain", 0.7, "of the present maximum",
		"with one CPU taking nearly everything, a placement that leaves more than 70 % of it there is not worth a change",
		"a cost of moving interrupts that was measured")
	unevenGain = threshold("uneven-gain", 0.53, "of the present maximum",
		"two equally busy queues on one CPU with another one free give 0.5; hash unevenness alone gives 0.6 to 0.8 and must not raise an alarm",
		"per-queue loads from NAPI poll time instead of interrupt counts")
	smearedCPUs = threshold("smeared-cpus", 3, "CPUs",
		"an interrupt that was re-pinned once has fired on two CPUs; delivery by the APIC or churn by irqbalance shows 3.3 of 4 to 7 of 8 (inverse Simpson index)",
		"samples close enough to see single moves")
	smearedAll = threshold("smeared-online-share", 0.8, "of the online CPUs",
		"on two CPUs an even spread is an index of 2.0",
		"nothing known")
	wanderingCPUs = threshold("wandering-cpus", 2.1, "CPUs",
		"an interrupt that was moved once shows at most 2.0 (inverse Simpson index); with more, one beside a smeared queue of its device wanders as well",
		"samples close enough to see single moves")
	homeShare = threshold("home-share", 0.5, "of an interrupt's count",
		"with less than one half on one CPU the interrupt has no home",
		"nothing known")
	loneRatio = threshold("lone-ratio", 0.5, "of the shared CPU's load",
		"moving a device's only queue pays when the new CPU carries less than one half of what the old one carries besides it",
		"measured cost per interrupt")
	lonePart = threshold("lone-part", 0.05, "of the shared CPU's load",
		"interrupt counts over ten seconds repeat within some 5 %: what leaves less than that behind cannot be seen to help",
		"measured cost per interrupt")
	isolatedRate = threshold("isolated-interrupt-rate", 100, "1/s",
		"CPUs are isolated to run without interruption; a hundred interrupts a second, each with its softirq, are as many as the timer tick that nohz_full removes at HZ=100",
		"real-time budgets in which any interrupt is too many")
	neverMovedTotal = threshold("never-moved-interrupts", 10_000, "interrupts",
		"an interrupt that fired ten thousand times on one CPU and never elsewhere has had its chance to follow the mask",
		"a second sample, which shows the present")
	defiedShare = threshold("outside-mask-share", 0.9, "of an interrupt's count",
		"an interrupt may fire a few times on the old CPU before a deferred move takes effect (arch/x86/kernel/apic/msi.c); nine tenths outside the mask is no delay",
		"windows with fewer than 100 interrupts")
)

func (c *Case) diagnose() {
	c.diagnosis = &diagnosis{}
	d := c.diagnosis
	d.defied = map[string][]*path{}
	restless := map[*detect.Device]bool{}
	for _, p := range c.Paths {
		restless[p.dev] = restless[p.dev] || c.busyPath(p) && p.wide() >= c.smearLimit()
	}
	for _, p := range c.Paths {
		if c.defies(p) {
			d.defied[p.dev.Name] = append(d.defied[p.dev.Name], p)
		}
		isolated := c.onIsolated(p) && c.disturbs(p)
		if !c.busyPath(p) && !isolated {
			continue
		}
		if float64(max(p.rx.moves, p.tx.moves)) >= c.At(churnMoves) {
			d.churned = append(d.churned, p)
		}
		switch {
		case c.smeared(p, restless[p.dev]) && !isolated:
			d.smeared = append(d.smeared, p)
		case isolated:
			d.isolated = append(d.isolated, p)
		case c.onRemoteNode(p):
			d.remote = append(d.remote, p)
		case c.onLittle(p):
			d.little = append(d.little, p)
		}
	}
	c.findIdling()
	c.findSplits()
	c.findStacks()
	c.findSiblings()
	c.findSquatted()
}

// busyPath reports whether a pair takes part in the judgement at all: it has
// a part in the load of a CPU that has any to speak of.
func (c *Case) busyPath(p *path) bool {
	home := p.home()
	return p.share >= c.At(activeQueue) && home >= 0 && c.active(c.loads[home], home)
}

// smeared reports whether an interrupt of a pair has no CPU of its own. Beside
// a queue of the same device that certainly has none, wandering is enough.
func (c *Case) smeared(p *path, restless bool) bool {
	if c.Last.Topo.Online.Len() < 2 {
		return false
	}
	return p.wide() >= c.smearLimit() || restless && p.wide() >= c.At(wanderingCPUs)
}

// smearLimit is over how many CPUs an interrupt of this host must have fired.
func (c *Case) smearLimit() float64 {
	return min(c.At(smearedCPUs), c.At(smearedAll)*float64(max(2, c.Last.Topo.Online.Len())))
}

// disturbs reports whether a pair interrupts its CPU often enough to hurt one
// that is kept free of interrupts. Totals since boot fall back on what is busy
// anywhere: the CPU may have been isolated by moving them away.
func (c *Case) disturbs(p *path) bool {
	return c.busyPath(p) || c.Basis == detect.BasisWindow && c.atLeast(p.load, c.At(isolatedRate))
}

// onIsolated reports whether a pair fires where network work must not go: on
// isolated and tickless CPUs, and on those that the policy gives another role.
func (c *Case) onIsolated(p *path) bool {
	home := p.home()
	if home < 0 || c.isolated().Has(home) {
		return home >= 0
	}
	return c.Last.AllowedCPUs().Has(home) && !c.allowed(p.dev).Has(home)
}

func (c *Case) onRemoteNode(p *path) bool {
	t := c.Last.Topo
	home := p.home()
	if home < 0 || p.dev.Node == topo.Unknown || !t.NUMATrusted() {
		return false
	}
	local := t.NodeCPUs(p.dev.Node).Intersect(c.interruptible(p.dev))
	return !local.IsEmpty() && t.NodeOf(home) != topo.Unknown && t.NodeOf(home) != p.dev.Node
}

// findSplits lists the pairs of a device that are split, if one of them works
// hard enough to be judged: what took one pair apart took the others apart as
// well, and one that is mended alone leaves masks that fit none of the others.
func (c *Case) findSplits() {
	d := c.diagnosis
	hurts := map[*detect.Device]bool{}
	for _, p := range c.Paths {
		if c.busyPath(p) && c.pairSplit(p) && c.active(p.tx.total, p.tx.home) {
			hurts[p.dev] = true
		}
	}
	for _, p := range c.Paths {
		if hurts[p.dev] && p.share >= c.At(activeQueue) && (c.pairSplit(p) || c.silentApart(p)) {
			d.split = append(d.split, p)
		}
	}
}

// pairSplit reports whether the two interrupts of a pair have different
// homes. A device with a single pair is left alone: there the transmit
// completions on a second CPU relieve the first, and captured healthy guests
// look like that.
func (c *Case) pairSplit(p *path) bool {
	if len(p.dev.Queues) < 2 || !paired(p.dev) {
		return false
	}
	clear := c.At(homeShare)
	if c.Basis == detect.BasisBoot {
		clear = c.At(defiedShare) // what was moved in the meantime shows two homes that are none
	}
	both := p.rx.share >= clear && p.tx.share >= clear
	used := p.tx.total > 0 && float64(p.tx.total) >= c.At(activeQueue)*float64(p.rx.total)
	return both && used && p.rx.home != p.tx.home
}

// silentApart reports whether a pair's transmit interrupt, which hardly fires
// because XPS now sends on other queues, will fire on another CPU than the receive
// interrupt as soon as it does. Beside pairs that are split it is one of them.
func (c *Case) silentApart(p *path) bool {
	row := c.row(p.tx.irq)
	if row == nil || p.rx.share < c.At(homeShare) || float64(p.tx.total) >= c.At(activeQueue)*float64(p.rx.total) {
		return false
	}
	next := row.Effective
	if next.IsEmpty() {
		next = row.Affinity
	}
	return row.HasSMP && next.Len() == 1 && !next.Has(p.rx.home)
}

// paired reports whether every queue of a device has an interrupt for either
// side. A driver with one transmit vector for several receive vectors (tg3) has
// no pairs to keep together.
func paired(d *detect.Device) bool {
	return !slices.ContainsFunc(d.Queues, func(q detect.Queue) bool { return q.RxIRQ < 0 || q.TxIRQ < 0 || q.RxIRQ == q.TxIRQ })
}

// defies reports whether a pair's interrupts fire where their mask does not
// allow: the platform ignores the setting. The effective mask lags behind
// while a move is pending (kernel/irq/proc.c), so only counts decide.
func (c *Case) defies(p *path) bool {
	for _, f := range []fired{p.rx, p.tx} {
		row := c.row(f.irq)
		if f.irq < 0 || row == nil || !row.HasSMP || row.Affinity.IsEmpty() || f.total < 100 {
			continue
		}
		if c.Basis != detect.BasisWindow && c.Basis != detect.BasisUntimed && !c.neverMoved(f) {
			continue
		}
		if c.maskChanged(f.irq) {
			continue
		}
		var outside uint64
		for cpu, n := range f.cpu {
			if !row.Affinity.Has(cpu) {
				outside += n
			}
		}
		if float64(outside) >= c.At(defiedShare)*float64(f.total) {
			return true
		}
	}
	return false
}

// neverMoved reports whether totals since boot can stand for the present: an
// interrupt that fired on one CPU alone, often enough to have shown a move.
func (c *Case) neverMoved(f fired) bool {
	return len(f.cpu) == 1 && float64(f.total) >= c.At(neverMovedTotal)
}

func (c *Case) maskChanged(irq int) bool {
	before, now := c.firstRows[irq], c.row(irq)
	return before == nil || now == nil || before.Affinity != now.Affinity
}

// findStacks looks for CPUs that do the work of several pairs, busiest first.
// What one stack would give away counts as load when the next is judged, so
// that several stacks do not all count on the same idle CPU.
func (c *Case) findStacks() {
	busy := slices.DeleteFunc(slices.Clone(c.Paths), func(p *path) bool { return !c.busyPath(p) })
	if len(busy) == 0 || c.interruptibleAny().Len() < 2 {
		return
	}
	var all uint64
	for _, n := range c.loads {
		all += n
	}
	loads := maps.Clone(c.loads)
	for _, cpu := range byLoad(c.loads) {
		at := unfixed(pairsAt(busy, cpu))
		if !c.active(c.loads[cpu], cpu) || len(at) < 2 {
			continue
		}
		share := float64(c.loads[cpu]) / float64(all)
		spread, reach := c.spreadOut(at, loads, cpu)
		left := float64(reach) / float64(c.loads[cpu])
		if left > c.gainAsked(cpu, share) || !c.pressing(cpu, share) && c.outdone(cpu, loads) {
			continue
		}
		loads = spread
		movable := at
		for _, p := range c.Paths { // idle queues of the same devices wake when flows change
			if !slices.Contains(at, p) && sameDevice(p, at) && c.wouldFireOn(p, cpu) {
				movable = append(movable, p)
			}
		}
		c.diagnosis.stacked = append(c.diagnosis.stacked,
			stack{cpu: cpu, pairs: at, share: share, left: left, loads: c.loads[cpu], movable: unfixed(movable)})
	}
	if before, after := c.loads[busiest(c.loads)], loads[busiest(loads)]; float64(after) > c.At(stackedGain)*float64(before) {
		// Others have nearly as much and keep it: uneven, as any spreading by chance is.
		c.diagnosis.stacked = slices.DeleteFunc(c.diagnosis.stacked, func(s stack) bool { return !c.pressing(s.cpu, s.share) })
	}
	c.joinStacks()
	if len(c.diagnosis.stacked) == 0 && c.active(c.loads[busiest(c.loads)], busiest(c.loads)) {
		c.findLonePairs(busy, c.loads, all)
	}
}

// joinStacks makes one finding of many alike: with more than three CPUs to name,
// people want to read which and not the same sentence for each.
func (c *Case) joinStacks() {
	const separate = 3
	stacked := c.diagnosis.stacked
	if len(stacked) <= separate {
		return
	}
	var company []int
	for _, s := range stacked {
		company = append(company, s.cpu)
	}
	for i := range stacked {
		stacked[i].company = cpuset.Of(company...)
	}
}

// subject is what the finding about a stack is about.
func (s *stack) subject() string {
	if s.company.IsEmpty() {
		return cpuName(s.cpu)
	}
	return "CPUs " + s.company.String()
}

// cpus are those that the finding about a stack is about.
func (s *stack) cpus() cpuset.Set {
	if s.company.IsEmpty() {
		return cpuset.Of(s.cpu)
	}
	return s.company
}

// because names the stack as the cause of something else.
func (s *stack) because() string { return "irq-stacked/" + s.subject() }

// gainAsked is what must be left at most of a CPU's load, as a part of it,
// for a spreading to be worth it. Where one CPU takes nearly everything or has
// no time left, less of a relief is asked than where a hash is merely uneven.
func (c *Case) gainAsked(cpu int, share float64) float64 {
	if c.pressing(cpu, share) {
		return c.At(stackedGain)
	}
	return c.At(unevenGain)
}

// pressing reports whether a CPU takes nearly everything or has no time left.
func (c *Case) pressing(cpu int, share float64) bool {
	return share >= c.At(stackedShare) || c.hot(cpu) || c.lossy(cpu)
}

// outdone reports whether another CPU has clearly more to do and keeps it:
// relieving this one would not change what the busiest has.
func (c *Case) outdone(cpu int, loads map[int]uint64) bool {
	most := loads[busiest(loads)]
	return float64(loads[cpu]) < (1-c.At(moveGain))*float64(most)
}

// spreadOut gives the pairs of one CPU, heaviest first, to the CPUs of their
// node that have the least load, and returns the loads then and the largest
// among the CPUs that took part.
func (c *Case) spreadOut(at []*path, loads map[int]uint64, cpu int) (after map[int]uint64, reach uint64) {
	after = maps.Clone(loads)
	for _, p := range at {
		after[cpu] -= min(after[cpu], p.load)
	}
	heaviest := slices.SortedStableFunc(slices.Values(at), func(a, b *path) int { return cmp.Compare(b.load, a.load) })
	reach = after[cpu]
	for _, p := range heaviest {
		best := cpu
		for _, to := range c.interruptCPUs(p.dev).CPUs() {
			if after[to] < after[best] {
				best = to
			}
		}
		after[best] += min(p.load, loads[cpu])
		reach = max(reach, after[best])
	}
	return after, reach
}

// wouldFireOn reports whether a pair fires on a CPU, or would if it got work.
func (c *Case) wouldFireOn(p *path, cpu int) bool {
	if p.load > 0 {
		return p.home() == cpu
	}
	for _, f := range []fired{p.rx, p.tx} {
		if row := c.row(f.irq); f.irq >= 0 && row != nil && row.HasSMP && (row.Effective.Has(cpu) || row.Effective.IsEmpty() && row.Affinity.Min() == cpu) {
			return true
		}
	}
	return false
}

// findLonePairs looks for a device whose only busy pair shares a CPU with
// other devices' queues although a nearly idle CPU is there.
func (c *Case) findLonePairs(busy []*path, loads map[int]uint64, all uint64) {
	found := map[int]*stack{}
	taken := c.otherInterrupts()
	for _, group := range byDevice(busy) {
		if len(group) != 1 || group[0].fixed != "" || len(group[0].dev.Queues) > 1 {
			continue
		}
		p := group[0]
		home := p.home()
		company := pairsAt(busy, home)
		if len(company) < 2 && !c.sharedLineAt(home) || float64(p.load) < c.At(lonePart)*float64(loads[home]) {
			continue
		}
		others := loads[home] - min(loads[home], p.load)
		idlest := idlestCPU(c.interruptible(p.dev), loads, taken)
		if idlest < 0 || float64(loads[idlest]+taken[idlest]) >= c.At(loneRatio)*float64(others) || float64(others) < c.At(activeQueue)*float64(all) {
			continue
		}
		if found[home] == nil {
			found[home] = &stack{cpu: home, pairs: company, lone: true, loads: loads[home], share: float64(loads[home]) / float64(all)}
		}
		found[home].movable = append(found[home].movable, p)
		taken[idlest] += p.load
	}
	for _, cpu := range slices.Sorted(maps.Keys(found)) {
		c.diagnosis.stacked = append(c.diagnosis.stacked, *found[cpu])
	}
}

// sharedLineAt reports whether a NIC on a shared interrupt line, which must
// not be moved, is busy on this CPU.
func (c *Case) sharedLineAt(cpu int) bool {
	return slices.ContainsFunc(c.Paths, func(p *path) bool {
		return p.fixed != "" && p.home() == cpu && c.busyPath(p)
	})
}

// otherInterrupts are those of devices that are no NICs of this host's, or not
// known as such (wireless cards are named after their drivers), by CPU. Timers
// and interrupts between CPUs are not devices.
func (c *Case) otherInterrupts() map[int]uint64 {
	out := map[int]uint64{}
	for irq, d := range c.IRQ {
		row := c.row(irq)
		if row == nil || row.Device != "" || strings.HasPrefix(row.Chip, "xen-percpu") || slices.ContainsFunc(row.Actions, perCPUInterrupt.MatchString) {
			continue
		}
		for cpu, n := range d.CPU {
			out[cpu] += n
		}
	}
	return out
}

// perCPUInterrupt names interrupts that every CPU has of its own
// (drivers/clocksource, arch/*/kernel/smp.c).
var perCPUInterrupt = regexp.MustCompile(`(?i)timer|^(twd|gt|ipi.*|.*pmu)$`)

func idlestCPU(of cpuset.Set, loads, taken map[int]uint64) int {
	best := -1
	for cpu := range of.All() {
		if best < 0 || loads[cpu]+taken[cpu] < loads[best]+taken[best] {
			best = cpu
		}
	}
	return best
}

// pairsAt lists the pairs whose home is this CPU.
func pairsAt(paths []*path, cpu int) []*path {
	var out []*path
	for _, p := range paths {
		if p.home() == cpu {
			out = append(out, p)
		}
	}
	return out
}

func sameDevice(p *path, others []*path) bool {
	return slices.ContainsFunc(others, func(o *path) bool { return o.dev == p.dev })
}

func unfixed(paths []*path) []*path {
	return slices.DeleteFunc(slices.Clone(paths), func(p *path) bool { return p.fixed != "" })
}

// local are the allowed CPUs of a device's node, or all allowed CPUs where
// the node is unknown, not to be trusted, or has no allowed CPU.
func (c *Case) local(d *detect.Device) cpuset.Set { return c.nearest(d, c.allowed(d)) }

// nearest are those of some CPUs that are on a device's node, all of them where none is.
func (c *Case) nearest(d *detect.Device, cpus cpuset.Set) cpuset.Set {
	t := c.Last.Topo
	if d.Node == topo.Unknown || !t.NUMATrusted() {
		return cpus
	}
	if local := t.NodeCPUs(d.Node).Intersect(cpus); !local.IsEmpty() {
		return local
	}
	return cpus
}
