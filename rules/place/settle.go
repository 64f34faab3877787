package place

import (
	"cmp"
	"slices"
)

// slackPerGain is how far above the attainable maximum a set of moves may
// stop, as a share of MinGain: 2 % at the default. The last per cents cost the most moves.
const slackPerGain = 0.2

// settle makes the result from the repaired present placement: by the steps
// that pay, by sets of steps where single ones do not pay, and by the
// placement from scratch where no steps lead near it.
//
// Every part only lowers, in lexicographic order, the sorted loads of serving
// cores above the limit, the remote load, those sorted loads themselves, and the
// load outside the consumers' caches. So it ends, and solving again from the
// result finds nothing to do.
func (p *problem) settle(s, fresh *state) *state {
	w := &settling{state: s, fresh: fresh, attainable: fresh.sorted(), gain: p.opt.MinGain}
	if !w.anyHome() {
		w.state = fresh
	}
	w.refine()
	return w.state
}

type settling struct {
	*state
	fresh      *state
	attainable []float64 // core loads of fresh, busiest first
	gain       float64   // MinGain
	guided     bool      // towards was tried
}

func (w *settling) anyHome() bool {
	for _, h := range w.home {
		if h != none {
			return true
		}
	}
	return false
}

func (w *settling) refine() {
	for {
		for w.round() {
		}
		if !w.adopt() {
			return
		}
	}
}

func (w *settling) round() bool {
	changed := w.comeHome()
	changed = w.descend(w.gain, nil) || changed
	if w.worth() {
		changed = w.descend(0, w.near(w.state)) || changed
	}
	return w.joinConsumers() || changed
}

// near says of a load when a core of s needs no more relief: the placement from
// scratch does no better with the core of its rank.
func (w *settling) near(s *state) func(load float64) bool {
	return func(load float64) bool {
		rank := 0
		for _, u := range s.util {
			if u > load {
				rank++
			}
		}
		margin := w.gain * s.top()
		if rank == 0 {
			margin = slackPerGain * w.gain * w.attainable[0]
		}
		return load <= w.attainable[rank]+margin
	}
}

// worth reports whether the placement from scratch relieves some core, rank by
// rank, by the gain that moves must buy.
//
// All cores count here, serving or not: an item that does little on a core
// busy with other things is not worth a move, however much quieter other cores are.
func (w *settling) worth() bool {
	if w.gain == 0 {
		return true
	}
	loads := w.sorted()
	for k, load := range loads {
		if load-w.attainable[k] > w.gain*loads[0] {
			return true
		}
	}
	return false
}

// adopt turns to the placement from scratch if steps have got stuck well
// above it: first keeping what can stay, then as it is.
func (w *settling) adopt() bool {
	if !w.stuck(w.state) {
		return false
	}
	if !w.guided {
		w.guided = true
		if guided := w.towards(); guided.better(w.state) && !w.stuck(guided) {
			w.state = guided
			return true
		}
	}
	adopted := w.fresh.clone()
	copy(adopted.home, w.home)
	w.state = adopted
	return true
}

func (w *settling) stuck(s *state) bool {
	if !w.fresh.better(s) {
		return false
	}
	v, f := s.value(), w.fresh.value()
	if f.unplaced < v.unplaced {
		return true
	}
	if f.over <= v.over && float64(f.remote) < float64(v.remote)*(1-w.gain) {
		return true
	}
	t := settling{state: s, attainable: w.attainable, gain: w.gain}
	return v.served-f.served > w.gain*s.top() && t.worth()
}

// towards fills the CPUs anew up to the attainable maximum, every item staying
// where it is as long as that holds.
func (w *settling) towards() *state {
	s := w.empty()
	copy(s.home, w.home)
	goal := w.fresh.served() * (1 + slackPerGain*w.gain)
	for i, c := range w.home {
		if c == none || !s.may(i, c) || !s.room(i, c) {
			continue
		}
		stays := s.after(s.cpus[c].core, c, s.cost(i, c), none, 0) <= goal
		if stays && (!s.away(i, c) || w.fresh.at[i] != none && s.away(i, w.fresh.at[i])) {
			s.place(i, c)
		}
	}
	s.fill()
	s.descend(0, w.near(s))
	return s
}

// descend relieves the busiest cores step by step until no step brings the
// gain (a share of the maximum). A core for which stop is true is left as it is.
func (s *state) descend(gain float64, stop func(load float64) bool) bool {
	changed := false
	for s.relieveAll(gain, stop) {
		changed = true
	}
	return changed
}

func (s *state) relieveAll(gain float64, stop func(load float64) bool) bool {
	changed := false
	done := make([]bool, len(s.cores))
	top, busiest := s.top(), s.served()
	for {
		k := s.busiest(done)
		if k == none {
			return changed
		}
		if stop == nil || !stop(s.util[k]) {
			if st, ok := s.bestStep(k, gain*top, busiest); ok {
				s.apply(st)
				top, busiest = s.top(), s.served()
				changed = true
				continue
			}
		}
		done[k] = true
	}
}

