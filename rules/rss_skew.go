package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "rss-skew",
	Title: "one receive queue gets most of the packets",
	Page: Page{
		Meaning:     "The NIC has several receive queues, but its hash puts most packets on one of them, so one CPU does most of the work.",
		Evidence:    "Packets per receive queue (netdev queue statistics or ethtool -S) over the window, the hash fields and the indirection table.",
		Cause:       "UDP hashed over addresses only, tunnel or PPPoE headers that the NIC cannot look into, an uneven table, or one flow that carries the traffic.",
		Remedy:      "For UDP with many flows: hash over the four-tuple (ethtool -N DEV rx-flow-hash udp4 sdfn). For an uneven table: an even one. For one flow no setting helps; for unhashable headers RPS does.",
		SideEffects: "Fragmented UDP packets lose their ports and may overtake each other with a four-tuple hash.",
		NotWhen:     "Few flows: then the hash is right and the traffic is uneven. A table that leaves queues out is told of by rss-unused-queues, and its mean is that of the queues it names. While the CPU of the queue has room to spare it is only a note.",
		Source:      "Documentation/networking/scaling.rst (RSS); include/uapi/linux/ethtool.h RXH_L4_B_0_1",
		Thresholds:  describe(skewShare, skewFactor, skewPackets, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.rssSkew(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) rssSkew(d *detect.Device) (plan.Finding, bool) {
	packets, total, what := c.queueWork(d)
	queue, queues := busiest(packets), len(packets)
	if d.RSS != nil && len(d.RSS.Table) > 0 {
		// That a table leaves queues out is not the hash's doing: see rss-unused-queues.
		queues = min(queues, len(namedQueues(d.RSS.Table)))
	}
	if queues < 3 || float64(total) < c.At(skewPackets) {
		return plan.Finding{}, false
	}
	share := float64(packets[queue]) / float64(total)
	factor := share * float64(queues)
	if factor < c.At(skewFactor) || c.fewFlows(packets, total) {
		return plan.Finding{}, false
	}
	unit, source := "of received packets", "queue statistics of "+d.Name
	if what == byInterrupts {
		if share < c.At(skewShare) {
			return plan.Finding{}, false // a busy queue raises fewer interrupts per packet: such a difference means nothing
		}
		unit, source = "of receive interrupts", "/proc/interrupts"
	}
	f := plan.Finding{
		Severity: plan.Note,
		Subject:  d.Name,
		Claim:    fmt.Sprintf("receive queue %d of %s gets %s of the %s, %.1f times the mean of %d queues (%s)", queue, d.Name, percent(share), what, factor, queues, c.Basis),
		Evidence: []plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: unit, Threshold: c.At(skewShare), Source: source}},
	}
	if share < c.At(skewShare) {
		f.Operator = "uneven but not harmful; if the traffic is mostly UDP, see whether the hash includes ports (ethtool -n " + d.Name + " rx-flow-hash udp4)"
		return f, true
	}
	if cpu := c.cpuOfQueue(d, queue); c.cool(cpu) {
		f.Operator = fmt.Sprintf("CPU %d has room to spare: uneven but not harmful", cpu)
		return f, true
	}
	f.Severity = plan.Advice
	if want, uneven := c.tableWant(d, queue); uneven {
		f.Wants = []plan.Want{want}
		return f, true
	}
	if kind, tunnels := c.tunnelsThrough(d); kind == otherTunnel || kind == wireGuard {
		f.Operator = fmt.Sprintf("most of it comes in a tunnel (%s) whose outer headers are all that the NIC can hash: see tunnel-hash, which proposes a remedy once the CPU is saturated", strings.Join(tunnels, ", "))
		return f, true
	}
	f.Wants = c.hashWants(d)
	if len(f.Wants) == 0 {
		f.Operator = "one flow, or headers that the NIC cannot hash (tunnel, PPPoE): look at the traffic; if it is UDP with many flows, hash it over the four-tuple " +
			"(ethtool -N " + d.Name + " rx-flow-hash udp4 sdfn); if it is a tunnel, RPS can spread it"
	}
	return f, true
}

// What the work of receive queues is counted in.
const (
	byPackets    = "packets"
	byInterrupts = "interrupts"
)

// tableWant asks for an even table where the present one gives the busiest
// queue so many slots that an even hash would make it that busy.
func (c *Case) tableWant(d *detect.Device, queue int) (plan.Want, bool) {
	queues := rssQueues(d)
	if d.RSS == nil || len(d.RSS.Table) == 0 || queues < 2 || d.XDP {
		return plan.Want{}, false
	}
	slots := 0
	for _, q := range d.RSS.Table {
		if int(q) == queue {
			slots++
		}
	}
	share := float64(slots) / float64(len(d.RSS.Table))
	if share*float64(queues) < c.At(skewFactor) {
		return plan.Want{}, false
	}
	return plan.Want{Ref: knob.Device(d.Name, "rss.table"), Value: knob.EvenTable(len(d.RSS.Table), queues),
		Why:    fmt.Sprintf("the table gives queue %d %s of its slots", queue, percent(share)),
		Expect: expect("max_queue_share", "down", 1/float64(queues), "of received packets")}, true
}

// queueWork is what each receive queue of a device got: packets where a
// counter tells, else interrupts if the device carries most of the host's.
func (c *Case) queueWork(d *detect.Device) (work map[int]uint64, total uint64, what string) {
	work = map[int]uint64{}
	for id, counters := range c.Device[d.Name].Queue {
		if n, ok := counters["packets"]; ok && !id.Tx {
			work[id.N] = n
			total += n
		}
	}
	if len(work) > 0 {
		return work, total, byPackets
	}
	share, top := 0.0, fired{home: -1}
	for _, p := range c.Paths {
		if p.dev == d && p.queue.Rx && p.rx.irq >= 0 {
			work[p.queue.N] = p.rx.total
			total += p.rx.total
			share += p.share
			if p.rx.total > top.total {
				top = p.rx
			}
		}
	}
	if share < c.At(skewShare) || !c.active(top.total, top.home) {
		return nil, 0, ""
	}
	return work, total, byInterrupts
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
	queues := float64(max(2, rxQueues(d)))
	left := min(c.At(skewFactor)/queues, (1+1/queues)/2) // with two queues halfway to even
	for _, flow := range []string{"udp4", "udp6"} {
		fields, known := d.HashFields[flow]
		if !known || fields == "" || strings.Contains(fields, "f") {
			continue
		}
		out = append(out, plan.Want{Ref: knob.Device(d.Name, "rss.hash."+flow), Value: "sdfn",
			Why: "UDP is hashed over addresses only", Expect: expect("max_queue_share", "down", left, "of packets")})
	}
	return out
}
