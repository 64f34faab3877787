// Package counters holds what the eBPF probes count, as plain values: totals
// since the probes were attached, read twice and subtracted, exactly like the
// counters in /proc. It knows nothing of eBPF and does no I/O, so that rules
// and replayed captures can use it anywhere.
//
// Counts are exact. Times, and histograms of times, are sampled at high event
// rates and weighted back: their sums estimate the truth without bias. Where a
// weight is kept ("TimedRuns"), it says how many events the sample stands for
// and should come close to the exact count beside it.
package counters

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrNotComparable says that two readings do not belong together: they are of
// different sessions, or the later one is not later.
var ErrNotComparable = errors.New("probe counters are not comparable")

// Counters is one reading of all attached probes, or the difference of two.
type Counters struct {
	// Session tells readings of one attachment from those of another: the
	// monotonic clock when the probes were attached, in ns. Zero in a difference.
	Session uint64 `json:"session,omitempty"`
	// TakenNs is the monotonic clock at the reading; in a difference the time
	// between the two readings.
	TakenNs uint64 `json:"taken_ns"`
	// AttachedNs is how long the default probes were attached. Where it is less
	// than TakenNs in a difference, they ran in slices to bound their cost:
	// counts are then a sample in time, and rates divide by AttachedNs.
	AttachedNs uint64 `json:"attached_ns"`
	// NetNS is the network namespace of the reader, as an inode number like those
	// of the rows below: the probes see all namespaces, and names and numbers of
	// devices mean something in one only. 0 = not known.
	NetNS uint32 `json:"netns,omitempty"`
	// BudgetPackets and BudgetJiffies are the limits that squeezes were judged
	// by (net.core.netdev_budget, netdev_budget_usecs rounded up to jiffies).
	BudgetPackets uint64 `json:"budget_packets,omitempty"`
	BudgetJiffies uint64 `json:"budget_jiffies,omitempty"`
	// BudgetChanged is true in a difference if the limits were not the same at
	// both ends: causes of squeezes in between are not to be trusted.
	BudgetChanged bool `json:"budget_changed,omitempty"`

	Probes []Status `json:"probes,omitempty"` // state of every probe at the reading

	CPUs    []CPU     `json:"cpus,omitempty"`    // by CPU number
	NAPIs   []NAPI    `json:"napis,omitempty"`   // by namespace, device, id, CPU
	IRQs    []IRQ     `json:"irqs,omitempty"`    // by number, CPU
	Virtio  []Virtio  `json:"virtio,omitempty"`  // by namespace, device, queue, CPU
	GRO     []GRO     `json:"gro,omitempty"`     // by namespace, device
	Windows []Window  `json:"windows,omitempty"` // per-packet probes: when they really ran
	Drops   []Drop    `json:"drops,omitempty"`   // by CPU
	Latency []Latency `json:"latency,omitempty"` // by CPU
	Control []Control `json:"control,omitempty"` // virtio control commands, by CPU
	// ControlReads are reads of our own through control queues, by device.
	ControlReads []ControlRead `json:"control_reads,omitempty"`

	Cost  []ProgCost `json:"cost,omitempty"`  // per program
	Calls []Calls    `json:"calls,omitempty"` // per group of programs that count
	// CostUnknown is why there are no statistics, "" if there are or nobody
	// asked for them.
	CostUnknown string `json:"cost_unknown,omitempty"`
	// Events is how often programs were called, as they count themselves:
	// without those at the exit of a function, of the latency and control
	// probes, and for interrupts that nobody chose. EstimateNs is what that
	// costs on a slow machine (probes/observe.go, probes/account.go).
	Events     uint64 `json:"events,omitempty"`
	EstimateNs uint64 `json:"estimate_ns,omitempty"`
}

// Spent is what the probes cost.
type Spent struct {
	Runs uint64
	Ns   uint64
	// Estimated is true without statistics: Runs are the events then, and Ns
	// those times what each costs on a slow machine.
	Estimated bool
	// EstimatedNs is the part of Ns that supposes something: that a program
	// which does not count its calls is called as often without statistics as
	// with them, or that it costs what it costs on a slow machine.
	EstimatedNs uint64
}

