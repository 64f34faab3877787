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
		shares := c.threadShare(func(p host.Process) bool { return strings.HasPrefix(p.Comm, "ksoftirqd/") })
		var out []plan.Finding
		for _, pid := range sortedByValue(shares) {
			if shares[pid] < c.At(ksoftirqdShare) {
				continue
			}
			var cpu int
			if _, err := fmt.Sscanf(c.process(pid).Comm, "ksoftirqd/%d", &cpu); err != nil {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: cpuName(cpu),
				Claim:    fmt.Sprintf("ksoftirqd runs on CPU %d for %s of the time", cpu, percent(shares[pid])),
				Evidence: append([]plan.Evidence{{Metric: "ksoftirqd_share", Value: shares[pid], Unit: "of the CPU's time", Threshold: c.At(ksoftirqdShare), Source: fmt.Sprintf("/proc/%d/stat", pid)}}, c.cpuEvidence(cpu)...),
				Because:  c.stackedAt(cpu),
			}
			out = append(out, f)
		}
		return out
	},
})
