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
			"A run ends when nothing is left, when its time is up, or when it has taken 300 packets (the setting netdev_budget) from all network queues of that CPU together. " +
			"What is left over then is not lost, and mostly does not wait either: the next run follows at once. " +
			"Only after about 2 ms, after ten such rounds, or when a program is due to run, is the rest left to a thread (ksoftirqd) that takes turns with the programs. " +
			"On this CPU runs end at the packet limit, with packets still waiting, although the CPU has time left. Each such end costs a little, and it is one more chance that packets have to wait for that thread.",
		Evidence: "Napitune adds up in the kernel what the queues returned in each run, and compares the sum with netdev_budget, as the kernel itself does. The runs that either limit ended (packets here, time in budget-time) " +
			"add up to the kernel's own count of them, time_squeeze in /proc/net/softnet_stat. " +
			"A run asks each queue once (a poll), for at most 64 packets as a rule, so one busy queue cannot use up 300: it takes five that are all full; for another limit, as many as it takes times 64 to reach it. " +
			"Two things make it fewer. From Linux 6.5 on, queues that the run itself filled (the link of a container, for example) are asked in the same run as long as no queue before was full. " +
			"And the queue for packets that come from other CPUs (the backlog) takes more than 64 at once where net.core.dev_weight was raised, enough to use up the limit alone. " +
			"Packets are what drivers say they took: some say 64 when they only have sent packets left to clean up, and packets that the network card has merged (GRO_HW, LRO) count as one.",
		Cause: "As a rule, five or more busy queues share one CPU: queues of network cards, or those that Linux makes for containers (veth), tunnels and packets handed over by other CPUs (the backlog).",
		Remedy: "Give queues to other CPUs first; irq-stacked says which. Where they cannot be moved, double the budget, step by step, and look whether it helped: 300, 600, 1,200, at most 2,400. " +
			"Napitune proposes one step at a time.",
		SideEffects: "A run gets longer, and other kernel work of that CPU (timers, the end of disk transfers, packets to send) has its turn only between runs. The time limit (netdev_budget_usecs, some milliseconds) still ends it; " +
			"the kernel looks at the clock after each poll, so a run lasts at most one poll longer. " +
			"Programs wait for all the rounds that follow each other: about 2 ms in all (a tick where the kernel's clock ticks more slowly), and as long as the last run takes beyond that.",
		NotWhen: "The CPU has no time left (cpu-saturated): longer runs make nothing faster then. Or no run made as many polls as it takes to use up the limit (five for 300): with polls of at most 64 packets it cannot have been the limit. " +
			"A high time_squeeze alone is no reason: the kernel counts it also when nothing was left to do.",
		Source:     "net/core/dev.c net_rx_action and napi_poll; kernel/softirq.c handle_softirqs (MAX_SOFTIRQ_TIME, MAX_SOFTIRQ_RESTART); Documentation/admin-guide/sysctl/net.rst",
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
