package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "tunnel-hash",
	Title: "the NIC cannot hash what is inside a tunnel",
	Page: Page{
		Meaning:     "Traffic comes in a tunnel (PPPoE, GRE, IPIP, VXLAN, WireGuard) whose outer headers are always the same, so the NIC puts all of it on one queue and one CPU saturates.",
		Evidence:    "Tunnel devices, packets per receive queue, softirq time of the busiest queue's CPU.",
		Cause:       "RSS looks at outer headers; the inner flows are invisible to it.",
		Remedy:      "RPS on the device: software looks into PPPoE, GRE and IPIP where the NIC does not. WireGuard hides the inner headers from everybody: threaded NAPI on its device lets other CPUs take part. VXLAN and Geneve put the inner hash into the UDP source port: hash UDP over the four-tuple (rss-skew proposes it).",
		SideEffects: "An inter-processor interrupt per batch (RPS); a thread wake-up per poll (threaded NAPI).",
		NotWhen:     "The CPU is not near its limit.",
		Source:      "net/core/flow_dissector.c; Documentation/networking/scaling.rst",
		Thresholds:  describe(flowShare, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		tunnels := c.tunnels()
		if len(tunnels) == 0 || c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.tunnelHash(d, tunnels); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) tunnelHash(d *detect.Device, tunnels []string) (plan.Finding, bool) {
	share, queue, ok := c.topQueue(d)
	cpu := c.cpuOfQueue(d, queue)
	if !ok || share < c.At(flowShare) || !c.hot(cpu) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Problem, Subject: d.Name,
		Claim:    fmt.Sprintf("queue %d of %s gets %s of the packets and saturates CPU %d; the host has tunnels (%s) that the NIC cannot look into", queue, d.Name, percent(share), cpu, strings.Join(tunnels, ", ")),
		Evidence: append([]plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(flowShare), Source: "queue statistics of " + d.Name}}, c.cpuEvidence(cpu)...),
	}
	half := expect("max_cpu_softirq_share", "down", c.softirq(cpu)/2, "of a CPU")
	if guards := c.wireGuards(); len(guards) == len(tunnels) {
		f.Operator = "RPS cannot look into WireGuard either; its packets leave one NAPI per peer, and a thread for each lets the scheduler use other CPUs"
		for _, name := range guards {
			ref := knob.Device(name, "threaded")
			if now, known := c.knob(ref); known && now == "off" {
				f.Wants = append(f.Wants, plan.Want{Ref: ref, Value: "on", Why: fmt.Sprintf("CPU %d is saturated by encrypted packets of one tunnel", cpu), Expect: half})
			}
		}
		return f, true
	}
	ref := knob.Rx(d.Name, queue, "rps.cpus")
	targets := c.rpsTargetCPUs(cpu)
	if now, known := c.knob(ref); known && now == "" && float64(targets.Len()) >= c.At(rpsTargets) {
		f.Wants = []plan.Want{{Ref: ref, Value: targets.String(), Why: "the NIC cannot hash the tunnel", Expect: half}}
	}
	return f, true
}

// softirq is the part of a CPU's time that went into interrupts and softirqs.
func (c *Case) softirq(cpu int) float64 { return c.CPU[cpu].Softirq + c.CPU[cpu].IRQ }

// cpuOfQueue is where a receive queue's interrupt fires, -1 if not known.
func (c *Case) cpuOfQueue(d *detect.Device, queue int) int {
	for _, p := range c.Paths {
		if p.dev == d && p.queue.N == queue {
			return p.home()
		}
	}
	return -1
}

// wireGuards lists the WireGuard devices of the host.
func (c *Case) wireGuards() []string {
	var out []string
	for _, d := range c.Last.Devices {
		if d.Kind == "tunnel" && (d.Driver == "wireguard" || strings.HasPrefix(d.Name, "wg")) {
			out = append(out, d.Name)
		}
	}
	return out
}
