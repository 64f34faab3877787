package rules

import (
	"fmt"
	"math"
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
		Evidence:    "Tunnel devices that are up and what they received over the window, against what the NIC received (packets or, because GRO may merge before the tunnel, bytes). Most tunnels do not say through which NIC they come: then only that is the NIC's which the other NICs are too quiet to have brought. Packets per receive queue, softirq time of the busiest queue's CPU.",
		Cause:       "RSS looks at outer headers; the inner flows are invisible to it.",
		Remedy:      "RPS on the device: software looks into PPPoE, GRE and IPIP where the NIC does not. WireGuard hides the inner headers from everybody: threaded NAPI on its device lets other CPUs take part. VXLAN and Geneve put the inner hash into the UDP source port: hash UDP over the four-tuple (rss-skew proposes it); RPS is no remedy there.",
		SideEffects: "An inter-processor interrupt per batch (RPS); a thread wake-up per poll (threaded NAPI).",
		NotWhen:     "The CPU is not near its limit, the tunnel carries the smaller part of the traffic, or another NIC may have brought it: nothing is said of a tunnel then, and the NICs are judged without it. Where no other CPU is half idle, nothing is proposed.",
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
	targets := c.rpsTargetCPUs(cpu)
	if targets.IsEmpty() && kind != udpTunnel {
		f.Operator = "no other CPU is half idle and could take a part of it: fewer or larger packets, or more CPUs, help"
		return f, true
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
// the window, and their kind; noTunnel if other traffic does, or if it is not
// known that they do: most tunnels do not say what they lie on.
func (c *Case) tunnelsThrough(d *detect.Device) (tunnelKind, []string) {
	return c.tunnelsOver(d, (*tunnelled).least)
}

// mayBeTunnelled reports whether most of what a device received may have come in
// tunnels whose flows the NIC cannot tell apart.
func (c *Case) mayBeTunnelled(d *detect.Device) bool {
	kind, _ := c.tunnelsOver(d, (*tunnelled).most)
	return kind == otherTunnel || kind == wireGuard
}

// volume is what a device received.
type volume struct{ packets, bytes float64 }

func (v volume) plus(w volume) volume { return volume{v.packets + w.packets, v.bytes + w.bytes} }

func (v volume) minus(w volume) volume {
	return volume{max(0, v.packets-w.packets), max(0, v.bytes-w.bytes)}
}

// volume of a device whose counters are not known has no limit.
func (c *Case) volume(d *detect.Device) volume {
	if n := c.Device[d.Name]; n.Known {
		return volume{float64(n.Counters.RxPackets), float64(n.Counters.RxBytes)}
	}
	return volume{math.Inf(1), math.Inf(1)}
}

// tunnelled is what tunnels of one kind received, seen from one NIC.
type tunnelled struct {
	names        []string
	sure, unsure volume // through this NIC alone; through it or others
	others       map[*detect.Device]volume
}

// least is what came through this NIC even if the others carried nothing else.
func (t *tunnelled) least() volume {
	left := t.unsure
	for _, carried := range t.others {
		left = left.minus(carried)
	}
	return t.sure.plus(left)
}

func (t *tunnelled) most() volume { return t.sure.plus(t.unsure) }

// tunnelsOver finds the kind of tunnels that received the larger part of what a
// device did, by one reading of what came through it.
func (c *Case) tunnelsOver(d *detect.Device, reading func(*tunnelled) volume) (tunnelKind, []string) {
	if !c.Device[d.Name].Known || c.Basis != detect.BasisWindow {
		return noTunnel, nil
	}
	kinds := map[tunnelKind]*tunnelled{}
	for _, kind := range []tunnelKind{otherTunnel, udpTunnel, wireGuard} {
		kinds[kind] = &tunnelled{others: map[*detect.Device]volume{}}
	}
	for _, t := range c.Last.Devices {
		of, got := kinds[kindOfTunnel(t)], c.Device[t.Name]
		if of == nil || down(t) || !got.Known || got.Counters.RxPackets == 0 {
			continue
		}
		nics := c.carriers(t)
		if !slices.Contains(nics, d) {
			continue
		}
		of.names = append(of.names, t.Name)
		if len(nics) == 1 {
			of.sure = of.sure.plus(c.volume(t))
			continue
		}
		of.unsure = of.unsure.plus(c.volume(t))
		for _, nic := range nics {
			if nic != d {
				of.others[nic] = c.volume(nic)
			}
		}
	}
	most, through := noTunnel, volume{}
	all, part := c.volume(d), c.At(tunnelShare)
	for _, kind := range []tunnelKind{otherTunnel, udpTunnel, wireGuard} {
		v := reading(kinds[kind])
		enough := v.packets > 0 && v.packets >= part*all.packets || v.bytes > 0 && v.bytes >= part*all.bytes
		if enough && (v.bytes > through.bytes || v.bytes == through.bytes && v.packets > through.packets) {
			most, through = kind, v
		}
	}
	if most == noTunnel {
		return noTunnel, nil
	}
	return most, kinds[most].names
}

// carriers are the NICs that may have brought what a tunnel received: those below
// it, any NIC for a tunnel that is not tied to a device.
func (c *Case) carriers(t *detect.Device) []*detect.Device {
	below := c.Last.WithLower([]string{t.Name})
	var out []*detect.Device
	for _, d := range c.Last.Devices {
		// What lies on other devices (the synthetic device of a virtual function,
		// a port of a switch chip) counts their packets again.
		nic := (d.Kind == "physical" || d.Kind == "virtio" || d.Kind == "synthetic") && len(d.Lower) == 0
		if nic && (len(t.Lower) == 0 || slices.Contains(below, d.Name)) && (!down(d) || c.Device[d.Name].Known) {
			out = append(out, d)
		}
	}
	return out
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
