package knob

import (
	"math"
	"strconv"

	"github.com/napitune/napitune/detect/host"
)

// coalesceField is one name of ethtool -c.
type coalesceField struct {
	name, title, doc, unit string
	// flag selects the switch of an adaptive field; nil for numbers.
	flag func(c *host.Coalesce) **bool
}

const coalesceSource = "Documentation/networking/ethtool-netlink.rst COALESCE_GET, net/ethtool/coalesce.c, " +
	"drivers/net/virtio_net.c virtnet_set_coalesce"

var coalesceFields = []coalesceField{
	{
		name: "adaptive-rx", title: "receive moderation follows the load",
		doc: "Lets the driver choose the receive delay by load: short when idle, long under load. A good default for mixed " +
			"traffic; switch it off for a fixed latency. While it is on, rx-usecs and rx-frames are ignored or refused.",
		flag: func(c *host.Coalesce) **bool { return &c.AdaptiveRx },
	},
	{
		name: "adaptive-tx", title: "transmit moderation follows the load",
		doc:  "Lets the driver choose the delay of transmit completions by load. While it is on, tx-usecs and tx-frames are ignored or refused.",
		flag: func(c *host.Coalesce) **bool { return &c.AdaptiveTx },
	},
	{
		name: "rx-frames", title: "packets before a receive interrupt", unit: "packets",
		doc: "The NIC raises a receive interrupt at the latest after this many packets. Larger values mean fewer interrupts and " +
			"larger batches for GRO, and more delay at low rates unless rx-usecs bounds it.",
	},
	{
		name: "rx-usecs", title: "delay of the receive interrupt", unit: "µs",
		doc: "How long the NIC waits after a packet before it raises the receive interrupt. More means fewer interrupts, larger " +
			"batches and less CPU time per packet; it is added to the latency of a lone packet. 0 means an interrupt per packet.",
	},
	{
		name: "tx-frames", title: "packets before a completion interrupt", unit: "packets",
		doc: "Completions per transmit interrupt at most. Larger values save interrupts and hold sent buffers, and with them the " +
			"sender's socket memory, longer. Never touched on virtio_net: a change between 0 and non-zero switches its transmit " +
			"NAPI, which is refused with EBUSY while the interface is up.",
	},
	{
		name: "tx-usecs", title: "delay of the completion interrupt", unit: "µs",
		doc: "How long the NIC waits before it reports sent packets. Larger values save interrupts and hold the sender's socket " +
			"memory longer, which can throttle single TCP flows.",
	},
}

func coalescing() []*Kind {
	out := make([]*Kind, 0, len(coalesceFields))
	for _, f := range coalesceFields {
		out = append(out, f.kind())
	}
	return out
}

func (f coalesceField) kind() *Kind {
	name := "coalesce." + f.name
	codec := integerCodec
	if f.flag != nil {
		codec = switchCodec
	}
	return &Kind{
		Name: name, Scope: ScopeDevice, Title: f.title,
		Doc:    f.doc + " Drivers round to steps of their hardware, and a few restart their queues.",
		Source: coalesceSource, Unit: f.unit, Codec: codec,
		Stage: StageCoalesce, Disruption: DisruptsPackets,
		DisruptionOn: func(v View, r Ref) Disruption {
			// virtio_net sends a control command, no reset (virtnet_set_coalesce).
			if v.device(r.Dev).Driver == virtioDriver {
				return DisruptsNothing
			}
			return DisruptsPackets
		},
		Default: noDefault,
		Refs:    tunableDevice(name),
		Read:    f.read,
		Write:   f.write,
		Shell: func(_ View, r Ref, value string) string {
			return "ethtool -C " + quote(r.Dev) + " " + f.name + " " + value
		},
	}
}

func (f coalesceField) read(v View, r Ref) State {
	c, err := askCoalesce(v, r.Dev)
	if err != nil {
		return failure(err, "the driver has no interrupt moderation")
	}
	absent := State{Status: Unsupported, Reason: "the driver has no " + f.name}
	lock := f.lock(v.device(r.Dev))
	if f.flag != nil {
		on := *f.flag(&c)
		if on == nil {
			return absent
		}
		return known(word(*on), lock, Bounds{Of: []string{"off", "on"}})
	}
	n, ok := c.Values[f.name]
	if !ok {
		return absent
	}
	return known(strconv.Itoa(n), lock, Bounds{Min: 0, Max: math.MaxUint32})
}

func (f coalesceField) lock(d Dev) string {
	switch {
	case d.Driver != virtioDriver:
		return ""
	case f.name == "tx-frames":
		return "never touched on virtio_net: it switches the transmit NAPI, EBUSY while the interface is up"
	case f.name == "adaptive-rx":
		return virtioLacks(d, virtioVQNotfCoal, "VIRTIO_NET_F_VQ_NOTF_COAL", "moderation per queue")
	case f.name == "adaptive-tx":
		return "virtio_net moderates adaptively on receive only"
	default:
		return virtioLacks(d, virtioNotfCoal, "VIRTIO_NET_F_NOTF_COAL", "interrupt moderation")
	}
}

func (f coalesceField) write(v View, w host.Writer, r Ref, value string) error {
	c, err := askCoalesce(v, r.Dev)
	if err != nil {
		return err
	}
	if f.flag != nil {
		on := value == "on"
		*f.flag(&c) = &on
		return put(w.SetCoalesce, r.Dev, c)
	}
	n, err := number(value)
	if err != nil {
		return err
	}
	if c.Values == nil {
		c.Values = map[string]int{}
	}
	c.Values[f.name] = n
	return put(w.SetCoalesce, r.Dev, c)
}
