package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "cpu-saturated",
	Title: "a CPU spends its time in the network's interrupts and softirqs and cannot keep up",
	Page: Page{
		Meaning: "One CPU is busy with network work for most of the window, and bursts find no room there. No limit or queue length changes that: " +
			"only giving part of the work to other CPUs does.",
		Evidence: "Softirq and interrupt time of the CPU (/proc/stat), which is not the network's alone. So there must be NIC interrupts, runs of NET_RX (/proc/softirqs) or packets (softnet_stat) as well or, " +
			"where probes timed the softirqs, most of that time in NET_RX and NET_TX. Beside it its drops and squeezes (softnet_stat), the time of its ksoftirqd, and how full its polls are (probes). " +
			"One busy queue saturates a CPU without a single squeeze: a run asks it once for 64 packets, and the budget is 300. A squeeze is counted also when nothing was left to do, " +
			"so that squeezes alone prove no work left over; full polls, drops and a busy ksoftirqd do.",
		Cause:       "More packets than one CPU can process: stacked interrupts, one queue, or one flow.",
		Remedy:      "Spread: queues and interrupts first (irq-stacked, queues-unused, rss-skew), then RPS. Raising netdev_budget only makes everything else on the CPU wait longer.",
		SideEffects: "Those of the spreading.",
		NotWhen:     "The CPU is dedicated to this and nothing is lost. Its softirq time is another's, such as BLOCK on a CPU that serves a disk controller: without a sign of packets nothing is said, and with few of them /proc/softirqs tells which vectors run.",
		Source:      "net/core/dev.c net_rx_action; kernel/softirq.c handle_softirqs (ksoftirqd)",
		Thresholds:  describe(saturatedSoftirq, hotSoftirq, activeRate, networkSoftirq, squeezeRate, fullPolls, ksoftirqdShare, lossCount, lossShare),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Basis != detect.BasisWindow {
			return nil
		}
		squeezed := map[int]squeeze{}
		for _, s := range c.squeezes() {
			squeezed[s.cpu] = s
		}
		overflow := c.ksoftirqds()
		var out []plan.Finding
		for _, cpu := range slices.Sorted(maps.Keys(c.CPU)) {
			if !c.worksOnPackets(cpu) {
				continue
			}
			if s, often := squeezed[cpu]; c.softirq(cpu) >= c.At(saturatedSoftirq) || often && c.hot(cpu) && (!s.polled || s.polling.fullShare() >= c.At(fullPolls)) {
				out = append(out, c.saturated(cpu, s, overflow[cpu]))
			}
		}
		return c.joinSaturated(out)
	},
})

var networkSoftirq = threshold("network-softirq-share", 0.5, "of a CPU's softirq time",
	"where timers, block devices or RCU take the larger part, moving packets away leaves the CPU as busy as before",
	"nothing known")

// worksOnPackets reports whether the softirq time of a CPU is the network's: by
// its time in the network's vectors where probes took it, else by as many
// interrupts of queues, runs of NET_RX or packets as are worth judging. A queue
// that is polled all the time interrupts rarely, and its runs are long.
func (c *Case) worksOnPackets(cpu int) bool {
	if p, probed := c.probedCPU(cpu); probed {
		all := 0.0
		for _, vector := range p.Softirq {
			all += float64(vector.TimeNs)
		}
		if all > 0 {
			return float64(p.Softirq["NET_RX"].TimeNs+p.Softirq["NET_TX"].TimeNs) >= c.At(networkSoftirq)*all
		}
	}
	return slices.ContainsFunc([]uint64{c.loads[cpu], c.NetRx[cpu], c.Softnet[cpu].Processed}, func(n uint64) bool { return c.atLeast(n, c.At(activeRate)) })
}

