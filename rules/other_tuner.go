package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "other-tuner",
	Title: "another tool owns some of these settings",
	Page: Page{
		Meaning:     "A daemon that writes queue, interrupt or kernel settings is running. What two tools write, neither owns.",
		Evidence:    "The process list.",
		Cause:       "tuned, bpftune, a cloud agent, an orchestrator's node agent.",
		Remedy:      "Make lasting changes in that tool's configuration, or take the setting away from it.",
		SideEffects: "None.",
		NotWhen:     "Its profile touches none of the settings in the plan.",
		Source:      "tuned-profiles(7); the tools' own documentation",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, p := range c.Last.Processes {
			owns, ok := tuners[p.Comm]
			if !ok || slices.ContainsFunc(out, func(f plan.Finding) bool { return f.Subject == p.Comm }) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Note, Subject: p.Comm,
				Claim:    fmt.Sprintf("%s is running and may write %s", p.Comm, owns),
				Evidence: []plan.Evidence{{Metric: "pid", Value: float64(p.PID), Unit: "", Source: "process list"}},
			})
		}
		return out
	},
})

// tuners are daemons (by comm, cut at 15 characters) and what they write.
var tuners = map[string]string{
	"tuned":           "sysctls, interrupt affinity, channels, rings, coalescing and features, as its profile says",
	"bpftune":         "netdev_budget, netdev_budget_usecs and netdev_max_backlog",
	"katalyst-agent":  "interrupt affinity, RPS and XPS",
	"oeaware":         "interrupt affinity",
	"google_guest_ag": "interrupt affinity and XPS of virtio and gve devices",
	"perftune.py":     "interrupt affinity, RPS, RFS, XPS and channels",
}
