package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var udpShareLimit = threshold("udp-share", 0.3, "of the datagrams for this host",
	"below one third of the traffic the hash of UDP hardly decides how queues are loaded",
	"packets per protocol and queue")

var _ = register(Rule{
	ID:    "rss-udp-hash",
	Title: "UDP is spread by addresses only",
	Page: Page{
		Meaning:     "The NIC hashes UDP over the two addresses and not over the ports: all UDP between two hosts lands on one queue. Much of this host's traffic is UDP.",
		Evidence:    "Hash fields (ethtool -n rx-flow-hash udp4) and the share of UDP in delivered datagrams.",
		Cause:       "The default of many NICs, because fragments carry no ports.",
		Remedy:      "ethtool -N DEV rx-flow-hash udp4 sdfn, if a queue is overloaded; rss-skew proposes it then.",
		SideEffects: "Fragmented datagrams may be reordered against whole ones.",
		NotWhen:     "The queues are evenly loaded: many peers spread well over addresses.",
		Source:      "include/uapi/linux/ethtool.h RXH_L4_B_0_1; Documentation/networking/scaling.rst",
		Thresholds:  describe(udpShareLimit),
	},
	Eval: func(c *Case) []plan.Finding {
		share, ok := c.udpShare()
		if !ok || share < c.At(udpShareLimit) || c.Basis == detect.BasisBoot {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if fields, known := d.HashFields["udp4"]; known && fields != "" && !fourTuple(d) && rxQueues(d) > 1 {
				out = append(out, plan.Finding{
					Severity: plan.Note, Subject: d.Name,
					Claim:    fmt.Sprintf("%s of the datagrams are UDP, which %s hashes over addresses only (%s)", percent(share), d.Name, fields),
					Evidence: []plan.Evidence{{Metric: "udp_share", Value: share, Unit: "of delivered datagrams", Threshold: c.At(udpShareLimit), Source: "/proc/net/snmp, ethtool -n " + d.Name}},
				})
			}
		}
		return out
	},
})
