package detect

import (
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/probes/counters"
)

// Basis says what counters mean: how much a share or rate can be trusted.
type Basis uint8

// Bases, weakest first.
const (
	BasisBoot    Basis = iota // one sample: totals since boot
	BasisUntimed              // two samples, unknown time between them: shares, no rates
	BasisWindow               // two samples a known time apart
)

func (b Basis) String() string {
	return [...]string{"since boot", "between samples of unknown distance", "window"}[b]
}

// Observation is what happened between two Snapshots. All deltas are wrap-safe;
// what is missing in either sample is absent and not zero.
type Observation struct {
	First, Last *Snapshot // equal for a single sample
	Samples     int
	Basis       Basis
	// Window is the time that the deltas cover. With BasisBoot it is the time
	// since boot where the host tells it, with BasisUntimed zero.
	Window time.Duration

	// Per CPU. A CPU that is not in both samples is absent.
	NetRx     map[int]uint64 // net_rx_action runs
	NetTx     map[int]uint64
	Softnet   map[int]SoftnetDelta
	CPU       map[int]CPUShare
	Interrupt map[int]uint64 // interrupts of network queues, per CPU

	// Per interrupt: how often it fired on each CPU.
	IRQ map[int]IRQDelta
	// Devices, per name.
	Device    map[string]DeviceDelta
	Protocols map[string]uint64
	// Conntrack are losses of connection tracking: "drop", "early_drop",
	// "insert_failed" (Conntrack.Counters); nil if not shown.
	Conntrack map[string]uint64

	// Probes is what eBPF counted over the window; nil if no probe took part.
	Probes *counters.Counters

	// HotPlug is true when the set of online CPUs changed between the samples.
	HotPlug bool
	// Vanished and Appeared name devices that are in one sample only.
	Vanished, Appeared []string
	// Inconsistent lists contradictions between sources ("softnet has 4
	// rows, /proc/interrupts 2 CPUs"): a host pieced together, or hotplug.
	Inconsistent []string
	Gaps         []Gap
}

// SoftnetDelta is one CPU's softnet counters over the window.
type SoftnetDelta struct {
	Processed, Dropped, Squeezed, ReceivedRPS, FlowLimit uint64
}

// CPUShare is how one CPU spent the window, as fractions of its total time.
type CPUShare struct {
	Softirq, IRQ, Steal, Idle, Busy float64
	Ticks                           uint64 // USER_HZ ticks in the window; few ticks = coarse shares
}

// IRQDelta is how one interrupt fired over the window.
type IRQDelta struct {
	Total uint64
	CPU   map[int]uint64 // only CPUs where it fired
	// Home is the CPU that took most of it, -1 if it did not fire; HomeShare
	// is that CPU's part of Total.
	Home      int
	HomeShare float64
	// Moves counts how often Home changed between consecutive samples.
	Moves int
}

// DeviceDelta is one device's counters over the window.
type DeviceDelta struct {
	Counters InterfaceCounters
	// Known says that both samples had counters.
	Known bool
	// Queue maps a queue to counter deltas ("packets", "bytes", "drops").
	Queue map[QueueID]map[string]uint64
	// Stats are deltas of ethtool -S counters; a counter that went down
	// (queues re-created) is absent.
	Stats map[string]uint64
}

// PerSecond turns a delta into a rate; false if the window is unknown.
func (o *Observation) PerSecond(delta uint64) (float64, bool) {
	if o.Window <= 0 {
		return 0, false
	}
	return float64(delta) / o.Window.Seconds(), true
}

// AllowedCPUs are the CPUs that network work may be put on: online, not
// isolated, not tickless.
func (s *Snapshot) AllowedCPUs() cpuset.Set {
	return s.Topo.Housekeeping()
}

// BootIRQs are the CPUs that irqaffinity= of the kernel command line names for
// interrupts, empty if it names none or is not known.
func (s *Snapshot) BootIRQs() cpuset.Set {
	set, err := cpuset.ParseList(s.Cmdline["irqaffinity"])
	if err != nil {
		return cpuset.Set{}
	}
	return set
}

// InterruptCPUs are the CPUs that interrupts may be put on: those for network work
// that BootIRQs names, all of them where it names none.
func (s *Snapshot) InterruptCPUs() cpuset.Set {
	allowed := s.AllowedCPUs()
	if boot := allowed.Intersect(s.BootIRQs()); !boot.IsEmpty() {
		return boot
	}
	return allowed
}
