package knob

import (
	"fmt"

	"github.com/napitune/napitune/detect/host"
)

// feature is one name of ethtool -k.
type feature struct {
	name, title, doc string
	disruption       Disruption
	stacked          bool // applies to bonds, bridges and VLANs as well
	byDefault        func(v View, r Ref) (string, bool)
}

const featureSource = "net/core/dev.c netdev_fix_features, Documentation/networking/segmentation-offloads.rst, include/linux/netdev_features.h"

// lostByReset are the settings that drivers set anew when they reset the device
// for a feature: they close and open its queues (i40e_set_features,
// ixgbe_set_features), with new moderation, and at each opening some set XPS
// (mlx5e_num_channels_changed), and before 5.17 all that give a hint also the
// affinity (kernel/irq/manage.c, irq_set_affinity_hint).
var lostByReset = []string{
	"coalesce.adaptive-rx", "coalesce.adaptive-tx", "coalesce.rx-frames", "coalesce.rx-usecs",
	"coalesce.tx-frames", "coalesce.tx-usecs", "irq.affinity", "xps.cpus",
}

var featureRows = []feature{
	{
		name: "rx-gro", title: "software GRO", stacked: true,
		doc: "Generic receive offload: packets of one flow that arrive in one poll go up the stack as one. The cheapest saving " +
			"of receive CPU time there is for TCP, lossless and safe with forwarding. Off only where single-packet latency counts " +
			"above all. On veth it also switches NAPI on, and is off there at creation.",
		byDefault: func(v View, r Ref) (string, bool) { return word(v.device(r.Dev).Driver != "veth"), true },
	},
	{
		name: "rx-gro-hw", title: "GRO by the device", disruption: DisruptsLink,
		doc: "The device, or the hypervisor behind a virtio device, hands over packets already merged, in a form that can be " +
			"taken apart again: safe with forwarding. Excludes LRO and needs receive checksums. Generic XDP switches it off.",
		byDefault: noDefault,
	},
	{
		name: "rx-gro-list", title: "GRO as a list of packets", stacked: true,
		doc: "Chains packets of a flow without merging them. For forwarding of UDP and tunnels: cheaper than rx-udp-gro-forwarding " +
			"on the way through, of no use to sockets on this host. Has precedence over rx-udp-gro-forwarding.",
		byDefault: fixed("off"),
	},
	{
		name: "rx-udp-gro-forwarding", title: "GRO of forwarded UDP", stacked: true,
		doc: "Merges UDP packets even when no local socket asked for it, so that forwarding (QUIC, VPN gateways) costs less per " +
			"packet. They are split again on the way out; bursts get larger.",
		byDefault: fixed("off"),
	},
	{
		name: "rx-lro", title: "large receive offload", disruption: DisruptsLink,
		doc: "The device merges packets irreversibly. Must be off on anything that forwards, bridges or is used by virtual " +
			"machines: headers and timestamps of the originals are lost. The kernel switches it off below bridges and when IP " +
			"forwarding is on; never switch it on there. Prefer GRO.",
		byDefault: noDefault,
	},
	{
		name: "rx-ntuple-filter", title: "flow rules in the NIC", disruption: DisruptsLink,
		doc: "Allows rules that send chosen flows to chosen queues, and accelerated RFS where the driver has it. Some drivers " +
			"reset the link at the change, and some rebalance or drop their rules.",
		byDefault: noDefault,
	},
	{
		name: "rx-hashing", title: "flow hash from the NIC", disruption: DisruptsPackets,
		doc: "The NIC hands the RSS hash over with each packet. Without it RPS and RFS must compute one in software, and all " +
			"flows share one GRO bucket of eight packets. Costs nothing where the NIC has it.",
		byDefault: noDefault,
	},
}

func features() []*Kind {
	out := make([]*Kind, 0, len(featureRows))
	for _, f := range featureRows {
		out = append(out, f.kind())
	}
	return out
}

func (f feature) kind() *Kind {
	name := "feature." + f.name
	refs := tunableDevice(name)
	if f.stacked {
		refs = everyDevice(name)
	}
	var clobbers []string
	if f.disruption == DisruptsLink {
		clobbers = lostByReset
	}
	return &Kind{
		Name: name, Scope: ScopeDevice, Title: f.title, Doc: f.doc, Source: featureSource,
		Codec: switchCodec, Stage: StageFeatures, Disruption: f.disruption, Clobbers: clobbers,
		DisruptionOn: func(v View, r Ref) Disruption {
			// virtio_net switches guest offloads by a control command
			// (virtnet_set_features).
			if v.device(r.Dev).Driver == virtioDriver {
				return min(f.disruption, DisruptsPackets)
			}
			return f.disruption
		},
		Default: f.byDefault,
		Refs:    refs,
		Read:    f.read,
		Write: func(_ View, w host.Writer, r Ref, value string) error {
			return put(w.SetFeatures, r.Dev, map[string]bool{f.name: value == "on"})
		},
		Shell: func(_ View, r Ref, value string) string {
			return "ethtool -K " + quote(r.Dev) + " " + f.name + " " + value
		},
	}
}

func (f feature) read(v View, r Ref) State {
	all, err := askFeatures(v, r.Dev)
	if err != nil {
		return failure(err, "the device has no such feature")
	}
	got, ok := all[f.name]
	if !ok {
		return State{Status: Unsupported, Reason: fmt.Sprintf("this kernel has no feature %s", f.name)}
	}
	lock := ""
	switch {
	case got.Fixed:
		lock = fmt.Sprintf("the device has %s fixed %s", f.name, word(got.On))
	case got.Requested && !got.On:
		lock = fmt.Sprintf("%s is requested, but another setting forbids it", f.name)
	}
	return known(word(got.On), lock, Bounds{Of: []string{"off", "on"}})
}
