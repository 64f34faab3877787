package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
	Title: "all queues of a device feed saturated CPUs while others idle",
	Page: Page{
		Meaning:  "The device cannot spread packets any further: it has one queue, or few, and the CPUs that serve them are saturated while CPUs beside them are idle. RPS can move the protocol work to them.",
		Evidence: "Softirq time of the queue's CPU and idle time of its neighbours over the window (/proc/stat), number of queues against CPUs, rps_cpus. The sum from the CPUs that share the cache or node, without the interrupt's core, those kept free and busy ones, to the targets is part of the finding. A device without an interrupt of its own (USB) is judged by its share of all packets and by the CPU that does nearly all receive softirqs.",
		Cause:    "A single-queue NIC or guest device, or traffic whose headers the NIC cannot hash (PPPoE, tunnels).",
		Remedy: "rps_cpus = CPUs that share the last-level cache (else the node) with the interrupt's CPU, without that CPU, its SMT siblings, and isolated CPUs. " +
			"The kernel ANDs the mask with the housekeeping CPUs silently, so that is done here first.",
		SideEffects: "One inter-processor interrupt per batch and target; 20 to 150 µs more latency where the targets sleep deeply. Existing flows are reordered for a moment.",
		NotWhen:     "The NIC has a queue per CPU, the traffic is one flow, the CPUs are few and weak, or most of the traffic is WireGuard's.",
		Source:      "net/core/dev.c get_rps_cpu; net/core/net-sysfs.c store_rps_map; Documentation/networking/scaling.rst",
		Thresholds:  describe(hotSoftirq, saturatedSoftirq, rpsTargets, groPackets, stackedShare),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if d.Channels != nil && d.Channels.MaxCombined > max(1, d.Channels.Combined) {
				continue // more hardware queues come first
			}
			if kind, _ := c.tunnelsThrough(d); kind == wireGuard {
				continue // the outer headers of a peer are one flow, and nobody can look inside: tunnel-hash has the remedy
			}
			if cpu := c.servingCPU(d); rxQueues(d) == 1 && cpu >= 0 && c.hot(cpu) && !c.relocated(d) {
				if f, ok := c.needsRPS(d, cpu); ok {
					out = append(out, f)
				}
			}
			if f, ok := c.fewSaturatedQueues(d); ok && !c.relocated(d) {
				out = append(out, f)
			}
		}
		return out
	},
})

// relocated reports whether a queue of a device is to be moved to another CPU,
// or others are to leave its own: what that brings is seen first, and RPS would
// steer by what was.
func (c *Case) relocated(d *detect.Device) bool {
	for _, s := range c.diagnosis.stacked {
		if s.cpu == c.servingCPU(d) && !c.allLocked(s.movable) && c.defiedDevice(s.movable) == "" {
			return true
		}
	}
	for p, cpu := range c.place().cpu {
		if p.dev == d && cpu >= 0 && cpu != p.home() {
			return true
		}
	}
	return false
}

// servingCPU is the CPU that a device's only queue keeps busy, -1 if unknown.
// Behind USB a device has no interrupt of its own: if it carries nearly all
// packets, the CPU that does nearly all receive softirqs is it.
func (c *Case) servingCPU(d *detect.Device) int {
	if cpu := c.queueCPU(d); cpu >= 0 {
		return cpu
	}
	rate, known := c.packetRate(d)
	if !known || !d.QueuesKnown || d.Kind != "physical" || rate < c.At(groPackets) || rate < c.At(stackedShare)*c.hardwarePackets() {
		return -1
	}
	var runs uint64
	for _, n := range c.NetRx {
		runs += n
	}
	cpu := busiest(c.NetRx)
	if cpu < 0 || float64(c.NetRx[cpu]) < c.At(stackedShare)*float64(runs) {
		return -1
	}
	return cpu
}

// hardwarePackets is how many packets per second came from devices with
// hardware queues; those on top of them count the same packets again.
func (c *Case) hardwarePackets() float64 {
	sum := 0.0
	for _, d := range c.devices() {
		rate, _ := c.packetRate(d)
		sum += rate
	}
	return sum
}

