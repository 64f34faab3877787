package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "managed-irq",
	Title: "the kernel owns the affinity of these interrupts",
	Page: Page{
		Meaning:     "The driver asked the kernel to manage the affinity of its interrupts. Nobody can change it from outside, and it needs no care: the kernel spreads them and follows CPU hotplug.",
		Evidence:    "smp_affinity files that are read-only for root (kernel 6.12 and later).",
		Cause:       "pci_alloc_irq_vectors_affinity in the driver; among NICs that is rare.",
		Remedy:      "None needed. isolcpus=managed_irq keeps them off isolated CPUs.",
		SideEffects: "None.",
		NotWhen:     "Always true where it appears.",
		Source:      "kernel/irq/proc.c; kernel/irq/manage.c irq_can_set_affinity_usr",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		locked := map[string]int{}
		for ref, state := range c.Last.Knobs {
			if ref.Kind == "irq.affinity" && state.Status == knob.Locked && c.wanted(ref.Dev) {
				locked[ref.Dev]++
			}
		}
		var out []plan.Finding
		for _, dev := range slices.Sorted(maps.Keys(locked)) {
			out = append(out, plan.Finding{
				Severity: plan.Note, Subject: dev,
				Claim:    fmt.Sprintf("the kernel manages %d interrupts of %s; their affinity cannot be changed", locked[dev], dev),
				Evidence: []plan.Evidence{{Metric: "managed_interrupts", Value: float64(locked[dev]), Unit: "interrupts", Source: "/proc/irq/*/smp_affinity"}},
			})
		}
		return out
	},
})
