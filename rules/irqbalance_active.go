package rules

import (
	"slices"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irqbalance-active",
	Title: "irqbalance is running",
	Page: Page{
		Meaning:     "irqbalance moves interrupts every ten seconds by its own measure. It knows interrupts but not queue pairs, and overwrites affinity that others set.",
		Evidence:    "The process list.",
		Cause:       "Installed by default on many distributions.",
		Remedy:      "Keep it for everything else and ban the interrupts that are placed here (its socket, --banirq or a policy script).",
		SideEffects: "Banned interrupts no longer follow load changes.",
		NotWhen:     "No affinity change is planned: then this is only a note.",
		Source:      "irqbalance(1); Documentation/core-api/irq/irq-affinity.rst",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		i := slices.IndexFunc(c.Last.Processes, func(p host.Process) bool { return p.Comm == "irqbalance" })
		if i < 0 {
			return nil
		}
		f := plan.Finding{
			Severity: plan.Note,
			Subject:  "host",
			Claim:    "irqbalance is running and may move interrupts again within ten seconds",
			Evidence: []plan.Evidence{{Metric: "irqbalance_pid", Value: float64(c.Last.Processes[i].PID), Unit: "", Source: "process list"}},
		}
		if len(c.place().cpu) > 0 {
			f.Severity = plan.Advice
			f.Claim = "irqbalance is running and will undo the interrupt placement below unless these interrupts are banned there"
			f.Operator = "ban them (irqbalance --banirq=N, or a policy script that survives renumbering), and keep irqbalance for the rest"
		}
		return []plan.Finding{f}
	},
})
