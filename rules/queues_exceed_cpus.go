package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "queues-exceed-cpus",
	Title: "the device has more queues in use than CPUs to serve them",
	Page: Page{
		Meaning:     "More queues than CPUs gain nothing: several queues share a CPU, each with its own ring, interrupt vector and polling overhead.",
		Evidence:    "Queues in use against the CPUs allowed for network work.",
		Cause:       "Driver defaults that count possible or all nodes' CPUs, or CPUs that were isolated or taken offline later.",
		Remedy:      "Lower the channel count to the local cores at the next maintenance: on many drivers that resets the link.",
		SideEffects: "Link loss for seconds on many drivers.",
		NotWhen:     "Nothing hurts: it is only a note.",
		Source:      "Documentation/networking/scaling.rst: the fewest queues that do not overflow are the most efficient",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			queues := rxQueues(d)
			if !d.QueuesKnown || c.Allowed.IsEmpty() || queues <= c.Allowed.Len() {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Note, Subject: d.Name,
				Claim:    fmt.Sprintf("%s has %d receive queues for %d CPUs", d.Name, queues, c.Allowed.Len()),
				Evidence: []plan.Evidence{{Metric: "rx_queues", Value: float64(queues), Unit: "queues", Threshold: float64(c.Allowed.Len()), Source: "/sys/class/net/" + d.Name + "/queues"}},
			})
		}
		return out
	},
})