// Spent is what the programs cost all the while that they were attached.
// Statistics are on for some part of that only, and how busy the host is then
// says little of the rest: they tell what a call costs, and how many there were
// is what the programs count, where they do. False if neither statistics nor
// events tell.
func (c *Counters) Spent() (Spent, bool) {
	if !slices.ContainsFunc(c.Cost, func(p ProgCost) bool { return p.CountedNs > 0 }) {
		return Spent{Runs: c.Events, Ns: c.EstimateNs, Estimated: true, EstimatedNs: c.EstimateNs}, c.Events > 0
	}
	var runs, ns, estimated float64
	groups := map[string]ProgCost{}
	for _, p := range c.Cost {
		p.CountedNs = min(p.CountedNs, p.AttachedNs)
		switch {
		case p.Group != "" && p.CountedNs < p.AttachedNs:
			g := groups[p.Group]
			groups[p.Group] = ProgCost{Runs: g.Runs + p.Runs, TimeNs: g.TimeNs + p.TimeNs}
		case p.CountedNs == p.AttachedNs:
			runs += float64(p.Runs)
			ns += float64(p.TimeNs)
		case p.CountedNs > 0:
			scale := float64(p.AttachedNs) / float64(p.CountedNs)
			runs += scale * float64(p.Runs)
			ns += scale * float64(p.TimeNs)
			estimated += (scale - 1) * float64(p.TimeNs)
		}
	}
	for _, calls := range c.Calls {
		g, some := groups[calls.Group]
		if !some {
			continue
		}
		called := float64(max(calls.Calls, g.Runs))
		each := g.NsPerRun()
		if g.Runs == 0 && c.Events > 0 {
			each = float64(c.EstimateNs) / float64(c.Events)
			estimated += called * each
		}
		runs += called
		ns += called * each
	}
	return Spent{Runs: uint64(runs), Ns: uint64(ns), EstimatedNs: uint64(estimated)}, true
}

// WholeWindow is the shortest window of which a part goes to statistics of the
// probes and to those that run per packet: half a second by default, a fifth of it.
const WholeWindow = 2500 * time.Millisecond

// State is how far a probe came.
type State string

// Probe states.
const (
	Off         State = "off"         // not asked for
	Attached    State = "attached"    // counting
	Timed       State = "timed"       // measured once by a call of our own; nothing is attached
	Unsupported State = "unsupported" // this kernel does not have what it needs; Reason says what
	Denied      State = "denied"      // not permitted; Capability would permit it
	Failed      State = "failed"      // the kernel's verifier or an unexpected error; Reason quotes it
)

// Status is the state of one probe, for people and for reports.
type Status struct {
	Name       string `json:"name"`
	Doc        string `json:"doc,omitempty"` // what it measures, by what means, at what cost
	State      State  `json:"state"`
	Reason     string `json:"reason,omitempty"`
	Capability string `json:"capability,omitempty"` // what would help, for Denied
	Hook       string `json:"hook,omitempty"`       // where it hangs: "tp_btf/napi_poll"
}

// CPU is what happened on one CPU.
type CPU struct {
	CPU int `json:"cpu"`
	// Softirq maps vector names of /proc/softirqs ("NET_RX", "TIMER") to their
	// runs; vectors that never ran are absent.
	Softirq map[string]Softirq `json:"softirq,omitempty"`
	Rx      NetSoftirq         `json:"rx,omitzero"`
	Tx      NetSoftirq         `json:"tx,omitzero"`
	Budget  Budget             `json:"budget,omitzero"`
	Outside Outside            `json:"outside,omitzero"`
	Backlog Backlog            `json:"backlog,omitzero"`
	// NAPIOverflow counts polls that found no free slot in the table of NAPIs,
	// VirtioOverflow receive queues that found none in theirs. Not zero means
	// that NAPIs or Virtio are incomplete.
	NAPIOverflow   uint64 `json:"napi_overflow,omitempty"`
	VirtioOverflow uint64 `json:"virtio_overflow,omitempty"`
}

// Softirq is one vector on one CPU.
type Softirq struct {
	Runs      uint64 `json:"runs"` // equals the /proc/softirqs delta
	TimeNs    uint64 `json:"time_ns"`
	TimedRuns uint64 `json:"timed_runs"` // runs that TimeNs stands for
}

