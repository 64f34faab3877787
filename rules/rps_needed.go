package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var rpsTargets = threshold("rps-min-targets", 2, "CPUs",
	"moving packets to one other CPU pays an inter-processor interrupt per batch for a second CPU's time; on hosts with two to four weak CPUs RPS cost more than it brought",
	"measured idle time of the target CPUs")

var _ = register(Rule{
	ID:    "rps-needed",
	Title: "one queue feeds a saturated CPU while others idle",
	Page: Page{
		Meaning:  "The device cannot spread packets itself (one queue), the CPU that serves it is saturated, and CPUs beside it are idle. RPS can move the protocol work to them.",
		Evidence: "Softirq time of the queue's CPU and idle time of its neighbours over the window (/proc/stat), number of queues, rps_cpus.",
		Cause:    "A single-queue NIC or guest device, or traffic whose headers the NIC cannot hash (PPPoE, tunnels).",
		Remedy: "rps_cpus = CPUs that share the last-level cache (else the node) with the interrupt's CPU, without that CPU, its SMT siblings, and isolated CPUs. " +
			"The kernel ANDs the mask with the housekeeping CPUs silently, so that is done here first.",
		SideEffects: "One inter-processor interrupt per batch and target; 20 to 150 µs more latency where the targets sleep deeply. Existing flows are reordered for a moment.",
		NotWhen:     "The NIC has a queue per CPU, the traffic is one flow, or the CPUs are few and weak.",
		Source:      "net/core/dev.c get_rps_cpu; net/core/net-sysfs.c store_rps_map; Documentation/networking/scaling.rst",
		Thresholds:  describe(hotSoftirq, rpsTargets),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for _, d := range c.tunable() {
			if rxQueues(d) != 1 || (d.Channels != nil && d.Channels.MaxCombined > 1) {
				continue
			}
			if cpu := c.queueCPU(d); cpu >= 0 && c.hot(cpu) {
				if f, ok := c.needsRPS(d, cpu); ok {
					out = append(out, f)
				}
			}
		}
		return out
	},
})

func (c *Case) needsRPS(d *detect.Device, cpu int) (plan.Finding, bool) {
	targets := c.rpsTargetCPUs(cpu)
	queue := d.Queues[0].N
	ref := knob.Rx(d.Name, queue, "rps.cpus")
	now, known := c.knob(ref)
	if float64(targets.Len()) < c.At(rpsTargets) || (known && now != "") {
		return plan.Finding{}, false
	}
	share := c.CPU[cpu]
	return plan.Finding{
		Severity: plan.Problem,
		Subject:  d.Name,
		Claim: fmt.Sprintf("the only queue of %s keeps CPU %d at %s softirq time while CPUs %s are idle enough to help",
			d.Name, cpu, percent(share.Softirq+share.IRQ), targets),
		Evidence: c.cpuEvidence(cpu),
		Wants: []plan.Want{{Ref: ref, Value: targets.String(), Why: fmt.Sprintf("CPU %d is saturated by one queue", cpu),
			Expect: plan.Expect{Metric: "max_cpu_softirq_share", Direction: "down",
				Predicted: rounded((share.Softirq + share.IRQ) / 2)}}},
	}, true
}

// rpsTargetCPUs are the CPUs that may take protocol work from one CPU: same
// cache or at least node, not its core, allowed, and at least half idle.
func (c *Case) rpsTargetCPUs(cpu int) cpuset.Set {
	t := c.Last.Topo
	near := t.LLCOf(cpu).Intersect(c.Allowed).Minus(t.Siblings(cpu))
	if float64(near.Len()) < c.At(rpsTargets) {
		near = c.Allowed
		if t.NUMATrusted() {
			near = t.NodeCPUs(t.NodeOf(cpu)).Intersect(c.Allowed)
		}
		near = near.Minus(t.Siblings(cpu))
	}
	near = near.Minus(cpuset.Of(cpu))
	var out []int
	for id := range near.All() {
		if share, ok := c.CPU[id]; ok && share.Idle >= 0.5 {
			out = append(out, id)
		}
	}
	return cpuset.Of(out...)
}

// rxQueues counts receive queues in use, 0 if unknown.
func rxQueues(d *detect.Device) int {
	n := 0
	for i := range d.Queues {
		if d.Queues[i].Rx {
			n++
		}
	}
	return n
}
