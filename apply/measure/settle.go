package measure

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Pending lists what has not taken effect yet in an observation that began after
// the changes, compared with one before them: links that are not up again, and
// interrupts and polls that are not where they were sent. Nothing is pending for
// a queue without traffic: it can only be told by its interrupts.
//
// An interrupt of a virtual machine moves at its next occurrence
// (kernel/irq/migration.c, irq_move_masked_irq), and a NAPI that never runs dry
// stays on its CPU, without interrupts, until it does (net/core/dev.c,
// napi_complete_done is what unmasks them).
func Pending(changes []plan.Change, before, now *detect.Observation) []string {
	var out []string
	for _, d := range now.Last.Devices {
		old := before.Last.Device(d.Name)
		if old != nil && old.Carrier == detect.Yes && d.Carrier == detect.No && touched(changes, d.Name) {
			out = append(out, d.Name+" has no link yet")
		}
	}
	for _, m := range moves(changes) {
		if text := m.pending(before, now); text != "" {
			out = append(out, m.ref.String()+": "+text)
		}
	}
	return out
}

func touched(changes []plan.Change, dev string) bool {
	return slices.ContainsFunc(changes, func(c plan.Change) bool { return c.Ref.Dev == dev })
}

// move is where the interrupt of a queue was sent.
type move struct {
	ref  knob.Ref
	cpus cpuset.Set
}

// moves are the interrupts among changes, the last word on each.
func moves(changes []plan.Change) []move {
	last := map[knob.Ref]cpuset.Set{}
	for _, c := range changes {
		if c.Ref.Kind != "irq.affinity" {
			continue
		}
		if cpus, err := cpuset.ParseList(c.After); err == nil {
			last[c.Ref] = cpus
		}
	}
	var out []move
	for _, ref := range slices.SortedFunc(maps.Keys(last), func(a, b knob.Ref) int { return cmp.Compare(a.String(), b.String()) }) {
		out = append(out, move{ref, last[ref]})
	}
	return out
}

func (m move) pending(before, now *detect.Observation) string {
	queue, irq := m.queue(now)
	if irq < 0 {
		return ""
	}
	fired := now.IRQ[irq]
	if cpu := outside(fired.CPU, m.cpus); cpu >= 0 {
		return fmt.Sprintf("still fires on CPU %d", cpu)
	}
	if cpu := outside(polls(now, m.ref.Dev, queue), m.cpus); cpu >= 0 && !m.ref.Tx {
		return fmt.Sprintf("still polled on CPU %d", cpu)
	}
	_, old := m.queue(before)
	if fired.Total == 0 && old >= 0 && before.IRQ[old].Total > 0 && m.busy(now) {
		return "no interrupt since, so it is still polled where it was"
	}
	return ""
}

// queue finds the queue and its interrupt, -1 if it is not known.
func (m move) queue(o *detect.Observation) (detect.Queue, int) {
	d := o.Last.Device(m.ref.Dev)
	if d == nil {
		return detect.Queue{}, -1
	}
	for _, q := range d.Queues {
		switch {
		case q.N != m.ref.Queue:
		case m.ref.Tx && q.Tx:
			return q, q.TxIRQ
		case !m.ref.Tx && q.Rx:
			return q, q.RxIRQ
		}
	}
	return detect.Queue{}, -1
}

// busy reports whether packets pass the queue or, where that is not counted,
// the device.
func (m move) busy(o *detect.Observation) bool {
	d := o.Device[m.ref.Dev]
	if counted, ok := d.Queue[detect.QueueID{Tx: m.ref.Tx, N: m.ref.Queue}]; ok {
		return counted["packets"] > 0
	}
	if m.ref.Tx {
		return d.Counters.TxPackets > 0
	}
	return d.Counters.RxPackets > 0
}

// polls counts where the probes saw a queue polled in softirqs. Threads run
// where the scheduler puts them.
func polls(o *detect.Observation, dev string, q detect.Queue) map[int]uint64 {
	if o.Probes == nil || q.NAPI <= 0 {
		return nil
	}
	out := map[int]uint64{}
	for _, n := range o.Probes.NAPIs {
		if n.Device == dev && n.ID != 0 && int(n.ID) == q.NAPI && n.Polls > n.Outside {
			out[n.CPU] += n.Polls - n.Outside
		}
	}
	return out
}

// outside is the lowest CPU with a count that is not in the set, -1 if none.
func outside(counts map[int]uint64, allowed cpuset.Set) int {
	for _, cpu := range slices.Sorted(maps.Keys(counts)) {
		if counts[cpu] > 0 && !allowed.Has(cpu) {
			return cpu
		}
	}
	return -1
}
