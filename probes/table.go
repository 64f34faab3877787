package probes

import (
	"slices"

	"github.com/cilium/ebpf"
)

// attachment is a way to hang a program on a hook.
type attachment string

const (
	btfTracepoint attachment = "tp_btf" // typed tracepoint: loads where BTF does, needs no tracefs
	rawTracepoint attachment = "raw_tp" // untyped: kernels without that program type
	functionEntry attachment = "fentry"
	functionExit  attachment = "fexit"
)

// rung is one attempt at a hook; a ladder is tried from the top.
type rung struct {
	program string
	how     attachment
	target  string
	loss    string // what this rung cannot tell, "" if it is as good as the first
}

// hook is one event of the kernel and the ladder of programs for it.
type hook struct {
	name  string
	rungs []rung
	// group is the row of counters.Counters.Calls with the calls of its program,
	// "" if that does not count each: softirq_raise sees raises of all vectors and
	// counts none, the interrupt programs are called for lines that nobody chose.
	group string
	// address is the variable that the program compares a function's address with,
	// and function that function's name: where /proc/kallsyms hides the address the
	// program would run for nothing, and is not loaded.
	address, function string
}

// countedIn names the row of calls of the hook's program.
func (h hook) countedIn(group string) hook {
	h.group = group
	return h
}

// objectDecl is one compiled object. Programs that are not chosen from it
// are never loaded.
type objectDecl struct {
	name  string
	load  func() (*ebpf.CollectionSpec, error)
	hooks []hook // in the order of attaching; detached in reverse
	// modules whose types the programs read, if they are modules here.
	modules []string
	// windowed objects are attached by Session.Window only.
	windowed bool
}

// probe is what a person asks for and sees the state of.
type probe struct {
	name, doc string
	object    string
	needs     []string // hooks without which it says nothing
	uses      []string // hooks that add to it
	types     []string // structures of the kernel or its modules without which it says nothing
	module    string   // which part of the kernel has those types
	byDefault bool
	windowed  bool
}

// noBTF is why rungs without types are taken, if the kernel describes none.
const noBTF = "no BTF"

// What rungs without types cannot tell.
const (
	noTypes   = "devices and NAPI ids are unknown"
	noCounter = "squeezes are inferred, not read from the kernel's own counter"
)

// tracepoint is the usual ladder: typed, then raw.
func tracepoint(name, suffix string, more ...rung) hook {
	rungs := []rung{
		{program: "btf_" + suffix, how: btfTracepoint, target: name},
		{program: "raw_" + suffix, how: rawTracepoint, target: name},
	}
	return hook{name: name, rungs: append(rungs, more...)}
}

func objectTable() []objectDecl {
	return []objectDecl{{
		name: "core",
		load: loadCore,
		// The entry after all that happens in a run, and before them to go: a
		// run that is under way while attaching or detaching is then ignored as
		// a whole. The raise after the entry, and first to go: a raise whose
		// entry goes unseen would stay pending until the next one.
		hooks: []hook{
			tracepoint("irq_handler_exit", "irq_exit"),
			tracepoint("irq_handler_entry", "irq_entry",
				rung{program: "bare_irq_entry", how: rawTracepoint, target: "irq_handler_entry", loss: noTypes}),
			tracepoint("softirq_exit", "softirq_exit",
				rung{program: "bare_softirq_exit", how: rawTracepoint, target: "softirq_exit", loss: noCounter}).countedIn("softirq"),
			tracepoint("napi_poll", "napi_poll",
				rung{program: "bare_napi_poll", how: rawTracepoint, target: "napi_poll", loss: noTypes}).countedIn("napi"),
			tracepoint("softirq_entry", "softirq_entry",
				rung{program: "bare_softirq_entry", how: rawTracepoint, target: "softirq_entry", loss: noCounter}).countedIn("softirq"),
			tracepoint("softirq_raise", "softirq_raise"),
		},
		modules: []string{"virtio_ring", "virtio_net"},
	}, {
		name: "gro", load: loadGro, windowed: true,
		hooks: []hook{
			tracepoint("napi_gro_receive_exit", "gro_receive_exit"),
			tracepoint("napi_gro_receive_entry", "gro_receive_entry").countedIn("gro"),
			tracepoint("napi_gro_frags_exit", "gro_frags_exit"),
			tracepoint("napi_gro_frags_entry", "gro_frags_entry").countedIn("gro"),
			tracepoint("netif_receive_skb", "receive_skb").countedIn("gro"),
		},
	}, {
		name: "drops", load: loadDrops, windowed: true,
		hooks: []hook{
			tracepoint("kfree_skb", "kfree_skb").countedIn("drops"),
			// Raw only: a typed program may not read an argument that is a function.
			{name: "csd_function_entry", group: "drops", address: "rps_trigger_addr", function: "rps_trigger_softirq", rungs: []rung{
				{program: "raw_csd_entry", how: rawTracepoint, target: "csd_function_entry"},
			}},
		},
	}, {
		name: "latency", load: loadLatency,
		hooks: []hook{
			tracepoint("softirq_exit", "latency_exit"),
			tracepoint("softirq_entry", "latency_entry"),
			tracepoint("napi_poll", "latency_poll"),
			tracepoint("sock_recv_length", "sock_recv"),
			tracepoint("sk_data_ready", "sk_data_ready"),
		},
	}, {
		name: "control", load: loadControl,
		hooks: []hook{
			{name: "command_end", rungs: []rung{
				{program: "new_command_end", how: functionExit, target: "virtnet_send_command_reply"},
				{program: "old_command_end", how: functionExit, target: "virtnet_send_command"},
			}},
			{name: "command_begin", rungs: []rung{
				{program: "new_command_begin", how: functionEntry, target: "virtnet_send_command_reply"},
				{program: "old_command_begin", how: functionEntry, target: "virtnet_send_command"},
			}},
		},
	}}
}

