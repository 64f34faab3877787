package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	ringLoss = threshold("ring-loss-share", 0.0001, "of received packets",
		"TCP throughput over a WAN suffers from loss of about one packet in ten thousand; below it, single bursts explain it",
		"UDP feeds that tolerate no loss")
	ringLossCount = threshold("ring-loss-packets", 100, "packets",
		"on a nearly idle host a single lost packet is one in ten thousand; a hundred in ten seconds are no accident",
		"windows much longer than ten seconds")
	ringLossBoot = threshold("ring-loss-since-boot", 10_000, "packets",
		"a machine that was up for months has had its hundred bursts of a hundred packets",
		"captures that carry the time since boot, where backlog-drop-rate is used as well")
	ringCeiling = threshold("ring-ceiling", 4096, "descriptors",
		"larger rings no longer fit the cache share that DMA may use: 49 % last-level misses were measured with oversized rings (SIGCOMM 2021)",
		"links above 100 Gbit/s")
)

// ringTotals name, in ethtool -S of the common drivers, packets that the NIC
// had no free receive descriptor for, each name for the whole device. Not among
// them: rx_dropped, which also counts packets for unknown protocols and VLANs,
// and rx_no_buffer_count of e1000e and igb, which counts moments without a
// descriptor; what then still fitted into the NIC's own memory is not lost.
var ringTotals = regexp.MustCompile(`(?i)^((port_|dev_)?rx_?(missed|missed_errors|out_of_buffer|no_dma_resources|overruns?|fifo_errors|(fw_)?discards|nodesc_drop_cnt|nodesc_drops|buf_starved|desc_error)|(rx_)?no_buff_discards|port\.rx_dropped_no_desc|\[hw\] rx nobuffer discards)$`)

// ringQueues name the same for single queues. Drops of virtio_net's queues are
// not among them: they are frames that the driver could not use.
var ringQueues = regexp.MustCompile(`(?i)^(\[?\d+\]?: rx_discards|rxq\d+: rx_drops_no_frags|rxq_\d+_queue_full_drops|.*pkts rx oob|.*pkts rx out of buf|(rx_)?queue_?\d+_(rx_)?(drops|discards|overruns|no_buf))$`)

