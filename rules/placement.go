package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/rules/place"
	"github.com/napitune/napitune/rules/plan"
)

// placement is where the solver puts the pairs that some finding wants moved.
type placement struct {
	cpu map[*path]int
	// before and after are the load of each CPU, bound the least possible maximum.
	before, after map[int]float64
	bound         float64
	// refused are the CPUs that pairs would be on if those had interrupt
	// vectors left, homeless the pairs that no CPU has a vector for.
	refused  map[*path]int
	homeless []*path
}

// predicted is the highest load of any CPU after the moves.
func (p *placement) predicted() float64 {
	most := 0.0
	for _, load := range p.after {
		most = max(most, load)
	}
	return most
}

// lowers reports whether the busiest CPU gets less to do.
func (p *placement) lowers() bool {
	most := busiest(p.before)
	return most >= 0 && p.predicted() < p.before[most]
}

var moveGain = threshold("move-gain", 0.1, "of the maximum load",
	"interrupt counts over ten seconds repeat within some 5 %; a gain below 10 % would move queues back and forth",
	"longer windows, or loads from NAPI poll time")

// place solves once for all pairs that any finding wants moved. The load of
// the others stays where it is.
func (c *Case) place() *placement {
	d := c.diagnosis
	if d.placement != nil {
		return d.placement
	}
	moving := map[*path]bool{}
	unpin := map[*path]bool{}
	move := func(pairs []*path, harm plan.Severity, leave bool) {
		if !c.acts(harm) {
			return
		}
		for _, p := range pairs {
			if !c.immovable(p) {
				moving[p], unpin[p] = true, unpin[p] || leave
			}
		}
	}
	for _, s := range d.stacked {
		move(s.movable, c.harm(s.cpus()), s.lone)
	}
	for _, list := range [][]*path{d.churned, d.split, d.remote, d.isolated, d.little, slices.Concat(d.siblings...)} {
		move(list, plan.Advice, false)
	}
	move(d.smeared, plan.Advice, true)
	for _, s := range d.squatted {
		move(s.pairs, plan.Advice, true)
	}
	d.placement = c.solve(moving, unpin)
	return d.placement
}

// immovable reports whether a pair stays where it is whatever is found about it:
// a move on paper would mislead all that follow from the plan.
func (c *Case) immovable(p *path) bool {
	return p.fixed != "" || c.locked(p) || len(c.diagnosis.defied[p.dev.Name]) > 0
}

// locked reports whether the host refuses to move a pair's interrupts.
func (c *Case) locked(p *path) bool {
	ref := knob.Rx(p.dev.Name, p.queue.N, "irq.affinity")
	if !p.queue.Rx {
		ref = knob.Tx(p.dev.Name, p.queue.N, "irq.affinity")
	}
	state, told := c.Last.Knobs[ref]
	return told && (state.Status == knob.Locked || state.Status == knob.Unsupported)
}

func (c *Case) solve(moving, unpin map[*path]bool) *placement {
	out := &placement{cpu: map[*path]int{}, before: map[int]float64{}, after: map[int]float64{}}
	var items []place.Item
	var order []*path
	allowed := c.interruptibleAny()
	for cpu := range allowed.All() {
		out.before[cpu] = c.load.other[cpu]
		out.after[cpu] = c.load.other[cpu]
	}
	for _, p := range c.Paths {
		addLoads(out.before, c.load.pairs[p])
		if own := c.interruptible(p.dev); moving[p] && !own.IsEmpty() {
			item := c.item(p, unpin[p])
			if refuge, squatted := c.refugeOf(p); squatted {
				item.Allowed = refuge.Intersect(own)
			} else if own != allowed {
				item.Allowed = own
			}
			order, items = append(order, p), append(items, item)
			continue
		}
		addLoads(out.after, c.load.pairs[p])
	}
	var cpus []place.CPU
	for id := range allowed.All() {
		cpu := place.On(c.Last.Topo, id)
		cpu.Base = out.after[id]
		cpus = append(cpus, cpu)
	}
	options := place.Options{MinGain: c.At(moveGain), LocalLimit: c.load.localLimit()}
	s := place.Solve(cpus, items, options)
	if c.limitRoom(cpus, order) {
		unlimited := s.CPU
		s = place.Solve(cpus, items, options)
		out.refused = refused(cpus, order, unlimited, s.CPU)
	}
	place.Orderly(items, s.CPU)
	c.keepXPS(order, items, cpus, s.CPU)
	for i, p := range order {
		out.cpu[p] = s.CPU[i]
		if s.CPU[i] < 0 {
			out.homeless = append(out.homeless, p)
			continue
		}
		out.after[s.CPU[i]] += c.load.of(p)
	}
	out.bound = s.LowerBound
	return out
}

func addLoads(to, loads map[int]float64) {
	for cpu, load := range loads {
		to[cpu] += load
	}
}

