package place

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// oracle judges placements by the documented model in plain floating point,
// sharing no code with the solver.
type oracle struct {
	cpus                     []CPU
	items                    []Item
	limit, smt, remoteFactor float64
	largest                  float64
}

func newOracle(cpus []CPU, items []Item, o Options) *oracle {
	or := &oracle{limit: o.LocalLimit, smt: o.SMTShare, remoteFactor: o.RemoteCost}
	switch {
	case or.limit == 0:
		or.limit = 0.75
	case or.limit < 0:
		or.limit = math.MaxFloat64
	}
	if or.smt == 0 {
		or.smt = 1.25
	}
	if or.remoteFactor == 0 {
		or.remoteFactor = 1.25
	}
	or.cpus = slices.Clone(cpus)
	for i := range or.cpus {
		if or.cpus[i].Capacity == 0 {
			or.cpus[i].Capacity = 1
		}
	}
	or.items = slices.Clone(items)
	for _, it := range items {
		or.largest = max(or.largest, it.Load)
	}
	for i := range or.items {
		if or.largest == 0 {
			or.items[i].Load = 1
		}
		node := or.items[i].Node
		if !slices.ContainsFunc(cpus, func(c CPU) bool { return c.Node == node }) {
			or.items[i].Node = -1
		}
	}
	return or
}

type verdict struct{ over, remote, served float64 }

func (v verdict) compare(w verdict) int {
	const eps = 1e-5 // loads are rounded to a millionth
	for _, d := range []float64{v.over - w.over, v.remote - w.remote, v.served - w.served} {
		if math.Abs(d) > eps {
			return int(math.Copysign(1, d))
		}
	}
	return 0
}

// judge takes CPU numbers, -1 or a CPU not given meaning nowhere.
func (or *oracle) judge(place []int) verdict {
	var v verdict
	load := map[int]float64{}
	busy := map[int]bool{}
	byID := map[int]CPU{}
	for _, c := range or.cpus {
		load[c.ID] = c.Base
		byID[c.ID] = c
	}
	for i, id := range place {
		c, ok := byID[id]
		if !ok {
			continue
		}
		it := or.items[i]
		if it.Node >= 0 && c.Node >= 0 && it.Node != c.Node {
			v.remote += it.Load
			it.Load *= or.remoteFactor
		}
		load[id] += it.Load
		if or.items[i].Load >= 0.001*or.largest {
			busy[c.Core] = true
		}
	}
	for k := range busy {
		v.served = max(v.served, or.core(k, load))
	}
	v.over = max(v.served, or.limit)
	return v
}

func (or *oracle) core(k int, load map[int]float64) float64 {
	sum, busiest, fastest, n := 0.0, 0.0, 0.0, 0
	for _, c := range or.cpus {
		if c.Core != k {
			continue
		}
		n++
		sum += load[c.ID]
		busiest = max(busiest, load[c.ID]/c.Capacity)
		fastest = max(fastest, c.Capacity)
	}
	if n > 1 {
		fastest *= or.smt
	}
	return max(busiest, sum/fastest)
}

func (or *oracle) allowed(i, id int) bool {
	set := or.items[i].Allowed
	given := slices.ContainsFunc(or.cpus, func(c CPU) bool { return c.ID == id })
	return given && (set.IsEmpty() || set.Has(id))
}

// each calls fn with every placement; fn must not keep it.
func (or *oracle) each(fn func(place []int)) {
	place := make([]int, len(or.items))
	var try func(i int)
	try = func(i int) {
		if i == len(place) {
			fn(place)
			return
		}
		place[i] = -1
		for _, c := range or.cpus {
			if or.allowed(i, c.ID) {
				place[i] = c.ID
				try(i + 1)
			}
		}
		if place[i] == -1 {
			try(i + 1)
		}
	}
	try(0)
}

func (or *oracle) best() verdict {
	best := verdict{over: math.Inf(1)}
	or.each(func(place []int) {
		if v := or.judge(place); v.compare(best) < 0 {
			best = v
		}
	})
	return best
}