// NetSoftirq is what is kept for NET_RX and NET_TX beyond Softirq.
type NetSoftirq struct {
	RaiseToEntryNs  Hist   `json:"raise_to_entry_ns,omitzero"` // from being requested to running
	RunNs           Hist   `json:"run_ns,omitzero"`            // length of a run
	KsoftirqdRuns   uint64 `json:"ksoftirqd_runs"`
	KsoftirqdTimeNs uint64 `json:"ksoftirqd_time_ns"`
	// Unraised counts runs whose request was not seen: attached in between, or
	// a request that fell between the kernel clearing its pending bits and
	// the run.
	Unraised uint64 `json:"unraised"`
}

// Budget is what net_rx_action did on one CPU, and why it stopped early.
type Budget struct {
	Runs  uint64 `json:"runs"`
	Polls uint64 `json:"polls"`
	Work  uint64 `json:"work"` // what the drivers returned; an upper bound of packets
	Full  uint64 `json:"full"` // polls that used their whole weight
	// Squeezes by cause; their sum is the delta of time_squeeze in
	// /proc/net/softnet_stat.
	SqueezedPackets uint64 `json:"squeezed_packets"`
	SqueezedTime    uint64 `json:"squeezed_time"`
	SqueezedBoth    uint64 `json:"squeezed_both"`
	// SqueezedUnexplained is squeezes that the kernel counted although neither
	// limit was seen exceeded: the limits were changed in between, or the run
	// was one that the programs did not see.
	SqueezedUnexplained uint64 `json:"squeezed_unexplained,omitempty"`
	// InferredRuns is runs judged by their packets and time alone, because the
	// kernel's own counter was out of reach: no types (BTF), or no backlog
	// polled yet since the probes were attached. A squeeze among them may be
	// missed or be one too many where a CPU was taken away in the middle.
	InferredRuns uint64 `json:"inferred_runs,omitempty"`
	// MaxPolls is the most NAPIs polled in one run since the probes were
	// attached (not only in this difference). Below ceil(netdev_budget/64) the
	// packet budget cannot have been the limit.
	MaxPolls    uint64   `json:"max_polls" sub:"keep"`
	PollsPerRun []uint64 `json:"polls_per_run,omitempty"` // index = polls; the last means "that many or more"
	WorkPerRun  Hist     `json:"work_per_run,omitzero"`
}

// Squeezes is the sum over all causes.
func (b Budget) Squeezes() uint64 {
	return b.SqueezedPackets + b.SqueezedTime + b.SqueezedBoth + b.SqueezedUnexplained
}

// Unexplained is how many squeezes of the kernel's own counter have no cause
// here (negative: more causes than squeezes). A few may fall on the edges of a
// window; more lower the confidence in the causes.
func (b Budget) Unexplained(timeSqueeze uint64) int64 {
	return int64(timeSqueeze) - int64(b.Squeezes())
}

// Outside is polling that no softirq and no budget sees.
type Outside struct {
	ThreadedPolls uint64 `json:"threaded_polls"` // NAPI and backlog threads
	ThreadedWork  uint64 `json:"threaded_work"`
	BusyPolls     uint64 `json:"busy_polls"` // SO_BUSY_POLL, epoll, by the reading task
	BusyWork      uint64 `json:"busy_work"`
	NetpollPolls  uint64 `json:"netpoll_polls"` // netconsole and kin
	NetpollWork   uint64 `json:"netpoll_work"`
}

// Backlog is the per-CPU queue that RPS, loopback and plain veth feed.
type Backlog struct {
	QueuePackets Hist `json:"queue_packets,omitzero"` // length found by a poll; sampled
}

