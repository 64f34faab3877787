package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-smeared",
	Title: "one interrupt is delivered over many CPUs",
	Page: Page{
		Meaning: "The interrupts of one queue fire on many CPUs in turn. It looks balanced, but each packet batch starts on a CPU whose caches know nothing of " +
			"the flow, and with drivers that do not poll (no NAPI) packets of one flow may overtake each other.",
		Evidence: "The spread of each interrupt's count over CPUs in /proc/interrupts (inverse Simpson index: 1 = one CPU, N = evenly over N).",
		Cause: "Either the interrupt controller rotates delivery over the mask (lowest-priority delivery of an APIC or IO-APIC), or a balancer such as irqbalance " +
			"keeps moving the interrupt; consecutive samples tell the two apart.",
		Remedy:      "Pin each queue to one CPU. If irqbalance runs, ban these interrupts there, or it will move them again.",
		SideEffects: "The CPU that gets a busy queue does all of its work; see irq-stacked for how CPUs are chosen.",
		NotWhen:     "The device is nearly idle.",
		Source:      "Documentation/networking/scaling.rst; arch/x86/kernel/apic/vector.c; irqbalance placement.c",
		Thresholds:  describe(smearedCPUs, smearedAll, wanderingCPUs, activeQueue),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.diagnosis.smeared) {
			worst, moves := 0.0, 0
			for _, p := range group {
				worst = max(worst, p.wide())
				moves += p.rx.moves + p.tx.moves
			}
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  group[0].dev.Name,
				Claim: fmt.Sprintf("the interrupts of %s of %s (%s) each fire on up to %.1f CPUs in turn",
					plural(len(group), "queue pair"), group[0].dev.Name, pairNames(group), worst),
				Evidence: []plan.Evidence{
					{Metric: "interrupt_spread", Value: worst, Unit: "CPUs", Threshold: c.smearLimit(), Source: "/proc/interrupts"},
					{Metric: "interrupt_moves", Value: float64(moves), Unit: "moves between samples", Source: "/proc/interrupts"},
				},
				Operator: "if irqbalance or another balancer moves them, tell it to leave these interrupts alone (irqbalance --banirq or a policy script), " +
					"or the pinning will not last",
				Wants: c.affinityWants(group, fmt.Sprintf("fires on up to %.1f CPUs", worst), c.moved("interrupt_spread", 1, "CPUs")),
			}
			out = append(out, f)
		}
		return out
	},
})
