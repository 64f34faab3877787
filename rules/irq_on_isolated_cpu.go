package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-on-isolated-cpu",
	Title: "network interrupts fire on isolated CPUs",
	Page: Page{
		Meaning:  "CPUs were set apart for latency-critical work (isolcpus, nohz_full, or the site's policy), but network queues interrupt them.",
		Evidence: "The home CPU of each queue (/proc/interrupts) against /sys/devices/system/cpu/isolated and nohz_full, and the CPU roles of the policy.",
		Cause: "Isolation keeps the scheduler away, not interrupts: isolcpus=managed_irq concerns kernel-managed interrupts only, and NIC interrupts are " +
			"almost never managed (kernel/sched/isolation.c, kernel/irq/manage.c).",
		Remedy:      "Move these queues to housekeeping CPUs, and lower the number of channels to what those can serve.",
		SideEffects: "Housekeeping CPUs take the network work.",
		NotWhen:     "The isolated CPUs run the packet-processing application itself (busy polling on its own queue).",
		Source:      "kernel/sched/isolation.c; Documentation/admin-guide/kernel-parameters.txt isolcpus",
		Thresholds:  describe(isolatedRate, activeQueue, activeRate),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.diagnosis.isolated) {
			dev := group[0].dev
			homes := cpuset.Set{}
			for _, p := range group {
				homes = homes.Union(cpuset.Of(p.home()))
			}
			away := c.moved("queue_pairs_on_isolated", 0, "queue pairs")
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  dev.Name,
				Claim:    fmt.Sprintf("%d of %d queue pairs of %s fire on isolated or tickless CPUs %s", len(group), len(dev.Queues), dev.Name, homes),
				Evidence: []plan.Evidence{{Metric: "queue_pairs_on_isolated", Value: float64(len(group)), Unit: "queue pairs", Threshold: 1, Source: "/proc/interrupts, cpu/isolated, cpu/nohz_full"}},
				Wants:    c.affinityWants(group, "isolated CPU", away),
			}
			if !homes.Overlaps(c.isolated()) {
				f.Claim = fmt.Sprintf("%d of %d queue pairs of %s fire on CPUs %s, which the policy keeps free of network work", len(group), len(dev.Queues), dev.Name, homes)
				f.Evidence[0].Source = "/proc/interrupts, the policy"
				f.Wants = c.affinityWants(group, "not a CPU for network work", away)
			}
			if c.allowed(dev).IsEmpty() {
				f.Operator = "no housekeeping CPU is left for network work: give at least one back on the kernel command line"
			}
			out = append(out, f)
		}
		return out
	},
})
