package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "affinity-drift",
	Title: "somebody changed interrupt masks while this tool was measuring",
	Page: Page{
		Meaning:     "The affinity of queue interrupts was not the same at the end of the window as at its beginning. Another tool, a driver reset or a person is writing it.",
		Evidence:    "smp_affinity of every queue interrupt at both ends of the window.",
		Cause:       "irqbalance, tuned, a vendor script, a link that went down and up (many drivers request their interrupts anew), a channel change, CPU hotplug.",
		Remedy:      "Find the writer before placing interrupts; what two tools write, neither owns.",
		SideEffects: "None.",
		NotWhen:     "You changed them yourself.",
		Source:      "/proc/irq/*/smp_affinity; drivers/net (affinity set at ndo_open)",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		if c.First == c.Last {
			return nil
		}
		var changed []*path
		for _, p := range c.Paths {
			for _, f := range []fired{p.rx, p.tx} {
				before, now := c.firstRows[f.irq], c.row(f.irq)
				if f.irq >= 0 && before != nil && now != nil && before.HasSMP && now.HasSMP && before.Affinity != now.Affinity {
					changed = append(changed, p)
					break
				}
			}
		}
		if len(changed) == 0 {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("the interrupt masks of %d queue pairs (%s) were changed during the window", len(changed), pairNames(changed)),
			Evidence: []plan.Evidence{{Metric: "masks_changed", Value: float64(len(changed)), Unit: "queue pairs", Source: "/proc/irq/*/smp_affinity"}},
			Operator: "another tool writes interrupt affinity here: decide which of the two owns it",
		}}
	},
})
