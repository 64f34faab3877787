package rules

import (
	"fmt"
	"strconv"

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

var _ = register(Rule{
	ID:    "rps-redundant",
	Title: "RPS repeats in software what the NIC's queues already do",
	Page: Page{
		Meaning:     "The device has a receive queue for each CPU that could be a target, and RPS then moves packets a second time: an inter-processor interrupt and a cold cache per batch for nothing.",
		Evidence:    "rps_cpus of each receive queue against the number of receive queues and the CPUs of the device's node.",
		Cause:       "A script or profile that switches RPS on everywhere.",
		Remedy:      "Clear rps_cpus. One report halved its softirq time by that.",
		SideEffects: "Flows move to the CPU of their queue; reordering for a moment.",
		NotWhen:     "The hash leaves most queues empty (tunnels, PPPoE), or RFS steers packets to the reading threads on purpose.",
		Source:      "Documentation/networking/scaling.rst: \"if RSS is configured so that a hardware receive queue is mapped to each CPU, then RPS is probably redundant\"",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, d := range c.tunable() {
			queues := rxQueues(d)
			cpus := c.Last.Topo.Cores(c.local(d))
			if queues < 2 || cpus == 0 || queues < cpus || c.rfsOn() {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  d.Name,
				Evidence: []plan.Evidence{{Metric: "rx_queues", Value: float64(queues), Unit: "queues", Threshold: float64(cpus), Source: "/sys/class/net/" + d.Name + "/queues"}},
			}
			for i := range d.Queues {
				ref := knob.Rx(d.Name, d.Queues[i].N, "rps.cpus")
				if now, ok := c.knob(ref); ok && d.Queues[i].Rx && now != "" {
					f.Wants = append(f.Wants, plan.Want{Ref: ref, Value: "", Why: fmt.Sprintf("%d queues for %d cores", queues, cpus),
						Expect: plan.Expect{Metric: "received_rps", Direction: "down"}})
				}
			}
			if len(f.Wants) > 0 {
				f.Claim = fmt.Sprintf("RPS is on for %d queues of %s although it has %d receive queues for %d local cores", len(f.Wants), d.Name, queues, cpus)
				out = append(out, f)
			}
		}
		return out
	},
})

// rfsOn reports whether receive flow steering is fully configured somewhere.
func (c *Case) rfsOn() bool {
	global, ok := c.knobInt(knob.Global(rfsGlobal))
	return ok && global > 0
}

const (
	rfsGlobal = "net.core.rps_sock_flow_entries"
	// rfsEntries is what scaling.rst calls working "fairly well" for a
	// moderately loaded server.
	rfsEntries = 32768
)

var _ = register(Rule{
	ID:    "rfs-size",
	Title: "receive flow steering is half configured",
	Page: Page{
		Meaning:     "RFS needs a global table and a table per receive queue. Only one of the two is there, so it does nothing.",
		Evidence:    "net.core.rps_sock_flow_entries and rps_flow_cnt of each receive queue.",
		Cause:       "A recipe followed half-way.",
		Remedy:      "Complete it: 32,768 entries in all, divided by the number of receive queues. If nobody wants RFS, set both to 0 instead.",
		SideEffects: "Four bytes per global entry; steering costs an inter-processor interrupt when the reader sits on another CPU.",
		NotWhen:     "The host forwards packets: RFS learns from sockets and sees none.",
		Source:      "Documentation/networking/scaling.rst (RFS); net/core/sysctl_net_core.c rps_sock_flow_sysctl",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		global, ok := c.knobInt(knob.Global(rfsGlobal))
		if !ok {
			return nil
		}
		var out []plan.Finding
		for _, d := range c.tunable() {
			on, off, known := c.flowTables(d)
			if !known {
				continue
			}
			switch {
			case global == 0 && len(on) > 0:
				out = append(out, halfRFS(d, fmt.Sprintf("%s has flow tables on %d receive queues, but the global table has no entries", d.Name, len(on)),
					[]plan.Want{{Ref: knob.Global(rfsGlobal), Value: strconv.Itoa(rfsEntries), Mode: plan.Raise, Why: "rps_flow_cnt is set without it"}}))
			case global > 0 && len(on) == 0 && c.anyFlowTable():
				continue // another device uses it
			case global > 0 && len(on) == 0 && len(off) > 0 && c.forwards(d) == "":
				per := strconv.Itoa(max(1, powerOfTwo(int(global)/len(off))))
				var wants []plan.Want
				for _, ref := range off {
					wants = append(wants, plan.Want{Ref: ref, Value: per, Mode: plan.Raise, Why: fmt.Sprintf("global table of %d entries is unused", global)})
				}
				out = append(out, halfRFS(d, fmt.Sprintf("the global flow table has %d entries, but no receive queue of %s has a table", global, d.Name), wants))
			}
		}
		return out
	},
})

func halfRFS(d *detect.Device, claim string, wants []plan.Want) plan.Finding {
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name, Claim: claim, Wants: wants,
		Evidence: []plan.Evidence{{Metric: "rfs_halves", Value: 1, Unit: "of 2 tables", Threshold: 2, Source: "/proc/sys/net/core/rps_sock_flow_entries, rps_flow_cnt"}},
	}
}

// flowTables sorts a device's receive queues by whether they have a flow table.
func (c *Case) flowTables(d *detect.Device) (on, off []knob.Ref, known bool) {
	for i := range d.Queues {
		if !d.Queues[i].Rx {
			continue
		}
		ref := knob.Rx(d.Name, d.Queues[i].N, "rps.flow_cnt")
		n, ok := c.knobInt(ref)
		if !ok {
			return nil, nil, false
		}
		if n > 0 {
			on = append(on, ref)
		} else {
			off = append(off, ref)
		}
	}
	return on, off, len(on)+len(off) > 0
}

func (c *Case) anyFlowTable() bool {
	for _, d := range c.Last.Devices {
		if on, _, known := c.flowTables(d); known && len(on) > 0 {
			return true
		}
	}
	return false
}

// powerOfTwo rounds down to a power of two; the kernel rounds up
// (net/core/net-sysfs.c store_rps_dev_flow_table_cnt), which would exceed the share.
func powerOfTwo(n int) int {
	p := 1
	for p*2 <= n {
		p *= 2
	}
	return p
}