// TestNearOptimum compares with exhaustive search, with the exact search of
// the package and without it.
func TestNearOptimum(t *testing.T) {
	instances := 2000
	if testing.Short() {
		instances = 200
	}
	r := rand.New(rand.NewPCG(5, 6))
	var full, greedy deviation
	for n := range instances {
		cpus, items, o := randomInstance(r, 6, 6)
		o.MinGain = -1
		if n%2 == 0 {
			o.MinGain = 0
			for i := range items {
				items[i].Current = -1
			}
		}
		or := newOracle(cpus, items, o)
		want := or.best()
		sol := Solve(cpus, items, o)
		got := or.judge(sol.CPU)
		if math.Abs(got.served-sol.Max) > 1e-4 {
			t.Fatalf("instance %d: Max %v, by the model %v", n, sol.Max, got.served)
		}
		if sol.LowerBound > want.served+1e-4 && got.compare(want) == 0 {
			t.Errorf("instance %d: lower bound %v above the optimum %v", n, sol.LowerBound, want.served)
		}
		full.add(t, fmt.Sprint("Solve, instance ", n), got, want, 0.05)

		p := newProblem(cpus, items, o.withDefaults())
		s := p.empty()
		s.fill()
		s.polish()
		greedy.add(t, fmt.Sprint("without exact search, instance ", n), or.judge(p.solution(s, s, len(items)).CPU), want, 1)
	}
	full.report(t, "Solve", 0.01)
	greedy.report(t, "without exact search", 0.01)
}

// TestWithinMinGain: what keeps the present placement or stops short of the
// optimum costs no more than the gain a move must buy.
func TestWithinMinGain(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	for n := range 1000 {
		cpus, items, o := randomInstance(r, 6, 6)
		for i := range cpus {
			cpus[i].Base = 0 // an item of little load need not leave a busy CPU
		}
		o.MinGain = []float64{0.1, 0.3}[n%2]
		or := newOracle(cpus, items, o)
		want, got := or.best(), or.judge(Solve(cpus, items, o).CPU)
		if got.over*(1-o.MinGain) > want.over+1e-5 {
			t.Errorf("instance %d: %+v, optimum %+v, MinGain %v", n, got, want, o.MinGain)
		}
	}
}

// fits reports whether no CPU gets more items than it has room for.
func (or *oracle) fits(place []int) bool {
	for _, c := range or.cpus {
		come := 0
		for i, id := range place {
			if id == c.ID && or.items[i].Current != id {
				come++
			}
		}
		if c.Room != 0 && come > max(c.Room, 0) {
			return false
		}
	}
	return true
}

// TestRoom compares with exhaustive search on hosts whose CPUs have few
// vectors left: as many items find a place, near the best there is.
func TestRoom(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	var full deviation
	tight := 0
	for n := range 1000 {
		cpus, items, o := randomInstance(r, 5, 5)
		limitRoom(r, cpus)
		o.MinGain = -1
		or := newOracle(cpus, items, o)
		best, most := verdict{over: math.Inf(1)}, -1
		or.eachFitting(func(place []int) {
			placed := len(place) - count(place, -1)
			if v := or.judge(place); placed > most || placed == most && v.compare(best) < 0 {
				best, most = v, placed
			}
		})
		sol := Solve(cpus, items, o)
		if !or.fits(sol.CPU) {
			t.Errorf("instance %d: %v leaves no CPU its room", n, sol.CPU)
		}
		if placed := len(items) - len(sol.Unplaced); placed != most {
			t.Errorf("instance %d: %d items placed, %d have a place", n, placed, most)
		} else if placed == len(items) {
			tight++
			full.add(t, fmt.Sprint("instance ", n), or.judge(sol.CPU), best, 0.05)
		}
	}
	full.report(t, "few vectors", 0.01)
	if tight < 500 {
		t.Errorf("only %d instances had a place for all", tight)
	}
}

// eachFitting calls fn with every placement that the CPUs have room for, items
// without a place included.
func (or *oracle) eachFitting(fn func(place []int)) {
	place := make([]int, len(or.items))
	var try func(i int)
	try = func(i int) {
		if i == len(place) {
			if or.fits(place) {
				fn(place)
			}
			return
		}
		place[i] = -1
		try(i + 1)
		for _, c := range or.cpus {
			if or.allowed(i, c.ID) {
				place[i] = c.ID
				try(i + 1)
			}
		}
		place[i] = -1
	}
	try(0)
}

func count(in []int, v int) int {
	n := 0
	for _, x := range in {
		if x == v {
			n++
		}
	}
	return n
}

// deviation collects how far maxima are above the optimum.
type deviation struct {
	n, missed  int
	sum, worst float64
}

func (d *deviation) add(t *testing.T, name string, got, want verdict, tolerance float64) {
	t.Helper()
	d.n++
	if got.compare(want) < 0 {
		t.Errorf("%s: %+v is better than the exhaustive optimum %+v", name, got, want)
	}
	if got.compare(want) == 0 || want.served == 0 {
		return
	}
	d.missed++
	excess := max(0, got.served/want.served-1)
	d.sum += excess
	d.worst = max(d.worst, excess)
	if excess > tolerance || got.over > want.over*(1+tolerance) {
		t.Errorf("%s: %+v, optimum %+v", name, got, want)
	}
}