var saturatedSoftirq = threshold("saturated-softirq-share", 0.85, "of a CPU",
	"CPUs set apart for a NIC with few queues may well spend half of their time on it; only above some 85 % bursts find no room",
	"packets lost, which show that there is none")

// fewSaturatedQueues judges a device with several queues that all saturate
// their CPUs while at least as many CPUs near them idle.
func (c *Case) fewSaturatedQueues(d *detect.Device) (plan.Finding, bool) {
	homes := map[int]int{} // queue → CPU
	serving := cpuset.Set{}
	for _, p := range c.Paths {
		if p.dev == d && p.queue.Rx && p.home() >= 0 && c.busyPath(p) {
			homes[p.queue.N] = p.home()
			serving = serving.Union(cpuset.Of(p.home()))
		}
	}
	if len(homes) < 2 || len(homes) != rxQueues(d) || serving.Len() != len(homes) {
		return plan.Finding{}, false
	}
	least, all := 1.0, cpuset.Set{}
	var sum rpsSum // of the last queue; those of one cache or node are alike
	var wants []plan.Want
	for _, queue := range slices.Sorted(maps.Keys(homes)) {
		cpu := homes[queue]
		least = min(least, c.softirq(cpu))
		sum = c.rpsSum(cpu)
		sum.core = sum.core.Union(serving.Intersect(sum.near))
		sum.targets, sum.busy = sum.targets.Minus(serving), sum.busy.Minus(serving)
		targets := sum.targets
		ref := knob.Rx(d.Name, queue, "rps.cpus")
		if now, known := c.knob(ref); !c.hot(cpu) || targets.IsEmpty() || known && now != "" {
			return plan.Finding{}, false
		}
		all = all.Union(targets)
		wants = append(wants, plan.Want{Ref: ref, Value: targets.String(), Why: fmt.Sprintf("CPU %d is saturated, and the device has no more queues", cpu),
			Expect: expect("max_cpu_softirq_share", "down", c.softirq(cpu)/2, "of a CPU")})
	}
	if least < c.At(saturatedSoftirq) || all.Len() < max(len(homes), int(c.At(rpsTargets))) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Problem, Subject: d.Name,
		Claim: fmt.Sprintf("all %d queues of %s, as many as it has, for %d CPUs, keep their CPUs at %s softirq time or more; of the %d CPUs of a queue's %s, without %s, CPUs %s are idle enough to help",
			len(homes), d.Name, c.Allowed.Len(), percent(least), sum.near.Len(), sum.domain, strings.Replace(sum.leftOut(), "its core", "those of queues", 1), all),
		Evidence: append(c.cpuEvidence(serving.Min()), c.rpsEvidence(d, sum)...),
		Wants:    wants,
	}
	if d.Kind == "virtio" {
		f.Operator = "ask the hypervisor's owner for more queues (libvirt: <driver queues='N'/>; QEMU: queues=N, mq=on, vectors=2N+2): that costs less than RPS"
	}
	return f, true
}

func (c *Case) needsRPS(d *detect.Device, cpu int) (plan.Finding, bool) {
	sum := c.rpsSum(cpu)
	targets := sum.targets
	queue := d.Queues[0].N
	ref := knob.Rx(d.Name, queue, "rps.cpus")
	now, known := c.knob(ref)
	if float64(targets.Len()) < c.At(rpsTargets) || (known && now != "") {
		return plan.Finding{}, false
	}
	share := c.softirq(cpu)
	return plan.Finding{
		Severity: plan.Problem,
		Subject:  d.Name,
		Claim: fmt.Sprintf("the only queue of %s, for %d CPUs, keeps CPU %d at %s softirq time; of the %d CPUs of its %s, without %s, CPUs %s are idle enough to help",
			d.Name, c.Allowed.Len(), cpu, percent(share), sum.near.Len(), sum.domain, sum.leftOut(), targets),
		Evidence: append(c.cpuEvidence(cpu), c.rpsEvidence(d, sum)...),
		Wants: []plan.Want{{Ref: ref, Value: targets.String(), Why: fmt.Sprintf("CPU %d is saturated by one queue", cpu),
			Expect: expect("max_cpu_softirq_share", "down", share/2, "of a CPU")}},
	}, true
}

