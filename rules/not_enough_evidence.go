package rules

import (
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

const idNotEnoughEvidence = "not-enough-evidence"

var _ = register(Rule{
	ID:    idNotEnoughEvidence,
	Title: "what would be needed for a verdict",
	Page: Page{
		Meaning:     "Some questions could not be answered from what was readable; the list says which source is missing and what it would tell.",
		Evidence:    "The gaps of this run.",
		Cause:       "One sample only, missing privileges, a container that hides files, a capture that did not record them.",
		Remedy:      "Measure with a window (two samples), as root, on the host.",
		SideEffects: "None.",
		NotWhen:     "Always worth reading before trusting \"healthy\".",
		Source:      "this run",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var missing []string
		switch c.Basis {
		case detect.BasisBoot:
			missing = append(missing, "a second sample: counters since boot say what was, not what is")
		case detect.BasisUntimed:
			missing = append(missing, "the time between the samples: there are shares but no rates")
		}
		if c.Last.IRQs.Masked {
			missing = append(missing, "/proc/interrupts is hidden (an empty file, as container runtimes do): run on the host")
		} else if len(c.Last.IRQs.Rows) == 0 {
			missing = append(missing, "/proc/interrupts")
		}
		if len(c.Softnet) == 0 {
			missing = append(missing, "/proc/net/softnet_stat: drops and squeezes per CPU")
		}
		if len(c.CPU) == 0 {
			missing = append(missing, "/proc/stat: softirq and steal time per CPU")
		}
		if c.Last.Topo.Online.IsEmpty() {
			missing = append(missing, "the list of CPUs")
		}
		if slices.ContainsFunc(c.Last.Gaps, func(g detect.Gap) bool { return g.Source == "processes" }) {
			missing = append(missing, "the list of programs: whether irqbalance, tuned or a tuning script owns these settings")
		}
		for _, text := range c.Inconsistent {
			missing = append(missing, "consistent sources: "+text)
		}
		if len(missing) == 0 {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Note,
			Subject:  "host",
			Claim:    "not everything could be judged: " + strings.TrimSuffix(firstWords(missing), ", "),
			Missing:  missing,
		}}
	},
})

// firstWords names the missing sources without their explanations.
func firstWords(missing []string) string {
	names := make([]string, len(missing))
	for i, m := range missing {
		names[i], _, _ = strings.Cut(m, ":")
	}
	return strings.Join(names, ", ")
}
