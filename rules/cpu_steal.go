package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "cpu-steal",
	Title: "the hypervisor takes CPU time from this guest",
	Page: Page{
		Meaning:     "The virtual CPUs were ready to run but the hypervisor ran something else. Packets wait, softirq runs seem long, and squeezes by time appear, all without a fault in this guest.",
		Evidence:    "Steal time per CPU (/proc/stat) over the window.",
		Cause:       "An overcommitted host, or a CPU quota of the instance.",
		Remedy:      "None inside the guest: move it, or give it dedicated CPUs. Do not raise budgets for it.",
		SideEffects: "None.",
		NotWhen:     "Burstable instances that have used up their credit: then the number is the price list.",
		Source:      "Documentation/filesystems/proc.rst (steal); kernel/sched/cputime.c",
		Thresholds:  describe(stealShare),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Basis != detect.BasisWindow {
			return nil
		}
		steal := map[int]float64{}
		for cpu, share := range c.CPU {
			if share.Steal >= c.At(stealShare) && share.Ticks >= 100 {
				steal[cpu] = share.Steal
			}
		}
		cpu := busiest(steal)
		if cpu < 0 {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Advice,
			Subject:  "host",
			Claim:    fmt.Sprintf("the hypervisor took %s of CPU %d's time (%d CPUs above %s)", percent(steal[cpu]), cpu, len(steal), percent(c.At(stealShare))),
			Evidence: []plan.Evidence{{Metric: "steal_share", Value: steal[cpu], Unit: "of the CPU's time", Threshold: c.At(stealShare), Source: "/proc/stat"}},
			Operator: "the host is overcommitted or a quota applies: no setting in this guest helps",
		}}
	},
})

var stealShare = threshold("steal-share", 0.1, "of a CPU (steal)",
	"one tenth is a packet delay of milliseconds every few scheduler periods; below it, steal is normal on shared hosts",
	"latency budgets")
