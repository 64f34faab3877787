package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-little-core",
	Title: "busy queues are served by slow cores",
	Page: Page{
		Meaning:     "The machine has fast and slow cores, and network queues interrupt slow ones.",
		Evidence:    "cpu_capacity, the list of efficiency cores or their frequencies, against the CPU where each queue fires.",
		Cause:       "Default affinity starts at CPU 0, which is a little core on many boards.",
		Remedy:      "Move the busy queues to fast cores, and leave slow ones out of RPS masks.",
		SideEffects: "Fast cores draw more power.",
		NotWhen:     "The load is light, or battery life counts more.",
		Source:      "Documentation/scheduler/sched-capacity.rst (cpu_capacity); /sys/devices/cpu_atom/cpus",
		Thresholds:  describe(activeQueue, activeRate, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.diagnosis.little) {
			dev := group[0].dev
			claim := fmt.Sprintf("%d queue pairs of %s (%s) are served by slow cores such as CPU %d", len(group), dev.Name, pairNames(group), group[0].home())
			if len(group) == 1 {
				claim = fmt.Sprintf("%s is served by a slow core, CPU %d", group[0].id(), group[0].home())
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: dev.Name,
				Claim:    claim,
				Evidence: []plan.Evidence{{Metric: "queue_pairs_on_slow_cores", Value: float64(len(group)), Unit: "queue pairs", Threshold: 1, Source: "cpu_capacity, /proc/interrupts"}},
				Wants:    c.affinityWants(group, "slow core", c.moved("queue_pairs_on_slow_cores", 0, "queue pairs")),
			})
		}
		return out
	},
})

func (c *Case) onLittle(p *path) bool {
	little := c.Last.Topo.LittleCPUs()
	return little.Has(p.home()) && !c.cool(p.home()) && !c.interruptible(p.dev).Minus(little).IsEmpty()
}
