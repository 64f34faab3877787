package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var ksoftirqdShare = threshold("ksoftirqd-share", 0.2, "of a CPU",
	"softirqs overflow into ksoftirqd after 2 ms or ten rounds (kernel/softirq.c); a fifth of the time there is steady overflow, not a burst",
	"kernels before 6.5, where ksoftirqd takes all softirqs once it runs")

var _ = register(Rule{
	ID:    "ksoftirqd-busy",
	Title: "softirqs overflow into ksoftirqd",
	Page: Page{
		Meaning:     "So many softirqs are pending on a CPU that the kernel hands them to a thread, which competes with your programs for the CPU.",
		Evidence:    "CPU time of the ksoftirqd threads over the window (/proc/PID/stat).",
		Cause:       "More work than the CPU can do at once: usually one saturated queue. It is the normal way in which saturation shows, with or without squeezes.",
		Remedy:      "That of the saturation: spread the work. Changing the thread's priority only moves the pain.",
		SideEffects: "None from here.",
		NotWhen:     "A batch host that should use all of its CPU.",
		Source:      "kernel/softirq.c handle_softirqs, MAX_SOFTIRQ_TIME, MAX_SOFTIRQ_RESTART",
		Thresholds:  describe(ksoftirqdShare),
	},
	Eval: func(c *Case) []plan.Finding {
		shares := c.ksoftirqds()
		var out []plan.Finding
		for _, cpu := range sortedByValue(shares) {
			if shares[cpu] < c.At(ksoftirqdShare) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: cpuName(cpu),
				Claim:    fmt.Sprintf("ksoftirqd runs on CPU %d for %s of the time", cpu, percent(shares[cpu])),
				Evidence: append([]plan.Evidence{{Metric: "ksoftirqd_share", Value: shares[cpu], Unit: "of the CPU's time", Threshold: c.At(ksoftirqdShare), Source: "/proc/PID/stat of ksoftirqd"}}, c.cpuEvidence(cpu)...),
				Because:  c.stackedAt(cpu),
			}
			out = append(out, f)
		}
		return out
	},
})

// ksoftirqds is the part of the window that each CPU's ksoftirqd ran.
func (c *Case) ksoftirqds() map[int]float64 {
	out := map[int]float64{}
	for pid, share := range c.threadShare(func(p host.Process) bool { return strings.HasPrefix(p.Comm, "ksoftirqd/") }) {
		var cpu int
		if _, err := fmt.Sscanf(c.process(pid).Comm, "ksoftirqd/%d", &cpu); err == nil {
			out[cpu] = share
		}
	}
	return out
}
