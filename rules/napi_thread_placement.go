package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "napi-thread-placement",
	Title: "several busy NAPI threads run on one CPU",
	Page: Page{
		Meaning:     "This device polls its queues in threads, and several busy ones sit on the same CPU. The interrupt's affinity does not move them: the scheduler or taskset does.",
		Evidence:    "CPU time and last CPU of the napi/* threads, and the CPUs they may use.",
		Cause:       "Threads that were pinned, or that the scheduler keeps near the CPU whose interrupt wakes them.",
		Remedy:      "Spread them: taskset -cp CPU PID for each thread, one per core.",
		SideEffects: "None.",
		NotWhen:     "The threads together leave the CPU half idle.",
		Source:      "net/core/dev.c napi_kthread_create; Documentation/networking/napi.rst (threaded NAPI)",
		Thresholds:  describe(hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		shares := c.threadShare(func(p host.Process) bool { return strings.HasPrefix(p.Comm, "napi/") })
		sum := map[int]float64{}
		count := map[int]int{}
		for _, pid := range sortedByValue(shares) {
			if p := c.process(pid); shares[pid] >= 0.05 && c.threadHome(pid) == p.CPU {
				sum[p.CPU] += shares[pid]
				count[p.CPU]++
			}
		}
		cpu := busiest(sum)
		if cpu < 0 || count[cpu] < 2 || sum[cpu] < c.At(hotSoftirq) || c.Allowed.Len() < 2 {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Advice, Subject: cpuName(cpu),
			Claim:    fmt.Sprintf("%d NAPI threads share CPU %d and take %s of it", count[cpu], cpu, percent(sum[cpu])),
			Evidence: []plan.Evidence{{Metric: "napi_thread_share", Value: sum[cpu], Unit: "of the CPU's time", Threshold: c.At(hotSoftirq), Source: "/proc/PID/stat"}},
			Operator: "spread the threads over cores: taskset -cp CPU PID for each napi/* thread; interrupt affinity does not move them",
		}}
	},
})

// threadHome is the CPU a thread ran on at both ends of the window, -1 if it moved.
func (c *Case) threadHome(pid int) int {
	for _, p := range c.First.Processes {
		if p.PID == pid && p.CPU == c.process(pid).CPU {
			return p.CPU
		}
	}
	return -1
}
