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
	Title: "the affinity of these interrupts cannot be changed",
	Page: Page{
		Meaning:     "Nobody can change the affinity of these interrupts from outside. Most often the driver asked the kernel to manage it, and then it needs no care: the kernel spreads them and follows CPU hotplug. Or their interrupt controller cannot move them, and they stay where they are.",
		Evidence:    "smp_affinity files that are read-only for root (kernel 6.12 and later).",
		Cause:       "pci_alloc_irq_vectors_affinity in the driver, which among NICs is rare; or a controller without a way to set the affinity, as on some boards.",
		Remedy:      "None needed for managed ones; isolcpus=managed_irq keeps them off isolated CPUs. If all sit on one busy CPU, RPS or threaded NAPI spreads their work.",
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
				Claim:    fmt.Sprintf("the affinity of %d interrupts of %s cannot be changed: the kernel manages it, or the controller cannot move them", locked[dev], dev),
				Evidence: []plan.Evidence{{Metric: "managed_interrupts", Value: float64(locked[dev]), Unit: "interrupts", Source: "/proc/irq/*/smp_affinity"}},
			})
		}
		return out
	},
})
