package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "queue-pair-split",
	Title: "receive and transmit interrupts of a queue pair are on different CPUs",
	Page: Page{
		Meaning: "Queue N's receive interrupt fires on one CPU and its transmit interrupt on another. A packet that answers another is sent where the first was " +
			"received, and its buffer is then freed and its socket woken on the other CPU: the same memory travels between two caches for every answer.",
		Evidence: "The home CPUs of both interrupts of each pair, from /proc/interrupts. Beside such pairs, one whose transmit interrupt hardly fires is judged by where it " +
			"would (effective_affinity).",
		Cause:       "A balancer that knows interrupts but no queues (irqbalance treats the two as strangers), or a script that numbered interrupts in file order.",
		Remedy:      "Put both interrupts of the pair on one CPU. On virtio the receive poll also cleans the transmit queue (virtnet_poll_cleantx), so together they cost fewer interrupts.",
		SideEffects: "None.",
		NotWhen:     "The device has a single pair and a second CPU to spare: then two CPUs beat one, and this rule stays silent.",
		Source:      "drivers/net/virtio_net.c virtnet_poll, virtnet_set_affinity; Documentation/networking/scaling.rst (XPS)",
		Thresholds:  describe(homeShare, activeQueue),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.diagnosis.split) {
			// One that fires on both sides is the example.
			p := group[max(0, slices.IndexFunc(group, c.pairSplit))]
			out = append(out, plan.Finding{
				Severity: plan.Advice,
				Subject:  p.dev.Name,
				Claim: fmt.Sprintf("%d of %d queue pairs of %s are split: %s receives on CPU %d and transmits on CPU %d",
					len(group), len(p.dev.Queues), p.dev.Name, p.id(), p.rx.home, p.tx.home),
				Evidence: []plan.Evidence{{Metric: "split_queue_pairs", Value: float64(len(group)), Unit: "queue pairs", Threshold: 1, Source: "/proc/interrupts"}},
				Because:  c.stackedBecause(group),
				Wants:    c.affinityWants(group, "receive and transmit side on different CPUs", c.moved("split_queue_pairs", 0, "queue pairs")),
			})
		}
		return out
	},
})

// stackedBecause names the stack that these pairs are part of, if any.
func (c *Case) stackedBecause(paths []*path) string {
	for _, s := range c.diagnosis.stacked {
		for _, p := range paths {
			for _, m := range s.movable {
				if p == m {
					return s.because()
				}
			}
		}
	}
	return ""
}
