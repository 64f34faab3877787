package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var stopRate = threshold("tx-stop-rate", 10, "stops/s",
	"a stopped queue waits for the host to take packets; a few stops in a window are bursts",
	"nothing known")

var _ = register(Rule{
	ID:    "virtio-tx-stopped",
	Title: "transmit queues stop because the hypervisor does not take packets",
	Page: Page{
		Meaning:     "The transmit ring is full again and again, so Linux stops sending until the host has taken packets.",
		Evidence:    "tx-stop of the netdev queue statistics over the window.",
		Cause:       "The host's side is the limit: its vhost thread, its NIC, or a rate limit of the cloud.",
		Remedy:      "On the host: CPU for the vhost threads, a larger tx_queue_size. In a cloud: a larger instance.",
		SideEffects: "None from here.",
		NotWhen:     "The link itself is full.",
		Source:      "drivers/net/virtio_net.c check_sq_full_and_disable; Documentation/netlink/specs/netdev.yaml (tx-stop)",
		Thresholds:  describe(stopRate),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			var stops uint64
			for id, counters := range c.Device[d.Name].Queue {
				if id.Tx {
					stops += counters["stops"]
				}
			}
			rate, timed := c.PerSecond(stops)
			if d.Kind != "virtio" || c.Basis != detect.BasisWindow || !timed || rate < c.At(stopRate) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("the transmit queues of %s stopped %.0f times a second because their ring was full", d.Name, rate),
				Evidence: []plan.Evidence{{Metric: "tx_stops_per_second", Value: rate, Unit: "1/s", Threshold: c.At(stopRate), Source: "netdev qstats"}},
				Operator: "the host does not take packets fast enough: its vhost thread, a rate limit, or a small tx_queue_size",
			})
		}
		return out
	},
})
