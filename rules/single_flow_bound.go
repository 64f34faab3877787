package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "single-flow-bound",
	Title: "one flow carries the traffic",
	Page: Page{
		Meaning:     "The NIC has several queues and hashes over the ports, yet one queue gets nearly everything and its CPU is saturated: that is one flow, and one flow is always processed by one CPU at a time.",
		Evidence:    "Packets per queue, the hash fields, softirq time of the queue's CPU.",
		Cause:       "One connection or one tunnel carries the load.",
		Remedy:      "In the application: more connections. GRO and fewer, larger packets make the flow itself cheaper. More queues, RPS or budgets do not help.",
		SideEffects: "None.",
		NotWhen:     "The traffic is a tunnel with many inner flows (see tunnel-hash), or may be one: tunnels that received that much are there, and they do not say through which NIC.",
		Source:      "Documentation/networking/scaling.rst (RSS hashes flows, not packets)",
		Thresholds:  describe(flowShare, hotSoftirq, tunnelShare),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			share, queue, ok := c.topQueue(d)
			if !ok || share < c.At(flowShare) || c.heat(d) < c.At(hotSoftirq) || c.Basis != detect.BasisWindow || !fourTuple(d) {
				continue
			}
			if c.mayBeTunnelled(d) {
				continue // many flows may be in it
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("queue %d of %s gets %s of the packets although the hash covers the ports: one flow carries the traffic", queue, d.Name, percent(share)),
				Evidence: []plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(flowShare), Source: "queue statistics of " + d.Name}},
				Operator: "use more connections in the application; no setting spreads one flow",
			})
		}
		return out
	},
})

var flowShare = threshold("flow-share", 0.9, "of the received packets",
	"two equal flows on different queues give 0.5 each; nine tenths on one queue is one flow",
	"nothing known")

// topQueue is the receive queue with the most packets in the window.
func (c *Case) topQueue(d *detect.Device) (share float64, queue int, ok bool) {
	packets := map[int]uint64{}
	var total uint64
	for id, counters := range c.Device[d.Name].Queue {
		if n, has := counters["packets"]; has && !id.Tx {
			packets[id.N] = n
			total += n
		}
	}
	queue = busiest(packets)
	if len(packets) < 2 || float64(total) < c.At(skewPackets) {
		return 0, -1, false
	}
	return float64(packets[queue]) / float64(total), queue, true
}

// fourTuple reports whether the NIC is known to hash TCP and UDP over ports.
func fourTuple(d *detect.Device) bool {
	udp, known := d.HashFields["udp4"]
	return known && strings.Contains(udp, "f")
}