func probeTable() []probe {
	return []probe{{
		name:   "softirq",
		doc:    "Runs and time of every softirq vector per CPU, length of NET_RX and NET_TX runs, and how much of it ran in ksoftirqd. From irq:softirq_entry and irq:softirq_exit; runs are exact and equal /proc/softirqs, times are sampled at high rates.",
		object: "core", needs: []string{"softirq_entry", "softirq_exit"}, byDefault: true,
	}, {
		name:   "softirq-delay",
		doc:    "How long NET_RX and NET_TX wait from being raised to running. From irq:softirq_raise; sampled at high rates. It costs one more event per softirq.",
		object: "core", needs: []string{"softirq_raise", "softirq_entry", "softirq_exit"}, byDefault: true,
	}, {
		name:   "budget",
		doc:    "What every run of net_rx_action did and why it stopped early: netdev_budget (packets), netdev_budget_usecs (time) or both. From napi:napi_poll between irq:softirq_entry and irq:softirq_exit, and from the kernel's own time_squeeze of the CPU at the end of each run, so the sum over causes equals /proc/net/softnet_stat exactly. Polls outside softirqs (NAPI threads, busy polling, netpoll) are told apart.",
		object: "core", needs: []string{"softirq_entry", "softirq_exit", "napi_poll"}, byDefault: true,
	}, {
		name:   "napi",
		doc:    "Load of every NAPI per CPU: polls, work, full and empty polls, work per poll, time. From napi:napi_poll; time needs the softirq events too, and is not known for NAPI threads. At most 128 NAPIs per CPU.",
		object: "core", needs: []string{"napi_poll"}, uses: []string{"softirq_entry", "softirq_exit"}, byDefault: true,
	}, {
		name:   "backlog",
		doc:    "Length of the per-CPU backlog found by its polls (RPS, loopback, plain veth). From napi:napi_poll on the NAPI without a device; sampled like times are. Needs kernel types (BTF).",
		object: "core", needs: []string{"napi_poll", "softirq_entry", "softirq_exit"}, byDefault: true,
	}, {
		name:   "irq",
		doc:    "Runs, time and refusals of the handlers of the chosen interrupt lines, per CPU. From irq:irq_handler_entry and irq:irq_handler_exit, filtered by line in the kernel; counts equal /proc/interrupts.",
		object: "core", needs: []string{"irq_handler_entry", "irq_handler_exit"}, byDefault: true,
	}, {
		name:   "virtio",
		doc:    "Receive queues of virtio-net: ring occupancy and starvation at every poll, polls that no interrupt asked for. From napi:napi_poll and irq:irq_handler_entry, reading the virtqueue through BTF of the kernel or its modules. Costs nothing where there is no virtio-net.",
		object: "core", needs: []string{"napi_poll"}, uses: []string{"irq_handler_entry", "softirq_entry", "softirq_exit"}, byDefault: true,
		types: []string{"vring_virtqueue", "virtqueue", "virtio_device"}, module: "virtio_ring",
	}, {
		name:   "gro",
		doc:    "How well GRO merges, per device: packets in, the kernel's verdict on each, skbs delivered and the wire packets in them, share of TCP. From net:napi_gro_receive_entry and _exit (5.10 and later), net:napi_gro_frags_* and net:netif_receive_skb. Runs once per packet, so only in short windows and up to a rate; without it the same ratio comes from /proc/net/netstat, for all devices of a namespace together.",
		object: "gro", needs: []string{"netif_receive_skb"},
		uses:      []string{"napi_gro_receive_entry", "napi_gro_receive_exit", "napi_gro_frags_entry", "napi_gro_frags_exit"},
		byDefault: true, windowed: true,
	}, {
		name:   "drops",
		doc:    "Packets that no backlog would take, charged to the CPU that tried (softnet_stat charges the CPU that was full), other drops, and RPS interrupts. From skb:kfree_skb and csd:csd_function_entry. Runs once per lost packet and once per function call between CPUs, so only in short windows and up to a rate.",
		object: "drops", needs: []string{"kfree_skb"}, uses: []string{"csd_function_entry"}, windowed: true,
	}, {
		name:   "latency",
		doc:    "The path beyond the softirq: from the poll to the socket, and from the socket being told to somebody reading. From sock:sk_data_ready and sock:sock_recv_length (6.3 and later), one softirq run and one socket in 16. Off by default: it runs once per packet that reaches a socket.",
		object: "latency", needs: []string{"sk_data_ready"}, uses: []string{"sock_recv_length", "napi_poll", "softirq_entry", "softirq_exit"},
	}, {
		name:   "virtio-control",
		doc:    "How long virtio-net's control queue takes to answer; the driver spins until it does. From fentry and fexit of virtnet_send_command, which many kernels refuse; virtio-control-read stands in where the device allows it. Off by default; it costs nothing until a setting is changed.",
		object: "control", needs: []string{"command_begin", "command_end"},
	}}
}

func findProbe(name string) (probe, bool) {
	table := probeTable()
	i := slices.IndexFunc(table, func(p probe) bool { return p.name == name })
	if i < 0 {
		return probe{}, false
	}
	return table[i], true
}

// Names are all probes that Options can name.
func Names() []string {
	var names []string
	for _, p := range probeTable() {
		names = append(names, p.name)
	}
	return names
}

// DefaultProbes are the probes cheap enough for a production host: none of
// them runs per packet.
func DefaultProbes() []string {
	var names []string
	for _, p := range probeTable() {
		if p.byDefault {
			names = append(names, p.name)
		}
	}
	return names
}
