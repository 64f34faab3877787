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
		NotWhen:     "Queues are set aside for AF_XDP, n-tuple rules or RSS contexts, or the driver limits RSS (ixgbe: 16 queues). For a device that hardly works it is only a note.",
		Source:      "Documentation/networking/scaling.rst (RSS configuration); net/ethtool/ioctl.c ethtool_set_rxfh",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			queues := rssQueues(d)
			if d.RSS == nil || len(d.RSS.Table) == 0 || queues < 2 || d.XDP {
				continue
			}
			used := namedQueues(d.RSS.Table)
			if len(used) >= queues || len(used) >= len(d.RSS.Table) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  d.Name,
				Claim:    fmt.Sprintf("the RSS table of %s names %d of %d receive queues", d.Name, len(used), queues),
				Evidence: []plan.Evidence{{Metric: "rss_queues_used", Value: float64(len(used)), Unit: "queues", Threshold: float64(queues), Source: "ethtool -x " + d.Name}},
				Wants: []plan.Want{{Ref: knob.Device(d.Name, "rss.table"), Value: knob.EvenTable(len(d.RSS.Table), queues),
					Why:    fmt.Sprintf("%d queues get nothing", queues-len(used)),
					Expect: expect("max_queue_share", "down", 1/float64(queues), "of packets")}},
			}
			if c.quiet(d) {
				f.Severity, f.Wants = plan.Note, nil
				f.Claim += "; at its present load they are enough"
			}
			out = append(out, f)
		}
		return out
	},
})

// namedQueues are the receive queues in an RSS table.
func namedQueues(table []uint32) map[uint32]bool {
	named := map[uint32]bool{}
	for _, q := range table {
		named[q] = true
	}
	return named
}

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
