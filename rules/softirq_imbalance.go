package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var (
	imbalanceShare = threshold("imbalance-max-over-mean", 2.5, "times the mean",
		"hash spreading over a few queues gives 1.3 to 2.0 on healthy hosts; captured faults show 3 and more",
		"more than 32 CPUs, where single busy flows weigh less")
	imbalanceRuns = threshold("imbalance-runs", 10_000, "NET_RX runs",
		"below some thousand runs of net_rx_action in the window, background traffic decides where they happen",
		"windows much longer than ten seconds")
)

var _ = register(Rule{
	ID:    "softirq-imbalance",
	Title: "receive softirqs run on few CPUs",
	Page: Page{
		Meaning: "Most of the receive work (NET_RX softirqs) happens on one or two CPUs. By itself that is not a fault: one queue or one busy flow looks the same.",
		Evidence: "NET_RX runs per CPU (/proc/softirqs) and softirq time per CPU (/proc/stat) over the window. Runs are neither packets nor interrupts; " +
			"time decides how bad it is. Totals since boot are only mentioned, never acted on.",
		Cause:       "Interrupts stacked on one CPU (irq-stacked), one queue only, a hash that sends everything to one queue, or one heavy flow.",
		Remedy:      "That of the cause; RPS where the hardware cannot spread.",
		SideEffects: "That of the remedy.",
		NotWhen:     "No CPU is near its limit: an uneven but light load needs nothing.",
		Source:      "kernel/softirq.c; net/core/dev.c net_rx_action; fs/proc/softirqs.c",
		Thresholds:  describe(imbalanceShare, imbalanceRuns, activeTotal, hotSoftirq),
	},
	Eval: evalImbalance,
})

func evalImbalance(c *Case) []plan.Finding {
	runs, metric, source := c.NetRx, "net_rx_share", "/proc/softirqs"
	if len(runs) == 0 {
		runs, metric, source = processed(c.Softnet), "softnet_processed_share", "/proc/net/softnet_stat"
	}
	runs = c.onlineOnly(runs)
	var total uint64
	for _, n := range runs {
		total += n
	}
	if c.Basis == detect.BasisBoot && float64(total) < c.At(activeTotal) {
		return nil
	}
	cpu := busiest(runs)
	if len(runs) < 2 || cpu < 0 || total == 0 {
		return nil
	}
	mean := float64(total) / float64(len(runs))
	factor := float64(runs[cpu]) / mean
	if factor < min(c.At(imbalanceShare), 0.75*float64(len(runs))) && !c.pairOfCPUs(runs, total) || float64(total) < c.At(imbalanceRuns) {
		return nil
	}
	share := float64(runs[cpu]) / float64(total)
	f := plan.Finding{
		Severity: plan.Note,
		Subject:  fmt.Sprintf("CPU %d", cpu),
		Claim:    fmt.Sprintf("CPU %d does %s of the receive softirq runs, %.1f times the mean of %d CPUs (%s)", cpu, percent(share), factor, len(runs), c.Basis),
		Evidence: append([]plan.Evidence{{Metric: metric, Value: share, Unit: "of all", Source: source},
			{Metric: "max_over_mean", Value: factor, Unit: "times the mean", Threshold: c.At(imbalanceShare), Source: source}}, c.cpuEvidence(cpu)...),
	}
	if second := c.secondCPU(runs, cpu); second >= 0 && float64(runs[second]) >= 0.5*float64(runs[cpu]) {
		f.Claim += "; " + c.siblingText(cpu, second, float64(runs[second])/float64(total))
	}
	f.Because = c.stackedAt(cpu)
	if c.Basis == detect.BasisBoot {
		f.Missing = append(f.Missing, "a second sample: totals since boot need not be the present")
	}
	if c.hot(cpu) {
		f.Severity = plan.Advice
	}
	return []plan.Finding{f}
}

// onlineOnly leaves out CPUs that are known not to run: /proc/softirqs has a
// column for every possible CPU (fs/proc/softirqs.c), and a mean over CPUs
// that cannot take part is too low.
func (c *Case) onlineOnly(runs map[int]uint64) map[int]uint64 {
	online := c.Last.Topo.Online
	if online.IsEmpty() {
		return runs
	}
	out := maps.Clone(runs)
	maps.DeleteFunc(out, func(cpu int, _ uint64) bool { return !online.Has(cpu) })
	return out
}

// pairOfCPUs reports whether two CPUs of many do nearly everything.
func (c *Case) pairOfCPUs(runs map[int]uint64, total uint64) bool {
	if len(runs) < 6 {
		return false
	}
	first := busiest(runs)
	second := c.secondCPU(runs, first)
	return float64(runs[first]+runs[second]) >= 0.9*float64(total)
}

func (c *Case) secondCPU(runs map[int]uint64, first int) int {
	rest := maps.Clone(runs)
	delete(rest, first)
	return busiest(rest)
}

// siblingText says what is known of how two CPUs relate: two threads of one
// core are hardly more than one CPU.
func (c *Case) siblingText(a, b int, share float64) string {
	text := fmt.Sprintf("CPU %d another %s", b, percent(share))
	if !c.Last.Topo.Known.SMT {
		return text + "; whether both are threads of one core is unknown"
	}
	if c.Last.Topo.Siblings(a).Has(b) {
		return text + "; both are threads of one core"
	}
	return text
}

func processed(softnet map[int]detect.SoftnetDelta) map[int]uint64 {
	out := make(map[int]uint64, len(softnet))
	for _, cpu := range slices.Sorted(maps.Keys(softnet)) {
		out[cpu] = softnet[cpu].Processed
	}
	return out
}
