package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "veth-softirq",
	Title: "packets of a virtual link saturate the CPU of their sender",
	Page: Page{
		Meaning: "Containers talk through a veth pair. What one end sends is received by the other end on the sender's CPU, in a softirq that is charged to " +
			"the sending program. One busy sender then does the work of both sides.",
		Evidence: "A CPU with much softirq time and no NIC interrupts to speak of (/proc/stat, /proc/interrupts), packets taken there (softnet_stat), " +
			"and the packet rates of veth devices over the window.",
		Cause: "A veth has no interrupt and no hardware queue: without GRO, packets go through the backlog of the CPU that sent them (netif_rx), one by one; with GRO they " +
			"go through a NAPI of the veth on that CPU.",
		Remedy: "RPS on the receiving end moves flows to other CPUs. Where many flows are TCP, GRO on the veth (ethtool -K DEV gro on) with threaded NAPI saves and moves work " +
			"instead. Interrupt affinity of the NIC has no part in it.",
		SideEffects: "An inter-processor interrupt per batch.",
		NotWhen:     "One flow carries the traffic, or the other CPUs are busy as well.",
		Source:      "drivers/net/veth.c veth_xmit, veth_forward_skb; net/core/dev.c netif_rx, enqueue_to_backlog",
		Thresholds:  describe(hotSoftirq, groPackets, activeRate, rpsTargets),
	},
	Eval: func(c *Case) []plan.Finding {
		link, rate := c.busiestVeth()
		if link == nil || c.Basis != detect.BasisWindow {
			return nil
		}
		var out []plan.Finding
		for _, cpu := range slices.Sorted(maps.Keys(c.CPU)) {
			taken, timed := c.PerSecond(c.Softnet[cpu].Processed)
			if !c.hot(cpu) || c.servesNIC(cpu) || !timed || taken < c.At(groPackets) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: cpuName(cpu),
				Claim: fmt.Sprintf("CPU %d spends %s of its time in softirqs and serves no NIC queue; %s receives %.0f packets a second from its peer",
					cpu, percent(c.softirq(cpu)), link.Name, rate),
				Evidence: append([]plan.Evidence{{Metric: "veth_packets_per_second", Value: rate, Unit: "1/s", Threshold: c.At(groPackets), Source: "/proc/net/dev"}}, c.cpuEvidence(cpu)...),
				Operator: "where most of it is TCP, GRO on the receiving end with threaded NAPI costs less than RPS: ethtool -K " + link.Name + " gro on",
			}
			ref := knob.Rx(link.Name, 0, "rps.cpus")
			targets := c.rpsTargetCPUs(cpu)
			now, known := c.knob(ref)
			if known && now == "" && !c.Policy.Latency && float64(targets.Len()) >= c.At(rpsTargets) && len(out) == 0 {
				f.Wants = []plan.Want{{Ref: ref, Value: targets.String(), Why: fmt.Sprintf("CPU %d receives what it sends", cpu),
					Expect: expect("max_cpu_softirq_share", "down", c.softirq(cpu)/2, "of a CPU")}}
			}
			out = append(out, f)
		}
		return out
	},
})

// servesNIC reports whether a CPU takes NIC interrupts worth judging: then its
// softirqs have another explanation.
func (c *Case) servesNIC(cpu int) bool { return c.atLeast(c.loads[cpu], c.At(activeRate)) }

// busiestVeth is the virtual link that receives most packets, nil if none
// receives many.
func (c *Case) busiestVeth() (*detect.Device, float64) {
	var best *detect.Device
	most := 0.0
	for _, d := range c.Last.Devices {
		if rate, ok := c.packetRate(d); d.Kind == "veth" && c.wanted(d.Name) && ok && rate >= c.At(groPackets) && rate > most {
			best, most = d, rate
		}
	}
	return best, most
}
