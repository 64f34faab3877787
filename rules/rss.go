package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	skewShare = threshold("rss-skew-share", 0.5, "of the received packets",
		"on healthy hosts with four to eight queues the busiest has at most 40 %; captured faults show 60 to 99 %",
		"two queues, where one half is even")
	skewFactor = threshold("rss-skew-factor", 2, "times the mean",
		"hashing a moderate number of flows gives up to 1.7 times the mean",
		"hosts with few flows")
	skewPackets = threshold("rss-skew-packets", 10_000, "packets",
		"fewer packets than this say nothing about how flows are spread",
		"nothing known")
)

var _ = register(Rule{
	ID:    "rss-unused-queues",
	Title: "the RSS table leaves receive queues without traffic",
	Page: Page{
		Meaning:     "The NIC's indirection table does not name all receive queues that exist, so some never get a packet.",
		Evidence:    "The indirection table (ethtool -x) against the receive queues in use.",
		Cause:       "A table set by hand (ethtool -X … equal N) that stayed when queues were added, or queues set aside for AF_XDP.",
		Remedy:      "An even table over all queues.",
		SideEffects: "Flows move to other queues; reordering for a moment.",
		NotWhen:     "Queues are set aside for AF_XDP, n-tuple rules or RSS contexts, or the driver limits RSS (ixgbe: 16 queues).",
		Source:      "Documentation/networking/scaling.rst (RSS configuration); net/ethtool/ioctl.c ethtool_set_rxfh",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, d := range c.tunable() {
			queues := rssQueues(d)
			if d.RSS == nil || len(d.RSS.Table) == 0 || queues < 2 || d.XDP {
				continue
			}
			used := map[uint32]bool{}
			for _, q := range d.RSS.Table {
				used[q] = true
			}
			if len(used) >= queues || len(used) >= len(d.RSS.Table) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice,
				Subject:  d.Name,
				Claim:    fmt.Sprintf("the RSS table of %s names %d of %d receive queues", d.Name, len(used), queues),
				Evidence: []plan.Evidence{{Metric: "rss_queues_used", Value: float64(len(used)), Unit: "queues", Threshold: float64(queues), Source: "ethtool -x " + d.Name}},
				Wants: []plan.Want{{Ref: knob.Device(d.Name, "rss.table"), Value: knob.EvenTable(len(d.RSS.Table), queues),
					Why:    fmt.Sprintf("%d queues get nothing", queues-len(used)),
					Expect: plan.Expect{Metric: "max_queue_share", Direction: "down", Predicted: rounded(1 / float64(queues))}}},
			})
		}
		return out
	},
})

// rssQueues is how many receive queues RSS may name: what the device says,
// else those in use. Drivers that cannot hash over all of them say less.
func rssQueues(d *detect.Device) int {
	n := rxQueues(d)
	if d.RSS != nil && d.RSS.RxRings > 0 {
		n = min(n, d.RSS.RxRings)
	}
	if strings.HasPrefix(d.Driver, "ixgbe") {
		n = min(n, 16) // IXGBE_MAX_RSS_INDICES (drivers/net/ethernet/intel/ixgbe/ixgbe.h)
	}
	return n
}

var _ = register(Rule{
	ID:    "rss-skew",
	Title: "one receive queue gets most of the packets",
	Page: Page{
		Meaning:     "The NIC has several receive queues, but its hash puts most packets on one of them, so one CPU does most of the work.",
		Evidence:    "Packets per receive queue (netdev queue statistics or ethtool -S) over the window, the hash fields and the indirection table.",
		Cause:       "UDP hashed over addresses only, tunnel or PPPoE headers that the NIC cannot look into, an uneven table, or one flow that carries the traffic.",
		Remedy:      "For UDP with many flows: hash over the four-tuple (ethtool -N DEV rx-flow-hash udp4 sdfn). For an uneven table: an even one. For one flow no setting helps; for unhashable headers RPS does.",
		SideEffects: "Fragmented UDP packets lose their ports and may overtake each other with a four-tuple hash.",
		NotWhen:     "Few flows: then the hash is right and the traffic is uneven.",
		Source:      "Documentation/networking/scaling.rst (RSS); include/uapi/linux/ethtool.h RXH_L4_B_0_1",
		Thresholds:  describe(skewShare, skewFactor, skewPackets),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, d := range c.tunable() {
			if f, ok := c.rssSkew(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) rssSkew(d *detect.Device) (plan.Finding, bool) {
	packets := map[int]uint64{}
	var total uint64
	for id, counters := range c.Device[d.Name].Queue {
		if n, ok := counters["packets"]; ok && !id.Tx {
			packets[id.N] = n
			total += n
		}
	}
	queue := busiest(packets)
	if len(packets) < 3 || float64(total) < c.At(skewPackets) {
		return plan.Finding{}, false
	}
	share := float64(packets[queue]) / float64(total)
	factor := share * float64(len(packets))
	if factor < c.At(skewFactor) || c.fewFlows(packets, total) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Note,
		Subject:  d.Name,
		Claim:    fmt.Sprintf("receive queue %d of %s gets %s of the packets, %.1f times the mean of %d queues (%s)", queue, d.Name, percent(share), factor, len(packets), c.Basis),
		Evidence: []plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(skewShare), Source: "queue statistics of " + d.Name}},
	}
	if share < c.At(skewShare) {
		f.Operator = "uneven but not harmful; if the traffic is mostly UDP, see whether the hash includes ports (ethtool -n " + d.Name + " rx-flow-hash udp4)"
		return f, true
	}
	f.Severity = plan.Advice
	f.Wants = c.hashWants(d)
	if len(f.Wants) == 0 {
		f.Operator = "one flow, or headers that the NIC cannot hash (tunnel, PPPoE): look at the traffic; if it is UDP with many flows, hash it over the four-tuple " +
			"(ethtool -N " + d.Name + " rx-flow-hash udp4 sdfn); if it is a tunnel, RPS can spread it"
	}
	return f, true
}

// fewFlows reports a table mostly of empty queues with the used ones alike:
// that is how few flows look, not a wrong hash.
func (c *Case) fewFlows(packets map[int]uint64, total uint64) bool {
	used := 0
	for _, n := range packets {
		if float64(n) >= 0.005*float64(total) {
			used++
		}
	}
	top := float64(packets[busiest(packets)]) / float64(total)
	return used >= 4 && top*float64(used) < c.At(skewFactor)
}

// hashWants asks for a four-tuple hash of UDP where it is known to be less.
func (c *Case) hashWants(d *detect.Device) []plan.Want {
	var out []plan.Want
	for _, flow := range []string{"udp4", "udp6"} {
		fields, known := d.HashFields[flow]
		if !known || fields == "" || strings.Contains(fields, "f") {
			continue
		}
		out = append(out, plan.Want{Ref: knob.Device(d.Name, "rss.hash."+flow), Value: "sdfn",
			Why: "UDP is hashed over addresses only", Expect: plan.Expect{Metric: "max_queue_share", Direction: "down"}})
	}
	return out
}
