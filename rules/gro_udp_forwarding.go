package rules

import (
	"fmt"

	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "gro-udp-forwarding",
	Title: "a router could merge forwarded UDP",
	Page: Page{
		Meaning:     "The host forwards packets, most of them not TCP, and UDP GRO for forwarding is off. It can make forwarding of bulk UDP (QUIC, tunnels) much cheaper.",
		Evidence:    "Share of TCP among received packets (probe gro), forwarding, feature rx-udp-gro-forwarding.",
		Cause:       "It is off by default.",
		Remedy:      "Try it on this path and measure: ethtool -K DEV rx-udp-gro-forwarding on.",
		SideEffects: "Helps or hurts depending on the path: native ESP lost throughput with it in the field, so it is never part of a plan.",
		NotWhen:     "IPsec offload paths; small-packet UDP.",
		Source:      "net/ipv4/udp_offload.c; Documentation/networking/segmentation-offloads.rst",
		Thresholds:  describe(groTCP, groPackets),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			g, seen := c.groOf(d)
			rate, rated := c.packetRate(d)
			tcp, known := g.TCPShare()
			feature, has := d.Features["rx-udp-gro-forwarding"]
			if !seen || !rated || !has || feature.On || feature.Fixed || rate < c.At(groPackets) || !known || c.forwards(d) == "" {
				continue
			}
			if other := 1 - tcp; other >= 1-c.At(groTCP) {
				out = append(out, plan.Finding{
					Severity: plan.Note, Subject: d.Name,
					Claim:    fmt.Sprintf("%s of the packets on %s are not TCP and %s; merging forwarded UDP is off", percent(other), d.Name, c.forwards(d)),
					Evidence: []plan.Evidence{{Metric: "tcp_share", Value: 1 - other, Unit: "of packets", Threshold: c.At(groTCP), Source: "probe gro"}},
					Operator: "try ethtool -K " + d.Name + " rx-udp-gro-forwarding on and measure: it helps on some paths and hurts on others",
				})
			}
		}
		return out
	},
})
