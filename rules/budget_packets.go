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
		Meaning: "A CPU does not take received packets one by one, but in short runs. While a run lasts, programs on that CPU wait. " +
			"So that they do not wait too long, one run may take 300 packets (the setting netdev_budget), from all network queues of that CPU together, and then has to pause. " +
			"On this CPU runs end at that limit although packets are still waiting and the CPU has time left: the limit, and not the CPU, slows the packets down.",
		Evidence: "Napitune adds up in the kernel how many packets each run took, and compares that with netdev_budget. The runs that either limit ended (packets here, time in budget-time) " +
			"add up to the kernel's own count of them, time_squeeze in /proc/net/softnet_stat. " +
			"One busy queue cannot use up the budget: a run asks each queue once (a poll), for at most 64 packets, so it takes five queues that are all full. " +
			"From Linux 6.5 on, queues that the run itself filled (the link of a container, for example) are asked in the same run, so fewer can do it as well.",
		Cause: "Five or more busy queues share one CPU: queues of network cards, or those that Linux makes for containers (veth), tunnels and packets handed over by other CPUs (the backlog).",
		Remedy: "Give queues to other CPUs first; irq-stacked says which. Where they cannot be moved, double the budget, step by step, and look whether it helped: 300, 600, 1,200, at most 2,400. " +
			"Napitune proposes one step at a time.",
		SideEffects: "Programs, timers and disk work of that CPU wait longer for a run to end, but no longer than the time limit of a run allows (netdev_budget_usecs, some milliseconds).",
		NotWhen: "The CPU has no time left (cpu-saturated): longer runs make nothing faster then. Or no run ever asked five queues: then the budget cannot have been the limit. " +
			"A high time_squeeze alone is no reason: the kernel counts it also when nothing was left to do.",
		Source:     "net/core/dev.c net_rx_action; Documentation/admin-guide/sysctl/net.rst",
		Thresholds: describe(squeezeRate, squeezeExplained, fullPolls, roomIdle, budgetPacketLimit),
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
		Claim: fmt.Sprintf("CPU %d ended %d receive runs at the packet budget, of %d that ended early, with up to %d polls in one run and %s of the polls full",
			s.cpu, s.packets, s.causes, s.maxPolls, percent(s.polling.fullShare())),
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
	case c.keptFree(s.cpu) != "":
		f.Claim += "; " + c.keptFree(s.cpu)
	case float64(2*now) > c.At(budgetPacketLimit):
		f.Claim += fmt.Sprintf("; the budget is %d already, and twice of it would serve more queues than one CPU should: give some of them to other CPUs", now)
	default:
		f.Wants = []plan.Want{{Ref: ref, Value: strconv.FormatInt(2*now, 10), Mode: plan.Raise,
			Why:    fmt.Sprintf("%d runs on CPU %d ended at %d packets", s.packets, s.cpu, now),
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