// NAPI is one NAPI instance on one CPU.
type NAPI struct {
	NetNS   uint32 `json:"netns"`           // inode of the network namespace, as in /proc/PID/ns/net; 0 for the backlog
	IfIndex uint32 `json:"ifindex"`         // 0 for the backlog, or if the kernel tells no types
	Device  string `json:"device"`          // name when first seen
	ID      uint32 `json:"id"`              // netdev-genl id; 0 for transmit-only NAPIs and the backlog
	Slot    uint32 `json:"slot"`            // tells apart instances that have no id
	Kind    string `json:"kind"`            // "device", "backlog", "virtio-rx", or "unknown" without BTF
	Queue   int    `json:"queue"`           // of a virtio receive queue; -1 elsewhere
	CPU     int    `json:"cpu"`             // where it was polled
	Polls   uint64 `json:"polls"`           //
	Work    uint64 `json:"work"`            // what the driver returned
	Full    uint64 `json:"full"`            // polls that used the whole weight
	Empty   uint64 `json:"empty"`           // polls that did nothing
	Outside uint64 `json:"outside_softirq"` // polls by threads or busy polling: no time is known of them
	// TimeNs is time in softirq from the end of the previous poll (or the start
	// of the run) to the end of this one, TimedPolls the polls it stands for.
	TimeNs     uint64 `json:"time_ns"`
	TimedPolls uint64 `json:"timed_polls"`
	// LongPolls took more than 10 ms each (of a backlog with a large dev_weight: as
	// much more as it may take more packets), LongNs together, weighted like the
	// two above and no part of them: no packets cost that, a virtual CPU was
	// taken away in the middle (bpf/core.bpf.c, LONG_POLL_NS).
	LongPolls   uint64 `json:"long_polls,omitempty"`
	LongNs      uint64 `json:"long_ns,omitempty"`
	WorkPerPoll Hist   `json:"work_per_poll,omitzero"`
}

// SoftirqNs is what the polls of a NAPI take of softirqs: the mean of the timed
// ones, for all polls in softirqs. A poll that lost its CPU counts as the
// others. 0 if none was timed.
func (n NAPI) SoftirqNs() float64 {
	if n.TimedPolls == 0 {
		return 0
	}
	return float64(n.TimeNs) / float64(n.TimedPolls) * float64(n.Polls-min(n.Outside, n.Polls))
}

// IRQ is one interrupt line on one CPU.
type IRQ struct {
	IRQ int `json:"irq"`
	CPU int `json:"cpu"`
	// Count is runs of a handler. It equals the /proc/interrupts delta, times
	// the number of handlers on a shared line.
	Count     uint64 `json:"count"`
	Unhandled uint64 `json:"unhandled"` // handlers that said "not mine": spurious
	TimeNs    uint64 `json:"time_ns"`
	TimedIRQs uint64 `json:"timed_irqs"`
}

// Virtio is one virtio-net receive queue on one CPU.
type Virtio struct {
	NetNS    uint32 `json:"netns"`
	IfIndex  uint32 `json:"ifindex"`
	Queue    int    `json:"queue"`
	CPU      int    `json:"cpu"`
	IRQ      int    `json:"irq"`       // found by the handler's own argument; -1 if not seen
	RingSize uint32 `json:"ring_size"` // descriptors; 0 if the kernel does not tell
	Packed   bool   `json:"packed,omitempty"`
	// ArmedPolls ended below their budget after an interrupt, UnarmedPolls
	// without one: the race at enabling interrupts, the refill worker, the
	// GRO timer or busy polling. Both are zero while IRQ is -1.
	ArmedPolls   uint64 `json:"armed_polls"`
	UnarmedPolls uint64 `json:"unarmed_polls"`
	// RingReads is how often the ring was looked at, right after a poll;
	// Starved how often the host then had less than an eighth of it to fill.
	RingReads uint64 `json:"ring_reads"`
	Starved   uint64 `json:"starved"`
	// PendingEighths counts looks by what the host had filled and the driver
	// not yet taken, in eighths of the ring, rounded down; the ninth is "all".
	PendingEighths []uint64 `json:"pending_eighths,omitempty"`
	// MaxPending and MaxUnfilled are the most since the probes were attached:
	// buffers waiting for the driver, descriptors not given to the host.
	MaxPending  uint64 `json:"max_pending" sub:"keep"`
	MaxUnfilled uint64 `json:"max_unfilled" sub:"keep"`
}

// Ours reports whether a row of the network namespace netns may be of the
// reader's: it is, or one of the two is not known.
func (c *Counters) Ours(netns uint32) bool {
	return netns == 0 || c.NetNS == 0 || netns == c.NetNS
}

// OfDevice reports whether a row is about the reader's device of this index, as
// far as both are known; the name, where a row has one, is for the caller.
func (c *Counters) OfDevice(index int, netns, ifindex uint32) bool {
	return c.Ours(netns) && (index == 0 || int(ifindex) == index)
}

// Coverage is the part of a difference's time in which the default probes were
// attached, 1 = all of it.
func (c *Counters) Coverage() float64 {
	if c.TakenNs == 0 {
		return 0
	}
	return min(1, float64(c.AttachedNs)/float64(c.TakenNs))
}

