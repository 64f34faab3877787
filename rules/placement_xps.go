package rules

import (
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/place"
)

// keepXPS exchanges planned CPUs for others that are as good and that XPS
// already sends to the pair's transmit queue, so that moving interrupts does
// not drag the masks of all queues along. As good is: same node and speed, and
// a core that is as free without the pair as the planned one. CPUs that are
// short of interrupt vectors are left to the solver.
func (c *Case) keepXPS(order []*path, items []place.Item, cpus []place.CPU, cpu []int) {
	at := newSeats(cpus)
	if c.load.timed {
		at.noise = timeNoise
	}
	masks := make([]cpuset.Set, len(items))
	for i, p := range order {
		at.add(cpu[i], items[i].Load)
		if masks[i] = c.xpsMask(p); !items[i].Allowed.IsEmpty() {
			masks[i] = masks[i].Intersect(items[i].Allowed)
		}
	}
	// Each step seats at least one pair more within its mask, so this ends.
	for moved := true; moved; {
		moved = false
		for i := range items {
			if cpu[i] < 0 || cpu[i] == items[i].Current || masks[i].Has(cpu[i]) {
				continue
			}
			if to := at.better(cpu[i], items[i].Load, masks[i]); to >= 0 {
				at.add(cpu[i], -items[i].Load)
				at.add(to, items[i].Load)
				cpu[i], moved = to, true
			} else if j := at.partner(i, items, cpu, masks); j >= 0 {
				at.swap(i, j, items, cpu)
				moved = true
			}
		}
	}
}

// partner is a pair to change seats with: one on a CPU that this pair's mask
// names, which the other's own mask does not, and that leaves the busier of the
// two cores no busier. One that stays where it is is as good as one that moves if
// this pair would stay there instead. -1 if there is none.
func (s *seats) partner(i int, items []place.Item, cpu []int, masks []cpuset.Set) int {
	for j := range items {
		if j == i || cpu[j] < 0 || !masks[i].Has(cpu[j]) || masks[j].Has(cpu[j]) {
			continue
		}
		if cpu[j] == items[j].Current && cpu[j] != items[i].Current {
			continue // two moves for one
		}
		if !items[j].Allowed.IsEmpty() && !items[j].Allowed.Has(cpu[i]) {
			continue
		}
		own, other := s.cpus[cpu[i]], s.cpus[cpu[j]]
		if own.Core == other.Core || own.Node != other.Node || own.Capacity != other.Capacity || own.Room != 0 || other.Room != 0 {
			continue
		}
		shift := items[i].Load - items[j].Load
		busier := max(s.load[own.Core]-shift, s.load[other.Core]+shift) - max(s.load[own.Core], s.load[other.Core])
		if busier <= max(slight*min(items[i].Load, items[j].Load), s.noise) {
			return j
		}
	}
	return -1
}

func (s *seats) swap(i, j int, items []place.Item, cpu []int) {
	shift := items[i].Load - items[j].Load
	s.add(cpu[i], -shift)
	s.add(cpu[j], shift)
	cpu[i], cpu[j] = cpu[j], cpu[i]
}

// xpsMask are the CPUs that transmit on a pair's queue, empty if unknown.
func (c *Case) xpsMask(p *path) cpuset.Set {
	text, known := c.knob(knob.Tx(p.dev.Name, p.queue.N, "xps.cpus"))
	mask, err := cpuset.ParseList(text)
	if !known || err != nil {
		return cpuset.Set{}
	}
	return mask
}

// seats is where loads are placed.
type seats struct {
	cpus map[int]place.CPU
	load map[int]float64 // by core
	// noise is what two cores may differ by and still count as alike.
	noise float64
}

// timeNoise is what the softirq time of an idle CPU differs by from window to
// window: timer ticks count it in hundredths of a second (USER_HZ).
const timeNoise = 0.02

func newSeats(cpus []place.CPU) *seats {
	s := &seats{cpus: map[int]place.CPU{}, load: map[int]float64{}}
	for _, c := range cpus {
		s.cpus[c.ID] = c
		s.load[c.Core] += c.Base
	}
	return s
}

func (s *seats) add(cpu int, load float64) {
	if c, known := s.cpus[cpu]; known {
		s.load[c.Core] += load
	}
}

// slight is the same as a part of the pair's load: what a window measures
// repeats no better.
const slight = 0.1

// better is the first CPU of a mask that would do instead of another one, -1
// if none would do.
func (s *seats) better(from int, load float64, mask cpuset.Set) int {
	own, known := s.cpus[from]
	if !known {
		return -1
	}
	free := s.load[own.Core] - load + max(slight*load, s.noise)
	for to := range mask.All() {
		c, known := s.cpus[to]
		if known && c.Room == 0 && c.Node == own.Node && c.Capacity == own.Capacity && c.Core != own.Core && s.load[c.Core] <= free {
			return to
		}
	}
	return -1
}
