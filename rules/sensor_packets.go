package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var sensorSends = threshold("sensor-tx-share", 0.01, "of what the port receives",
	"a port on a mirror or tap sends next to nothing (neighbour discovery, LLDP); one that carries connections of this host sends an acknowledgement for every few packets",
	"a listing of packet sockets and the ports that they are bound to")

var _ = register(Rule{
	ID:    "sensor-packets",
	Title: "a sensor sees packets that were merged or dealt out by direction",
	Page: Page{
		Meaning: "An intrusion detection or capture program runs here, and a port that takes every packet (promiscuous) receives without sending, as one on a mirror or tap does. Such a program wants every packet as it was sent, " +
			"and both directions of a connection in the same worker. Merging (GRO, LRO) hides sizes and checksums from it; a NIC's usual hash deals the two directions to different queues.",
		Evidence:    "Running programs (suricata, zeek, snort, arkime), received and sent packets of each port over the window, with those of all ports of its bond, its offloads, receive queues and hash key. Flag IFF_PROMISC in /sys/class/net/DEV/flags: where it is not known, the port is only a guess and nothing is proposed.",
		Cause:       "Defaults of the NIC and the kernel, or tuning made for servers.",
		Remedy:      "GRO and LRO off on that port. For both directions in one place: a symmetric hash key (6d:5a repeated), or a single receive queue and let the program deal the packets (cluster_flow of AF_PACKET).",
		SideEffects: "Without merging, the port's CPUs do more: one packet costs what many did together.",
		NotWhen:     "The program reads the port with AF_XDP, DPDK or a capture card, which see packets before any merging. Sensors in line (IPS) send what they receive and are not recognised. Nor is a port of a host that routes or bridges: replies may take another port. A bond sends by its own hash, perhaps through one port alone.",
		Source:      "net/core/dev.c (packet sockets are served after GRO); suricata documentation, Packet Capture; net/core/dev.c netdev_rss_key_fill; net/core/dev.c __dev_set_promiscuity; Documentation/networking/bonding.rst (xmit_hash_policy)",
		Thresholds:  describe(sensorSends, groPackets),
	},
	Eval: func(c *Case) []plan.Finding {
		sensor := c.sensor()
		if sensor == "" {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			rate, known := c.packetRate(d)
			if !known || rate < c.At(groPackets) || !c.mirrorPort(d) || c.forwards(d) != "" {
				continue // replies of a router may leave through another port
			}
			looks := sensor + " may look"
			if d.Promiscuous == detect.Yes {
				looks = sensor + " looks"
			}
			if f, ok := mergedForSensor(d, sensor, looks, rate); ok {
				out = append(out, f)
			}
			if rxQueues(d) > 1 && !symmetricKey(d) {
				out = append(out, plan.Finding{
					Severity: plan.Note, Subject: d.Name,
					Claim:    fmt.Sprintf("%s at %s, whose %d queues get the two directions of a connection by a hash that is not known to be symmetric", looks, d.Name, rxQueues(d)),
					Evidence: []plan.Evidence{{Metric: "rx_queues", Value: float64(rxQueues(d)), Unit: "queues", Source: "/sys/class/net/" + d.Name + "/queues"}},
					Operator: "give the NIC a symmetric key (ethtool -X " + d.Name + " hkey 6d:5a:6d:5a:…), or one queue (ethtool -L " + d.Name + " combined 1) with cluster_flow in the program",
				})
			}
		}
		return out
	},
})

// mirrorPort reports whether a port receives without sending, as one on a mirror or
// tap does, and may take packets that are for other hosts. The other ports of its
// bond are judged with it: by its hash one of them may send for all.
func (c *Case) mirrorPort(d *detect.Device) bool {
	if d.Promiscuous == detect.No {
		return false
	}
	ports := []string{d.Name}
	for _, name := range d.Upper {
		if up := c.Last.Device(name); up != nil && (up.Kind == "bond" || up.Kind == "team") {
			ports = append(ports, up.Lower...)
		}
	}
	var received, sent uint64
	for _, name := range slices.Compact(slices.Sorted(slices.Values(ports))) {
		n := c.Device[name]
		if !n.Known {
			return false
		}
		received += n.Counters.RxPackets
		sent += n.Counters.TxPackets
	}
	return float64(sent) < c.At(sensorSends)*float64(received)
}

// mergedForSensor asks for the merging of a port to be switched off, or tells of
// it where it is not known that the sensor reads this port.
func mergedForSensor(d *detect.Device, sensor, looks string, rate float64) (plan.Finding, bool) {
	f := plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("%s at %s, which receives %.0f packets a second, sends next to none, and has them merged before", looks, d.Name, rate),
		Evidence: []plan.Evidence{{Metric: "rx_packets_per_second", Value: rate, Unit: "packets/s", Source: "/proc/net/dev"}},
	}
	for _, name := range []string{"rx-gro", "rx-lro", "rx-gro-hw"} {
		if feature, has := d.Features[name]; has && feature.On && !feature.Fixed {
			f.Wants = append(f.Wants, plan.Want{Ref: knob.Device(d.Name, "feature."+name), Value: "off", Why: sensor + " wants packets as they were sent",
				Expect: expect("gro_ratio", "down", 1, "packets")})
		}
	}
	merges := len(f.Wants) > 0
	if d.Promiscuous != detect.Yes {
		f.Severity, f.Wants = plan.Note, nil
		f.Missing = []string{"whether the port takes every packet (/sys/class/net/" + d.Name + "/flags), as a sensor's does"}
		f.Operator = "if it reads this port, switch merging off there (ethtool -K " + d.Name + " gro off lro off)"
	}
	return f, merges
}

// symmetricKey reports whether a hash key is two bytes repeated: then source and
// destination may change places without another result.
func symmetricKey(d *detect.Device) bool {
	if d.RSS == nil || len(d.RSS.Key) < 4 {
		return false
	}
	zero := true
	for i, b := range d.RSS.Key {
		if b != d.RSS.Key[i%2] {
			return false
		}
		zero = zero && b == 0
	}
	return !zero // captures have theirs blotted out
}
