package place

func (p *problem) solution(present, final *state, n int) Solution {
	out := Solution{
		CPU:        make([]int, n),
		Before:     present.served(),
		Max:        final.served(),
		LowerBound: min(final.lowerBound(), final.served()),
		Load:       make(map[int]float64, len(p.cpus)),
		Counted:    p.counted,
	}
	for i := range p.items {
		it := &p.items[i]
		out.CPU[it.index] = none
		out.RemoteBefore += present.awayNow(i)
		out.Remote += final.awayNow(i)
		if c := final.at[i]; c != none {
			out.CPU[it.index] = p.cpus[c].id
			out.Moves += int(bit(c != it.now))
		}
	}
	for i, c := range out.CPU {
		if c == none {
			out.Unplaced = append(out.Unplaced, i)
		}
	}
	for c := range p.cpus {
		out.Load[p.cpus[c].id] = float64(final.load[c]) / unit / p.cpus[c].capacity
	}
	return out
}

func (s *state) awayNow(i int) int {
	if s.at[i] == none || !s.away(i, s.at[i]) {
		return 0
	}
	return 1
}
