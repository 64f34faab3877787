package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "coalescing-for-wrong-load",
	Title: "interrupt moderation delays packets while the site prefers latency",
	Page: Page{
		Meaning:     "The NIC waits before it interrupts. That saves CPU time and costs latency, and the policy asks for latency.",
		Evidence:    "adaptive-rx and rx-usecs (ethtool -c), and the policy.",
		Cause:       "A setting made for throughput, or the driver's default.",
		Remedy:      "adaptive-rx off and rx-usecs 0, or, from kernel 6.13 on, interrupt suspension with busy polling.",
		SideEffects: "More interrupts: watch the CPU.",
		NotWhen:     "The interrupt rate would saturate a CPU.",
		Source:      "Documentation/networking/napi.rst (IRQ suspension); ENA best practices",
		Thresholds:  describe(latencyUsecs),
	},
	Eval: func(c *Case) []plan.Finding {
		if !c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if d.Coalesce == nil || d.Kind == "virtio" {
				continue
			}
			adaptive := d.Coalesce.AdaptiveRx != nil && *d.Coalesce.AdaptiveRx
			usecs := d.Coalesce.Values["rx-usecs"]
			if !adaptive && float64(usecs) <= c.At(latencyUsecs) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("%s may delay receive interrupts by %d µs (adaptive: %v)", d.Name, usecs, adaptive),
				Evidence: []plan.Evidence{{Metric: "rx_usecs", Value: float64(usecs), Unit: "µs", Threshold: c.At(latencyUsecs), Source: "ethtool -c " + d.Name}},
			}
			if adaptive {
				f.Wants = append(f.Wants, plan.Want{Ref: knob.Device(d.Name, "coalesce.adaptive-rx"), Value: "off", Why: "the policy prefers latency", Expect: expect("rx_interrupt_delay", "down", 0, "µs")})
			}
			f.Wants = append(f.Wants, plan.Want{Ref: knob.Device(d.Name, "coalesce.rx-usecs"), Value: "0", Why: "the policy prefers latency", Expect: expect("rx_interrupt_delay", "down", 0, "µs")})
			out = append(out, f)
		}
		return out
	},
})
