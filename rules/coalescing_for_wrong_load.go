package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var latencyPackets = threshold("latency-packet-rate", 100, "packets/s",
	"a service that answers requests receives hundreds of packets a second and more; management ports and idle links receive tens (neighbours, switches, a login)",
	"services with few and urgent packets")

var _ = register(Rule{
	ID:    "coalescing-for-wrong-load",
	Title: "interrupt moderation delays packets while the site prefers latency",
	Page: Page{
		Meaning:     "The NIC waits before it interrupts. That saves CPU time and costs latency, and the policy asks for latency.",
		Evidence:    "adaptive-rx and rx-usecs (ethtool -c), and the policy; packets and softirq time over the window.",
		Cause:       "A setting made for throughput, or the driver's default.",
		Remedy:      "adaptive-rx off and rx-usecs 0, or, from kernel 6.13 on, interrupt suspension with busy polling.",
		SideEffects: "More interrupts: watch the CPU.",
		NotWhen:     "The interrupt rate would saturate a CPU: one that spends half of its time in softirqs has no room for more. On a port that hardly receives anything. Both are only a note.",
		Source:      "Documentation/networking/napi.rst (IRQ suspension); ENA best practices",
		Thresholds:  describe(latencyUsecs, latencyPackets, hotSoftirq),
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
			rate, known := c.packetRate(d)
			switch hot := c.heat(d); {
			case c.Basis == detect.BasisWindow && hot >= c.At(hotSoftirq):
				f.Severity = plan.Note
				f.Claim += fmt.Sprintf("; a CPU that serves it spends %s of its time in softirqs, and more interrupts would saturate it", percent(hot))
				out = append(out, f)
				continue
			case known && rate < c.At(latencyPackets):
				f.Severity = plan.Note
				f.Claim += fmt.Sprintf("; it receives %.0f packets a second", rate)
				out = append(out, f)
				continue
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
