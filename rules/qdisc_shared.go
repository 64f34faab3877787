package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var sharedQdiscRate = threshold("shared-qdisc-rate", 100_000, "packets/s",
	"a packet enters and leaves a queueing discipline under its lock, by estimate half a microsecond together: at this rate the lock is taken 5 % of the time, and CPUs begin to wait for each other",
	"a measured time under the lock (perf lock, bpftrace on queued_spin_lock_slowpath)")

var _ = register(Rule{
	ID:    "qdisc-shared",
	Title: "all CPUs send through one queueing discipline",
	Page: Page{
		Meaning: "The device could send on several queues at once, but one queueing discipline at its root takes all packets first, under one lock. " +
			"CPUs that send at the same time wait for each other there.",
		Evidence: "The root discipline as ip link shows it, the number of transmit queues, and packets sent over the window.",
		Cause: "tc qdisc replace dev DEV root fq (or a shaper) on a NIC with several queues, where the kernel had put mq with one discipline for each queue; " +
			"or any discipline on a bond, which needs none.",
		Remedy: "On a NIC: tc qdisc replace dev DEV root mq, with net.core.default_qdisc naming what each queue gets (fq for pacing). " +
			"On a bond: tc qdisc del dev BOND root, and set the discipline at its slaves.",
		SideEffects: "Pacing and fairness are then for each queue by itself. NAPI, interrupts and budgets have no part in this.",
		NotWhen:     "A shaper (htb, tbf, cake) holds the whole device to one rate on purpose: that needs one place for all packets.",
		Source:      "Documentation/networking/multiqueue.rst; net/sched/sch_mq.c; net/core/dev.c __dev_xmit_skb (root lock)",
		Thresholds:  describe(sharedQdiscRate),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, d := range c.Last.Devices {
			if f, ok := c.sharedQdisc(d); ok && c.wanted(d.Name) {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) sharedQdisc(d *detect.Device) (plan.Finding, bool) {
	remedy := "tc qdisc replace dev " + d.Name + " root mq, with net.core.default_qdisc=" + d.Qdisc + " for the queues"
	queues := txQueues(d)
	switch d.Kind {
	case "bond", "team":
		remedy = "tc qdisc del dev " + d.Name + " root, and set the discipline at the slaves"
	case "physical", "virtio":
		if queues < 2 {
			return plan.Finding{}, false
		}
	default:
		return plan.Finding{}, false
	}
	delta := c.Device[d.Name]
	rate, timed := c.PerSecond(delta.Counters.TxPackets)
	if !classless(d.Qdisc) || !delta.Known || !timed || c.Basis != detect.BasisWindow || rate < c.At(sharedQdiscRate) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Note, Subject: d.Name,
		Claim: fmt.Sprintf("%.0f packets a second of all CPUs pass one %s discipline at the root of %s", rate, d.Qdisc, d.Name),
		Evidence: []plan.Evidence{
			{Metric: "tx_packets_per_second", Value: rate, Unit: "packets/s", Threshold: c.At(sharedQdiscRate), Source: "/proc/net/dev"},
		},
		Operator: remedy + ": no NAPI or interrupt setting is at fault",
	}
	if queues > 1 {
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "tx_queues", Value: float64(queues), Unit: "queues", Source: "/sys/class/net/" + d.Name + "/queues"})
	}
	return f, true
}

// classless reports whether a root discipline is one that each transmit queue
// could have for itself. Shapers hold a device to one rate and cannot be
// divided; mq and mqprio are the division; noqueue is none.
func classless(qdisc string) bool {
	switch qdisc {
	case "fq", "fq_codel", "pfifo", "bfifo", "pfifo_fast", "sfq", "codel", "fq_pie", "pie":
		return true
	}
	return false
}

// txQueues counts transmit queues in use, 0 if unknown.
func txQueues(d *detect.Device) int {
	n := 0
	for i := range d.Queues {
		if d.Queues[i].Tx {
			n++
		}
	}
	return n
}
