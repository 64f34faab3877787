package place

import "cmp"

// fresh places every item without regard to where it is now.
func (p *problem) fresh() *state {
	s := p.empty()
	s.fill()
	s.polish()
	if better := s.exact(); better != nil {
		s = better
		s.polish()
	}
	return s
}

// polish takes every step that improves a placement in which moves cost nothing.
func (s *state) polish() {
	for s.comeHome() || s.descend(0, nil) {
	}
}

// present is the placement as it is, allowed or not.
func (p *problem) present() *state {
	s := p.empty()
	for i := range p.items {
		s.place(i, p.items[i].now)
	}
	return s
}

// repair is the present placement with the least change that makes it possible.
func (p *problem) repair() *state {
	s := p.empty()
	for i := range p.items {
		now := p.items[i].now
		if now == none {
			continue
		}
		s.home[i] = now
		if p.may(i, now) {
			s.place(i, now)
		}
	}
	s.fill()
	return s
}

// fill places the items that have no CPU yet, in canonical order.
func (s *state) fill() {
	for i := range s.items {
		if s.at[i] != none {
			continue
		}
		if c := s.choose(i, s.all, nil); c != none {
			s.place(i, c)
		} else if s.limited {
			s.makeRoom(i)
		}
	}
}

// choose finds the best CPU for an item that has none, on these cores and among
// those that the filter accepts (nil accepts all); none if there is no room.
func (s *state) choose(i int, cores []int, accept func(c int) bool) int {
	best := none
	var bestRank rank
	s.search++
	for _, k := range cores {
		worse := best != none && s.util[k] > bestRank.util && !bestRank.away
		if worse && !s.items[i].idle || s.items[i].consumer == none && s.twin(k) {
			continue
		}
		for _, c := range s.cores[k].threads {
			if !s.may(i, c) || !s.room(i, c) || accept != nil && !accept(c) {
				continue
			}
			r := rank{util: s.after(k, c, s.cost(i, c), none, 0), away: s.away(i, c)}
			if best == none || s.compareRank(i, c, r, best, bestRank) < 0 {
				best, bestRank = c, r
			}
		}
	}
	return best
}

// rank is the costly part of comparing CPUs for an item.
type rank struct {
	util float64
	away bool
}

// compareRank orders CPUs for an item, best first. Busy items go by load;
// items without traffic have none to go by and are spread by count.
func (s *state) compareRank(i, c int, r rank, d int, q rank) int {
	if s.items[i].idle {
		return cmp.Or(
			compareBool(r.away, q.away),
			s.compareCrowd(i, c, d),
			cmp.Compare(r.util, q.util),
			s.compareSeat(i, c, d),
		)
	}
	limit := s.opt.LocalLimit
	if order := cmp.Or(
		cmp.Compare(max(r.util, limit), max(q.util, limit)),
		compareBool(r.away, q.away),
		cmp.Compare(r.util, q.util),
	); order != 0 {
		return order
	}
	return cmp.Or(s.compareCrowd(i, c, d), s.compareSeat(i, c, d))
}

// compareCrowd prefers the CPU with fewer items, those of the same device first.
func (s *state) compareCrowd(i, c, d int) int {
	a, b := s.crowd(i, c), s.crowd(i, d)
	return cmp.Or(
		cmp.Compare(a.group, b.group), cmp.Compare(a.core, b.core), cmp.Compare(a.cpu, b.cpu),
	)
}

// compareSeat prefers the consumer's cache, then first siblings, then low numbers.
func (s *state) compareSeat(i, c, d int) int {
	return cmp.Or(
		compareBool(s.misses(i, c), s.misses(i, d)),
		cmp.Compare(s.cpus[c].thread, s.cpus[d].thread),
		cmp.Compare(c, d),
	)
}

// crowd is how many other items a CPU has: of the same device on its core,
// any on its core, any on itself.
type crowd struct{ group, core, cpu int }

func (s *state) crowd(i, c int) crowd {
	k := s.cpus[c].core
	n := crowd{core: len(s.on[k]), cpu: s.count[c]}
	for _, j := range s.on[k] {
		if s.items[j].group == s.items[i].group {
			n.group++
		}
	}
	return n
}

func compareBool(a, b bool) int { return cmp.Compare(bit(a), bit(b)) }

// makeRoom places an item whose allowed CPUs are all full by moving others
// along the shortest chain that ends on a CPU with room. Without it, a greedy
// choice could leave an item unplaced that has a place.
func (s *state) makeRoom(first int) {
	from := make([]int, len(s.cpus)) // the item that would come to this CPU
	seen := make([]bool, len(s.cpus))
	reaching := []int{first}
	for len(reaching) > 0 {
		j := reaching[0]
		reaching = reaching[1:]
		for c := range s.cpus {
			if !s.may(j, c) || c == s.at[j] {
				continue
			}
			if s.room(j, c) {
				s.shift(first, j, c, from)
				return
			}
			if !seen[c] {
				seen[c], from[c] = true, j
				reaching = append(reaching, s.arrivals(c)...)
			}
		}
	}
}

// arrivals are the items on a CPU that took room there.
func (s *state) arrivals(c int) []int {
	var out []int
	for _, j := range s.on[s.cpus[c].core] {
		if s.at[j] == c && s.comes(j, c) > 0 {
			out = append(out, j)
		}
	}
	return out
}

// shift moves item j to CPU c, and so on back along the chain that began with
// the first item.
func (s *state) shift(first, j, c int, from []int) {
	for {
		left := s.at[j]
		s.place(j, c)
		if j == first {
			return
		}
		c, j = left, from[left]
	}
}
