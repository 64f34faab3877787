// Package detect reads one machine into a Snapshot and turns two Snapshots
// (and probe counters) into an Observation. It reads through host.Host only,
// writes nothing, and never guesses: what could not be read is a Gap.
package detect

import (
	"slices"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
)

// Snapshot is everything read from one machine at one moment.
type Snapshot struct {
	Taken time.Time // zero if a capture does not say
	// Uptime is /proc/uptime, 0 if not told: the time since boot that
	// counters cover where Taken or the boot time is missing.
	Uptime    time.Duration
	Ident     host.Ident
	Cmdline   map[string]string // kernel command line: "isolcpus" → "2-3"; flags map to ""
	Topo      *topo.Topology
	Devices   []*Device // sorted by name
	IRQs      IRQTable
	Vectors   Vectors
	Softirqs  Softirqs
	Softnet   Softnet
	CPUTimes  CPUTimes
	Protocols Protocols
	Conntrack Conntrack
	Links     []host.Link
	Processes []host.Process
	// Forwarding says whether this host routes packets.
	Forwarding Forwarding
	Knobs      map[knob.Ref]knob.State
	// Contests are settings that a running guard has left to somebody else.
	Contests []Contest
	Gaps     []Gap
}

// Forwarding is what /proc/sys says of routing: net.ipv4.ip_forward and
// net.ipv6.conf.all.forwarding.
type Forwarding struct {
	IPv4, IPv6 Tri
}

// Gap is something that could not be read, and why.
type Gap struct {
	Source string `json:"source"` // path or call: "proc/interrupts", "ethtool -l eth0"
	Reason string `json:"reason"`
}

