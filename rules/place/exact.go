package place

import "slices"

// The exact search is tried up to this size and this number of nodes; larger
// instances average out, and there the greedy placement is near the bound.
const (
	exactItems = 16
	exactCores = 64
	exactNodes = 20_000
)

// exact searches for a placement of smaller value; nil if there is none or the
// search is not worth it.
func (s *state) exact() *state {
	items := s.items
	if !s.limited {
		// Items without traffic are found room for afterwards.
		for len(items) > 0 && items[len(items)-1].idle {
			items = items[:len(items)-1]
		}
	}
	if len(items) > exactItems || len(s.cores) > exactCores || slices.Contains(s.at, none) {
		return nil
	}
	best := s.value()
	if best.remote == 0 && best.served <= s.lowerBound() {
		return nil
	}
	x := &exactSearch{state: s.empty(), n: len(items), best: best, budget: exactNodes}
	x.assign(0, 0)
	if x.found == nil {
		return nil
	}
	out := s.empty()
	for i, c := range x.found {
		out.place(i, c)
	}
	out.fill()
	if !out.value().less(best) {
		return nil
	}
	return out
}

type exactSearch struct {
	*state
	n      int
	best   value
	found  []int
	budget int
}

// assign tries all CPUs for item i and those after it; busiest is the maximum
// of the cores that serve an item so far.
func (x *exactSearch) assign(i int, busiest float64) {
	if i == x.n {
		x.best = x.partial(busiest)
		x.found = slices.Clone(x.at[:x.n])
		return
	}
	for k := range x.cores {
		if x.tried(k) {
			continue
		}
		for t, c := range x.cores[k].threads {
			if !x.may(i, c) || !x.room(i, c) || x.triedThread(k, t) {
				continue
			}
			x.descendInto(i, c, busiest)
			if x.budget <= 0 {
				return
			}
		}
	}
}

func (x *exactSearch) descendInto(i, c int, busiest float64) {
	x.budget--
	k := x.cpus[c].core
	x.place(i, c)
	if x.active[k] > 0 {
		busiest = max(busiest, x.util[k])
	}
	if x.partial(busiest).less(x.best) {
		x.assign(i+1, busiest)
	}
	x.place(i, none)
}

// partial is the value so far, which placing more items cannot lower.
func (x *exactSearch) partial(busiest float64) value {
	return value{over: max(busiest, x.limit()), remote: x.remote, served: busiest}
}

// tried reports whether an earlier core is in the same condition, so that this
// one would only repeat its search. Where room is limited, the core that an item
// comes from is like no other.
func (x *exactSearch) tried(k int) bool {
	if x.limited {
		return false
	}
	for m := range k {
		if x.cores[m].kind == x.cores[k].kind && x.sameLoad(k, m) {
			return true
		}
	}
	return false
}

func (x *exactSearch) sameLoad(k, m int) bool {
	for t, c := range x.cores[k].threads {
		d := x.cores[m].threads[t]
		if x.load[c] != x.load[d] || x.count[c] != x.count[d] {
			return false
		}
	}
	return (x.active[k] > 0) == (x.active[m] > 0)
}

// triedThread is the same for the threads of one core.
func (x *exactSearch) triedThread(k, t int) bool {
	if x.limited {
		return false
	}
	threads := x.cores[k].threads
	c := threads[t]
	for _, d := range threads[:t] {
		same := x.load[c] == x.load[d] && x.count[c] == x.count[d] &&
			x.cpus[c].capacity == x.cpus[d].capacity && x.cpus[c].node == x.cpus[d].node
		for _, class := range x.classes {
			same = same && class[c] == class[d]
		}
		if same {
			return true
		}
	}
	return false
}
