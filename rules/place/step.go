package place

import "cmp"

// step moves item i to CPU c; with j it is a swap, and j takes i's CPU.
type step struct{ i, c, j int }

// effect is what a step does to the one or two cores it touches. Loads are
// those of the busier and of the other core; a core that serves no item with
// traffic counts as 0.
type effect struct {
	high, low             float64
	highBefore, lowBefore float64
	target                float64 // load of the core that i comes to
	remote, missed        int64   // change of the load away from home node, outside the consumer's LLC
	leaving               int     // items that leave their present CPU
}

func (s *state) effect(st step) effect {
	a := s.at[st.i]
	k, m := s.cpus[a].core, s.cpus[st.c].core
	da, dc := -s.cost(st.i, a), s.cost(st.i, st.c)
	gone := s.traffic(st.i)
	var e effect
	s.travel(&e, st.i, a, st.c)
	if st.j != none {
		da += s.cost(st.j, a)
		dc -= s.cost(st.j, st.c)
		gone -= s.traffic(st.j)
		s.travel(&e, st.j, st.c, a)
	}
	if k == m {
		e.highBefore = serving(s.active[k], s.util[k])
		e.high = serving(s.active[k], s.after(k, a, da, st.c, dc))
		e.target = e.high
		return e
	}
	before, beyond := serving(s.active[k], s.util[k]), serving(s.active[m], s.util[m])
	source := serving(s.active[k]-gone, s.after(k, a, da, none, 0))
	e.target = serving(s.active[m]+gone, s.after(m, st.c, dc, none, 0))
	e.highBefore, e.lowBefore = max(before, beyond), min(before, beyond)
	e.high, e.low = max(source, e.target), min(source, e.target)
	return e
}

func (s *state) traffic(i int) int { return 1 - int(bit(s.items[i].idle)) }

func serving(active int, load float64) float64 {
	if active == 0 {
		return 0
	}
	return load
}

func (s *state) travel(e *effect, i, from, to int) {
	e.remote += s.remoteLoad(i, to) - s.remoteLoad(i, from)
	e.missed += s.missedLoad(i, to) - s.missedLoad(i, from)
	if s.home[i] == from {
		e.leaving++
	}
}

func (s *state) missedLoad(i, c int) int64 {
	if s.misses(i, c) {
		return s.items[i].load + 1
	}
	return 0
}

func (s *state) apply(st step) {
	a := s.at[st.i]
	if st.j != none {
		s.place(st.j, none)
	}
	s.place(st.i, st.c)
	if st.j != none {
		s.place(st.j, a)
	}
}

// allowed reports whether the step ends on CPUs that may take the items.
func (s *state) allowed(st step) bool {
	if !s.may(st.i, st.c) {
		return false
	}
	if st.j == none {
		return s.room(st.i, st.c)
	}
	a := s.at[st.i]
	return s.may(st.j, a) && s.roomInstead(st.i, st.c, st.j) && s.roomInstead(st.j, a, st.i)
}

// roomInstead reports whether the CPU can take the item when another one leaves.
func (s *state) roomInstead(i, c, leaving int) bool {
	return s.come[c]-s.comes(leaving, c)+s.comes(i, c) <= s.cpus[c].room
}

// need is the gain that a step must bring: none if it only moves what has to
// be moved anyway.
func (e effect) need(gain float64) float64 {
	if e.leaving == 0 {
		return 0
	}
	return gain
}

// relieves reports whether the step lowers the busier core by the gain. Leaving
// the own node must pay in load above the limit. An item with less load than
// the gain cannot bring it, even where it leaves a core that is busy otherwise.
func (s *stepSearch) relieves(st step, e effect) bool {
	need := max(e.need(s.gain), s.least)
	goal := e.highBefore - need
	from := s.at[st.i]
	if e.high >= goal || float64(s.cost(st.i, from)) < need*unit*s.cpus[from].capacity {
		return false
	}
	return e.remote <= 0 || max(e.high, s.opt.LocalLimit) < goal
}

// evens reports whether the cores end no busier than they were, loads below
// the floor counting as equal.
func (e effect) evens(floor float64) bool {
	return cmp.Or(
		cmp.Compare(max(e.high, floor), max(e.highBefore, floor)),
		cmp.Compare(max(e.low, floor), max(e.lowBefore, floor)),
	) <= 0
}

// leastRelief is the part of the maximum load that a step must relieve a
// core by that is not the busiest one, even if moves are free. Finer evening-out
// is below what two measurements of the same traffic agree on.
const leastRelief = 0.01

