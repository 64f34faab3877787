package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "rps-narrows",
	Title: "RPS gathers on few CPUs what the NIC's queues had spread over more",
	Page: Page{
		Meaning: "The queues of the device interrupt several CPUs, and RPS then hands all their packets to fewer: the CPUs of the masks are the ceiling, " +
			"and every batch costs an inter-processor interrupt to get there.",
		Evidence:    "The CPUs of all rps_cpus masks of the device against the CPUs where its queues interrupt, and the share of packets that those CPUs processed (/proc/net/softnet_stat).",
		Cause:       "A mask written for a machine with one queue, or the same mask written to every queue.",
		Remedy:      "Clear rps_cpus: each queue's packets are then processed where it interrupts. If those CPUs become saturated, rps-needed names better masks.",
		SideEffects: "Flows move to the CPU of their queue; reordering for a moment.",
		NotWhen:     "The CPUs of the masks are set apart for packets on purpose. Say so in a policy (cpus), and nothing is found; or RFS steers packets to the reading threads.",
		Source:      "net/core/dev.c get_rps_cpu; Documentation/networking/scaling.rst (\"RPS Configuration\")",
		Thresholds:  describe(stackedShare, activeQueue, activeRate, activeSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.narrowed(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

// narrowed judges the masks of all busy queues of a device together.
func (c *Case) narrowed(d *detect.Device) (plan.Finding, bool) {
	if c.Basis != detect.BasisWindow || c.rfsOn() || c.rpsPointless(d) {
		return plan.Finding{}, false
	}
	busy, ok := c.steeringOf(d, func(q steered) bool { return !c.busySteered(q.path, q.mask) })
	if !ok || slices.ContainsFunc(busy, func(q steered) bool { return q.mask.IsEmpty() }) {
		return plan.Finding{}, false
	}
	homes, targets := busy.homes(), busy.targets()
	if c.allHot(homes) && c.allHot(targets) {
		return plan.Finding{}, false // there is no way back: once they are full, rps-covers-irq-cpu names CPUs with time
	}
	share, known := c.processedBy(targets)
	if targets.Len() >= homes.Len() || targets.Contains(c.Allowed) || !known || share < c.At(stackedShare) {
		return plan.Finding{}, false
	}
	return plan.Finding{
		Severity: c.harm(targets),
		Subject:  d.Name,
		Claim: fmt.Sprintf("RPS has CPU %s process %s of the packets, while the queues of %s interrupt %d CPUs (%s)",
			targets, percent(share), d.Name, homes.Len(), homes),
		Evidence: append([]plan.Evidence{{Metric: "softnet_processed_share", Value: share, Unit: "of all", Threshold: c.At(stackedShare), Source: "/proc/net/softnet_stat"}},
			c.cpuEvidence(targets.Min())...),
		Wants: busy.leave("RPS gathers packets on fewer CPUs than interrupts have"),
	}, true
}

// processedBy is the part of all packets that went up the stack on these CPUs.
func (c *Case) processedBy(cpus cpuset.Set) (float64, bool) {
	var there, all uint64
	for cpu, d := range c.Softnet {
		all += d.Processed
		if cpus.Has(cpu) {
			there += d.Processed
		}
	}
	if all == 0 {
		return 0, false
	}
	return float64(there) / float64(all), true
}

// harm is a problem where one of the CPUs is saturated or loses packets.
func (c *Case) harm(cpus cpuset.Set) plan.Severity {
	for cpu := range cpus.All() {
		if c.hot(cpu) || c.lossy(cpu) {
			return plan.Problem
		}
	}
	return plan.Advice
}
