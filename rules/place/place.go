// Package place puts queues on CPUs: given the measured load of every queue of
// every NIC and the load that the CPUs carry anyway, it says which CPU each
// queue's interrupt should fire on. It is pure: no I/O, no clock, no randomness.
//
// # Model
//
// A queue (Item) sits on one CPU, whole; a queue pair is one Item. Loads are
// shares of one full-speed CPU: 0.25 is 250 ms of work per second. The load of a
// core is
//
//	max( busiest thread ÷ its Capacity , all threads together ÷ (Capacity × SMTShare) )
//
// so a thread alone may use its core whole, and siblings share what the core
// can do. Both siblings busy yield SMTShare of one thread. The default 1.25 lies
// between the 1.15 that the kernel's scheduler assumed for a whole SMT core
// (smt_gain = 1178 of 1024, kernel/sched/topology.c up to commit 765d0af19f5f)
// and the "up to 30 %" that Intel measured on server loads (Marr et al.,
// Hyper-Threading Technology Architecture and Microarchitecture, Intel Technology
// Journal, Q1 2002). Documentation/networking/scaling.rst says of interrupt
// handling that hyperthreading "has shown no benefit"; SMTShare = 1 is that view.
//
// A queue served on a node other than its NIC's costs RemoteCost times its load.
// The default 1.25 is one over the 0.8 that is left of a core's throughput when
// it handles a remote NIC (Cai et al., Understanding Host Network Stack
// Overheads, SIGCOMM 2021: 20 % less per core).
//
// # Objective
//
// In this order:
//
//  1. Only allowed CPUs, at most CPU.Room items coming to each.
//  2. The NIC's own node, unless it is saturated: no core is driven above
//     LocalLimit to keep an item at home, and no item leaves for any other reason.
//  3. The smallest maximum core load; then the next busiest core, and so on, so
//     that one elephant does not excuse a stack elsewhere.
//  4. For equal loads: items of one device (Group) on distinct cores, first
//     siblings before second ones, the LLC of the consumer. Items without load
//     are spread by count.
//  5. The fewest moves. A move, or a set of moves that only helps together, must
//     lower the core it relieves by MinGain of the maximum. Coming home to the own node
//     needs no such gain, because locality ranks above balance.
//
// The result is never worse than a feasible present placement in this order.
// Since locality comes first, Max may exceed Before when items come home, up to
// LocalLimit. Without a present placement, or with a negative MinGain, Max is
// within 5 % of the optimum in every instance small enough to try all
// placements; otherwise up to MinGain is left where moves would not pay.
//
// # Method
//
// Items in order of falling load go to the CPU that ends least loaded (LPT),
// followed by moves and swaps; small instances are searched exactly. That
// placement from scratch tells what is attainable. The result itself is made
// from the present placement by the steps that pay. All sums are integers of
// one millionth of a CPU and every choice has a total order, so the result
// depends neither on the order of the input nor on rounding.
package place

import (
	"math"

	"github.com/napitune/napitune/detect/cpuset"
)

// CPU is one CPU that may take items. CPUs that are offline, isolated or
// forbidden are simply not given.
type CPU struct {
	ID int
	// Core and LLC are the lowest-numbered CPU of the core and of the
	// last-level cache; a negative number means not known.
	Core, LLC int
	// Node is the NUMA node, negative if not known. A CPU whose node is not
	// known is local to every item.
	Node int
	// Base is load on this CPU that stays whatever is placed, in the unit of
	// Item.Load. It should hold only what the scheduler cannot take elsewhere:
	// other interrupts and softirqs, pinned threads.
	Base float64
	// Capacity is the speed relative to the fastest CPU: cpu_capacity/1024.
	// 0 means 1; anything else is brought into 0.01..1.
	Capacity float64
	// Room is how many items that are not on this CPU now may come to it: what
	// is left of its interrupt vectors on x86, where a write of smp_affinity is
	// refused with ENOSPC beyond that. 0 means no limit, a negative number none.
	// An item that stays needs no room, and one that leaves makes none: its
	// vector is given back only after it has fired at its new place
	// (arch/x86/kernel/apic/vector.c, free_moved_vector).
	Room int
}

