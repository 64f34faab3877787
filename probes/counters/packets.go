package counters

// GRO is what generic receive offload made of one device's packets while the
// per-packet probes ran (see Window).
type GRO struct {
	NetNS   uint32 `json:"netns"`
	IfIndex uint32 `json:"ifindex"`
	Device  string `json:"device"`
	In      uint64 `json:"in"` // packets handed to GRO
	// Verdicts of the kernel, one per packet in, where it has exit tracepoints
	// (5.10 and later): merged into a held packet, held, passed on alone, taken.
	Merged   uint64 `json:"merged"`
	Held     uint64 `json:"held"`
	Normal   uint64 `json:"normal"`
	Consumed uint64 `json:"consumed"`
	// Delivered is skbs passed up the stack, Segments the packets on the wire
	// they are made of (gso_segs; from length and gso_size for hardware GRO).
	// Both include packets that never saw GRO.
	Delivered   uint64 `json:"delivered"`
	Segments    uint64 `json:"segments"`
	TCPSegments uint64 `json:"tcp_segments"` // part of Segments
	// UnknownSegments is the part of Segments whose headers were not where the
	// probe can read them: without GRO a driver may leave them in a page.
	UnknownSegments uint64 `json:"unknown_segments,omitempty"`
	// SegmentsPerSKB counts delivered skbs by their segments.
	SegmentsPerSKB Hist `json:"segments_per_skb,omitzero"`
}

func (g GRO) key() [2]uint32 { return [2]uint32{g.NetNS, g.IfIndex} }

// Ratio is packets in per skb out of GRO: 1 means that nothing merged. False
// if no verdicts were seen.
func (g GRO) Ratio() (float64, bool) {
	verdicts := g.Merged + g.Held + g.Normal + g.Consumed
	if verdicts == 0 || verdicts == g.Merged {
		return 0, false
	}
	return float64(verdicts) / float64(verdicts-g.Merged), true
}

// DeliveredRatio is wire packets per delivered skb: the same quantity from
// the other side, and the only one for hardware GRO. False if none was seen.
func (g GRO) DeliveredRatio() (float64, bool) {
	if g.Delivered == 0 {
		return 0, false
	}
	return float64(g.Segments) / float64(g.Delivered), true
}

// TCPShare is the part of the wire packets that is TCP, of those of which that
// is known. False if it is known of none.
func (g GRO) TCPShare() (float64, bool) {
	if g.Segments <= g.UnknownSegments {
		return 0, false
	}
	return float64(g.TCPSegments) / float64(g.Segments-g.UnknownSegments), true
}

// NetstatGRO is the same quantity without probes, from deltas of
// /proc/net/snmp, netstat and snmp6 ("IpExt.InNoECTPkts", "Ip.InReceives",
// "Ip6InReceives"): the kernel counts wire packets by their ECN bits
// (net/ipv4/ip_input.c, net/ipv6/ip6_input.c) and skbs as received datagrams.
// It covers all devices of the namespace together, loopback included, and
// cannot see hardware GRO. False if nothing was received.
func NetstatGRO(delta map[string]uint64) (wirePackets, skbs uint64, ok bool) {
	for _, name := range []string{"NoECTPkts", "ECT1Pkts", "ECT0Pkts", "CEPkts"} {
		wirePackets += delta["IpExt.In"+name] + delta["Ip6In"+name]
	}
	skbs = delta["Ip.InReceives"] + delta["Ip6InReceives"]
	return wirePackets, skbs, skbs > 0
}

// Window says when a per-packet probe really ran.
type Window struct {
	Probe string `json:"probe"`
	// AttachedNs is how long it was attached in all.
	AttachedNs uint64 `json:"attached_ns"`
	// Events is what it counted, Skipped what it saw after it had switched
	// itself off because of the rate, and while it was attached and detached.
	Events  uint64 `json:"events"`
	Skipped uint64 `json:"skipped"`
	// LimitPerJiffy is the rate, per CPU, above which it switches itself off;
	// SwitchedOff how many times (CPUs and windows) that happened.
	LimitPerJiffy uint64 `json:"limit_per_jiffy" sub:"keep"`
	SwitchedOff   uint64 `json:"switched_off"`
	// Overflow is events of devices that found no free slot.
	Overflow uint64 `json:"overflow,omitempty"`
}

// Drop is what was lost before or steered to a backlog, on one CPU.
type Drop struct {
	CPU int `json:"cpu"`
	// Backlog is packets this CPU could not put into some CPU's backlog. The
	// kernel's own counter charges the target; this charges the sender. Nil if
	// this kernel does not tell them from other drops (before 5.18): not known,
	// and part of Other.
	Backlog *uint64 `json:"backlog,omitempty"`
	// Other is all other drops seen by skb:kfree_skb on this CPU.
	Other uint64 `json:"other"`
	// RPSInterrupts is inter-processor interrupts of RPS handled by this CPU:
	// the delta of received_rps. Nil if this kernel does not show them
	// (csd:csd_function_entry, 6.4 and later): not known, which is not zero.
	RPSInterrupts *uint64 `json:"rps_interrupts,omitempty"`
}

// Latency is the path beyond the softirq, on one CPU, sampled.
type Latency struct {
	CPU int `json:"cpu"`
	// PollToSocketNs is from the start of the poll (or of the softirq run) to
	// the socket being told, on the CPU that does protocol work.
	PollToSocketNs Hist `json:"poll_to_socket_ns,omitzero"`
	// SocketToReadNs is from the socket being told to a reader having data. Waits
	// of a second and more are left out: by then it may be another socket.
	SocketToReadNs Hist `json:"socket_to_read_ns,omitzero"`
}

// Control is virtio control-queue commands sent from one CPU. The driver
// spins until the device answers.
type Control struct {
	CPU       int  `json:"cpu"`
	CommandNs Hist `json:"command_ns,omitzero"`
}

// ControlRead is how long reads of our own took that went through the control
// queue of a virtio-net device: one command each, and waiting for the lock of
// the network configuration before it.
type ControlRead struct {
	Device   string `json:"device"`
	Reads    int    `json:"reads"`
	MedianNs uint64 `json:"median_ns" sub:"keep"`
	MostNs   uint64 `json:"most_ns" sub:"keep"`
}

// ProgCost is what one program cost, from the kernel's BPF statistics. The
// statistics' own two clock reads are part of TimeNs.
type ProgCost struct {
	Program string `json:"program"`
	Hook    string `json:"hook"`
	// Group is the row of Counters.Calls that has the calls of this program, with
	// those of others; "" if it does not count itself.
	Group  string `json:"group,omitempty"`
	Runs   uint64 `json:"runs"`
	TimeNs uint64 `json:"time_ns"`
	// AttachedNs is how long the program was attached, CountedNs how long of
	// that with statistics on: Runs and TimeNs are of CountedNs alone.
	AttachedNs uint64 `json:"attached_ns"`
	CountedNs  uint64 `json:"counted_ns"`
	// Missed is events not seen because the program was interrupted by itself.
	Missed uint64 `json:"missed"`
}

// Calls is how often the programs of a group were called all the while that they
// were attached, as they count themselves.
type Calls struct {
	Group string `json:"group"`
	Calls uint64 `json:"calls"`
}

// NsPerRun is the mean cost of one event; 0 if there was none.
func (p ProgCost) NsPerRun() float64 {
	if p.Runs == 0 {
		return 0
	}
	return float64(p.TimeNs) / float64(p.Runs)
}
