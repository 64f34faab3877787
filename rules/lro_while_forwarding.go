package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "lro-while-forwarding",
	Title: "LRO is on while the host forwards packets",
	Page: Page{
		Meaning:     "Large receive offload merges packets in a way that cannot be undone. A host that routes or bridges then sends packets that the next hop drops or the sender must send again; throughput can fall to a hundredth.",
		Evidence:    "Feature rx-lro (ethtool -k) together with net.ipv4.ip_forward, IPv6 forwarding, or membership in a bridge or Open vSwitch, also through bonds and VLANs.",
		Cause:       "The kernel switches LRO off when forwarding starts (dev_disable_lro), but a later ethtool -K or a driver reset can bring it back.",
		Remedy:      "ethtool -K DEV lro off. GRO stays on: it keeps packets re-segmentable, and so does rx-gro-hw.",
		SideEffects: "More packets for the stack to process.",
		NotWhen:     "On virtio of kernels before 5.15, where the feature called LRO is really the guest offload that keeps packets intact (rx-gro-hw today); this rule leaves it alone.",
		Source:      "net/core/dev.c dev_disable_lro; net/bridge/br_if.c; net/ipv4/devinet.c",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			lro, ok := d.Features["rx-lro"]
			why := c.forwards(d)
			if !ok || !lro.On || d.Kind == "virtio" || why == "" {
				continue
			}
			f := plan.Finding{
				Severity: plan.Problem,
				Subject:  d.Name,
				Claim:    fmt.Sprintf("LRO is on while %s", why),
				Evidence: []plan.Evidence{{Metric: "rx-lro", Value: 1, Unit: "switch", Threshold: 0, Source: "ethtool -k " + d.Name}},
				Wants: []plan.Want{{Ref: knob.Device(d.Name, "feature.rx-lro"), Value: "off", Why: why,
					Expect: expect("lro_merged_packets", "down", 0, "packets")}},
			}
			out = append(out, f)
		}
		return out
	},
})

// forwards says how packets of this device leave the host again, "" if
// nothing says that they do.
func (c *Case) forwards(d *detect.Device) string {
	if bridge := c.bridgeAbove(d); bridge != "" {
		return fmt.Sprintf("%s is a port of the bridge %s", d.Name, bridge)
	}
	switch {
	case c.Policy.Forwarding:
		return "the policy says that this host forwards packets"
	case c.Last.Forwarding.IPv4 == detect.Yes:
		return "the host routes IPv4 (net.ipv4.ip_forward = 1)"
	case c.Last.Forwarding.IPv6 == detect.Yes:
		return "the host routes IPv6 (net.ipv6.conf.all.forwarding = 1)"
	}
	return ""
}

// bridgeAbove is a bridge or an Open vSwitch that a device is a port of, directly
// or through bonds and VLANs: the kernel's dev_disable_lro goes all the way down as
// well. "" if there is none.
func (c *Case) bridgeAbove(d *detect.Device) string {
	seen := map[string]bool{d.Name: true}
	for above := d.Upper; len(above) > 0; {
		var next []string
		for _, name := range above {
			up := c.Last.Device(name)
			if up == nil || seen[name] {
				continue
			}
			if up.Kind == "bridge" || up.Driver == "openvswitch" {
				return name
			}
			seen[name] = true
			next = append(next, up.Upper...)
		}
		above = next
	}
	return ""
}
