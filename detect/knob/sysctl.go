package knob

import (
	"math"
	"strconv"
)

// sysctl describes one integer or mask under /proc/sys/net/core.
type sysctl struct {
	name, title, doc, source, unit string
	mask                           bool
	rank                           int
	bounds                         func(v View, r Ref) Bounds
	byDefault                      func(v View, r Ref) (string, bool)
}

func sysctls() []*Kind {
	out := make([]*Kind, 0, len(sysctlRows))
	for _, s := range sysctlRows {
		out = append(out, s.kind())
	}
	return out
}

func (s sysctl) kind() *Kind {
	name := "net.core." + s.name
	access := file{
		path:    func(View, Ref) (string, error) { return "proc/sys/net/core/" + s.name, nil },
		decode:  canonicalInteger,
		encode:  verbatim,
		bounds:  s.bounds,
		missing: because("this kernel has no such sysctl, or hides it outside the initial network namespace"),
	}
	codec := integerCodec
	if s.mask {
		codec, access.decode, access.encode = cpusCodec, decodeMask, encodeMask
	}
	return &Kind{
		Name: name, Scope: ScopeHost, Title: s.title, Doc: s.doc, Source: s.source, Unit: s.unit,
		Codec: codec, Stage: StageSysctl, Rank: s.rank, Disruption: DisruptsNothing,
		Default: s.byDefault,
		Refs:    func(View) []Ref { return []Ref{Global(name)} },
		Read:    access.read,
		Write:   access.write,
		Files:   access.written,
		Shell: func(_ View, _ Ref, value string) string {
			return "sysctl -w " + name + "=" + access.encode(value)
		},
	}
}

// twoJiffies is the default and, since 6.14 and the stable kernels of early
// 2025, the minimum of netdev_budget_usecs in µs: 2*USEC_PER_SEC/HZ
// (net/core/dev.c, net/core/sysctl_net_core.c). 0 if HZ is unknown.
func twoJiffies(v View) int64 {
	if v.HZ <= 0 {
		return 0
	}
	return 2_000_000 / int64(v.HZ)
}

// maxFlowEntries bounds rps_sock_flow_entries: 2^29, above it the write is
// EINVAL (net/core/sysctl_net_core.c, rps_sock_flow_sysctl).
const maxFlowEntries = 1 << 29

const sysctlDoc = "Documentation/admin-guide/sysctl/net.rst"

