package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var budgetPacketFloor = threshold("budget-packet-floor", 64, "packets",
	"NAPI_POLL_WEIGHT (include/linux/netdevice.h): with less, each full poll ends the run, and a run never serves a second queue",
	"drivers with a smaller weight")

// defaultBudget is what the kernel starts with (net/core/hotdata.c, netdev_budget).
const defaultBudget = 300

var _ = register(Rule{
	ID:    "budget-undersized",
	Title: "the packet budget ends the receive softirq after a single poll",
	Page: Page{
		Meaning: "netdev_budget is smaller than what one queue may deliver in one poll. Every poll that is full ends the run of the receive softirq: the rest waits for " +
			"the next run or for ksoftirqd, and queues on the same CPU wait for each other.",
		Evidence:    "netdev_budget, and how often runs ended with work left (column 3 of /proc/net/softnet_stat) over the window.",
		Cause:       "A setting written by hand or by a script. The kernel accepts any number, also 0 and negative ones.",
		Remedy:      "The kernel's default of 300.",
		SideEffects: "One run may take longer; the time limit (netdev_budget_usecs) still bounds it.",
		NotWhen:     "No runs end early: then it is only a note. A real-time host may bound its softirqs on purpose.",
		Source:      "net/core/dev.c net_rx_action; net/core/sysctl_net_core.c (netdev_budget has no lower limit)",
		Thresholds:  describe(budgetPacketFloor, squeezeRate),
	},
	Eval: func(c *Case) []plan.Finding {
		now, tooSmall := c.budgetTooSmall()
		if !tooSmall {
			return nil
		}
		f := plan.Finding{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("netdev_budget is %d: one full poll of a queue ends the receive softirq", now),
			Evidence: []plan.Evidence{{Metric: "netdev_budget", Value: float64(now), Unit: "packets", Threshold: c.At(budgetPacketFloor), Source: "/proc/sys/net/core/netdev_budget"}},
		}
		if c.Basis != detect.BasisWindow {
			f.Missing = append(f.Missing, "a second sample: how often runs end early")
		}
		squeezed := c.squeezes()
		if len(squeezed) == 0 {
			return []plan.Finding{f}
		}
		worst := squeezed[0]
		for _, s := range squeezed {
			if s.count > worst.count {
				worst = s
			}
		}
		f.Severity = plan.Advice
		f.Claim += fmt.Sprintf("; on CPU %d that left work over %d times", worst.cpu, worst.count)
		f.Evidence = append(f.Evidence, c.squeezeEvidence(worst)...)
		f.Wants = []plan.Want{{Ref: knob.Global("net.core.netdev_budget"), Value: strconv.Itoa(defaultBudget), Mode: plan.Raise,
			Why: "less than one poll", Expect: expect("time_squeeze", "down", c.rate(worst.count)/2, "1/s")}}
		return []plan.Finding{f}
	},
})

// budgetTooSmall reports a packet budget that a single full poll uses up.
func (c *Case) budgetTooSmall() (now int64, tooSmall bool) {
	now, known := c.knobInt(knob.Global("net.core.netdev_budget"))
	return now, known && float64(now) < c.At(budgetPacketFloor)
}
