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
		Meaning: "Linux takes received packets in short runs (the receive softirq), during which programs on that CPU wait. One run may last netdev_budget_usecs. " +
			"On this CPU the runs end at that limit, before the packet limit (netdev_budget) is reached. The rest is taken in the next run, mostly at once; budget-packets says when it has to wait.",
		Evidence: "Runs that took less than netdev_budget and whose last poll ended when the limit had passed, counted in ticks of the kernel's clock (jiffies) as the kernel does; the causes add up to time_squeeze. " +
			"The default is two ticks: 2 ms where the clock ticks 1,000 times a second (HZ=1000), 8 ms at HZ=250, 20 ms at HZ=100. " +
			"From Linux 4.12 on it was a fixed 2 ms, until that was mended before 5.10; RHEL 8 had it up to 8.3. Where a tick is longer than 1 ms, that is a single tick, and runs end early for no reason: " +
			"the value to go back to is two ticks.",
		Cause: "Each packet is dear (filters, connection tracking, tunnels, no GRO), or the virtual CPU was not running (steal). The time limit is only where it shows.",
		Remedy: "Look at steal, at GRO and at the cost per packet first. Only if packets are cheap, the CPU has idle time and polls are full: raise the limit by two ticks, at most to four ticks and never above 16 ms. " +
			"With ticks of 10 ms (HZ=100) that is never: the default of two ticks is 20 ms already, and one step up would let a run hold the CPU for 40 ms.",
		SideEffects: "Programs, other softirqs and ordinary timers of that CPU wait for a run up to the new limit, and one poll beyond it: the clock is looked at after a poll.",
		NotWhen:     "On isolated or real-time CPUs, on a saturated CPU, or under steal.",
		Source:      "net/core/dev.c net_rx_action and netdev_budget_usecs; include/linux/jiffies.h (the limit is rounded up to ticks)",
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
