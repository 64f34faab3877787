package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "budget-time",
	Title: "receive runs end because their time is up",
	Page: Page{
		Meaning: "Linux takes received packets in short runs (the receive softirq), during which programs on that CPU wait. One run may last netdev_budget_usecs (two timer ticks by default). " +
			"On this CPU the runs end at that limit, before the packet budget is used up.",
		Evidence:    "Squeezes with less work than netdev_budget and at least the limit in ticks between the start of the run and its last poll; the causes add up to time_squeeze.",
		Cause:       "Each packet is dear (filters, connection tracking, tunnels, no GRO), or the virtual CPU was not running (steal). The time limit is only where it shows.",
		Remedy:      "Look at steal, at GRO and at the cost per packet first. Only if packets are cheap, the CPU has idle time and polls are full: raise the limit by two ticks, at most to four.",
		SideEffects: "Everything else on that CPU waits up to the new limit.",
		NotWhen:     "On isolated or real-time CPUs, on a saturated CPU, or under steal.",
		Source:      "net/core/dev.c net_rx_action; include/linux/jiffies.h (the limit is rounded up to ticks)",
		Thresholds:  describe(squeezeRate, squeezeExplained, packetCost, stealShare, roomIdle, budgetTimeLimit),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, s := range c.squeezes() {
			if !c.hot(s.cpu) && s.mostly(s.time, c.At(squeezeExplained)) {
				out = append(out, c.budgetTime(s))
			}
		}
		return onceWanted(out)
	},
})

func (c *Case) budgetTime(s squeeze) plan.Finding {
	f := plan.Finding{
		Severity: plan.Advice,
		Subject:  cpuName(s.cpu),
		Claim:    fmt.Sprintf("CPU %d ended %d receive runs because their time was up", s.cpu, s.count),
		Evidence: c.squeezeEvidence(s),
		Because:  c.stackedAt(s.cpu),
	}
	cost := 0.0
	if p, ok := c.cpuPolling(s.cpu); ok {
		cost = p.nsPerPacket()
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "softirq_ns_per_packet", Value: cost, Unit: "ns", Threshold: c.At(packetCost), Source: "probe napi"})
	}
	ref := knob.Global("net.core.netdev_budget_usecs")
	now, known := c.knobInt(ref)
	tick := c.twoJiffies() / 2
	share := c.CPU[s.cpu]
	switch {
	case f.Because != "":
		f.Claim += "; spreading its queues comes first"
	case share.Steal >= c.At(stealShare)/2:
		f.Because = "cpu-steal/host"
		f.Claim += fmt.Sprintf("; the hypervisor took %s of its time, so a longer limit would measure that and nothing else", percent(share.Steal))
	case c.isolated().Has(s.cpu):
		f.Claim += "; the CPU is isolated, and a longer run would delay the work it is kept for"
	case cost >= c.At(packetCost):
		f.Claim += fmt.Sprintf("; each packet costs %.1f µs, so the cost per packet is the cause (filters, connection tracking, tunnels, no GRO), not the limit", cost/1000)
	case !known || tick == 0:
		f.Missing = append(f.Missing, "the present netdev_budget_usecs and CONFIG_HZ")
	case share.Idle < c.At(roomIdle) || s.polling.fullShare() < c.At(fullPolls):
		f.Claim += "; little was left over or the CPU has no time to give, so a longer limit would not help"
	case now+2*tick <= min(int64(c.At(budgetTimeLimit)), 4*tick):
		f.Wants = []plan.Want{{Ref: ref, Value: strconv.FormatInt(now+2*tick, 10), Mode: plan.Raise,
			Why:    fmt.Sprintf("%d runs on CPU %d ended by time with full polls and an idle CPU", s.count, s.cpu),
			Expect: expect("squeezed_by_time", "down", c.rate(s.time)*float64(now)/float64(now+2*tick), "1/s")}}
	}
	return f
}

func cpuName(cpu int) string { return "CPU " + strconv.Itoa(cpu) }
