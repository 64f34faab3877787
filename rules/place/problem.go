package place

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/natural"
)

// unit is the number of load units in one CPU. Sums of integers do not depend
// on the order of adding, so equal placements compare as equal.
const unit = 1_000_000

// maxLoad bounds loads so that the sum over a million items, remote and at
// the highest RemoteCost, stays inside an int64.
const maxLoad = 1_000_000

// idleShare is the part of the largest load below which an item counts as
// having no traffic: a thousand of them do not make up one busy queue.
const idleShare = 0.001

// none marks an item without a CPU, an unknown node, an unknown LLC.
const none = -1

// problem is the input in canonical order. It does not change while solving.
type problem struct {
	opt     Options
	cpus    []cpu
	cores   []core
	items   []item
	classes [][]bool      // per class of equal Allowed: which CPUs
	all     []int         // every core
	local   map[int][]int // by node: the cores with a CPU that is local to it
	counted bool
	limited bool // some CPU has not room for all
}

type cpu struct {
	id, core, node, llc int
	thread              int // position within the core
	capacity            float64
	base                int64
	room                int // items that may come, unlimited if large
}

type core struct {
	threads  []int // indices of CPUs, by CPU number
	share    float64
	capacity float64 // of the fastest thread
	kind     int     // cores of one kind are interchangeable
}

type item struct {
	index        int // in the input
	load, remote int64
	idle         bool
	node         int
	class        int
	consumer     int
	group        int
	now          int // index of the present CPU, none if not given
}

func newProblem(cpus []CPU, items []Item, o Options) *problem {
	p := &problem{opt: o}
	p.addCPUs(cpus)
	p.addItems(items)
	p.classifyCores()
	p.listCores()
	return p
}

func (p *problem) addCPUs(in []CPU) {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, compareCPU)
	cores := map[int]int{}
	last := -1
	for _, c := range sorted {
		if c.ID < 0 || c.ID == last {
			continue
		}
		last = c.ID
		if c.Core < 0 {
			c.Core = c.ID
		}
		k, ok := cores[c.Core]
		if !ok {
			k = len(p.cores)
			cores[c.Core] = k
			p.cores = append(p.cores, core{})
		}
		at := &p.cores[k]
		p.cpus = append(p.cpus, cpu{
			id: c.ID, core: k, node: max(c.Node, none), llc: max(c.LLC, none),
			thread: len(at.threads), capacity: capacity(c.Capacity), base: units(c.Base), room: room(c.Room),
		})
		p.limited = p.limited || c.Room != 0
		at.threads = append(at.threads, len(p.cpus)-1)
	}
	for k := range p.cores {
		p.cores[k].size(p.cpus, p.opt.SMTShare)
	}
}

func (c *core) size(cpus []cpu, smtShare float64) {
	for _, t := range c.threads {
		c.capacity = max(c.capacity, cpus[t].capacity)
	}
	c.share = c.capacity
	if len(c.threads) > 1 {
		c.share *= smtShare
	}
}

func compareCPU(a, b CPU) int {
	return cmp.Or(
		cmp.Compare(a.ID, b.ID), cmp.Compare(a.Core, b.Core), cmp.Compare(a.LLC, b.LLC),
		cmp.Compare(a.Node, b.Node), cmp.Compare(a.Base, b.Base), cmp.Compare(a.Capacity, b.Capacity), cmp.Compare(a.Room, b.Room),
	)
}

// room turns CPU.Room into a number to compare with.
func room(given int) int {
	if given == 0 {
		return math.MaxInt
	}
	return max(given, 0)
}

func units(load float64) int64 {
	if !(load > 0) {
		return 0
	}
	return int64(math.Round(min(load, maxLoad) * unit))
}

