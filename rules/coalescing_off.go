package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	coalesceRate = threshold("uncoalesced-interrupt-rate", 50_000, "1/s on one device",
		"at 2 to 5 µs each, 50,000 interrupts a second are 10 to 25 % of a CPU",
		"a measured cost per interrupt")
	latencyUsecs = threshold("latency-rx-usecs", 10, "µs",
		"a fixed delay above the time a packet needs through the stack shows in the latency of every request",
		"the site's own latency budget")
)

var _ = register(Rule{
	ID:    "coalescing-off",
	Title: "interrupt moderation is off at a high interrupt rate",
	Page: Page{
		Meaning:     "The NIC interrupts for almost every packet because moderation is off, and a good part of a CPU goes into interrupts.",
		Evidence:    "Interrupts per second of the device's queues, adaptive-rx and rx-usecs (ethtool -c), softirq time.",
		Cause:       "Switched off for latency once, or a driver default.",
		Remedy:      "adaptive-rx on, where the driver has it: it moderates under load and not at rest.",
		SideEffects: "Some microseconds more latency under load.",
		NotWhen:     "The site prefers latency.",
		Source:      "lib/dim (net_dim); Documentation/networking/net_dim.rst",
		Thresholds:  describe(coalesceRate, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			rate, known := c.interruptRate(d)
			if !known || rate < c.At(coalesceRate) || d.Coalesce == nil || d.Kind == "virtio" || c.heat(d) < c.At(warmSoftirq) {
				continue
			}
			adaptive := d.Coalesce.AdaptiveRx
			usecs, has := d.Coalesce.Values["rx-usecs"]
			if adaptive == nil || *adaptive || !has || usecs > 0 {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("%s raises %.0f interrupts a second without moderation", d.Name, rate),
				Evidence: []plan.Evidence{{Metric: "interrupts_per_second", Value: rate, Unit: "1/s", Threshold: c.At(coalesceRate), Source: "/proc/interrupts, ethtool -c " + d.Name}},
				Wants: []plan.Want{{Ref: knob.Device(d.Name, "coalesce.adaptive-rx"), Value: "on", Why: fmt.Sprintf("%.0f interrupts/s", rate),
					Expect: expect("interrupts_per_second", "down", rate/2, "1/s")}},
			})
		}
		return out
	},
})
