package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "policy-cpus",
	Title: "the policy names CPUs that this host does not have",
	Page: Page{
		Meaning:     "A list of CPUs in the site's policy file names numbers that no CPU of this host has, or that are offline. The rest of the list still holds.",
		Evidence:    "The lists under cpus, of the policy and of its devices, against /sys/devices/system/cpu/online.",
		Cause:       "A policy written for another machine, a smaller instance type, CPUs that were taken offline, or a slip of the pen.",
		Remedy:      "Correct the line that is named, or give this class of hosts a policy of its own.",
		SideEffects: "None.",
		NotWhen:     "The missing CPUs come online later.",
		Source:      "the policy file",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		online := c.Last.Topo.Online
		if online.IsEmpty() {
			return nil
		}
		var out []plan.Finding
		for _, l := range c.Policy.Lists {
			missing := l.CPUs.Minus(online)
			if missing.IsEmpty() {
				continue
			}
			f := plan.Finding{
				Severity: plan.Note, Subject: fmt.Sprintf("%s:%d", l.File, l.Line),
				Claim:    fmt.Sprintf("%s in line %d of the policy names CPUs %s, but this host has CPUs %s", l.Key, l.Line, missing, online),
				Evidence: []plan.Evidence{{Metric: "missing_cpus", Value: float64(missing.Len()), Unit: "CPUs", Threshold: 1, Source: "cpu/online, " + l.File}},
			}
			if l.CPUs.Intersect(online).IsEmpty() && c.allowedAny().IsEmpty() {
				f.Severity = plan.Advice
				f.Claim += "; none is left for network work, so nothing can be placed"
			}
			out = append(out, f)
		}
		return out
	},
})
