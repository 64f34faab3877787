package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "xps-mismatch",
	Title: "CPUs transmit on queues whose interrupt fires elsewhere",
	Page: Page{
		Meaning:     "XPS tells each CPU which transmit queue to use. Here a queue's completion interrupt fires on a CPU that was told to use another queue, so every completion touches memory that another CPU just wrote.",
		Evidence:    "xps_cpus of each transmit queue against the CPU where its interrupt fires.",
		Cause:       "Interrupts were moved without their XPS masks, or the masks were written in another order than the queues.",
		Remedy:      "Give each transmit queue the CPUs nearest to its interrupt, every CPU in exactly one mask.",
		SideEffects: "Sockets keep their queue until it is safe to change (ooo_okay), so nothing is reordered.",
		NotWhen:     "The driver chooses queues itself (ndo_select_queue of hv_netvsc, mana and, for forwarded packets, ena): then this is a note and nothing is changed.",
		Source:      "net/core/dev.c netdev_pick_tx, get_xps_queue; Documentation/networking/scaling.rst (XPS)",
		Thresholds:  describe(homeShare),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.Paths) {
			if f, ok := c.xpsMismatch(group); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

// xpsMismatch judges one device. It fires when at least half of the transmit
// queues have an interrupt CPU that another queue's mask claims, and other
// masks would leave fewer of them: where several interrupts fire on one CPU all
// masks but one are wrong, whatever they are, and the interrupts are to move.
func (c *Case) xpsMismatch(group []*path) (plan.Finding, bool) {
	d := group[0].dev
	masks, ok := c.xpsMasks(group)
	if !ok || down(d) || c.quiet(d) || len(group) < 2 {
		return plan.Finding{}, false
	}
	wrong, judged := c.xpsWrong(group, masks)
	if judged < 2 || 2*wrong < judged || wrong < 2 {
		return plan.Finding{}, false
	}
	partition := c.xpsPartition(group)
	for i := range partition {
		if partition[i].IsEmpty() {
			partition[i] = masks[i]
		}
	}
	left, _ := c.xpsWrong(group, partition)
	if left >= wrong {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("%d of %d transmit queues of %s have their interrupt on a CPU that XPS sends to another queue", wrong, judged, d.Name),
		Evidence: []plan.Evidence{{Metric: "xps_mismatched_queues", Value: float64(wrong), Unit: "queues", Threshold: float64(judged) / 2, Source: "xps_cpus, /proc/interrupts"}},
	}
	if choosesTxQueue(d.Driver) {
		f.Severity = plan.Note
		f.Operator = "the driver " + d.Driver + " chooses transmit queues itself (ndo_select_queue), so other masks would change little or nothing"
		return f, true
	}
	for i, want := range partition {
		if want != masks[i] {
			f.Wants = append(f.Wants, plan.Want{Ref: knob.Tx(d.Name, group[i].queue.N, "xps.cpus"), Value: want.String(),
				Why: fmt.Sprintf("interrupt on CPU %d", c.plannedCPU(group[i])), Expect: expect("xps_mismatched_queues", "down", float64(left), "queues")})
		}
	}
	return f, true
}

// xpsWrong counts the queues whose interrupt fires on a CPU that another
// queue's mask claims, and those that can be judged.
func (c *Case) xpsWrong(group []*path, masks []cpuset.Set) (wrong, judged int) {
	for i, p := range group {
		cpu := c.plannedCPU(p)
		if cpu < 0 {
			continue
		}
		judged++
		if !masks[i].Has(cpu) && claimedElsewhere(masks, i, cpu) {
			wrong++
		}
	}
	return wrong, judged
}

// choosesTxQueue reports whether a driver has an ndo_select_queue that does not
// look at XPS, or not for all packets: netvsc_select_queue and mana_select_queue
// go by the flow, ena_select_queue by the receive queue of forwarded packets.
func choosesTxQueue(driver string) bool {
	return driver == "hv_netvsc" || driver == "mana" || driver == "ena"
}

// xpsMasks reads the masks of all transmit queues; ok is false unless all are
// known and set.
func (c *Case) xpsMasks(group []*path) ([]cpuset.Set, bool) {
	out := make([]cpuset.Set, len(group))
	for i, p := range group {
		text, known := c.knob(knob.Tx(p.dev.Name, p.queue.N, "xps.cpus"))
		mask, err := cpuset.ParseList(text)
		if !known || err != nil || mask.IsEmpty() {
			return nil, false
		}
		out[i] = mask
	}
	return out, true
}

// plannedCPU is where a pair's transmit completions will fire: as planned, or
// as seen. A pair whose masks suit its receive side counts as being there: not
// the masks are wrong but the place of its transmit interrupt, which
// queue-pair-split brings back where there is traffic enough to matter.
func (c *Case) plannedCPU(p *path) int {
	if cpu, moved := c.place().cpu[p]; moved && cpu >= 0 {
		return cpu
	}
	if p.tx.irq < 0 {
		return c.firesOn(p.rx)
	}
	if rx := c.firesOn(p.rx); rx >= 0 && c.xpsMask(p).Has(rx) {
		return rx
	}
	return c.firesOn(p.tx)
}

// firesOn is the CPU of an interrupt: its home, or what its mask says where it
// has fired too little to have one; -1 if it has none.
func (c *Case) firesOn(f fired) int {
	if f.total == 0 || f.share < c.At(homeShare) || !c.active(f.total, f.home) {
		return c.maskCPU(f.irq)
	}
	return f.home
}

// maskCPU is the only CPU that an idle interrupt may fire on, -1 if several.
func (c *Case) maskCPU(irq int) int {
	row := c.row(irq)
	if row == nil || !row.HasSMP || row.Affinity.Len() != 1 {
		return -1
	}
	return row.Affinity.Min()
}

func claimedElsewhere(masks []cpuset.Set, self, cpu int) bool {
	for i, m := range masks {
		if i != self && m.Has(cpu) {
			return true
		}
	}
	return false
}

// xpsPartition gives every online CPU to the queue whose interrupt CPU is
// nearest.
func (c *Case) xpsPartition(group []*path) []cpuset.Set {
	homes := make([]int, len(group))
	for i, p := range group {
		homes[i] = c.plannedCPU(p)
	}
	return c.Last.Topo.Share(homes)
}