// bestStep finds the step that relieves core k the most; moves of items that
// are at home must relieve it by the gain.
func (s *state) bestStep(k int, gain, top float64) (step, bool) {
	search := stepSearch{state: s, gain: gain}
	if s.util[k] < top {
		search.least = leastRelief * top
	}
	last := none
	for _, i := range s.on[k] {
		if s.items[i].idle || last != none && s.alike(i, last) {
			continue
		}
		last = i
		search.goal = s.util[k] - search.least
		if s.home[i] == s.at[i] {
			search.goal = s.util[k] - max(gain, search.least)
		}
		// Wherever it goes, the item alone loads its core this much, and
		// leaves this much behind.
		left := s.after(k, s.at[i], -s.cost(i, s.at[i]), none, 0)
		if search.tooMuch(max(left, float64(s.items[i].load)/unit)) {
			continue
		}
		search.moves(i)
		search.swaps(i)
	}
	return search.best, search.found
}

// alike reports whether two items on one core have the same steps.
func (s *state) alike(i, j int) bool {
	a, b := &s.items[i], &s.items[j]
	return s.at[i] == s.at[j] && a.load == b.load && a.class == b.class && a.node == b.node &&
		a.consumer == b.consumer && (s.home[i] == s.at[i]) == (s.home[j] == s.at[j]) && (!s.limited || a.now == b.now)
}

// stepSearch holds the best step so far for one core.
type stepSearch struct {
	*state
	gain   float64 // what a step that moves an item from its present CPU must bring
	least  float64 // what any step must bring
	goal   float64 // a step of the present item must end below this
	best   step
	effect effect
	found  bool
}

// tooMuch reports whether a step that leaves a core with this load cannot be
// the best one.
func (s *stepSearch) tooMuch(load float64) bool {
	if load >= s.goal {
		return true
	}
	if !s.found {
		return false
	}
	bar := s.effect.high
	if s.effect.remote > 0 {
		// Below the limit, staying at home counts for more than load.
		bar = max(bar, s.opt.LocalLimit)
	}
	return load > bar
}

func (s *stepSearch) moves(i int) {
	k := s.cpus[s.at[i]].core
	s.search++
	for _, m := range s.reach(i) {
		first := s.cores[m].threads[0]
		if m != k {
			if s.tooMuch(s.atLeast(m, s.items[i].load)) || s.abroad(i, first) || s.items[i].consumer == none && s.twin(m) {
				continue
			}
		}
		for _, c := range s.cores[m].threads {
			if c != s.at[i] && (m == k || !s.tooMuch(s.thread(c, s.cost(i, c)))) {
				s.try(step{i, c, none})
			}
		}
	}
}

// reach are the cores that a step may bring the present item to. At home, with no
// more load than the limit, it stays there: nothing it could change places with
// on a foreign node would bring home as much load as it takes away.
func (s *stepSearch) reach(i int) []int {
	if s.goal <= s.opt.LocalLimit && !s.away(i, s.at[i]) {
		return s.local[s.items[i].node]
	}
	return s.all
}

// abroad reports whether the CPU is on a foreign node without the load at home
// that would send the item there.
func (s *stepSearch) abroad(i, c int) bool {
	return s.goal <= s.opt.LocalLimit && s.away(i, c) && !s.away(i, s.at[i])
}

func (s *stepSearch) swaps(i int) {
	a := s.at[i]
	k := s.cpus[a].core
	own := s.cost(i, a)
	for _, m := range s.reach(i) {
		if m == k || s.active[m] == 0 || s.util[m] >= s.util[k] {
			continue
		}
		for _, j := range s.on[m] {
			c := s.at[j]
			back := s.cost(j, a)
			if back >= own || s.tooMuch(s.atLeast(k, back-own)) || s.tooMuch(s.thread(c, s.cost(i, c)-s.cost(j, c))) ||
				!s.items[j].idle && s.tooMuch(s.thread(a, back-own)) {
				continue
			}
			s.try(step{i, c, j})
		}
	}
}

// thread bounds the load of a CPU's core from below after a change on that CPU.
func (s *state) thread(c int, change int64) float64 {
	return max(float64(s.load[c]+change)/s.cpus[c].capacity/unit, s.atLeast(s.cpus[c].core, change))
}

// atLeast bounds the load of a core from below after a change of its total.
func (s *state) atLeast(k int, change int64) float64 {
	return float64(s.total[k]+change) / s.cores[k].share / unit
}

func (s *stepSearch) try(st step) {
	if !s.allowed(st) {
		return
	}
	e := s.state.effect(st)
	if !s.relieves(st, e) {
		return
	}
	if !s.found || s.compare(st, e) < 0 {
		s.best, s.effect, s.found = st, e, true
	}
}

// compare orders a step against the best so far.
func (s *stepSearch) compare(st step, e effect) int {
	b := s.effect
	limit := s.opt.LocalLimit
	return cmp.Or(
		cmp.Compare(max(e.high, limit), max(b.high, limit)),
		cmp.Compare(e.remote, b.remote),
		cmp.Compare(e.high, b.high),
		cmp.Compare(e.leaving, b.leaving),
		cmp.Compare(e.target, b.target),
		cmp.Compare(e.missed, b.missed),
		cmp.Compare(s.cpus[st.c].thread, s.cpus[s.best.c].thread),
		cmp.Compare(st.i, s.best.i), cmp.Compare(st.c, s.best.c), cmp.Compare(st.j, s.best.j),
	)
}
