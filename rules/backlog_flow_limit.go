package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "backlog-flow-limit",
	Title: "the flow limit drops packets of the heaviest flows",
	Page: Page{
		Meaning:     "A backlog is more than half full, and the kernel drops packets of the flow that fills it, to protect the others. That is the flow limit at work.",
		Evidence:    "flow_limit_count of softnet_stat over the window; it is counted on the CPU that puts packets into the backlog, not on the one whose backlog is full.",
		Cause:       "One flow sends faster than its CPU processes.",
		Remedy:      "None, if small flows matter more. Else spread or slow down the heavy flow.",
		SideEffects: "None.",
		NotWhen:     "It does what it was switched on for.",
		Source:      "net/core/dev.c skb_flow_limit; Documentation/networking/scaling.rst (RPS flow limit)",
		Thresholds:  describe(backlogRate, lossCount, lossShare),
	},
	Eval: func(c *Case) []plan.Finding {
		var total, handled uint64
		for _, d := range c.Softnet {
			total += d.FlowLimit
			handled += d.Processed
		}
		if c.Basis != detect.BasisWindow || !c.losesMany(total, handled) {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("the flow limit dropped %d packets of the heaviest flows", total),
			Evidence: []plan.Evidence{{Metric: "flow_limit_drops", Value: float64(total), Unit: "packets", Source: "/proc/net/softnet_stat column 11"}},
		}}
	},
})
