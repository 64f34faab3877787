package rules

import (
	"fmt"
	"maps"
	"slices"

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
		Evidence: "Softirq time of the queue's CPU and idle time of its neighbours over the window (/proc/stat), number of queues, rps_cpus. A device without an interrupt of its own (USB) is judged by its share of all packets and by the CPU that does nearly all receive softirqs.",
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
		if p.dev == d && cpu >= 0 && cpu != p.home() && !c.allLocked([]*path{p}) && len(c.diagnosis.defied[d.Name]) == 0 {
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
	var wants []plan.Want
	for _, queue := range slices.Sorted(maps.Keys(homes)) {
		cpu := homes[queue]
		least = min(least, c.softirq(cpu))
		targets := c.rpsTargetCPUs(cpu).Minus(serving)
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
		Claim: fmt.Sprintf("all %d queues of %s, as many as it has, keep their CPUs at %s softirq time or more while CPUs %s are idle enough to help",
			len(homes), d.Name, percent(least), all),
		Evidence: c.cpuEvidence(serving.Min()),
		Wants:    wants,
	}
	if d.Kind == "virtio" {
		f.Operator = "ask the hypervisor's owner for more queues (libvirt: <driver queues='N'/>; QEMU: queues=N, mq=on, vectors=2N+2): that costs less than RPS"
	}
	return f, true
}

func (c *Case) needsRPS(d *detect.Device, cpu int) (plan.Finding, bool) {
	targets := c.rpsTargetCPUs(cpu)
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
		Claim: fmt.Sprintf("the only queue of %s keeps CPU %d at %s softirq time while CPUs %s are idle enough to help",
			d.Name, cpu, percent(share), targets),
		Evidence: c.cpuEvidence(cpu),
		Wants: []plan.Want{{Ref: ref, Value: targets.String(), Why: fmt.Sprintf("CPU %d is saturated by one queue", cpu),
			Expect: expect("max_cpu_softirq_share", "down", share/2, "of a CPU")}},
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
	if fast := near.Minus(t.LittleCPUs()); float64(fast.Len()) >= c.At(rpsTargets) {
		near = fast
	}
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