// busiest is the busiest serving core that is not done.
func (s *state) busiest(done []bool) int {
	best := none
	for k, u := range s.util {
		if s.active[k] > 0 && !done[k] && (best == none || u > s.util[best]) {
			best = k
		}
	}
	return best
}

// comeHome brings items back to their NIC's node wherever that drives no core
// above the limit, by a move or a swap.
func (s *state) comeHome() bool {
	changed := false
	for i, a := range s.at {
		if a == none || !s.away(i, a) {
			continue
		}
		if st, ok := s.wayHome(i); ok {
			s.apply(st)
			changed = true
		}
	}
	return changed
}

func (s *state) wayHome(i int) (step, bool) {
	a := s.at[i]
	s.place(i, none)
	c := s.choose(i, s.local[s.items[i].node], func(c int) bool { return !s.away(i, c) })
	s.place(i, a)
	if c != none {
		st := step{i, c, none}
		if e := s.effect(st); e.evens(s.opt.LocalLimit) {
			return st, true
		}
	}
	return s.bestSwap(i,
		func(j, c int) bool {
			if s.away(i, c) || s.remoteLoad(j, a)-s.remoteLoad(j, c) > s.items[i].load {
				return false
			}
			k, m := s.cpus[a].core, s.cpus[c].core
			if k == m || s.items[i].idle {
				return true
			}
			// The core that it comes to would be at least this busy.
			return s.thread(c, s.cost(i, c)-s.cost(j, c)) <= max(s.opt.LocalLimit, s.util[k], s.util[m])
		},
		func(e effect) bool { return e.remote < 0 && e.evens(s.opt.LocalLimit) },
	)
}

// bestSwap finds the swap of item i with one that is wanted, for the CPU that it is
// on, and leaves the least load among those that are accepted.
func (s *state) bestSwap(i int, wanted func(j, c int) bool, accept func(e effect) bool) (step, bool) {
	var best step
	var bestEffect effect
	found := false
	for j, c := range s.at {
		st := step{i, c, j}
		if c == none || c == s.at[i] || !wanted(j, c) || !s.allowed(st) {
			continue
		}
		e := s.effect(st)
		if accept(e) && (!found || e.high < bestEffect.high) {
			best, bestEffect, found = st, e, true
		}
	}
	return best, found
}

// joinConsumers moves items into the cache of their consumers where that makes
// no core busier, and enough load gains by it.
func (w *settling) joinConsumers() bool {
	changed := false
	for i, a := range w.at {
		if a == none || !w.misses(i, a) {
			continue
		}
		if st, ok := w.join(i); ok {
			w.apply(st)
			changed = true
		}
	}
	return changed
}

func (w *settling) join(i int) (step, bool) {
	gain := w.gain * w.top() * unit
	wanted := func(c int) bool { return !w.misses(i, c) }
	accept := func(e effect) bool {
		return e.remote <= 0 && e.missed < 0 && float64(-e.missed) > e.need(gain) && e.evens(0)
	}
	var best step
	var bestEffect effect
	found := false
	for c := range w.cpus {
		st := step{i, c, none}
		if !wanted(c) || !w.allowed(st) {
			continue
		}
		e := w.effect(st)
		if accept(e) && (!found || e.high < bestEffect.high) {
			best, bestEffect, found = st, e, true
		}
	}
	if found {
		return best, true
	}
	return w.bestSwap(i, func(_, c int) bool { return wanted(c) }, accept)
}

// resettleRounds is more than solving again from a result was ever seen to take.
const resettleRounds = 8

// resettle solves again from the result with the room that is left then, until
// nothing moves. With less room the search from scratch has less to try and may
// find what it missed, so one round alone is not always a result that solving
// again keeps. Whoever comes to a CPU in a later round came in the sum of all,
// so no CPU gets more than it had room for.
func (p *problem) resettle(final *state, cpus []CPU, items []Item, o Options) *state {
	for range resettleRounds {
		next := newProblem(roomLeft(final, cpus), placedAt(final, items), o.withDefaults())
		s := next.settle(next.repair(), next.fresh())
		moved := p.empty()
		copy(moved.home, final.home)
		at := map[int]int{}
		for i := range next.items {
			at[next.items[i].index] = s.at[i]
		}
		changed := false
		for i := range p.items {
			c := at[p.items[i].index]
			changed = changed || c != final.at[i]
			moved.place(i, c)
		}
		if !changed {
			return final
		}
		final = moved
	}
	return final
}

// roomLeft are the CPUs once the items have come to them. Those that left have
// not given their room back yet.
func roomLeft(s *state, cpus []CPU) []CPU {
	out := slices.Clone(cpus)
	for i := range out {
		c, known := slices.BinarySearchFunc(s.cpus, out[i].ID, func(c cpu, id int) int { return cmp.Compare(c.id, id) })
		if out[i].Room <= 0 || !known {
			continue
		}
		if out[i].Room -= s.come[c]; out[i].Room <= 0 {
			out[i].Room = none
		}
	}
	return out
}

// placedAt are the items where they were placed.
func placedAt(s *state, items []Item) []Item {
	out := slices.Clone(items)
	for i := range s.items {
		if c := s.at[i]; c != none {
			out[s.items[i].index].Current = s.cpus[c].id
		}
	}
	return out
}