// Item is something to be placed: a queue, or a queue pair with one vector.
type Item struct {
	// ID names the item in the canonical order (numbers compare by value);
	// it should be unique, or equal items may swap their results.
	ID string
	// Load is the share of a full-speed CPU of the item's own node that
	// serving it takes; Options.Work makes it from what was measured. NaN and
	// negative loads count as 0, loads above one million as one million. If
	// no item has a load, each counts as 1 (Solution.Counted).
	Load float64
	// Current is the CPU that serves the item now; -1 if not known or if it
	// is spread over several. A CPU that was not given means that the item must move.
	Current int
	// Node is the NIC's NUMA node; negative if not known. A node of which no
	// CPU was given (memory only, all offline) counts as not known.
	Node int
	// Allowed limits the CPUs; empty means all that are given.
	Allowed cpuset.Set
	// Consumer is the LLC (in the numbering of CPU.LLC) in which the
	// consumer of the packets runs; negative if not known.
	Consumer int
	// Group is the device. Its items prefer distinct cores.
	Group string
}

// Options are the terms of the placement. The zero value means the defaults.
type Options struct {
	// MinGain is the share of the maximum core load that a move must buy:
	// 0 means 0.1, a negative number means that any gain will do. Below a
	// tenth, two samples of the same traffic differ as much.
	MinGain float64
	// LocalLimit is the core load above which a node counts as saturated: 0
	// means 0.75, a negative number means never. It only has a meaning if
	// loads are CPU time; with packets or interrupts as loads make it negative.
	LocalLimit float64
	// SMTShare is the capacity of a core with busy siblings relative to one
	// thread: 0 means 1.25; brought into 1..2.
	SMTShare float64
	// RemoteCost is the factor on the load of an item served on another
	// node: 0 means 1.25; brought into 1..10.
	RemoteCost float64
}

// Work turns a busy share measured on a CPU into Item.Load for a NIC on the
// given node (negative: not known): slow CPUs and remote ones take longer over
// the same packets. The same conversion without node gives CPU.Base.
func (o Options) Work(busy float64, on CPU, node int) float64 {
	o = o.withDefaults()
	load := busy * capacity(on.Capacity)
	if node >= 0 && on.Node >= 0 && on.Node != node {
		load /= o.RemoteCost
	}
	return load
}

// Solution is a placement and what it is worth. Core loads are shares of what
// the core can do; above 1 it cannot keep up.
type Solution struct {
	// CPU is the CPU for each item, in the order of the input; -1 for the
	// items in Unplaced.
	CPU []int
	// Before and Max are the load of the busiest core that serves an item
	// with traffic, now and as predicted. Items below a thousandth of the
	// largest load count as without traffic. Before leaves out items whose present CPU is not given.
	Before, Max float64
	// LowerBound is a value that no placement gets below which keeps the
	// same items on their nodes.
	LowerBound float64
	// Load is the predicted busy share of every CPU given, Base included.
	Load map[int]float64
	// Moves counts the items whose CPU differs from Current.
	Moves int
	// Unplaced are the indices of items for which no allowed CPU was given or had room.
	Unplaced []int
	// RemoteBefore and Remote count the items served away from their NIC's node.
	RemoteBefore, Remote int
	// Counted says that no item had a load and each was taken as 1; the loads
	// above then count items instead of CPU time.
	Counted bool
}

// Solve places the items. It takes any input: see the fields for what happens
// to impossible values.
func Solve(cpus []CPU, items []Item, o Options) Solution {
	p := newProblem(cpus, items, o.withDefaults())
	present := p.present()
	fresh := p.fresh()
	final := p.settle(p.repair(), fresh)
	if p.limited {
		final = p.resettle(final, cpus, items, o)
	}
	return p.solution(present, final, len(items))
}

// Defaults of Options; their sources are in the package comment. A node that
// is three quarters busy over seconds has no room left for bursts.
const (
	defaultMinGain    = 0.1
	defaultLocalLimit = 0.75
	defaultSMTShare   = 1.25
	defaultRemoteCost = 1.25
)

func (o Options) withDefaults() Options {
	o.MinGain = option(o.MinGain, defaultMinGain, 0, 1)
	if o.LocalLimit < 0 {
		o.LocalLimit = math.Inf(1)
	}
	o.LocalLimit = option(o.LocalLimit, defaultLocalLimit, 0, math.Inf(1))
	o.SMTShare = option(o.SMTShare, defaultSMTShare, 1, 2)
	o.RemoteCost = option(o.RemoteCost, defaultRemoteCost, 1, 10)
	return o
}

func option(value, byDefault, low, high float64) float64 {
	if value == 0 || math.IsNaN(value) {
		return byDefault
	}
	return min(max(value, low), high)
}

func capacity(c float64) float64 { return option(c, 1, 0.01, 1) }
