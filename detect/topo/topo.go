// Package topo knows how the CPUs of one machine hang together: package → NUMA
// node → last-level cache → core → SMT thread, which of them are online,
// isolated or tickless, and which may take network work.
package topo

import "github.com/napitune/napitune/detect/cpuset"

// Unknown stands for an id that the host does not tell.
const Unknown = -1

// CPU is one logical CPU. IDs are those of the kernel; Unknown where not told.
type CPU struct {
	ID      int
	Package int
	Node    int // NUMA node, Unknown if the host has no node tree
	// LLC is the lowest-numbered CPU that shares the last-level cache,
	// Core the lowest-numbered CPU of the same physical core.
	LLC, Core int
	// Capacity is cpu_capacity (0..1024 relative to the fastest CPU), 0 if not told.
	Capacity int
	// MaxFreqKHz is cpuinfo_max_freq, 0 if not told.
	MaxFreqKHz int
}

// Node is one NUMA node.
type Node struct {
	ID        int
	CPUs      cpuset.Set // may be empty: memory-only nodes
	Distance  map[int]int
	HasMemory bool // false only if the host says so
}

// Topology is the tree as read from /sys/devices/system/{cpu,node}, or from
// lscpu output on captured hosts that have no tree.
type Topology struct {
	Possible, Present, Online cpuset.Set
	// Isolated is isolcpus= with the domain flag, NohzFull nohz_full=.
	Isolated, NohzFull cpuset.Set
	CPUs               map[int]CPU
	Nodes              []Node
	// Known says which relations were told by the host; what is not known must
	// not be assumed.
	Known Known
}

// Known says which parts of the topology the host told.
type Known struct {
	Online, SMT, LLC, Nodes, Isolation bool
}

// Housekeeping is the set of CPUs that may take network work: online and
// neither isolated nor tickless. The kernel applies the same filter to RPS
// masks (net/core/net-sysfs.c, housekeeping domain and workqueue sets) but not to
// interrupt affinity.
func (t *Topology) Housekeeping() cpuset.Set {
	return t.Online.Minus(t.Isolated).Minus(t.NohzFull)
}