func (p *problem) addItems(in []Item) {
	nodes, numbers := map[int]bool{}, map[int]int{}
	for i, c := range p.cpus {
		nodes[c.node] = true
		numbers[c.id] = i
	}
	order := make([]int, len(in))
	var largest int64
	for i := range in {
		order[i] = i
		largest = max(largest, units(in[i].Load))
	}
	p.counted = largest == 0 && len(in) > 0
	slices.SortFunc(order, func(a, b int) int { return compareItem(&in[a], &in[b]) })
	classes, groups := map[cpuset.Set]int{}, map[string]int{}
	for _, i := range order {
		x := &in[i]
		it := item{index: i, load: units(x.Load), node: none, consumer: max(x.Consumer, none), now: none}
		if p.counted {
			it.load = unit
		}
		it.remote = int64(math.Round(float64(it.load) * p.opt.RemoteCost))
		it.idle = float64(it.load) < idleShare*float64(largest)
		if x.Node >= 0 && nodes[x.Node] {
			it.node = x.Node
		}
		it.group = number(groups, x.Group)
		it.class = number(classes, x.Allowed)
		if it.class == len(p.classes) {
			p.classes = append(p.classes, p.members(x.Allowed))
		}
		if now, ok := numbers[x.Current]; ok {
			it.now = now
		}
		p.items = append(p.items, it)
	}
}

// compareItem is the canonical order: heaviest first, then by name.
func compareItem(a, b *Item) int {
	return cmp.Or(
		cmp.Compare(units(b.Load), units(a.Load)),
		natural.Compare(a.ID, b.ID), strings.Compare(a.Group, b.Group),
		cmp.Compare(a.Current, b.Current), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Consumer, b.Consumer),
		strings.Compare(a.Allowed.String(), b.Allowed.String()),
	)
}

// number gives each key a number in the order of first use.
func number[K comparable](seen map[K]int, key K) int {
	n, ok := seen[key]
	if !ok {
		n = len(seen)
		seen[key] = n
	}
	return n
}

func (p *problem) members(allowed cpuset.Set) []bool {
	in := make([]bool, len(p.cpus))
	for i, c := range p.cpus {
		in[i] = allowed.IsEmpty() || allowed.Has(c.id)
	}
	return in
}

// classifyCores gives interchangeable cores the same kind: alike in speed,
// node, base load, room and in who may use them.
func (p *problem) classifyCores() {
	kinds := map[string]int{}
	var key []byte
	for k := range p.cores {
		key = key[:0]
		for _, t := range p.cores[k].threads {
			c := &p.cpus[t]
			key = appendInt(key, int64(math.Float64bits(c.capacity)))
			key = appendInt(key, int64(c.node))
			key = appendInt(key, c.base)
			key = appendInt(key, int64(c.room))
			for _, class := range p.classes {
				key = append(key, bit(class[t]))
			}
		}
		p.cores[k].kind = number(kinds, string(key))
	}
}

// listCores lists the cores by node: most searches end on an item's own.
func (p *problem) listCores() {
	p.all, p.local = make([]int, len(p.cores)), map[int][]int{}
	for i := range p.items {
		p.local[p.items[i].node] = nil
	}
	for k := range p.cores {
		p.all[k] = k
		for node := range p.local {
			if slices.ContainsFunc(p.cores[k].threads, func(c int) bool { return node == none || p.cpus[c].node == none || p.cpus[c].node == node }) {
				p.local[node] = append(p.local[node], k)
			}
		}
	}
}

func appendInt(b []byte, v int64) []byte {
	for range 8 {
		b = append(b, byte(v))
		v >>= 8
	}
	return b
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// away reports whether the CPU is on another node than the item's NIC.
func (p *problem) away(i, c int) bool {
	home, node := p.items[i].node, p.cpus[c].node
	return home != none && node != none && home != node
}

// misses reports whether the CPU is known to be outside the consumer's LLC.
func (p *problem) misses(i, c int) bool {
	want, llc := p.items[i].consumer, p.cpus[c].llc
	return want != none && want != llc
}

func (p *problem) cost(i, c int) int64 {
	if p.away(i, c) {
		return p.items[i].remote
	}
	return p.items[i].load
}

func (p *problem) may(i, c int) bool { return p.classes[p.items[i].class][c] }