// Device finds a device by name; nil if there is none.
func (s *Snapshot) Device(name string) *Device {
	for _, d := range s.Devices {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// WithLower adds to names the devices below them, down to the lowest: queues,
// interrupts and offloads of a bond, bridge or VLAN are those of its lower devices.
func (s *Snapshot) WithLower(names []string) []string {
	out := slices.Clone(names)
	for i := 0; i < len(out); i++ {
		d := s.Device(out[i])
		if d == nil {
			continue
		}
		for _, lower := range d.Lower {
			if !slices.Contains(out, lower) {
				out = append(out, lower)
			}
		}
	}
	return out
}

// Device is one network device with everything that is known of it.
type Device struct {
	Name   string
	Index  int    // ifindex, 0 if unknown
	Kind   string // "physical", "virtio", "bond", "team", "bridge", "vlan", "macvlan", "ipvlan", "veth", "tunnel", "tap", "loopback", "virtual", "synthetic" (hv_netvsc)
	Driver string // "" if unknown
	Bus    string // PCI address of the function that owns the interrupts, "" if none
	Virtio string // "virtio2" for a virtio device, else ""
	// MAC is the hardware address in lower case, of a bond\'s slave its own;
	// "" if unknown, a stand-in in captures.
	MAC   string
	Node  int // NUMA node, topo.Unknown for -1 and for not told
	Local cpuset.Set
	Up    Tri
	// Carrier is IFF_RUNNING.
	Carrier Tri
	// Promiscuous is IFF_PROMISC of sysfs. Netlink hides it where a packet socket
	// asked for it (net/core/dev.c dev_get_flags), as a capture program's does.
	Promiscuous Tri
	Lower       []string // devices directly below: bond slaves, VLAN real device, bridge ports
	Upper       []string
	XDP         bool
	// Qdisc is the queueing discipline at the root, "mq" where each transmit
	// queue has its own; "" if unknown.
	Qdisc     string
	SpeedMbps int // 0 = unknown
	// VirtioFeatures is the negotiated feature bit string of a virtio device, "" if unknown.
	VirtioFeatures string

	Channels *host.Channels // nil = unknown; see Gaps
	Rings    *host.Rings
	Coalesce *host.Coalesce
	Features host.Features // nil = unknown
	RSS      *host.RSS
	// HashFields maps flow types ("udp4") to field letters; absent = unknown.
	HashFields map[string]string
	// ChannelsUnsupported is true when the driver certainly has no channel
	// operation: the device has the queues it has.
	ChannelsUnsupported bool

	// Queues are the receive, transmit and combined queues in use, ordered by
	// number; empty if unknown.
	Queues []Queue
	// QueuesKnown says that Queues is the whole truth (from sysfs, ethtool or
	// netlink), not only what interrupt names hinted at.
	QueuesKnown bool
	// OtherIRQs are this device's interrupts that serve no queue (link, config, mailbox).
	OtherIRQs []int
	// SpareIRQs are interrupts of queues that are out of use, by queue: a driver
	// may keep them and set their masks when the queue comes back into use
	// (drivers/net/virtio_net.c, virtnet_set_affinity). They are in OtherIRQs too.
	SpareIRQs map[QueueID]int

	Counters  InterfaceCounters
	Stats     host.Stats                    // ethtool -S
	QueueRate map[QueueID]map[string]uint64 // per queue counters: "packets", "bytes", "drops", "stops", "kicks" (from qstats or ethtool -S)
}

// Tri is a yes, a no, or "could not tell".
type Tri uint8

// Tri values.
const (
	Unknown Tri = iota
	No
	Yes
)

// QueueID names a queue of a device.
type QueueID struct {
	Tx bool
	N  int
}

// Queue is one queue pair (or a lone receive or transmit queue) and the path
// of its interrupts: queue → NAPI → IRQ → CPU.
type Queue struct {
	N      int
	Rx, Tx bool // which sides this entry serves; both for a combined vector
	// RxIRQ and TxIRQ are interrupt numbers, -1 if unknown or none; equal for
	// a combined vector.
	RxIRQ, TxIRQ int
	NAPI         int // netdev-genl id of the receive NAPI, -1 if unknown
	ThreadPID    int // of a threaded NAPI, 0 if none
	// VMBusCPU is the CPU of a Hyper-V channel, -1 elsewhere.
	VMBusCPU int
	// Source says where the edge queue → IRQ comes from; Why is the reason
	// when it is unknown or ambiguous, or a caution when the interrupt is known
	// but serves other devices or all queues too.
	Source EdgeSource
	Why    string
}

// EdgeSource is how an edge of the map was found, best first.
type EdgeSource uint8

// Edge sources.
const (
	SourceNone    EdgeSource = iota
	SourceNetlink            // netdev-genl: the kernel says so
	SourceMSI                // the interrupt is in msi_irqs of the device and its name carries the queue number
	SourceName               // the interrupt name alone
)

func (s EdgeSource) String() string {
	return [...]string{"unknown", "netlink", "msi_irqs", "name"}[s]
}

// IRQTable is /proc/interrupts with what /proc/irq says of the lines that
// belong to network devices.
type IRQTable struct {
	CPUs []int // CPU number of each column, from the header
	Rows []IRQ // numbered lines, in file order
	// Named are the lines without a number ("LOC", "CAL", "HYP"), per column.
	Named  map[string][]uint32
	Masked bool // the file was there but empty: hidden by a container runtime
}

// IRQ is one numbered line of /proc/interrupts.
type IRQ struct {
	Number  int
	Counts  []uint32 // one per column of IRQTable.CPUs; wraps at 2^32
	Chip    string   // "PCI-MSI 524289-edge": everything between counts and actions
	Actions []string // "eth0-TxRx-0"; several on a shared line; empty on a freed one
	// The rest is filled for interrupts of network devices only.
	Affinity  cpuset.Set // smp_affinity: the wish
	Effective cpuset.Set // effective_affinity: the promise; empty if the host has no such file
	Hint      cpuset.Set // affinity_hint; empty = none
	Node      int        // topo.Unknown if none
	HasSMP    bool       // Affinity was read
	Device    string     // owning network device, "" if none
}

// Total is the sum over all CPUs since boot. Single columns wrap at 2^32, so
// it is a weak weight on a host that has been up long.
func (i *IRQ) Total() uint64 {
	var sum uint64
	for _, c := range i.Counts {
		sum += uint64(c)
	}
	return sum
}

// Row finds a line by interrupt number; nil if it is not there.
func (t *IRQTable) Row(irq int) *IRQ {
	for i := range t.Rows {
		if t.Rows[i].Number == irq {
			return &t.Rows[i]
		}
	}
	return nil
}

// Softirqs is /proc/softirqs. Its columns are the possible CPUs, a different
// set from that of /proc/interrupts (fs/proc/softirqs.c).
type Softirqs struct {
	CPUs []int
	// Counts maps a vector name ("NET_RX", "NET_TX") to counts per column; wraps at 2^32.
	// NET_RX counts runs of net_rx_action: neither interrupts nor packets.
	Counts map[string][]uint32
}

// Softnet is /proc/net/softnet_stat: one row per online CPU.
type Softnet struct {
	Rows []SoftnetRow
	// Identified is false when rows could not be tied to CPU numbers (old
	// format without the column and no list of online CPUs of that length).
	Identified bool
	Columns    int
}

// SoftnetRow is one CPU's counters since boot; all wrap at 2^32
// (net/core/net-procfs.c, struct softnet_data).
type SoftnetRow struct {
	CPU         int    // row number where Softnet.Identified is false
	Processed   uint32 // passes through __netif_receive_skb_core; not packets
	Dropped     uint32 // backlog full or flow limit, charged to the target CPU
	Squeezed    uint32 // time_squeeze
	ReceivedRPS uint32 // RPS interrupts handled, not packets
	FlowLimit   uint32
	Backlog     uint32 // a gauge
}

// CPUTimes is /proc/stat: ticks (USER_HZ, 100 per second) per CPU since boot.
type CPUTimes struct {
	CPUs map[int]CPUTime
	// BootTime is btime, seconds since the epoch; 0 if not told.
	BootTime int64
}

// CPUTime is one cpuN line.
type CPUTime struct {
	User, Nice, System, Idle, IOWait, IRQ, Softirq, Steal, Guest, GuestNice uint64
}

// Busy is the time not spent idle.
func (t CPUTime) Busy() uint64 {
	return t.User + t.Nice + t.System + t.IRQ + t.Softirq + t.Steal
}

// Total is all time. Guest time is part of user time and not added again.
func (t CPUTime) Total() uint64 { return t.Busy() + t.Idle + t.IOWait }

// Protocols holds /proc/net/snmp, netstat and snmp6, as "Udp.RcvbufErrors".
type Protocols map[string]uint64

// InterfaceCounters are a device's counters since boot (/proc/net/dev or
// sysfs statistics). Nil maps mean unknown.
type InterfaceCounters struct {
	Known                                                             bool
	RxPackets, RxBytes, RxDropped, RxErrors, RxFIFO, RxMissed, RxOver uint64
	TxPackets, TxBytes, TxDropped, TxErrors                           uint64
}