// joinSaturated makes one finding of more than three CPUs that are alike: busy, with
// nothing lost and no other cause named. Which they are is what people want to read.
func (c *Case) joinSaturated(findings []plan.Finding) []plan.Finding {
	const separate = 3
	var out []plan.Finding
	var cpus []int
	for _, f := range findings {
		var cpu int
		if _, err := fmt.Sscanf(f.Subject, "CPU %d", &cpu); err != nil || f.Severity > plan.Advice || f.Because != "" || len(f.Evidence) != 1 {
			out = append(out, f)
			continue
		}
		cpus = append(cpus, cpu)
	}
	if len(cpus) <= separate {
		return findings
	}
	set, least := cpuset.Of(cpus...), 1.0
	for _, cpu := range cpus {
		least = min(least, c.softirq(cpu))
	}
	joined := c.saturated(set.Min(), squeeze{}, 0)
	joined.Subject = "CPUs " + set.String()
	joined.Claim = fmt.Sprintf("CPUs %s each spend %s of their time or more in interrupts and softirqs: %s", set, percent(least), c.relieves(set))
	return append(out, joined)
}

// relieves says what would take work off saturated CPUs.
func (c *Case) relieves(cpus cpuset.Set) string {
	for cpu := range c.Allowed.Minus(cpus).All() {
		if share, known := c.CPU[cpu]; known && share.Idle >= 0.5 {
			return "no budget helps, giving part of it to other CPUs does"
		}
	}
	return "no budget helps, and no other CPU is half idle: less work per packet (GRO, moderation, fewer filters), fewer packets or more CPUs do"
}

// saturated says what a CPU without time left does, and what shows that work waits:
// measured harm makes a problem of it.
func (c *Case) saturated(cpu int, s squeeze, overflow float64) plan.Finding {
	f := plan.Finding{
		Severity: plan.Advice,
		Subject:  cpuName(cpu),
		Because:  c.stackedAt(cpu),
		Evidence: c.cpuEvidence(cpu),
	}
	for i := range f.Evidence {
		f.Evidence[i].Threshold = c.At(saturatedSoftirq)
	}
	var signs []string
	if s.count > 0 {
		f.Evidence = c.squeezeEvidence(s)
		if s.polled && s.polling.fullShare() >= c.At(fullPolls) {
			f.Severity = plan.Problem
			signs = append(signs, fmt.Sprintf("%d receive runs ended at a limit with %s of the polls full", s.count, percent(s.polling.fullShare())))
		} else {
			signs = append(signs, fmt.Sprintf("%d receive runs ended at a limit, which alone does not prove that work was left", s.count))
		}
	}
	if d := c.Softnet[cpu]; c.lossy(cpu) {
		f.Severity = plan.Problem
		signs = append(signs, fmt.Sprintf("%d packets were dropped from its backlog", d.Dropped))
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "backlog_dropped", Value: float64(d.Dropped), Unit: "packets", Threshold: c.At(lossCount), Source: "/proc/net/softnet_stat column 2"})
	}
	if overflow >= c.At(ksoftirqdShare) {
		f.Severity = plan.Problem
		signs = append(signs, fmt.Sprintf("ksoftirqd runs there for %s of it", percent(overflow)))
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "ksoftirqd_share", Value: overflow, Unit: "of the CPU's time", Threshold: c.At(ksoftirqdShare), Source: "/proc/PID/stat"})
	}
	p, probed := c.cpuPolling(cpu)
	if probed && s.count == 0 && p.fullShare() >= c.At(fullPolls) {
		signs = append(signs, fmt.Sprintf("%s of its polls are full, so that more is always waiting", percent(p.fullShare())))
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "full_polls", Value: p.fullShare(), Unit: "of polls with work", Threshold: c.At(fullPolls), Source: "probe napi"})
	}
	who := cpuName(cpu)
	remedy := c.relieves(cpuset.Of(cpu))
	if now, tooSmall := c.budgetTooSmall(); tooSmall && s.count > 0 {
		remedy = fmt.Sprintf("giving part of it to other CPUs helps, and a budget above %d", now)
	}
	if c.Last.Topo.Online.Len() == 1 {
		who, remedy = "the only CPU", "no budget helps"
		f.Operator = "this machine has one CPU and nothing to spread to: fewer packets (GRO, larger ones) or a larger machine"
	}
	spends := fmt.Sprintf("%s spends %s of its time in interrupts and softirqs", who, percent(c.softirq(cpu)))
	f.Claim = strings.Join(append([]string{spends}, signs...), "; ") + ": " + remedy
	if !probed && !s.polled {
		f.Missing = append(f.Missing, "probes: how full the polls are, and why the runs ended")
	}
	return f
}
