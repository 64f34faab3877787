package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var softirqWait = threshold("softirq-wait-p99", 2_000_000, "ns",
	"a healthy softirq starts within some 50 µs of being raised; 2 ms is the time after which the kernel itself defers to ksoftirqd (kernel/softirq.c, MAX_SOFTIRQ_TIME)",
	"real-time requirements")

var _ = register(Rule{
	ID:    "softirq-latency",
	Title: "receive softirqs wait long before they run",
	Page: Page{
		Meaning:     "Between the moment a receive softirq is requested and the moment it runs, milliseconds pass in one of a hundred cases. Packets wait that long before Linux looks at them.",
		Evidence:    "The time from raise to entry of NET_RX per CPU, as a histogram made in the kernel (probe softirq).",
		Cause:       "Other softirqs that run long, interrupts disabled for long, ksoftirqd waiting for its turn, or a virtual CPU that was not running.",
		Remedy:      "Look at steal, at budgets that were raised, and at what else runs on that CPU; move the queue to a quieter one.",
		SideEffects: "None from here.",
		NotWhen:     "Throughput alone counts.",
		Source:      "kernel/softirq.c (tracepoints irq:softirq_raise and irq:softirq_entry)",
		Thresholds:  describe(softirqWait),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Probes == nil {
			return nil
		}
		waits, upTo := map[int]uint64{}, map[int]string{}
		for _, p := range c.Probes.CPUs {
			high, more, ok := p.Rx.RaiseToEntryNs.Quantile(0.99)
			if ok && float64(high) >= c.At(softirqWait) && p.Rx.RaiseToEntryNs.Count() >= 1000 {
				waits[p.CPU], upTo[p.CPU] = high, "up to"
				if more {
					upTo[p.CPU] = "more than"
				}
			}
		}
		cpu := busiest(waits)
		if cpu < 0 {
			return nil
		}
		f := plan.Finding{
			Severity: plan.Advice, Subject: cpuName(cpu),
			Claim:    fmt.Sprintf("one in a hundred receive softirqs on CPU %d waits %s %.1f ms before it runs (%d CPUs above %.0f ms)", cpu, upTo[cpu], float64(waits[cpu])/1e6, len(waits), c.At(softirqWait)/1e6),
			Evidence: append([]plan.Evidence{{Metric: "softirq_raise_to_entry_p99", Value: float64(waits[cpu]), Unit: "ns", Threshold: c.At(softirqWait), Source: "probe softirq"}}, c.cpuEvidence(cpu)...),
			Because:  c.stackedAt(cpu),
		}
		if c.CPU[cpu].Steal >= c.At(stealShare)/2 {
			f.Because = "cpu-steal/host"
		}
		return []plan.Finding{f}
	},
})
