package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-smt-shared",
	Title: "two busy queues share one core while another core is free",
	Page: Page{
		Meaning:     "Two queues are served by the two hardware threads of one core. Together they get little more than one core's work done, while a whole core has no queue.",
		Evidence:    "The home CPUs of the queues, the siblings of each core, and softirq time of its threads over the window.",
		Cause:       "Placement by CPU number on machines whose siblings are numbered next to each other, or by a balancer that does not look at cores.",
		Remedy:      "Move one of the two to the free core.",
		SideEffects: "None.",
		NotWhen:     "All cores of the node already serve a queue.",
		Source:      "Documentation/networking/scaling.rst: for interrupt handling, hyperthreading has shown no benefit",
		Thresholds:  describe(warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, shared := range c.diagnosis.siblings {
			a, b := shared[0], shared[len(shared)-1]
			f := plan.Finding{
				Severity: plan.Advice, Subject: cpuName(a.home()),
				Claim: fmt.Sprintf("%s and %s are served by CPU %d and CPU %d, two threads of one core, while a core has no queue",
					a.id(), b.id(), a.home(), b.home()),
				Evidence: append(c.cpuEvidence(a.home()), c.cpuEvidence(b.home())...),
				Wants:    c.affinityWants(shared, "busy queues on one core", c.moved("queue_pairs_sharing_a_core", 0, "queue pairs")),
			}
			if len(shared) > 2 {
				f.Claim = fmt.Sprintf("%d queue pairs (%s) are served by threads of one core, CPUs %s, while a core has no queue",
					len(shared), pairNames(shared), homesOf(shared))
			}
			out = append(out, f)
		}
		return out
	},
})

var warmSoftirq = threshold("warm-softirq-share", 0.2, "of a CPU",
	"below one fifth of its time a CPU has room for a sibling's work as well",
	"latency budgets below 100 µs")

// findSiblings looks for pairs of busy queues on two threads of one core while
// an allowed core of the same node serves no queue.
func (c *Case) findSiblings() {
	if !c.Last.Topo.Known.SMT || c.Basis != detect.BasisWindow {
		return
	}
	cores := map[int][]*path{}
	for _, p := range c.Paths {
		home := p.home()
		if c.busyPath(p) && p.fixed == "" && c.CPU[home].Softirq+c.CPU[home].IRQ >= c.At(warmSoftirq) {
			cores[c.core(home)] = append(cores[c.core(home)], p)
		}
	}
	for _, core := range slices.Sorted(maps.Keys(cores)) {
		pairs := cores[core]
		if homesOf(pairs).Len() > 1 && c.freeCore(pairs[len(pairs)-1].dev) {
			c.diagnosis.siblings = append(c.diagnosis.siblings, pairs)
		}
	}
}

// homesOf are the CPUs that serve these pairs.
func homesOf(pairs []*path) cpuset.Set {
	out := cpuset.Set{}
	for _, p := range pairs {
		out = out.Union(cpuset.Of(p.home()))
	}
	return out
}

// freeCore reports whether a core near the device serves no queue at all. An
// idle queue of the device counts: the flows that it lacks now may come to it
// next, or the table of the NIC keeps them from it, which is another fault.
func (c *Case) freeCore(d *detect.Device) bool {
	taken := map[int]bool{}
	for cpu, n := range c.loads {
		if n > 0 {
			taken[c.core(cpu)] = true
		}
	}
	for cpu := range c.interruptCPUs(d).All() {
		if !taken[c.core(cpu)] && !c.idleQueueOn(d, c.core(cpu)) {
			return true
		}
	}
	return false
}

// idleQueueOn reports whether a queue of the device without work would interrupt
// a thread of the core.
func (c *Case) idleQueueOn(d *detect.Device, core int) bool {
	return slices.ContainsFunc(c.Paths, func(p *path) bool {
		if p.dev != d || p.load > 0 {
			return false
		}
		for cpu := range c.Last.Topo.Online.All() {
			if c.core(cpu) == core && c.wouldFireOn(p, cpu) {
				return true
			}
		}
		return false
	})
}
