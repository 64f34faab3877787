package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irqbalance-active",
	Title: "irqbalance is running",
	Page: Page{
		Meaning:     "irqbalance moves interrupts every ten seconds by its own measure. It knows interrupts but not queue pairs, and overwrites affinity that others set.",
		Evidence:    "The process list, and VmRSS of /proc/PID/status: how much memory it holds.",
		Cause:       "Installed by default on many distributions.",
		Remedy:      "Keep it for everything else and ban the interrupts that are placed here (its socket, --banirq or a policy script). One that holds much memory leaks it: restart it, then upgrade.",
		SideEffects: "Banned interrupts no longer follow load changes.",
		NotWhen:     "No affinity change is planned: then this is only a note.",
		Source:      "irqbalance(1); Documentation/core-api/irq/irq-affinity.rst",
		Thresholds:  describe(irqbalanceMemory),
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
		if c.moves() {
			f.Severity = plan.Advice
			f.Claim = "irqbalance is running and will undo the interrupt placement below unless these interrupts are banned there"
			f.Wants = c.stays()
			f.Operator = "ban them (irqbalance --banirq=N, or a policy script that survives renumbering), keep irqbalance for the rest, and look again after two of its rounds (20 s): some versions lose their bans"
		}
		return []plan.Finding{c.weighIrqbalance(f, c.Last.Processes[i])}
	},
})

// stays are wishes, all of them true already, that the interrupts which the
// placement leaves where they are be there still when it is applied: irqbalance
// moves them until it is told not to, and what moves was weighed against them.
func (c *Case) stays() []plan.Want {
	moving := map[*detect.Device]bool{}
	for _, p := range c.Paths {
		moving[p.dev] = moving[p.dev] || len(c.unsettled(p)) > 0
	}
	var out []plan.Want
	for _, p := range c.Paths {
		if !moving[p.dev] || p.share < c.At(activeQueue) || c.immovable(p) {
			continue
		}
		seat, placed := c.place().cpu[p]
		for _, side := range sidesOf(p) {
			at := side.home
			if placed {
				at = seat
			}
			if now, known := c.knob(side.ref); known && now == strconv.Itoa(at) {
				out = append(out, plan.Want{Ref: side.ref, Value: now, Why: "the placement counts on it"})
			}
		}
	}
	return out
}

var irqbalanceMemory = threshold("irqbalance-memory", 100, "MiB",
	"irqbalance needs some megabytes; reported leaks grow by 60 MB a day and were found at 478 MB (irqbalance issues 5 and 13)",
	"hosts with tens of thousands of interrupts")

// weighIrqbalance adds the memory that irqbalance holds, which is no matter of
// packets but is found where one looks at irqbalance.
func (c *Case) weighIrqbalance(f plan.Finding, p host.Process) plan.Finding {
	if p.RSSKiB == 0 {
		return f
	}
	held := math.Round(float64(p.RSSKiB) / 1024)
	f.Evidence = append(f.Evidence, plan.Evidence{Metric: "irqbalance_memory", Value: held, Unit: "MiB", Threshold: c.At(irqbalanceMemory),
		Source: fmt.Sprintf("/proc/%d/status", p.PID)})
	if held >= c.At(irqbalanceMemory) {
		f.Claim += fmt.Sprintf("; it holds %.0f MiB of memory where a few are usual: a leak", held)
		f.Operator = strings.TrimPrefix(f.Operator+"; restart irqbalance to get the memory back, and upgrade it", "; ")
	}
	return f
}
