package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var churnMoves = threshold("churn-moves", 2, "moves of one interrupt",
	"one move in a window may be an administrator or this tool; the same interrupt moving again is a balancer at work",
	"windows longer than a minute")

var _ = register(Rule{
	ID:    "irq-churn",
	Title: "something keeps moving interrupts",
	Page: Page{
		Meaning:     "Queue interrupts change their CPU from sample to sample. Caches never warm up, and any placement is undone.",
		Evidence:    "The CPU that takes most of each interrupt, compared over three or more samples.",
		Cause:       "A balancer, almost always irqbalance with its ten-second period.",
		Remedy:      "Pin the queues and tell the balancer to leave them alone (ban list or policy script).",
		SideEffects: "Banned interrupts no longer follow the load.",
		NotWhen:     "You are moving them yourself right now, or they hardly fire.",
		Source:      "irqbalance(1); /proc/interrupts",
		Thresholds:  describe(churnMoves, activeQueue, activeRate, activeSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		moved := c.diagnosis.churned
		if len(moved) == 0 {
			return nil
		}
		most := 0
		for _, p := range moved {
			most = max(most, p.rx.moves, p.tx.moves)
		}
		return []plan.Finding{{
			Severity: plan.Advice, Subject: "host",
			Claim:    fmt.Sprintf("%d queue pairs (%s) changed their CPU up to %d times in %d samples", len(moved), pairNames(moved), most, c.Samples),
			Evidence: []plan.Evidence{{Metric: "interrupt_moves", Value: float64(most), Unit: "moves", Threshold: c.At(churnMoves), Source: "/proc/interrupts"}},
			Operator: "ban these interrupts in the balancer that moves them (irqbalance --banirq or a policy script), or the pinning will not last",
			Wants:    c.affinityWants(moved, fmt.Sprintf("moved up to %d times", most), c.moved("interrupt_moves", 0, "moves")),
		}}
	},
})
