package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "rps-covers-irq-cpu",
	Title: "an RPS mask names the wrong CPUs",
	Page: Page{
		Meaning:     "RPS moves packets to CPUs that cannot help: the saturated CPU that takes the interrupt, the SMT siblings of CPUs that take the device's interrupts, CPUs of another node, or only CPUs without time left while others near them idle.",
		Evidence:    "rps_cpus of the queue against the CPUs where the device's queues interrupt, their siblings, its node, softirq time and packets dropped from backlogs.",
		Cause:       "An all-ones mask, a mask written for another machine, or one that traffic has outgrown.",
		Remedy:      "Use CPUs of the same cache or node, without the interrupt's core. Where the CPUs of the mask are all full, idle ones are added to them: put in their place, they would be as full.",
		SideEffects: "Flows move; reordering for a moment.",
		NotWhen:     "The interrupt's CPU has time to spare: then it may well be in the mask. CPUs of the mask that are busy and lose nothing do what the mask is for.",
		Source:      "Documentation/networking/scaling.rst: at high interrupt rate, exclude the interrupting CPU from the map",
		Thresholds:  describe(hotSoftirq, saturatedSoftirq, lossCount, lossShare, backlogRate, rpsTargets, activeRate, activeSoftirq, activeQueue),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, p := range c.Paths {
			c := c.of(p.dev)
			f, ok := c.wrongRPS(p)
			if !ok {
				f, ok = c.saturatedTargets(p)
			}
			if ok {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) wrongRPS(p *path) (plan.Finding, bool) {
	t := c.Last.Topo
	cpu := p.home()
	ref := rpsRef(p)
	mask, known := c.rpsMask(p)
	if !known || mask.IsEmpty() || cpu < 0 || c.Basis != detect.BasisWindow || !c.busySteered(p, mask) {
		return plan.Finding{}, false
	}
	core := c.coreOf(cpu)
	what := ""
	var kept cpuset.Set // of the mask, which is right but for the interrupt's core
	// More CPUs take work off a saturated one; nearer ones only do the same work better.
	effect := expect("max_cpu_softirq_share", "down", c.softirq(cpu)/2, "of a CPU")
	switch {
	case core.Contains(mask):
		what = "names only the core that takes the interrupt"
	case c.onlySiblings(p.dev, mask):
		what = "names only siblings on cores that take interrupts of " + p.dev.Name
		effect = expect("max_cpu_softirq_share", "down", c.hottest(mask)/2, "of a CPU")
	case t.NUMATrusted() && !mask.Overlaps(t.NodeCPUs(t.NodeOf(cpu))):
		what = "names only CPUs of another node"
		effect = expect("rps_targets_on_other_nodes", "down", 0, "CPUs")
	case c.hot(cpu) && mask.Has(cpu):
		what = "includes the saturated CPU that takes the interrupt"
		kept = mask.Intersect(c.Allowed).Minus(core)
	default:
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Advice, Subject: p.id(),
		Claim:    fmt.Sprintf("the RPS mask %s of %s %s (CPU %d)", mask, p.id(), what, cpu),
		Evidence: append([]plan.Evidence{{Metric: "rps_targets", Value: float64(mask.Minus(core).Len()), Unit: "CPUs outside the core", Threshold: c.At(rpsTargets), Source: "rps_cpus"}}, c.cpuEvidence(cpu)...),
	}
	if c.rpsPointless(p.dev) {
		f.Because = "rps-redundant/" + p.dev.Name
		return f, true
	}
	targets := c.rpsTargetCPUs(cpu).Union(kept)
	if others := targets.Minus(c.interruptCores(p.dev)); float64(others.Len()) >= c.At(rpsTargets) {
		targets = others
	}
	if float64(targets.Len()) >= c.At(rpsTargets) {
		f.Wants = []plan.Want{{Ref: ref, Value: targets.String(), Why: "RPS " + what, Expect: effect}}
	}
	return f, true
}

// saturatedTargets is about a mask of CPUs that have no time left, all of them,
// while enough CPUs beside them idle. Where the queues' own CPUs have time,
// rps-narrows asks to leave the packets there.
func (c *Case) saturatedTargets(p *path) (plan.Finding, bool) {
	cpu := p.home()
	mask, known := c.rpsMask(p)
	if !known || mask.IsEmpty() || cpu < 0 || !p.queue.Rx || !c.allFull(mask) || !c.busySteered(p, mask) || c.rpsPointless(p.dev) {
		return plan.Finding{}, false
	}
	idle := c.rpsTargetCPUs(cpu).Minus(mask)
	wide := mask.Intersect(c.Allowed).Union(idle).Minus(c.coreOf(cpu))
	if _, narrow := c.narrowed(p.dev); narrow || wide.Len() <= mask.Len() {
		return plan.Finding{}, false
	}
	left := c.hottest(mask) * float64(mask.Len()) / float64(wide.Len())
	signs := percent(c.hottest(mask)) + " in softirqs"
	if lost := c.dropped(mask); lost > 0 {
		signs += fmt.Sprintf(", %d packets dropped", lost)
	}
	return plan.Finding{
		Severity: plan.Problem, Subject: p.id(),
		Claim:    fmt.Sprintf("the RPS mask %s of %s names only CPUs without time left (%s), while CPUs %s idle", mask, p.id(), signs, idle),
		Evidence: append([]plan.Evidence{{Metric: "rps_targets", Value: float64(mask.Len()), Unit: "CPUs, all saturated", Threshold: float64(wide.Len()), Source: "rps_cpus"}}, c.cpuEvidence(mask.Min())...),
		Wants: []plan.Want{{Ref: rpsRef(p), Value: wide.String(), Why: fmt.Sprintf("CPU %s has no time left", mask),
			Expect: expect("max_cpu_softirq_share", "down", left, "of a CPU")}},
	}, true
}

func (c *Case) allHot(cpus cpuset.Set) bool {
	return !slices.ContainsFunc(cpus.CPUs(), func(cpu int) bool { return !c.hot(cpu) })
}

// allFull reports whether none of these CPUs has room for bursts: by their time,
// or by packets that the busy ones lost. Half of its time is what a CPU in a mask
// may well spend, and one with time to spare loses packets because its backlog is
// short, which more CPUs do not mend.
func (c *Case) allFull(cpus cpuset.Set) bool {
	return c.Basis == detect.BasisWindow && !slices.ContainsFunc(cpus.CPUs(), func(cpu int) bool {
		return c.softirq(cpu) < c.At(saturatedSoftirq) && !(c.lossy(cpu) && c.hot(cpu))
	})
}

// dropped is how many packets the backlogs of these CPUs lost.
func (c *Case) dropped(cpus cpuset.Set) uint64 {
	var sum uint64
	for cpu := range cpus.All() {
		sum += c.Softnet[cpu].Dropped
	}
	return sum
}

func rpsRef(p *path) knob.Ref { return knob.Rx(p.dev.Name, p.queue.N, "rps.cpus") }

// rpsMask are the CPUs that a queue's packets are handed to; false unless known.
func (c *Case) rpsMask(p *path) (cpuset.Set, bool) {
	text, known := c.knob(rpsRef(p))
	mask, err := cpuset.ParseList(text)
	return mask, known && err == nil
}

// coreOf are all threads of a CPU's core.
func (c *Case) coreOf(cpu int) cpuset.Set {
	return c.Last.Topo.Siblings(cpu).Union(cpuset.Of(cpu))
}

// steered is a receive queue and the CPUs that its packets are handed to, none
// where they stay.
type steered struct {
	*path
	mask cpuset.Set
}

type steering []steered

// steeringOf are the receive queues of a device that the caller judges, which may
// skip some by their mask. False if a mask is not known or is wrong by itself:
// rps-covers-irq-cpu has a word on it.
func (c *Case) steeringOf(d *detect.Device, skip func(steered) bool) (steering, bool) {
	var out steering
	for _, p := range c.Paths {
		if p.dev != d || !p.queue.Rx || p.home() < 0 {
			continue
		}
		mask, known := c.rpsMask(p)
		if skip(steered{p, mask}) {
			continue
		}
		if _, wrong := c.wrongRPS(p); wrong || !known {
			return nil, false
		}
		out = append(out, steered{p, mask})
	}
	return out, true
}

func (s steering) homes() cpuset.Set {
	var out cpuset.Set
	for _, q := range s {
		out = out.Union(cpuset.Of(q.home()))
	}
	return out
}

func (s steering) targets() cpuset.Set {
	var out cpuset.Set
	for _, q := range s {
		out = out.Union(q.mask)
	}
	return out
}

// leave are the wishes that packets stay where their queue interrupts.
func (s steering) leave(why string) []plan.Want {
	var out []plan.Want
	for _, q := range s {
		out = append(out, plan.Want{Ref: rpsRef(q.path), Value: "", Why: why, Expect: expect("received_rps", "down", 0, "1/s")})
	}
	return out
}

// busySteered reports whether a queue whose packets go to other CPUs is worth
// judging: handing them on costs its own CPU little, the work shows at theirs.
func (c *Case) busySteered(p *path, mask cpuset.Set) bool {
	if c.busyPath(p) {
		return true
	}
	return p.share >= c.At(activeQueue) && slices.ContainsFunc(mask.CPUs(), func(cpu int) bool { return c.softirq(cpu) >= c.At(activeSoftirq) })
}

// hottest is the largest softirq share of any CPU of a set.
func (c *Case) hottest(cpus cpuset.Set) float64 {
	most := 0.0
	for cpu := range cpus.All() {
		most = max(most, c.softirq(cpu))
	}
	return most
}

// onlySiblings reports whether a mask names nothing but cores that the device's
// queues interrupt, and siblings among them: the threads beside the
// interrupts get the work while whole cores stay idle. A mask of the
// interrupts' own CPUs evens out what the hash does not, and is left alone.
func (c *Case) onlySiblings(d *detect.Device, mask cpuset.Set) bool {
	cores := c.interruptCores(d)
	var homes cpuset.Set
	for _, p := range c.Paths {
		if p.dev == d && p.home() >= 0 {
			homes = homes.Union(cpuset.Of(p.home()))
		}
	}
	idle := c.local(d).Minus(cores)
	return cores.Contains(mask) && !homes.Contains(mask) && float64(idle.Len()) >= c.At(rpsTargets)
}

// interruptCores are all threads of the cores that a device's queues interrupt.
func (c *Case) interruptCores(d *detect.Device) cpuset.Set {
	var out cpuset.Set
	for _, p := range c.Paths {
		if p.dev == d && p.queue.Rx && p.home() >= 0 && p.share >= c.At(activeQueue) {
			out = out.Union(c.coreOf(p.home()))
		}
	}
	return out
}

// rpsPointless reports whether the device has a receive queue per local core,
// so that RPS should go altogether.
func (c *Case) rpsPointless(d *detect.Device) bool {
	_, each := c.queuePerCore(d)
	return rxQueues(d) >= 2 && each && !c.rfsOn()
}
