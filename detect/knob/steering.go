package knob

import (
	"errors"
	"syscall"

	"github.com/napitune/napitune/detect/host"
)

// maxFlowCount bounds rps_flow_cnt: the kernel takes any count that fits an
// int after rounding up to a power of two (net/core/net-sysfs.c,
// store_rps_dev_flow_table_cnt).
const maxFlowCount = 1 << 30

func steering() []*Kind {
	rpsCPUs := file{
		path: queuePath("rps_cpus"), decode: decodeMask, encode: encodeMask,
		bounds:  func(v View, _ Ref) Bounds { return Bounds{CPUs: v.HousekeepingCPUs} },
		missing: because("the device has no such receive queue, or the kernel is built without RPS"),
	}
	flowCount := file{
		path: queuePath("rps_flow_cnt"), decode: canonicalInteger, encode: verbatim,
		bounds: func(View, Ref) Bounds {
			return Bounds{Min: 0, Max: maxFlowCount, PowerOfTwo: true}
		},
		missing: because("the device has no such receive queue, or the kernel is built without RPS"),
	}
	xpsCPUs := file{
		path: queuePath("xps_cpus"), decode: decodeMask, encode: encodeMask,
		bounds:  func(v View, _ Ref) Bounds { return Bounds{CPUs: v.OnlineCPUs} },
		missing: xpsMissing, absent: syscall.EINVAL,
	}
	xpsQueues := file{
		path: queuePath("xps_rxqs"), decode: decodeMask, encode: encodeMask,
		bounds:  func(v View, r Ref) Bounds { return Bounds{Max: int64(max(v.device(r.Dev).RxQueues-1, 0))} },
		missing: xpsMissing, absent: syscall.EINVAL,
	}
	return []*Kind{
		{
			Name: "rps.cpus", Scope: ScopeRx, Title: "CPUs that share the queue's receive work",
			Doc: "Receive packet steering: after GRO, packets of this queue are spread by flow hash over the backlogs of these " +
				"CPUs; the empty set switches it off. Helps where a device has fewer queues than useful CPUs. Costs an " +
				"inter-processor interrupt and cache misses per batch, and is of no use where RSS already feeds every CPU. Name " +
				"CPUs of the interrupt's own memory domain, without the interrupt's CPU at high rates. The kernel silently removes " +
				"offline, isolated and tickless CPUs from the mask. A change moves running flows, which may reorder them for a moment.",
			Source: "net/core/net-sysfs.c store_rps_map, net/core/dev.c get_rps_cpu, Documentation/networking/scaling.rst",
			Unit:   "CPUs", Codec: cpusCodec, Stage: StageSteering, Disruption: DisruptsPackets,
			Default: defaultRPS,
			Refs:    rxQueues("rps.cpus"),
			Read:    rpsCPUs.read, Write: rpsCPUs.write, Shell: rpsCPUs.shell, Files: rpsCPUs.written,
		},
		{
			Name: "rps.flow_cnt", Scope: ScopeRx, Title: "flows tracked on the queue for RFS",
			Doc: "Size of this queue's flow table for receive flow steering, which delivers packets on the CPU where the " +
				"application reads. 0 switches it off; it acts only together with net.core.rps_sock_flow_entries. Usual: the " +
				"global table divided by the number of queues. The kernel rounds up to a power of two.",
			Source: "net/core/net-sysfs.c store_rps_dev_flow_table_cnt, Documentation/networking/scaling.rst",
			Unit:   "entries", Codec: integerCodec, Stage: StageSteering, Disruption: DisruptsNothing,
			Default: fixed("0"),
			Refs:    rxQueues("rps.flow_cnt"),
			Read:    flowCount.read, Write: flowCount.write, Shell: flowCount.shell, Files: flowCount.written,
		},
		{
			Name: "xps.cpus", Scope: ScopeTx, Title: "CPUs that transmit through the queue",
			Doc: "Transmit packet steering: senders on these CPUs use this queue. One queue per CPU or per group of CPUs that share " +
				"a cache avoids lock contention and keeps completions near the sender; match it to the CPU that takes the queue's " +
				"completion interrupt. A socket changes queue only when nothing of it is in flight. Drivers may set it themselves " +
				"(virtio_net always does, again at every queue change and CPU hotplug). Devices with one queue have none.",
			Source: "net/core/net-sysfs.c xps_cpus_store, net/core/dev.c get_xps_queue, Documentation/networking/scaling.rst",
			Unit:   "CPUs", Codec: cpusCodec, Stage: StageSteering, Disruption: DisruptsNothing,
			Default: noDefault,
			Refs:    txQueues("xps.cpus"),
			Read:    readXPS(xpsCPUs),
			Write:   xpsCPUs.write, Shell: xpsCPUs.shell, Files: xpsCPUs.written,
		},
		{
			Name: "xps.rxqs", Scope: ScopeTx, Title: "receive queues whose flows answer through the queue",
			Doc: "Transmit packet steering by receive queue: a socket whose packets come in on one of these queues sends through this " +
				"transmit queue, so that both directions of a flow can stay in one queue pair, which busy polling wants. Where any " +
				"queue has such a set, it goes before xps.cpus. The empty set switches it off. No driver sets it; the kernel drops " +
				"it with the transmit queue when their number is lowered. Without effect on devices with one transmit queue. Since " +
				"Linux 4.18.",
			Source: "net/core/net-sysfs.c xps_rxqs_store, net/core/dev.c get_xps_queue, netif_reset_xps_queues_gt, Documentation/networking/scaling.rst",
			Unit:   "queues", Codec: queuesCodec, Stage: StageSteering, Disruption: DisruptsNothing,
			Default: fixed(""),
			Refs:    txQueues("xps.rxqs"),
			Read:    readXPS(xpsQueues),
			Write:   xpsQueues.write, Shell: xpsQueues.shell, Files: xpsQueues.written,
		},
	}
}