// key identifies a row across two readings.
func (n NAPI) key() [5]uint32 {
	return [5]uint32{n.NetNS, n.IfIndex, n.ID, n.Slot, uint32(n.CPU)}
}

func (i IRQ) key() [2]int { return [2]int{i.IRQ, i.CPU} }

func (v Virtio) key() [4]uint32 {
	return [4]uint32{v.NetNS, v.IfIndex, uint32(v.Queue), uint32(v.CPU)}
}

// Sub is what happened between an earlier reading and c. States, names and
// "since attach" maxima are those of c. Rows that are new in c count from
// zero. The error wraps ErrNotComparable.
func (c *Counters) Sub(earlier *Counters) (*Counters, error) {
	if c.Session != earlier.Session || c.Session == 0 {
		return nil, fmt.Errorf("subtract session %d from session %d: %w",
			earlier.Session, c.Session, ErrNotComparable)
	}
	if c.TakenNs < earlier.TakenNs {
		return nil, fmt.Errorf("subtract reading at %d ns from one at %d ns: %w",
			earlier.TakenNs, c.TakenNs, ErrNotComparable)
	}
	s := &subtraction{}
	out := &Counters{
		TakenNs:       c.TakenNs - earlier.TakenNs,
		AttachedNs:    s.n("attached time", c.AttachedNs, earlier.AttachedNs),
		NetNS:         c.NetNS,
		BudgetPackets: c.BudgetPackets,
		BudgetJiffies: c.BudgetJiffies,
		BudgetChanged: c.BudgetPackets != earlier.BudgetPackets || c.BudgetJiffies != earlier.BudgetJiffies,
		Probes:        append([]Status(nil), c.Probes...),
		CPUs:          rows(s, c.CPUs, earlier.CPUs, func(x CPU) int { return x.CPU }),
		NAPIs:         rows(s, c.NAPIs, earlier.NAPIs, NAPI.key),
		IRQs:          rows(s, c.IRQs, earlier.IRQs, IRQ.key),
		Virtio:        rows(s, c.Virtio, earlier.Virtio, Virtio.key),
		GRO:           rows(s, c.GRO, earlier.GRO, GRO.key),
		Windows:       rows(s, c.Windows, earlier.Windows, func(x Window) string { return x.Probe }),
		Drops:         rows(s, c.Drops, earlier.Drops, func(x Drop) int { return x.CPU }),
		Latency:       rows(s, c.Latency, earlier.Latency, func(x Latency) int { return x.CPU }),
		Control:       rows(s, c.Control, earlier.Control, func(x Control) int { return x.CPU }),
		ControlReads:  rows(s, c.ControlReads, earlier.ControlReads, func(x ControlRead) string { return x.Device }),
		Cost:          rows(s, c.Cost, earlier.Cost, func(x ProgCost) string { return x.Program }),
		Calls:         rows(s, c.Calls, earlier.Calls, func(x Calls) string { return x.Group }),
		CostUnknown:   c.CostUnknown,
		Events:        s.n("events", c.Events, earlier.Events),
		EstimateNs:    s.n("estimated cost", c.EstimateNs, earlier.EstimateNs),
	}
	if s.backwards != "" {
		return nil, fmt.Errorf("%s went backwards: %w", s.backwards, ErrNotComparable)
	}
	return out, nil
}

// PacketsPerInterrupt is what one interrupt of a virtio receive queue brings on
// average: what the polls of queue v returned, on all CPUs, over runs of its
// handlers. False if its interrupt was not seen. Many polls without an
// interrupt (UnarmedPolls) raise it.
func (c *Counters) PacketsPerInterrupt(v Virtio) (float64, bool) {
	var work, interrupts uint64
	for _, n := range c.NAPIs {
		if n.Kind == "virtio-rx" && n.NetNS == v.NetNS && n.IfIndex == v.IfIndex && n.Queue == v.Queue {
			work += n.Work
		}
	}
	for _, i := range c.IRQs {
		if v.IRQ >= 0 && i.IRQ == v.IRQ {
			interrupts += i.Count
		}
	}
	if interrupts == 0 {
		return 0, false
	}
	return float64(work) / float64(interrupts), true
}
