package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "gro-latency",
	Title: "interrupt deferral is on while the site prefers latency",
	Page: Page{
		Meaning:     "The device waits before it lets the NIC interrupt again or passes merged packets on. The policy asks for latency.",
		Evidence:    "gro_flush_timeout and napi_defer_hard_irqs of the device, and the policy.",
		Cause:       "Set for throughput earlier.",
		Remedy:      "Set both to 0, unless the application busy-polls with them on purpose.",
		SideEffects: "More interrupts.",
		NotWhen:     "Applications use SO_PREFER_BUSY_POLL, which needs the deferral.",
		Source:      "Documentation/networking/napi.rst (IRQ mitigation)",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		if !c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			timeout, count := knob.Device(d.Name, "gro_flush_timeout"), knob.Device(d.Name, "napi_defer_hard_irqs")
			ns, known := c.knobInt(timeout)
			if !known || ns <= 0 {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("%s may hold packets for %d µs", d.Name, ns/1000),
				Evidence: []plan.Evidence{{Metric: "gro_flush_timeout", Value: float64(ns), Unit: "ns", Threshold: 0, Source: "/sys/class/net/" + d.Name + "/gro_flush_timeout"}},
				Wants:    []plan.Want{{Ref: timeout, Value: "0", Why: "the policy prefers latency", Expect: expect("rx_hold_time", "down", 0, "µs")}},
			}
			if n, ok := c.knobInt(count); ok && n > 0 {
				f.Wants = append(f.Wants, plan.Want{Ref: count, Value: "0", Why: "the policy prefers latency", Expect: expect("rx_hold_time", "down", 0, "µs")})
			}
			out = append(out, f)
		}
		return out
	},
})