func rxQueues(kind string) func(View) []Ref {
	return func(v View) []Ref {
		var out []Ref
		for _, d := range v.Devices {
			for q := range d.RxQueues {
				out = append(out, Rx(d.Name, q, kind))
			}
		}
		return out
	}
}

func txQueues(kind string) func(View) []Ref {
	return func(v View) []Ref {
		var out []Ref
		for _, d := range v.Devices {
			if !d.Tunable {
				continue
			}
			for q := range d.TxQueues {
				out = append(out, Tx(d.Name, q, kind))
			}
		}
		return out
	}
}

// readXPS reads one of the two sets of a transmit queue. xps_cpus of a lone
// queue answers ENOENT; a capture that left the failing file out says the same.
func readXPS(f file) func(View, Ref) State {
	return func(v View, r Ref) State {
		state := f.read(v, r)
		if !state.Has() && v.device(r.Dev).TxQueues == 1 {
			return State{Status: Unsupported, Reason: xpsMissing(v, r)}
		}
		return state
	}
}

// xpsMissing explains ENOENT, which xps_cpus gives on devices with one queue
// although the file exists (net/core/net-sysfs.c, netif_is_multiqueue).
func xpsMissing(v View, r Ref) string {
	if v.device(r.Dev).TxQueues <= 1 {
		return "the device has one transmit queue"
	}
	return "the device has no such transmit queue, or it is of no traffic class, or the kernel has no such XPS"
}

// defaultRPS is the mask that new queues get: net.core.rps_default_mask of
// the network namespace since 6.5, none before (net/core/net-sysfs.c,
// rx_queue_default_mask).
func defaultRPS(v View, _ Ref) (string, bool) {
	if v.Host == nil {
		return "", false
	}
	text, err := v.Host.ReadFile("proc/sys/net/core/rps_default_mask")
	if err != nil {
		return "", !errors.Is(err, host.ErrNotCaptured)
	}
	mask, err := decodeMask(string(text))
	return mask, err == nil
}
