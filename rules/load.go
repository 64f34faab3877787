package rules

import (
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/natural"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

// pairLoad is how much each queue pair makes each CPU work: time spent polling
// it where the probes measured that for every busy pair, else its part of all
// NIC interrupts.
type pairLoad struct {
	timed bool
	pairs map[*path]map[int]float64
	// other is softirq work on a CPU that belongs to no pair; it stays where
	// it is. Known only with times.
	other map[int]float64
}

// of is a pair's load on all CPUs together.
func (l *pairLoad) of(p *path) float64 {
	sum := 0.0
	for _, cpu := range slices.Sorted(maps.Keys(l.pairs[p])) {
		sum += l.pairs[p][cpu]
	}
	return sum
}

func (l *pairLoad) metric() string {
	if l.timed {
		return "max_cpu_softirq_share"
	}
	return "max_cpu_interrupt_share"
}

func (l *pairLoad) unit() string {
	if l.timed {
		return "of a CPU"
	}
	return "of NIC interrupts"
}

// localLimit is when the solver may call a node saturated: only times tell.
func (l *pairLoad) localLimit() float64 {
	if l.timed {
		return 0 // the solver's default, a share of a CPU
	}
	return -1
}

func (c *Case) measureLoad() pairLoad {
	if l, ok := c.timedLoad(); ok {
		return l
	}
	l := pairLoad{pairs: map[*path]map[int]float64{}}
	for _, p := range c.Paths {
		l.pairs[p] = map[int]float64{}
	}
	for _, p := range c.Paths {
		each := p.share / float64(max(p.load, 1))
		for cpu, n := range p.rx.cpu {
			l.pairs[p][cpu] += each * float64(n)
		}
		for sender, part := range c.sendersOn(p) {
			for cpu, n := range p.tx.cpu {
				l.pairs[sender][cpu] += part * each * float64(n)
			}
		}
	}
	return l
}

// sendersOn are the pairs that send on a pair's transmit queue, each with its part:
// the pair itself, and those whose receiving CPU XPS sends there and not to their
// own queue. Answers and what is forwarded leave from the CPU that received
// (net/core/dev.c get_xps_queue), so that these transmit interrupts come with the
// pairs that cause them once each has a CPU that XPS sends to its own queue.
func (c *Case) sendersOn(p *path) map[*path]float64 {
	mask, sum := c.xpsMask(p), 0.0
	out := map[*path]float64{}
	for _, from := range c.Paths {
		home := from.rx.home
		if from.dev != p.dev || !from.queue.Rx || from.rx.total == 0 || !mask.Has(home) || from != p && c.xpsMask(from).Has(home) {
			continue
		}
		out[from] = float64(from.rx.total)
		sum += out[from]
	}
	for from := range out {
		out[from] /= sum
	}
	if len(out) == 0 {
		out[p] = 1
	}
	return out
}

// timedLoad is the load from the probes' poll times; false unless every pair
// with a noticeable part of the interrupts was seen polling.
func (c *Case) timedLoad() (pairLoad, bool) {
	if c.Probes == nil || c.Probes.AttachedNs == 0 || c.Basis != detect.BasisWindow {
		return pairLoad{}, false
	}
	l := pairLoad{timed: true, pairs: map[*path]map[int]float64{}, other: map[int]float64{}}
	around, polled := c.aroundPolls(), map[*path]bool{}
	for _, n := range c.Probes.NAPIs {
		p, sends := c.pathOf(n)
		if p == nil || n.SoftirqNs() == 0 {
			continue
		}
		polled[p] = true
		causes := map[*path]float64{p: 1}
		if sends {
			causes = c.sendersOn(p)
		}
		for by, part := range causes {
			if l.pairs[by] == nil {
				l.pairs[by] = map[int]float64{}
			}
			l.pairs[by][n.CPU] += part * n.SoftirqNs() * around[n.CPU] / float64(c.Probes.AttachedNs)
		}
	}
	claimed := map[int]float64{}
	for _, p := range c.Paths {
		if p.share >= c.At(activeQueue) && !polled[p] {
			return pairLoad{}, false
		}
		addLoads(claimed, l.pairs[p])
	}
	for cpu, share := range c.CPU {
		l.other[cpu] = max(0, min(1, share.Softirq+share.IRQ)-claimed[cpu])
	}
	return l, len(claimed) > 0
}

// aroundPolls is, by CPU, how much longer its receive softirqs ran than the
// polls in them, 1 where that is not known. Entering and leaving the softirq,
// finishing GRO and waking readers belong to the queues polled, in proportion,
// and move with them. Time in which the hypervisor had the CPU does not.
func (c *Case) aroundPolls() map[int]float64 {
	polls, lost, out := map[int]uint64{}, map[int]uint64{}, map[int]float64{}
	for _, n := range c.Probes.NAPIs {
		polls[n.CPU] += n.TimeNs
		lost[n.CPU] += n.LongNs
		out[n.CPU] = 1
	}
	for _, cpu := range c.Probes.CPUs {
		runs := cpu.Softirq["NET_RX"].TimeNs
		runs -= min(runs, lost[cpu.CPU])
		if polls[cpu.CPU] > 0 && runs > polls[cpu.CPU] {
			out[cpu.CPU] = float64(runs) / float64(polls[cpu.CPU])
		}
	}
	return out
}

// pathOf is the pair that a NAPI serves, and whether it sends. Transmit NAPIs have
// no id; theirs is the pair whose transmit interrupt fires on that CPU, if there is
// only one.
func (c *Case) pathOf(n counters.NAPI) (p *path, sends bool) {
	var transmit []*path
	for _, p := range c.Paths {
		if p.dev.Name != n.Device || !c.isDevice(p.dev, n.NetNS, n.IfIndex) {
			continue
		}
		if n.ID != 0 && p.queue.NAPI == int(n.ID) || n.Kind == "virtio-rx" && p.queue.Rx && p.queue.N == n.Queue {
			return p, false
		}
		if n.ID == 0 && p.tx.irq >= 0 && p.tx.home == n.CPU {
			transmit = append(transmit, p)
		}
	}
	if len(transmit) == 1 {
		return transmit[0], true
	}
	return nil, false
}

// report says what the placement does to each CPU, nil if nothing is moved.
func (c *Case) report() []plan.Placement {
	if c.diagnosis.placement == nil || len(c.diagnosis.placement.cpu) == 0 {
		return nil
	}
	placed := c.diagnosis.placement
	out := plan.Placement{Basis: c.load.unit(), PredictedMax: *rounded(placed.predicted()), LowerBound: *rounded(placed.bound)}
	var devices []string
	for p := range placed.cpu {
		devices = append(devices, p.dev.Name)
	}
	slices.SortFunc(devices, natural.Compare)
	out.Device = strings.Join(slices.Compact(devices), ",")
	for _, cpu := range slices.Sorted(maps.Keys(placed.before)) {
		before, after := placed.before[cpu], placed.after[cpu]
		out.BeforeMax = max(out.BeforeMax, *rounded(before))
		if before >= 0.001 || after >= 0.001 {
			out.CPUs = append(out.CPUs, plan.CPULoad{CPU: cpu, Before: *rounded(before), Predicted: *rounded(after)})
		}
	}
	return []plan.Placement{out}
}