func (c *Case) item(p *path, unpin bool) place.Item {
	item := place.Item{
		ID:      fmt.Sprintf("%s/%05d", p.dev.Name, p.queue.N),
		Load:    coarse(c.load.of(p)),
		Current: c.present(p),
		Node:    p.dev.Node,
		Group:   p.dev.Name,
	}
	// A pair that comes together needs a vector where only one side is now.
	gathers := c.pairSplit(p) && c.fullCPUs().Has(item.Current)
	if unpin || gathers || !c.interruptible(p.dev).Has(item.Current) {
		item.Current = -1
	}
	if !c.Last.Topo.NUMATrusted() {
		item.Node = topo.Unknown
	}
	return item
}

// present is the CPU that a pair sits on: where the busier of its interrupts
// fires. A split pair sits where it receives if XPS transmits on its queue from
// there: bringing the other side back leaves the masks as they are.
func (c *Case) present(p *path) int {
	if c.pairSplit(p) && c.xpsMask(p).Has(p.rx.home) {
		return p.rx.home
	}
	return p.home()
}

// coarse rounds a load to steps of a quarter octave (19 %), so that noise
// between equally busy queues neither reorders nor moves them.
func coarse(share float64) float64 {
	if share <= 0 {
		return 0
	}
	return math.Exp2(math.Round(4*math.Log2(share)) / 4)
}

func (c *Case) core(cpu int) int {
	if t, ok := c.Last.Topo.CPUs[cpu]; ok && t.Core != topo.Unknown {
		return t.Core
	}
	return cpu
}

// relief is what the placement does to a CPU that has too much: to the busiest
// of all, or to this one where another one stays the busiest.
func (c *Case) relief(cpu int) plan.Expect {
	placed := c.place()
	if placed.lowers() {
		return expect(c.load.metric(), "down", placed.predicted(), c.load.unit())
	}
	return expect(strings.TrimPrefix(c.load.metric(), "max_"), "down", placed.after[cpu], c.load.unit()+", "+cpuName(cpu))
}

// moved is what moving queues to better CPUs does: less on the busiest of all, or,
// where that is not so, nothing left of what was wrong.
func (c *Case) moved(wrong string, left float64, unit string) plan.Expect {
	if placed := c.place(); placed.lowers() {
		return expect(c.load.metric(), "down", placed.predicted(), c.load.unit())
	}
	return expect(wrong, "down", left, unit)
}

// affinityWants are the wishes that put a pair on its planned CPU, with the
// effect that is expected of them together. An interrupt that already sits
// there is not touched.
func (c *Case) affinityWants(paths []*path, why string, effect plan.Expect) []plan.Want {
	placed := c.place()
	var out []plan.Want
	for _, p := range paths {
		for _, side := range c.unsettled(p) {
			reason := why
			if full, refused := placed.refused[p]; refused {
				reason += fmt.Sprintf("; CPU %d would be next but has no interrupt vector left", full)
			}
			out = append(out, plan.Want{
				Ref: side.ref, Value: strconv.Itoa(placed.cpu[p]), Why: reason, Seen: side.cpus().String(),
				Expect: effect,
			})
		}
	}
	return out
}

// side is one interrupt of a pair, with its setting.
type side struct {
	fired
	ref knob.Ref
}

// sidesOf are the interrupts that a pair has.
func sidesOf(p *path) []side {
	rx, tx := knob.Rx(p.dev.Name, p.queue.N, "irq.affinity"), knob.Tx(p.dev.Name, p.queue.N, "irq.affinity")
	if !p.queue.Rx {
		rx = tx
	}
	return slices.DeleteFunc([]side{{p.rx, rx}, {p.tx, tx}}, func(s side) bool { return s.irq < 0 })
}

// unsettled are the interrupts of a pair that are to go where it is placed and are
// not there yet.
func (c *Case) unsettled(p *path) []side {
	cpu, placed := c.place().cpu[p]
	if !placed || cpu < 0 {
		return nil
	}
	return slices.DeleteFunc(sidesOf(p), func(s side) bool { return c.settled(s.fired, cpu) })
}

// moves reports whether any interrupt is to be moved.
func (c *Case) moves() bool {
	return slices.ContainsFunc(c.Paths, func(p *path) bool { return len(c.unsettled(p)) > 0 })
}

// settled reports whether an interrupt already fires on that CPU alone, with
// a mask that keeps it there or was not told.
func (c *Case) settled(f fired, cpu int) bool {
	row := c.row(f.irq)
	if row == nil {
		return false
	}
	if row.HasSMP && row.Affinity.Len() == 1 {
		return row.Affinity.Has(cpu)
	}
	fires := f.total == 0 || (f.home == cpu && f.share >= c.At(defiedShare))
	if !row.Effective.IsEmpty() {
		return fires && row.Effective.Has(cpu) && row.Effective.Len() == 1
	}
	return f.total > 0 && fires
}

// expect is what a change should do to something that can be measured again.
func expect(metric, direction string, predicted float64, unit string) plan.Expect {
	return plan.Expect{Metric: metric, Direction: direction, Predicted: rounded(predicted), Unit: unit}
}

func rounded(v float64) *float64 {
	r := math.Round(v*1000) / 1000
	return &r
}
