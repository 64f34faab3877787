package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	budgetTimeLimit = threshold("budget-time-limit", 16_000, "µs",
		"a tuner in the field drove the limit to 300 ms and starved everything else on those CPUs; no published measurement gains beyond two to four ticks (jiffies) of 4 ms",
		"a measured gain beyond it on a CPU with time left")
	budgetPacketLimit = threshold("budget-packet-limit", 2_400, "packets",
		"300 ends a run at the fifth full poll of 64 packets, 2,400 at the 38th: more busy queues (NAPI instances) than one CPU usefully serves",
		"CPUs that serve more than 38 busy queues")
)

var _ = register(Rule{
	ID:    "budget-oversized",
	Title: "the receive softirq may run far longer than anything needs",
	Page: Page{
		Meaning: "netdev_budget and netdev_budget_usecs bound one run of the receive softirq. While it lasts, only hardware interrupts run on that CPU, and with them the timers that fire there (high-resolution timers): " +
			"no programs, no other softirqs, none of the ordinary timers. A real-time kernel (PREEMPT_RT) is different: there a run can be interrupted by more urgent threads. " +
			"A very large time limit turns load into latency for everybody.",
		Evidence:    "The two settings. The kernel starts with 300 packets and two ticks of its clock (2 to 20 ms). Advice comes above 16 ms and four ticks, a note above 2,400 packets.",
		Cause:       "The rule \"double it until the squeeze counter stops\", or an automatic tuner without an upper bound.",
		Remedy:      "Set the time limit back to two ticks. A packet budget that is too large matters only together with a long time limit, because the time ends the run first; then it is a note.",
		SideEffects: "time_squeeze may count more often. By itself that is harmless: the kernel goes on with the rest at once, or in ksoftirqd where that has gone on for about 2 ms or ten rounds, or a program is due.",
		NotWhen:     "The CPUs do nothing but network work, and squeezes by time were measured.",
		Source:      "net/core/dev.c net_rx_action; net/core/hotdata.c; kernel/softirq.c handle_softirqs",
		Thresholds:  describe(budgetTimeLimit, budgetPacketLimit),
	},
	Eval: func(c *Case) []plan.Finding {
		usecs, packets := knob.Global("net.core.netdev_budget_usecs"), knob.Global("net.core.netdev_budget")
		var out []plan.Finding
		limit := int64(c.At(budgetTimeLimit))
		standard := c.twoJiffies()
		if now, ok := c.knobInt(usecs); ok && now > max(limit, 2*standard) {
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  "host",
				Claim:    fmt.Sprintf("one receive softirq run may take %.0f ms (netdev_budget_usecs %d)", float64(now)/1000, now),
				Evidence: []plan.Evidence{{Metric: "netdev_budget_usecs", Value: float64(now), Unit: "µs", Threshold: float64(limit), Source: "/proc/sys/net/core/netdev_budget_usecs"}},
			}
			if standard > 0 {
				f.Wants = []plan.Want{{Ref: usecs, Value: strconv.FormatInt(standard, 10), Mode: plan.Lower,
					Why: "two jiffies are the kernel's default", Expect: expect("softirq_latency", "down", 1000*float64(standard), "ns")}}
			} else {
				f.Missing = append(f.Missing, "CONFIG_HZ, to know the default of two jiffies")
			}
			out = append(out, f)
		}
		if now, ok := c.knobInt(packets); ok && float64(now) > c.At(budgetPacketLimit) {
			out = append(out, plan.Finding{
				Severity: plan.Note,
				Subject:  "host",
				Claim:    fmt.Sprintf("netdev_budget is %d; the time limit ends a run before that many packets", now),
				Evidence: []plan.Evidence{{Metric: "netdev_budget", Value: float64(now), Unit: "packets", Threshold: c.At(budgetPacketLimit), Source: "/proc/sys/net/core/netdev_budget"}},
			})
		}
		return out
	},
})

// twoJiffies is the default of netdev_budget_usecs (net/core/dev.c:
// 2 * USEC_PER_SEC / HZ) in microseconds, 0 if HZ is unknown.
func (c *Case) twoJiffies() int64 {
	if c.Last.Ident.HZ <= 0 {
		return 0
	}
	return int64(2 * 1_000_000 / c.Last.Ident.HZ)
}
