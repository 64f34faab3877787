package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "cpu-saturated",
	Title: "a CPU spends its time in receive softirqs and cannot keep up",
	Page: Page{
		Meaning: "One CPU is busy with network work for most of the window, and work is left over when its softirq run ends. No limit or queue length changes that: " +
			"only giving part of the work to other CPUs does.",
		Evidence:    "Softirq time of the CPU (/proc/stat), its squeezes and drops (softnet_stat), and how full its polls are (probes).",
		Cause:       "More packets than one CPU can process: stacked interrupts, one queue, or one flow.",
		Remedy:      "Spread: queues and interrupts first (irq-stacked, queues-unused, rss-skew), then RPS. Raising netdev_budget only makes everything else on the CPU wait longer.",
		SideEffects: "Those of the spreading.",
		NotWhen:     "The CPU is dedicated to this and nothing is lost.",
		Source:      "net/core/dev.c net_rx_action; kernel/softirq.c handle_softirqs (ksoftirqd)",
		Thresholds:  describe(hotSoftirq, squeezeRate, fullPolls),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, s := range c.squeezes() {
			if !c.hot(s.cpu) || s.polled && s.polling.fullShare() < c.At(fullPolls) {
				continue
			}
			share := c.CPU[s.cpu]
			f := plan.Finding{
				Severity: plan.Problem,
				Subject:  cpuName(s.cpu),
				Claim: fmt.Sprintf("CPU %d spends %s of its time in softirqs and left work over %d times: spreading helps, no budget does",
					s.cpu, percent(share.Softirq+share.IRQ), s.count),
				Evidence: c.squeezeEvidence(s),
				Because:  c.stackedAt(s.cpu),
			}
			if now, tooSmall := c.budgetTooSmall(); tooSmall {
				f.Claim = fmt.Sprintf("CPU %d spends %s of its time in softirqs and left work over %d times: spreading helps, and a budget above %d",
					s.cpu, percent(share.Softirq+share.IRQ), s.count, now)
			}
			if c.Last.Topo.Online.Len() == 1 {
				f.Claim = fmt.Sprintf("the only CPU spends %s of its time in softirqs and left work over %d times: no budget helps", percent(share.Softirq+share.IRQ), s.count)
				f.Operator = "this machine has one CPU and nothing to spread to: fewer packets (GRO, larger ones) or a larger machine"
			}
			if !s.polled {
				f.Missing = append(f.Missing, "probes: how full the polls are, and why the runs ended")
			}
			out = append(out, f)
		}
		return out
	},
})
