package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var (
	txDeferred = threshold("net-tx-share", 0.1, "of a CPU",
		"transmit work normally runs in the sender's context; a tenth of a CPU in NET_TX softirqs is a backlog that is worked off later",
		"hosts that shape traffic on purpose")
	requeueRate = threshold("requeue-rate", 1_000, "1/s",
		"a requeued packet was taken from the queueing discipline and put back because the driver was busy; a thousand a second is a full transmit ring or lock contention",
		"nothing known")
)

var _ = register(Rule{
	ID:    "tx-softirq-deferred",
	Title: "sending is put off to NET_TX softirqs",
	Page: Page{
		Meaning:     "Senders use up the quota that the kernel lets them transmit in their own time, and the rest is sent later from a softirq. It shows as latency and as softirq load without receiving.",
		Evidence:    "Time in NET_TX softirqs per CPU (probe softirq).",
		Cause:       "Bursts of small packets through one queueing discipline, or sent buffers that a driver leaves for the softirq to free; a quota (dev_weight × dev_weight_tx_bias) of 64 packets.",
		Remedy:      "More transmit queues or XPS so that senders do not share one; larger sends. Raising dev_weight_tx_bias trades fairness for it.",
		SideEffects: "None from here.",
		NotWhen:     "A shaper (tbf, htb, fq with pacing) delays packets on purpose.",
		Source:      "net/sched/sch_generic.c __qdisc_run; net/core/dev.c net_tx_action",
		Thresholds:  describe(txDeferred),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Probes == nil || c.Probes.AttachedNs == 0 {
			return nil
		}
		share := map[int]float64{}
		for _, p := range c.Probes.CPUs {
			if s := float64(p.Softirq["NET_TX"].TimeNs) / float64(c.Probes.AttachedNs); s >= c.At(txDeferred) {
				share[p.CPU] = s
			}
		}
		cpu := busiest(share)
		if cpu < 0 {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Note, Subject: cpuName(cpu),
			Claim:    fmt.Sprintf("CPU %d spends %s of its time in NET_TX softirqs", cpu, percent(share[cpu])),
			Evidence: []plan.Evidence{{Metric: "net_tx_share", Value: share[cpu], Unit: "of the CPU's time", Threshold: c.At(txDeferred), Source: "probe softirq"}},
			Operator: "see whether a shaper delays on purpose; else give senders more transmit queues",
		}}
	},
})