var sysctlRows = []sysctl{
	{
		name: "netdev_budget", title: "packets per softirq run", unit: "packets",
		doc: "How many packets one run of net_rx_action may take from all NAPIs of a CPU before it stops and leaves the rest " +
			"to the next run or to ksoftirqd. A run that ends this way is counted in the third column of softnet_stat " +
			"(squeezed). Raising it helps only where runs end by packets with work left over and the CPU has idle time; it " +
			"costs latency for timers, transmit completions and tasks on the same CPU. The kernel accepts 0 and negative " +
			"values, which turn every poll into a squeeze; napitune does not propose them.",
		source:    "net/core/dev.c net_rx_action, net/core/sysctl_net_core.c, " + sysctlDoc,
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("300"),
	},
	{
		name: "netdev_budget_usecs", title: "time per softirq run", unit: "µs",
		doc: "How long one run of net_rx_action may last. The clock is the jiffy: the limit is rounded up to whole jiffies " +
			"(4000 µs at HZ=250), so values between two steps mean the same. Raising it helps only where runs end by time " +
			"with work left over; every step delays timers, RCU and all tasks of that CPU by up to a jiffy per run. The " +
			"default is two jiffies, below which newer kernels refuse the write.",
		source: "net/core/dev.c netdev_budget_usecs and net_rx_action, net/core/sysctl_net_core.c netdev_budget_usecs_min",
		bounds: func(v View, _ Ref) Bounds { return Bounds{Min: max(1, twoJiffies(v)), Max: math.MaxInt32} },
		byDefault: func(v View, _ Ref) (string, bool) {
			usecs := twoJiffies(v)
			if usecs == 0 {
				return "", false
			}
			return strconv.FormatInt(usecs, 10), true
		},
	},
	{
		name: "dev_weight", title: "packets per backlog or qdisc turn", unit: "packets",
		doc: "The base of two weights: dev_weight × dev_weight_rx_bias packets per turn of a CPU's backlog (RPS, veth, " +
			"loopback) and dev_weight × dev_weight_tx_bias packets per turn of a queueing discipline. It is not the poll " +
			"weight of NIC drivers, which is fixed at 64. Raising it makes longer turns with fewer interruptions and so more " +
			"delay for others on the CPU; prefer the bias of the direction that needs it.",
		source:    "net/core/sysctl_net_core.c proc_do_dev_weight, " + sysctlDoc,
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("64"),
	},
	{
		name: "dev_weight_rx_bias", title: "multiplier of the backlog turn",
		doc: "Multiplies dev_weight for the backlog of a CPU. Worth raising on a host whose receive work is mostly backlog " +
			"(RPS targets, veth) and whose turns end full; costs latency for the NAPIs of NICs on the same CPU.",
		source:    "net/core/sysctl_net_core.c proc_do_dev_weight, net/core/dev.c process_backlog, " + sysctlDoc,
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("1"),
	},
	{
		name: "dev_weight_tx_bias", title: "multiplier of the qdisc turn",
		doc: "Multiplies dev_weight for one turn of a queueing discipline (__qdisc_run). When the quota ends the rest is " +
			"deferred to NET_TX of that CPU; raising it keeps the work with the sender, at the price of longer turns under the " +
			"qdisc lock.",
		source:    "net/core/sysctl_net_core.c proc_do_dev_weight, net/sched/sch_generic.c __qdisc_run, " + sysctlDoc,
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("1"),
	},
	{
		name: "netdev_max_backlog", title: "length of each CPU's backlog", unit: "packets",
		doc: "How many packets may wait in a CPU's input queue, which RPS, veth, loopback and tunnels use and plain NIC " +
			"receive does not. Packets beyond it are dropped and counted in the second column of softnet_stat. A longer queue " +
			"absorbs bursts; it adds delay and memory and never capacity.",
		source:    "net/core/dev.c enqueue_to_backlog, Documentation/networking/scaling.rst",
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("1000"),
	},
	{
		name: "flow_limit_cpu_bitmap", title: "CPUs with flow limit", unit: "CPUs", mask: true,
		doc: "On which CPUs a flow that fills more than half of the last 256 packets is dropped first once a backlog is half " +
			"full, so that one flow cannot starve the others. The CPUs meant are those that put packets into a backlog (the " +
			"ones taking NIC interrupts), not the RPS targets. Costs a small table per CPU.",
		source: "net/core/dev.c skb_flow_limit, net/core/sysctl_net_core.c flow_limit_cpu_sysctl, Documentation/networking/scaling.rst",
		bounds: func(v View, _ Ref) Bounds { return Bounds{CPUs: v.OnlineCPUs} },
		// Setting a bit allocates a table of the length that is in force
		// then, so flow_limit_table_len comes before.
		rank: 1,
		// CPUs are added by hand only.
		byDefault: fixed(""),
	},
	{
		name: "flow_limit_table_len", title: "buckets of the flow limit", unit: "entries",
		doc: "Number of hash buckets of the flow limit tables; a power of two. Only tables allocated after the write have the " +
			"new size: clear and set flow_limit_cpu_bitmap to renew them. More buckets make it rarer that innocent flows share " +
			"a bucket with a heavy one.",
		source: "net/core/sysctl_net_core.c flow_limit_table_len_sysctl, Documentation/networking/scaling.rst",
		bounds: func(View, Ref) Bounds {
			return Bounds{Min: 1, Max: 1 << 30, PowerOfTwo: true}
		},
		byDefault: fixed("4096"),
	},
	{
		name: "rps_sock_flow_entries", title: "size of the global RFS table", unit: "entries",
		doc: "Size of the table in which receive flow steering notes on which CPU a flow's application last read. 0 switches " +
			"it off. It needs rps.flow_cnt on the receive queues as well. Size it to the number of active flows, 32768 is " +
			"usual; 4 bytes per entry. Every write clears the table. Useless for forwarding, XDP and applications whose threads wander.",
		source: "net/core/sysctl_net_core.c rps_sock_flow_sysctl, Documentation/networking/scaling.rst",
		bounds: func(View, Ref) Bounds {
			return Bounds{Min: 0, Max: maxFlowEntries, PowerOfTwo: true}
		},
		byDefault: fixed("0"),
	},
	{
		name: "gro_normal_batch", title: "segments per delivery to the stack", unit: "packets",
		doc: "How many segments GRO collects in a list before it hands them to the stack together. A larger batch uses the " +
			"instruction cache better at high rates and delays the first packet of the batch.",
		source:    "net/core/gro.c, include/net/gro.h gro_normal_one, net/core/hotdata.c",
		bounds:    within(1, math.MaxInt32),
		byDefault: fixed("8"),
	},
}
