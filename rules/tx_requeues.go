package rules

import (
	"fmt"
	"regexp"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "tx-requeues",
	Title: "packets are put back because the driver was busy",
	Page: Page{
		Meaning:     "Packets were on their way to the NIC and had to be put back into the queueing discipline: the transmit ring was full or its lock taken.",
		Evidence:    "Driver counters of busy transmit queues (tx_busy, tx_restart_queue and their kin, ethtool -S) over the window.",
		Cause:       "A transmit ring that is too small for the bursts, completions that come late, or a link that is full.",
		Remedy:      "If the link is not full: a larger transmit ring, and transmit interrupts on the CPUs that send (xps-mismatch).",
		SideEffects: "Longer rings hide the sender's backpressure.",
		NotWhen:     "The link runs at its speed.",
		Source:      "net/sched/sch_generic.c dev_requeue_skb; driver documentation",
		Thresholds:  describe(requeueRate),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			var busy uint64
			for name, n := range c.Device[d.Name].Stats {
				if txBusy.MatchString(name) {
					busy += n
				}
			}
			rate, timed := c.PerSecond(busy)
			if !timed || c.Basis != detect.BasisWindow || rate < c.At(requeueRate) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Note, Subject: d.Name,
				Claim:    fmt.Sprintf("the transmit queues of %s were busy %.0f times a second", d.Name, rate),
				Evidence: []plan.Evidence{{Metric: "tx_busy_per_second", Value: rate, Unit: "1/s", Threshold: c.At(requeueRate), Source: "ethtool -S " + d.Name}},
				Operator: "if the link is not full, a larger transmit ring (ethtool -G " + d.Name + " tx N) takes the bursts",
			})
		}
		return out
	},
})

// txBusy names counters of a transmit ring that was full: i40e and ice
// (tx_busy, tx_restart), ixgbe and igb (tx_restart_queue), mlx5 (tx_queue_stopped).
var txBusy = regexp.MustCompile("^(tx_busy|tx_restart|tx_restart_queue|tx_queue_stopped|tx-[0-9]+[.]tx_busy)$")
