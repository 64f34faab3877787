package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "tap-drops",
	Title: "packets for a guest are dropped at its tap device",
	Page: Page{
		Meaning:     "The host had packets for a guest (or for a program such as a VPN that reads a tun device), but it did not take them in time, and the device's queue overflowed.",
		Evidence:    "Transmit drops of tap devices over the window.",
		Cause:       "The guest's virtual CPU or its vhost thread is too slow, or its receive ring is small.",
		Remedy:      "In the guest: more queues, or look there with this tool. On the host: CPU for the vhost thread, a longer txqueuelen, rx_queue_size=1024.",
		SideEffects: "Longer queues add delay.",
		NotWhen:     "The guest is stopped or migrating.",
		Source:      "drivers/net/tun.c tun_net_xmit",
		Thresholds:  describe(backlogRate, lossCount, lossShare),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, d := range c.Last.Devices {
			delta := c.Device[d.Name]
			if d.Kind != "tap" || !c.wanted(d.Name) || !delta.Known || c.Basis != detect.BasisWindow || !c.losesMany(delta.Counters.TxDropped, delta.Counters.TxPackets) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Problem, Subject: d.Name,
				Claim:    fmt.Sprintf("%d packets for the guest or program behind %s were dropped", delta.Counters.TxDropped, d.Name),
				Evidence: []plan.Evidence{{Metric: "tap_tx_dropped", Value: float64(delta.Counters.TxDropped), Unit: "packets", Source: "/proc/net/dev"}},
				Operator: "the guest, its vhost thread, or the program that reads the device (a VPN) is too slow: look there, give vhost a CPU of its own, or raise rx_queue_size",
			})
		}
		return out
	},
})
