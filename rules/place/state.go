package place

import (
	"cmp"
	"math"
	"slices"
)

// state is a placement with its sums.
type state struct {
	*problem
	at     []int   // CPU of each item, none if not placed
	home   []int   // CPU that counts as not moved, none if there is none
	load   []int64 // of each CPU, base included
	count  []int   // items on each CPU
	come   []int   // items on each CPU that are elsewhere now
	on     [][]int // items on each core
	util   []float64
	total  []int64 // load of each core in units
	active []int   // items with traffic on each core
	remote int64
	seen   []int // per kind of core: the search that has seen an empty one
	search int
}

func (p *problem) empty() *state {
	s := &state{
		problem: p,
		at:      make([]int, len(p.items)),
		home:    make([]int, len(p.items)),
		load:    make([]int64, len(p.cpus)),
		count:   make([]int, len(p.cpus)),
		come:    make([]int, len(p.cpus)),
		on:      make([][]int, len(p.cores)),
		util:    make([]float64, len(p.cores)),
		total:   make([]int64, len(p.cores)),
		active:  make([]int, len(p.cores)),
		seen:    make([]int, len(p.cores)),
	}
	for i := range s.at {
		s.at[i], s.home[i] = none, none
	}
	for c := range p.cpus {
		s.load[c] = p.cpus[c].base
		s.total[p.cpus[c].core] += p.cpus[c].base
	}
	for k := range p.cores {
		s.util[k] = s.after(k, none, 0, none, 0)
	}
	return s
}

// place puts an item on a CPU, taking it from where it was; none takes it off.
func (s *state) place(i, c int) {
	if old := s.at[i]; old != none {
		k := s.cpus[old].core
		s.load[old] -= s.cost(i, old)
		s.count[old]--
		s.come[old] -= s.comes(i, old)
		s.on[k] = slices.Delete(s.on[k], slices.Index(s.on[k], i), slices.Index(s.on[k], i)+1)
		s.account(i, old, -1)
	}
	s.at[i] = c
	if c == none {
		return
	}
	s.load[c] += s.cost(i, c)
	s.count[c]++
	s.come[c] += s.comes(i, c)
	s.on[s.cpus[c].core] = append(s.on[s.cpus[c].core], i)
	s.account(i, c, +1)
}

func (s *state) account(i, c, sign int) {
	k := s.cpus[c].core
	if !s.items[i].idle {
		s.active[k] += sign
	}
	s.total[k] += int64(sign) * s.cost(i, c)
	s.remote += int64(sign) * s.remoteLoad(i, c)
	s.util[k] = s.after(k, none, 0, none, 0)
}

// remoteLoad is what the objective counts for an item away from its node; the
// extra unit makes items without load count as well.
func (s *state) remoteLoad(i, c int) int64 {
	if c == none || !s.away(i, c) {
		return 0
	}
	return s.items[i].load + 1
}

// after is the load of core k with changed loads on up to two of its threads.
func (s *state) after(k, c1 int, d1 int64, c2 int, d2 int64) float64 {
	var sum int64
	busiest := 0.0
	for _, t := range s.cores[k].threads {
		load := s.load[t]
		if t == c1 {
			load += d1
		}
		if t == c2 {
			load += d2
		}
		sum += load
		busiest = max(busiest, float64(load)/s.cpus[t].capacity)
	}
	return max(busiest, float64(sum)/s.cores[k].share) / unit
}

// twin reports whether core k is as empty as one of its kind that the present
// search has looked at, so that it can only offer the same at a higher number.
// Where room is limited, the core that an item comes from is like no other.
func (s *state) twin(k int) bool {
	if s.limited || len(s.on[k]) > 0 {
		return false
	}
	kind := s.cores[k].kind
	if s.seen[kind] == s.search {
		return true
	}
	s.seen[kind] = s.search
	return false
}

// comes is 1 for an item that would have to come to the CPU, 0 if it is there now.
func (s *state) comes(i, c int) int { return int(bit(s.items[i].now != c)) }

// room reports whether the CPU can take the item, which is not placed there.
func (s *state) room(i, c int) bool {
	return s.come[c]+s.comes(i, c) <= s.cpus[c].room
}

// top is the load of the busiest core, serving or not.
func (s *state) top() float64 {
	if len(s.util) == 0 {
		return 0
	}
	return slices.Max(s.util)
}

// served is the load of the busiest core that serves an item with traffic.
func (s *state) served() float64 {
	busiest := 0.0
	for k, u := range s.util {
		if s.active[k] > 0 {
			busiest = max(busiest, u)
		}
	}
	return busiest
}

// value is the part of the objective that placements as a whole are compared by.
type value struct {
	unplaced int
	over     float64 // served, but not below LocalLimit
	remote   int64
	served   float64
}

func (s *state) value() value {
	v := value{served: s.served(), remote: s.remote}
	v.over = max(v.served, s.limit())
	for _, c := range s.at {
		if c == none {
			v.unplaced++
		}
	}
	return v
}

func (v value) less(w value) bool {
	switch {
	case v.unplaced != w.unplaced:
		return v.unplaced < w.unplaced
	case v.over != w.over:
		return v.over < w.over
	case v.remote != w.remote:
		return v.remote < w.remote
	default:
		return v.served < w.served
	}
}

// better compares whole placements by all serving cores, in the order of the
// objective.
func (s *state) better(t *state) bool {
	v, w := s.value(), t.value()
	if v.unplaced != w.unplaced {
		return v.unplaced < w.unplaced
	}
	a, b := s.loads(), t.loads()
	limit := s.limit()
	return cmp.Or(
		slices.CompareFunc(a, b, func(x, y float64) int { return cmp.Compare(max(x, limit), max(y, limit)) }),
		cmp.Compare(v.remote, w.remote),
		slices.Compare(a, b),
	) < 0
}

// loads is the load of every core that serves an item with traffic and 0 for
// the others, busiest first.
func (s *state) loads() []float64 {
	out := make([]float64, len(s.util))
	for k, u := range s.util {
		out[k] = serving(s.active[k], u)
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

// limit is LocalLimit; with no limit it is larger than any load.
func (s *state) limit() float64 { return min(s.opt.LocalLimit, math.MaxFloat64) }

// sorted is the load of every core, busiest first.
func (s *state) sorted() []float64 {
	out := slices.Clone(s.util)
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

// clone copies the placement; the cost is that of placing every item again,
// which keeps the order within a core canonical.
func (s *state) clone() *state {
	t := s.empty()
	copy(t.home, s.home)
	for i, c := range s.at {
		t.place(i, c)
	}
	return t
}