// rpsSum is the arithmetic of RPS for one CPU: who is near it, who is left out and
// why, who remains.
type rpsSum struct {
	domain                 string // what the CPUs share with the interrupt's: "cache", "node", "host"
	near                   cpuset.Set
	core, kept, slow, busy cpuset.Set // left out: the interrupt's core, isolated or not allowed, slow, without time
	targets                cpuset.Set
}

// rpsTargetCPUs are the CPUs that may take protocol work from one CPU: same
// cache or at least node, not its core, allowed, and at least half idle.
func (c *Case) rpsTargetCPUs(cpu int) cpuset.Set { return c.rpsSum(cpu).targets }

func (c *Case) rpsSum(cpu int) rpsSum {
	t := c.Last.Topo
	out := rpsSum{domain: "cache", near: t.LLCOf(cpu)}
	core := t.Siblings(cpu).Union(cpuset.Of(cpu))
	usable := func() cpuset.Set { return out.near.Intersect(c.Allowed).Minus(core) }
	if float64(usable().Len()) < c.At(rpsTargets) {
		out.domain, out.near = "host", t.Online.Union(c.Allowed)
		if t.NUMATrusted() {
			out.domain, out.near = "node", t.NodeCPUs(t.NodeOf(cpu))
		}
	}
	out.core = out.near.Intersect(core)
	out.kept = out.near.Minus(core).Minus(c.Allowed)
	left := usable()
	if fast := left.Minus(t.LittleCPUs()); float64(fast.Len()) >= c.At(rpsTargets) {
		out.slow, left = left.Minus(fast), fast
	}
	var idle []int
	for id := range left.All() {
		if share, ok := c.CPU[id]; ok && share.Idle >= 0.5 {
			idle = append(idle, id)
		}
	}
	out.targets = cpuset.Of(idle...)
	out.busy = left.Minus(out.targets)
	return out
}

// leftOut names who is left out, for people: "its core (0,4), kept free (6)".
func (r *rpsSum) leftOut() string {
	var parts []string
	for _, part := range []struct {
		what string
		cpus cpuset.Set
	}{{"its core", r.core}, {"kept free", r.kept}, {"slow", r.slow}, {"busy", r.busy}} {
		if !part.cpus.IsEmpty() {
			parts = append(parts, fmt.Sprintf("%s (%s)", part.what, part.cpus))
		}
	}
	return strings.Join(parts, ", ")
}

// rpsEvidence is the arithmetic as numbers: as many queues for as many CPUs, and
// from the CPUs near the interrupt's down to the targets.
func (c *Case) rpsEvidence(d *detect.Device, r rpsSum) []plan.Evidence {
	const source = "/sys/devices/system/cpu"
	out := []plan.Evidence{
		{Metric: "rx_queues", Value: float64(rxQueues(d)), Unit: "queues", Threshold: float64(c.Allowed.Len()), Source: "/sys/class/net/" + d.Name + "/queues"},
		{Metric: "cpus_near", Value: float64(r.near.Len()), Unit: "CPUs of its " + r.domain, Source: source},
		{Metric: "left_out_core", Value: float64(r.core.Len()), Unit: "CPUs of the interrupt's core", Source: source},
		{Metric: "left_out_kept_free", Value: float64(r.kept.Len()), Unit: "CPUs isolated, tickless or not allowed", Source: source},
	}
	if !r.slow.IsEmpty() {
		out = append(out, plan.Evidence{Metric: "left_out_slow", Value: float64(r.slow.Len()), Unit: "CPUs of slow cores", Source: source})
	}
	return append(out,
		plan.Evidence{Metric: "left_out_busy", Value: float64(r.busy.Len()), Unit: "CPUs less than half idle", Source: "/proc/stat"},
		plan.Evidence{Metric: "rps_targets", Value: float64(r.targets.Len()), Unit: "CPUs", Threshold: c.At(rpsTargets), Source: source})
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
