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
	// Little are the CPUs of clearly slower cores on a machine with two or more
	// kinds; empty where all are alike and where the host does not tell.
	Little cpuset.Set
	// Known says which relations were told by the host; what is not known must
	// not be assumed.
	Known Known

	// cores maps the lowest CPU of a core to its threads, likewise llcs.
	cores, llcs map[int]cpuset.Set
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

// Siblings are the online threads of the core that cpu belongs to, cpu
// included. Where the host does not tell, a CPU is its only known sibling:
// look at Known.SMT before concluding that there is no SMT.
func (t *Topology) Siblings(cpu int) cpuset.Set {
	if c, ok := t.CPUs[cpu]; ok && c.Core != Unknown {
		if set, ok := t.cores[c.Core]; ok {
			return set
		}
		return t.sharing(func(o CPU) bool { return o.Core == c.Core })
	}
	return only(cpu)
}

// LLCOf are the online CPUs that share the last-level cache with cpu, cpu
// included; only cpu itself where the host does not tell.
func (t *Topology) LLCOf(cpu int) cpuset.Set {
	if c, ok := t.CPUs[cpu]; ok && c.LLC != Unknown {
		if set, ok := t.llcs[c.LLC]; ok {
			return set
		}
		return t.sharing(func(o CPU) bool { return o.LLC == c.LLC })
	}
	return only(cpu)
}

// sharing serves topologies that were built by hand, without the index that
// Read makes.
func (t *Topology) sharing(same func(CPU) bool) cpuset.Set {
	var out []int
	for id, c := range t.CPUs {
		if same(c) {
			out = append(out, id)
		}
	}
	return cpuset.Of(out...)
}

func only(cpu int) cpuset.Set {
	if cpu < 0 || cpu > cpuset.MaxCPU {
		return cpuset.Set{}
	}
	return cpuset.Of(cpu)
}

// NodeOf is the NUMA node of a CPU, Unknown if the host does not tell or
// tells contradictory things.
func (t *Topology) NodeOf(cpu int) int {
	if c, ok := t.CPUs[cpu]; ok {
		return c.Node
	}
	return Unknown
}

// NodeCPUs are the online CPUs of a NUMA node; empty for an unknown node and
// for one that has memory only.
func (t *Topology) NodeCPUs(node int) cpuset.Set {
	for _, n := range t.Nodes {
		if n.ID == node {
			return n.CPUs
		}
	}
	return cpuset.Set{}
}

// Cores counts the distinct physical cores of the CPUs in set. CPUs whose core
// is not told count as a core each.
func (t *Topology) Cores(set cpuset.Set) int { return t.FirstSiblings(set).Len() }

// FirstSiblings picks one CPU of every physical core in set, the
// lowest-numbered member.
func (t *Topology) FirstSiblings(set cpuset.Set) cpuset.Set {
	var first []int
	seen := map[int]bool{}
	for cpu := range set.All() {
		c, ok := t.CPUs[cpu]
		if ok && c.Core != Unknown {
			if seen[c.Core] {
				continue
			}
			seen[c.Core] = true
		}
		first = append(first, cpu)
	}
	return cpuset.Of(first...)
}

// LittleCPUs are the CPUs of clearly slower cores on a machine with several
// kinds of cores; empty where all are alike and where the host does not tell.
func (t *Topology) LittleCPUs() cpuset.Set { return t.Little }

// NUMATrusted reports whether node numbers may be used to prefer one CPU over
// another: at least two nodes have CPUs, no CPU is claimed by two, and some
// distance between two nodes differs from the local one. Tables in which all
// distances are 10 are emulated or wrong (ACPI SLIT: 10 is local).
func (t *Topology) NUMATrusted() bool {
	withCPUs, total := 0, 0
	var union cpuset.Set
	for _, n := range t.Nodes {
		if n.CPUs.IsEmpty() {
			continue
		}
		withCPUs++
		total += n.CPUs.Len()
		union = union.Union(n.CPUs)
	}
	return withCPUs > 1 && total == union.Len() && !t.distancesFlat()
}

// distancesFlat is false where no distances are told: then the numbers alone
// are all there is.
func (t *Topology) distancesFlat() bool {
	told := false
	for _, n := range t.Nodes {
		for other, d := range n.Distance {
			if other == n.ID {
				continue
			}
			if d != n.Distance[n.ID] {
				return false
			}
			told = true
		}
	}
	return told
}

// Distance orders how near two CPUs are: 0 the same, 1 threads of one core, 2 one
// last-level cache, 3 one node, 4 elsewhere or unknown.
func (t *Topology) Distance(a, b int) int {
	cpuA, okA := t.CPUs[a]
	cpuB, okB := t.CPUs[b]
	same := func(x, y int) bool { return okA && okB && x != Unknown && x == y }
	switch {
	case a == b:
		return 0
	case same(cpuA.Core, cpuB.Core):
		return 1
	case same(cpuA.LLC, cpuB.LLC):
		return 2
	case same(cpuA.Node, cpuB.Node):
		return 3
	default:
		return 4
	}
}

// Share divides the online CPUs among some homes, themselves CPUs, so that each
// goes to the nearest, to the one with the fewest among equals. A home has
// itself in its share, unless another home is the same CPU. A negative home
// gets none.
func (t *Topology) Share(homes []int) []cpuset.Set {
	shares := make([][]int, len(homes))
	for _, own := range []bool{true, false} { // homes first, so that the counts of the others are fair
		for cpu := range t.Online.All() {
			best, nearest := t.nearest(cpu, homes, shares)
			if best >= 0 && (nearest == 0) == own {
				shares[best] = append(shares[best], cpu)
			}
		}
	}
	out := make([]cpuset.Set, len(homes))
	for i, cpus := range shares {
		out[i] = cpuset.Of(cpus...)
	}
	return out
}

// nearest is the home with the least distance from a CPU, and that; of several
// the one with the smallest share so far.
func (t *Topology) nearest(cpu int, homes []int, shares [][]int) (best, distance int) {
	best = -1
	for i, home := range homes {
		if home < 0 {
			continue
		}
		d := t.Distance(cpu, home)
		if best < 0 || d < distance || d == distance && len(shares[i]) < len(shares[best]) {
			best, distance = i, d
		}
	}
	return best, distance
}
