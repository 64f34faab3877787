package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "tunnel-hash",
	Title: "the NIC cannot hash what is inside a tunnel",
	Page: Page{
		Meaning:     "Traffic comes in a tunnel (PPPoE, GRE, IPIP, VXLAN, WireGuard) whose outer headers are always the same, so the NIC puts all of it on one queue and one CPU saturates.",
		Evidence:    "Tunnel devices, packets per receive queue, softirq time of the busiest queue's CPU.",
		Cause:       "RSS looks at outer headers; the inner flows are invisible to it.",
		Remedy:      "RPS on the device: the kernel dissects inner headers for many tunnels. For WireGuard rather threaded NAPI on its device; for VXLAN a four-tuple hash (the source port carries the inner hash).",
		SideEffects: "An inter-processor interrupt per batch.",
		NotWhen:     "The CPU is not near its limit.",
		Source:      "net/core/flow_dissector.c; Documentation/networking/scaling.rst",
		Thresholds:  describe(flowShare, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		tunnels := c.tunnels()
		if len(tunnels) == 0 || c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for _, d := range c.tunable() {
			share, queue, ok := c.topQueue(d)
			cpu := c.hotQueueCPU(d)
			if !ok || share < c.At(flowShare) || cpu < 0 {
				continue
			}
			f := plan.Finding{
				Severity: plan.Problem, Subject: d.Name,
				Claim:    fmt.Sprintf("queue %d of %s gets %s of the packets and saturates CPU %d; the host has tunnels (%s) that the NIC cannot look into", queue, d.Name, percent(share), cpu, strings.Join(tunnels, ", ")),
				Evidence: append([]plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(flowShare), Source: "queue statistics of " + d.Name}}, c.cpuEvidence(cpu)...),
			}
			ref := knob.Rx(d.Name, queue, "rps.cpus")
			targets := c.rpsTargetCPUs(cpu)
			if now, known := c.knob(ref); known && now == "" && float64(targets.Len()) >= c.At(rpsTargets) {
				f.Wants = []plan.Want{{Ref: ref, Value: targets.String(), Why: "the NIC cannot hash the tunnel", Expect: plan.Expect{Metric: "max_cpu_softirq_share", Direction: "down"}}}
			}
			out = append(out, f)
		}
		return out
	},
})
