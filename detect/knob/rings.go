package knob

import (
	"strconv"

	"github.com/napitune/napitune/detect/host"
)

// virtioLeastTx is the smallest transmit ring virtio_net takes: more than
// MAX_SKB_FRAGS+2 descriptors, 19 with the default of 17 fragments
// (drivers/net/virtio_net.c, virtnet_tx_resize).
const virtioLeastTx = 20

func rings() []*Kind {
	const source = "net/ethtool/rings.c, drivers/net/virtio_net.c virtnet_set_ringparam, ethtool(8) -G"
	const cost = "Buffers beyond the cache cost more per packet, every descriptor pins memory, and more queueing means more " +
		"delay. A change restarts the queues: many drivers reset the link, interrupts may get new vectors with the default " +
		"affinity, and coalescing is set anew. Drivers round to their own steps. virtio_net needs VIRTIO_F_RING_RESET from " +
		"the hypervisor and restarts one queue after the other."
	kinds := []*Kind{
		{
			Name: "ring.rx", Title: "receive descriptors per queue",
			Doc: "How many packets the NIC can store per receive queue while no CPU fetches them. A longer ring bridges the time " +
				"a CPU is away; it is the remedy for drops in the NIC (rx_missed, no_buffer) and for nothing else. " + cost,
		},
		{
			Name: "ring.tx", Title: "transmit descriptors per queue",
			Doc: "How many packets (fragments, to be exact) may wait in the NIC per transmit queue. Longer rings keep the queue " +
				"from being stopped at bursts. " + cost,
		},
	}
	for _, k := range kinds {
		tx := k.Name == "ring.tx"
		k.Scope, k.Source, k.Unit, k.Codec = ScopeDevice, source, "descriptors", integerCodec
		k.Stage, k.Disruption, k.DisruptionOn = StageRings, DisruptsLink, queueRestart
		k.Clobbers = []string{
			"coalesce.adaptive-rx", "coalesce.adaptive-tx", "coalesce.rx-frames", "coalesce.rx-usecs",
			"coalesce.tx-frames", "coalesce.tx-usecs", "irq.affinity",
		}
		k.Default = noDefault
		k.Refs = tunableDevice(k.Name)
		k.Read = func(v View, r Ref) State { return readRing(v, r, tx) }
		k.Write = func(v View, w host.Writer, r Ref, value string) error { return writeRing(v, w, r, tx, value) }
		k.Shell = func(_ View, r Ref, value string) string {
			return "ethtool -G " + quote(r.Dev) + " " + r.Kind[len("ring."):] + " " + value
		}
	}
	return kinds
}

func readRing(v View, r Ref, tx bool) State {
	rings, err := askRings(v, r.Dev)
	if err != nil {
		return failure(err, "the driver does not show its rings")
	}
	current, bounds := rings.Rx, Bounds{Min: 1, Max: int64(rings.MaxRx)}
	if tx {
		current, bounds.Max = rings.Tx, int64(rings.MaxTx)
	}
	if bounds.Max == 0 {
		return State{Status: Unsupported, Reason: "the device has no such ring"}
	}
	d := v.device(r.Dev)
	if d.Driver == virtioDriver && tx {
		bounds.Min = min(virtioLeastTx, bounds.Max)
	}
	lock := virtioLacks(d, virtioRingReset, "VIRTIO_F_RING_RESET", "resizing of rings")
	return known(strconv.Itoa(current), lock, bounds)
}

func writeRing(v View, w host.Writer, r Ref, tx bool, value string) error {
	n, err := number(value)
	if err != nil {
		return err
	}
	rings, err := askRings(v, r.Dev)
	if err != nil {
		return err
	}
	if tx {
		rings.Tx = n
	} else {
		rings.Rx = n
	}
	return put(w.SetRings, r.Dev, rings)
}