var _ = register(Rule{
	ID:    "rx-ring-overrun",
	Title: "the NIC had no free receive descriptor",
	Page: Page{
		Meaning:     "Packets arrived while the receive ring was full and were lost in the NIC, before Linux saw them.",
		Evidence:    "The driver's own counters (ethtool -S: rx_missed_errors, rx_out_of_buffer, rx_discards, rx_drops_no_frags and their kin) and the interface's missed and fifo errors, against received packets.",
		Cause:       "The CPU of the queue does not poll in time: it is saturated, stalled by something else, or bursts exceed the ring.",
		Remedy:      "If that CPU has time to spare, double the ring. If it is saturated, spread the queues first: a longer ring only delays the loss. At the end of the ring: shorter moderation, more queues, flow control.",
		SideEffects: "Changing a ring re-creates queues: packets are lost for a moment, many drivers reset the link and forget interrupt affinity. Rings larger than the cache's DMA share cost throughput.",
		NotWhen:     "The loss is old (totals since boot change nothing), or below the threshold.",
		Source:      "Documentation/networking/statistics.rst (rx_missed_errors, rx_fifo_errors); Cai et al., SIGCOMM 2021",
		Thresholds:  describe(ringLoss, ringLossCount, ringLossBoot, backlogRate, ringCeiling, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.ringOverrun(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) ringOverrun(d *detect.Device) (plan.Finding, bool) {
	lost, received := c.ringLosses(d)
	if float64(lost) < c.At(ringLossCount) || received == 0 || float64(lost) < c.At(ringLoss)*float64(received+lost) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Problem,
		Subject:  d.Name,
		Claim:    fmt.Sprintf("%s lost %d packets for want of a receive descriptor, %s of those it received (%s)", d.Name, lost, percent(float64(lost)/float64(received+lost)), c.Basis),
		Evidence: []plan.Evidence{{Metric: "rx_ring_lost", Value: float64(lost), Unit: "packets", Threshold: c.At(ringLoss) * float64(received), Source: "ethtool -S " + d.Name}},
	}
	if c.Basis == detect.BasisBoot {
		f.Severity = c.oldLoss(lost)
		f.Missing = append(f.Missing, "a second sample: the loss may be old")
		return f, true
	}
	for _, s := range c.diagnosis.stacked {
		if slices.ContainsFunc(s.pairs, func(p *path) bool { return p.dev == d }) {
			f.Because = s.because()
			f.Claim += fmt.Sprintf("; CPU %d serves too many queues, spread them first", s.cpu)
			return f, true
		}
	}
	if cpu := c.hotQueueCPU(d); cpu >= 0 {
		f.Claim += fmt.Sprintf("; CPU %d is saturated, a longer ring would only delay the loss", cpu)
		return f, true
	}
	if d.Rings == nil || d.Rings.Rx <= 0 {
		f.Missing = append(f.Missing, "ring sizes (ethtool -g "+d.Name+")")
		return f, true
	}
	ref := knob.Device(d.Name, "ring.rx")
	want := c.capped(ref, d, min(2*d.Rings.Rx, d.Rings.MaxRx, int(c.At(ringCeiling))))
	switch {
	case want <= d.Rings.Rx && d.Rings.Rx >= d.Rings.MaxRx:
		f.Claim += fmt.Sprintf("; the ring has %d descriptors, all that the device offers", d.Rings.Rx)
		f.Operator = whereRingsEnd
	case want <= d.Rings.Rx:
		f.Claim += fmt.Sprintf("; the ring has %d descriptors already, and a longer one costs more cache than it saves packets", d.Rings.Rx)
		f.Operator = whereRingsEnd
	default:
		f.Wants = []plan.Want{{Ref: ref, Value: strconv.Itoa(want), Mode: plan.Raise,
			Why:    fmt.Sprintf("%d packets lost in the ring", lost),
			Expect: expect("rx_ring_lost", "down", 0, "packets/s")}}
	}
	return f, true
}

// whereRingsEnd is what is left when no longer ring helps and the CPUs have time.
const whereRingsEnd = "bursts come faster than a ring is emptied: look at long interrupt moderation (ethtool -c: rx-usecs), at what keeps the CPUs from polling " +
	"(interrupts off, deep idle states, steal), more queues, or flow control (ethtool -a)"

// oldLoss is how much is said of packets lost at some time since boot: they ask
// for a second sample, never for a change.
func (c *Case) oldLoss(lost uint64) plan.Severity {
	if rate, timed := c.PerSecond(lost); float64(lost) < c.At(ringLossBoot) || timed && rate < c.At(backlogRate) {
		return plan.Note
	}
	return plan.Advice
}

// ringLosses is what the NIC lost for want of descriptors. Drivers book the same
// loss under several names (igb: rx_missed_errors, rx_fifo_errors and the drops
// of its queues), so the largest count stands, not the sum.
func (c *Case) ringLosses(d *detect.Device) (lost, received uint64) {
	delta := c.Device[d.Name]
	var inQueues uint64
	for name, n := range delta.Stats {
		switch {
		case ringTotals.MatchString(name):
			lost = max(lost, n)
		case d.Kind != "virtio" && ringQueues.MatchString(name):
			inQueues += n
		}
	}
	lost = max(lost, inQueues)
	if delta.Known {
		lost = max(lost, delta.Counters.RxMissed, delta.Counters.RxFIFO)
		received = delta.Counters.RxPackets
	}
	if received == 0 {
		received = delta.Stats["rx_packets"]
	}
	var queues uint64
	for id, counters := range delta.Queue {
		if !id.Tx {
			queues += counters["packets"]
		}
	}
	return lost, max(received, queues)
}

func (c *Case) hotQueueCPU(d *detect.Device) int {
	for _, p := range c.Paths {
		if p.dev == d && c.hot(p.home()) {
			return p.home()
		}
	}
	return -1
}