func (d *deviation) report(t *testing.T, name string, mean float64) {
	t.Helper()
	t.Logf("%s: %d instances, optimum missed in %d, mean excess %.4f %%, worst %.2f %%", name, d.n, d.missed, 100*d.sum/float64(d.n), 100*d.worst)
	if d.sum/float64(d.n) > mean {
		t.Errorf("%s: mean excess %v, want at most %v", name, d.sum/float64(d.n), mean)
	}
}

func TestNeverWorseThanPresent(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	compared := 0
	for n := range 4000 {
		cpus, items, o := randomInstance(r, 16, 24)
		o.MinGain = []float64{0, -1, 0.3}[n%3]
		or := newOracle(cpus, items, o)
		feasible := true
		now := make([]int, len(items))
		for i := range items {
			if !or.allowed(i, items[i].Current) {
				// Make it so: infeasible presents say nothing.
				for _, c := range cpus {
					if or.allowed(i, c.ID) {
						items[i].Current = c.ID
					}
				}
			}
			now[i] = items[i].Current
			feasible = feasible && or.allowed(i, now[i])
		}
		if !feasible {
			continue
		}
		compared++
		sol := Solve(cpus, items, o)
		before, after := or.judge(now), or.judge(sol.CPU)
		if after.compare(before) > 0 {
			t.Errorf("instance %d: %+v worse than present %+v", n, after, before)
		}
		if math.Abs(before.served-sol.Before) > 1e-4 {
			t.Errorf("instance %d: Before %v, by the model %v", n, sol.Before, before.served)
		}
		if sol.Remote >= sol.RemoteBefore && sol.Max > sol.Before+1e-9 {
			t.Errorf("instance %d: Max %v above Before %v though nothing came home", n, sol.Max, sol.Before)
		}
		if sol.LowerBound > sol.Max {
			t.Errorf("instance %d: lower bound %v above %v", n, sol.LowerBound, sol.Max)
		}
		for i, c := range sol.CPU {
			if !or.allowed(i, c) {
				t.Errorf("instance %d: %s on CPU %d, which it may not use", n, items[i].ID, c)
			}
		}
	}
	if compared < 3000 {
		t.Errorf("only %d instances had a feasible present placement", compared)
	}
}

// TestEveryMoveCounts takes back each move of the solution alone: what is
// left must be worse, or the move was for nothing.
func TestEveryMoveCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	moves, idle := 0, 0
	for n := range 1500 {
		cpus := machine(1, 8, 1+n%2)
		items := queues(make([]float64, 8)...)
		for i := range items {
			items[i].Load = 0.05 + 0.4*r.Float64()
			items[i].Current = cpus[r.IntN(len(cpus))].ID
		}
		or := newOracle(cpus, items, Options{})
		sol := Solve(cpus, items, Options{})
		moves += sol.Moves
		for i := range items {
			if sol.CPU[i] == items[i].Current {
				continue
			}
			back := slices.Clone(sol.CPU)
			back[i] = items[i].Current
			if or.sumOfSquares(back) <= or.sumOfSquares(sol.CPU)+1e-9 {
				idle++
			}
		}
	}
	t.Logf("%d moves on 1500 hosts, %d of them without effect of their own", moves, idle)
	if idle*100 > moves*3 {
		t.Errorf("%d of %d moves change nothing", idle, moves)
	}
}

// TestFewMoves compares with the fewest moves that reach a placement as good.
func TestFewMoves(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	ours, fewest := 0, 0
	for range 300 {
		cpus := machine(1, 4, 1)
		items := queues(make([]float64, 6)...)
		now := make([]int, len(items))
		for i := range items {
			items[i].Load = 0.05 + 0.4*r.Float64()
			now[i] = r.IntN(4)
		}
		at(items, now...)
		or := newOracle(cpus, items, Options{})
		sol := Solve(cpus, items, Options{})
		goal := or.judge(sol.CPU)
		least := len(items)
		or.each(func(place []int) {
			if n := differences(place, now); n < least && or.judge(place).compare(goal) <= 0 {
				least = n
			}
		})
		ours += sol.Moves
		fewest += least
	}
	t.Logf("%d moves on 300 hosts, %d would do", ours, fewest)
	if ours*2 > fewest*3 {
		t.Errorf("%d moves where %d would do, want at most half as many again", ours, fewest)
	}
}

func differences(a, b []int) int {
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func (or *oracle) sumOfSquares(place []int) float64 {
	load := map[int]float64{}
	for i, c := range place {
		load[c] += or.items[i].Load
	}
	sum := 0.0
	for _, c := range or.cpus {
		if c.ID == c.Core {
			u := or.core(c.Core, load)
			sum += u * u
		}
	}
	return sum
}
