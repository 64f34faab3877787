package rules

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "contested-setting",
	Title: "another program keeps writing settings of the boot profile",
	Page: Page{
		Meaning: "napitune guard brought these settings back to what the boot profile says, and each was written again. " +
			"It has left them to the other program since, so they are not what the profile says.",
		Evidence: "The state that the running guard keeps: what it left, to whom, and when.",
		Cause: "irqbalance or another tuner that was not told to leave them alone, a vendor's script, a cron job, a person. " +
			"The unit of the guard may not ask the kernel who it was; started by hand as root, the guard can.",
		Remedy: "Decide who owns the setting. Either end the other writer or make it leave the setting alone (for irqbalance a ban in its policy script), " +
			"then \"systemctl kill -s HUP napitune-guard\" has the guard keep it again. Or take the setting out of the profile.",
		SideEffects: "None.",
		NotWhen:     "The other writer is the one that should decide: then take the setting out of the profile.",
		Source:      "/run/napitune/guard.json; napitune status",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		contests := slices.Clone(c.Last.Contests)
		slices.SortStableFunc(contests, func(a, b detect.Contest) int { return cmp.Compare(a.Ref.Dev, b.Ref.Dev) })
		for len(contests) > 0 {
			dev := contests[0].Ref.Dev
			n := slices.IndexFunc(contests, func(o detect.Contest) bool { return o.Ref.Dev != dev })
			if n < 0 {
				n = len(contests)
			}
			lost := slices.DeleteFunc(slices.Clone(contests[:n]), func(o detect.Contest) bool {
				state := c.Last.Knobs[o.Ref]
				return state.Has() && state.Value == o.Want // it was put right since
			})
			if len(lost) > 0 {
				out = append(out, contestFinding(cmp.Or(dev, "host"), lost))
			}
			contests = contests[n:]
		}
		return out
	},
})

// contestFinding tells of the settings of one subject that somebody else writes.
func contestFinding(subject string, lost []detect.Contest) plan.Finding {
	first, more, owns := lost[0], "", "it"
	if n := len(lost) - 1; n > 0 {
		more, owns = fmt.Sprintf("; so it is with %d more settings here", n), "them"
	}
	by := "cannot say who it was"
	if first.By != "" {
		by = "names " + first.By
	}
	return plan.Finding{
		Severity: plan.Advice, Subject: subject,
		Claim: fmt.Sprintf("%s is %s and not %s as the boot profile says: it was %s; the guard leaves it alone and %s%s",
			first.Ref, cmp.Or(first.Present, "empty"), cmp.Or(first.Want, "empty"), first.Reason, by, more),
		Evidence: []plan.Evidence{{Metric: "settings_left_to_others", Value: float64(len(lost)), Unit: "settings", Source: "/run/napitune/guard.json"}},
		Operator: fmt.Sprintf("end what else writes %s, or take %s out of the boot profile; then systemctl kill -s HUP napitune-guard", owns, owns),
	}
}
