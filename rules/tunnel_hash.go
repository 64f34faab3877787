package rules

import (
	"fmt"
	"slices"
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
		Evidence:    "Tunnel devices that are up and what they received over the window, against what the NIC received (packets or, because GRO may merge before the tunnel, bytes); packets per receive queue, softirq time of the busiest queue's CPU.",
		Cause:       "RSS looks at outer headers; the inner flows are invisible to it.",
		Remedy:      "RPS on the device: software looks into PPPoE, GRE and IPIP where the NIC does not. WireGuard hides the inner headers from everybody: threaded NAPI on its device lets other CPUs take part. VXLAN and Geneve put the inner hash into the UDP source port: hash UDP over the four-tuple (rss-skew proposes it); RPS is no remedy there.",
		SideEffects: "An inter-processor interrupt per batch (RPS); a thread wake-up per poll (threaded NAPI).",
		NotWhen:     "The CPU is not near its limit, or the tunnel carries the smaller part of the traffic.",
		Source:      "net/core/flow_dissector.c; include/net/udp_tunnel.h udp_flow_src_port; Documentation/networking/scaling.rst",
		Thresholds:  describe(flowShare, hotSoftirq, tunnelShare),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.tunnelHash(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

var tunnelShare = threshold("tunnel-share", 0.5, "of what the NIC received",
	"a tunnel that carries less than one half does not explain a queue that gets nine tenths; hosts have tunnel devices that carry nothing (tunl0, sit0, cluster networks of other nodes)",
	"counters of tunnels per queue")

func (c *Case) tunnelHash(d *detect.Device) (plan.Finding, bool) {
	kind, tunnels := c.tunnelsThrough(d)
	share, queue, ok := c.topQueue(d)
	if !ok && kind == wireGuard && rxQueues(d) == 1 {
		share, queue, ok = 1, d.Queues[0].N, true // several queues would not help it either
	}
	cpu := c.cpuOfQueue(d, queue)
	if kind == noTunnel || !ok || share < c.At(flowShare) || !c.hot(cpu) || kind == udpTunnel && fourTuple(d) {
		return plan.Finding{}, false // a four-tuple covers what VXLAN and Geneve have: then it is one flow
	}
	f := plan.Finding{
		Severity: plan.Problem, Subject: d.Name,
		Claim: fmt.Sprintf("queue %d of %s gets %s of the packets and saturates CPU %d; most of them come in a tunnel (%s) that the NIC cannot look into",
			queue, d.Name, percent(share), cpu, strings.Join(tunnels, ", ")),
		Evidence: append([]plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(flowShare), Source: "queue statistics of " + d.Name}}, c.cpuEvidence(cpu)...),
	}
	half := expect("max_cpu_softirq_share", "down", c.softirq(cpu)/2, "of a CPU")
	switch kind {
	case wireGuard:
		f.Operator = "RPS cannot look into WireGuard either; its packets leave one NAPI per peer, and a thread for each lets the scheduler use other CPUs"
		for _, name := range tunnels {
			ref := knob.Device(name, "threaded")
			if now, known := c.knob(ref); known && now == "off" {
				f.Wants = append(f.Wants, plan.Want{Ref: ref, Value: "on", Why: fmt.Sprintf("CPU %d is saturated by encrypted packets of one tunnel", cpu), Expect: half})
			}
		}
	case udpTunnel:
		f.Operator = "VXLAN and Geneve carry the inner flow's hash in their UDP source port: the NIC spreads them once it hashes UDP over the ports (ethtool -N " + d.Name + " rx-flow-hash udp4 sdfn); RPS would only pay for it in software"
		if skew, found := c.rssSkew(d); found && len(skew.Wants) > 0 {
			f.Because = "rss-skew/" + d.Name
			break
		}
		f.Wants = c.hashWants(d)
	case otherTunnel:
		ref := knob.Rx(d.Name, queue, "rps.cpus")
		targets := c.rpsTargetCPUs(cpu)
		if now, known := c.knob(ref); known && now == "" && float64(targets.Len()) >= c.At(rpsTargets) {
			f.Wants = []plan.Want{{Ref: ref, Value: targets.String(), Why: "the NIC cannot hash the tunnel", Expect: half}}
		}
	}
	return f, true
}

// tunnelKind sorts tunnels by what can tell their inner flows apart.
type tunnelKind uint8

const (
	noTunnel    tunnelKind = iota
	otherTunnel            // PPPoE, GRE, IPIP: software can look into them
	udpTunnel              // VXLAN, Geneve: the UDP source port is the hash of the inner flow (udp_flow_src_port)
	wireGuard              // nobody can
)

// tunnelsThrough are the tunnels that bring most of what a device received in
// the window, and the kind that carries most of it; noTunnel if other traffic does.
func (c *Case) tunnelsThrough(d *detect.Device) (tunnelKind, []string) {
	nic := c.Device[d.Name]
	if !nic.Known || c.Basis != detect.BasisWindow {
		return noTunnel, nil
	}
	names, packets, bytes := map[tunnelKind][]string{}, map[tunnelKind]uint64{}, map[tunnelKind]uint64{}
	var sum, size uint64
	for _, t := range c.Last.Devices {
		kind, got := kindOfTunnel(t), c.Device[t.Name]
		elsewhere := len(t.Lower) > 0 && !slices.Contains(c.Last.WithLower([]string{t.Name}), d.Name)
		if kind == noTunnel || down(t) || elsewhere || !got.Known || got.Counters.RxPackets == 0 {
			continue
		}
		names[kind] = append(names[kind], t.Name)
		packets[kind] += got.Counters.RxPackets
		bytes[kind] += got.Counters.RxBytes
		sum, size = sum+got.Counters.RxPackets, size+got.Counters.RxBytes
	}
	part := c.At(tunnelShare)
	if sum == 0 || float64(sum) < part*float64(nic.Counters.RxPackets) && (size == 0 || float64(size) < part*float64(nic.Counters.RxBytes)) {
		return noTunnel, nil
	}
	most := otherTunnel
	for _, kind := range []tunnelKind{udpTunnel, wireGuard} {
		if bytes[kind] > bytes[most] || bytes[kind] == bytes[most] && packets[kind] > packets[most] {
			most = kind
		}
	}
	return most, names[most]
}

func kindOfTunnel(d *detect.Device) tunnelKind {
	named := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(d.Name, p) })
	}
	switch {
	case d.Kind != "tunnel":
		if named("ppp") {
			return otherTunnel
		}
		return noTunnel
	case d.Driver == "wireguard" || named("wg"):
		return wireGuard
	case d.Driver == "vxlan" || d.Driver == "geneve" || named("vxlan", "flannel.", "cilium_vxlan", "geneve", "genev_"):
		return udpTunnel
	}
	return otherTunnel
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
