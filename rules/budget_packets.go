package rules

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "budget-packets",
	Title: "receive runs end because the packet budget is used up",
	Page: Page{
		Meaning: "Linux takes received packets from the network cards in short runs (the receive softirq); while a run lasts, nothing else runs on that CPU. " +
			"One run may take netdev_budget packets (300), over all queues that the CPU serves. On this CPU the runs end at that limit although packets are still waiting and the CPU has time left.",
		Evidence: "For each run, the work of all polls is added up in the kernel and compared with netdev_budget; the causes found this way add up to the kernel's own time_squeeze counter. " +
			"One busy queue cannot use up the budget: a run asks each queue (each NAPI instance) once, for at most 64 packets, so it takes five full ones on one CPU. " +
			"From Linux 6.5 on, queues that the run itself filled (NIC to veth to backlog) are asked in the same run, so a chain of few queues can do it as well.",
		Cause:       "Five or more busy NAPI instances (queues, veth, tunnels, the backlog) share one CPU.",
		Remedy:      "Put queues on other CPUs first. Where the instances cannot be moved, double the budget, step by step: 300, 600, 1,200, at most 2,400.",
		SideEffects: "While a run lasts, timers, other softirqs and all tasks of that CPU wait; the time limit (netdev_budget_usecs) still bounds it.",
		NotWhen:     "The CPU is saturated (cpu-saturated), or no run ever had five polls: then the budget cannot have been the limit.",
		Source:      "net/core/dev.c net_rx_action; Documentation/admin-guide/sysctl/net.rst",
		Thresholds:  describe(squeezeRate, squeezeExplained, fullPolls, roomIdle, budgetPacketLimit),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		if _, tooSmall := c.budgetTooSmall(); tooSmall {
			return nil // budget-undersized tells
		}
		for _, s := range c.squeezes() {
			if !c.hot(s.cpu) && s.mostly(s.packets, c.At(squeezeExplained)) && s.polling.fullShare() >= c.At(fullPolls) {
				out = append(out, c.budgetPackets(s))
			}
		}
		return onceWanted(out)
	},
})

func (c *Case) budgetPackets(s squeeze) plan.Finding {
	f := plan.Finding{
		Severity: plan.Advice,
		Subject:  cpuName(s.cpu),
		Claim: fmt.Sprintf("CPU %d ended %d receive runs at the packet budget, with up to %d polls in one run and %s of the polls full",
			s.cpu, s.count, s.maxPolls, percent(s.polling.fullShare())),
		Evidence: c.squeezeEvidence(s),
		Because:  c.stackedAt(s.cpu),
	}
	if f.Because != "" {
		f.Claim += "; spreading its queues comes first"
		return f
	}
	ref := knob.Global("net.core.netdev_budget")
	now, known := c.knobInt(ref)
	switch {
	case !known || now <= 0:
		f.Missing = append(f.Missing, "the present netdev_budget")
	case int64(s.maxPolls) < fullNAPIs(now):
		f.Claim += fmt.Sprintf("; fewer than %d cannot use up %d packets, so raising it would change nothing", fullNAPIs(now), now)
	case c.CPU[s.cpu].Idle < c.At(roomIdle):
		f.Claim += "; the CPU has little idle time left, so a longer run would only delay other work"
	case float64(2*now) <= c.At(budgetPacketLimit):
		f.Wants = []plan.Want{{Ref: ref, Value: strconv.FormatInt(2*now, 10), Mode: plan.Raise,
			Why:    fmt.Sprintf("%d runs on CPU %d ended at %d packets", s.count, s.cpu, now),
			Expect: expect("squeezed_by_packets", "down", c.rate(s.packets)/2, "1/s")}}
	}
	return f
}

// onceWanted keeps a wish for one setting in the first finding only.
func onceWanted(findings []plan.Finding) []plan.Finding {
	seen := map[knob.Ref]bool{}
	for i := range findings {
		findings[i].Wants = slices.DeleteFunc(findings[i].Wants, func(w plan.Want) bool {
			again := seen[w.Ref]
			seen[w.Ref] = true
			return again
		})
	}
	return findings
}
