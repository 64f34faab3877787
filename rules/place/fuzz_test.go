package place

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/napitune/napitune/detect/cpuset"
)

// decode makes an instance from bytes, so that mutating bytes reaches every
// field with every kind of odd value.
func decode(data []byte) ([]CPU, []Item, Options) {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	number := func() float64 {
		switch b := next(); b {
		case 255:
			return math.NaN()
		case 254:
			return math.Inf(1)
		case 253:
			return -1
		case 252:
			return math.MaxFloat64
		case 251:
			var raw [8]byte
			for i := range raw {
				raw[i] = next()
			}
			return math.Float64frombits(binary.LittleEndian.Uint64(raw[:]))
		default:
			return float64(b) / 200
		}
	}
	small := func() int { return int(int8(next())) }
	cpus := make([]CPU, next()%24)
	items := make([]Item, next()%40)
	o := Options{MinGain: number(), LocalLimit: number(), SMTShare: number(), RemoteCost: number()}
	for i := range cpus {
		cpus[i] = CPU{ID: small(), Core: small() / 4, LLC: small() / 16, Node: small() / 32, Base: number(), Capacity: number()}
		if next() < 100 {
			cpus[i].Room = int(next()%6) - 1
		}
		if next() < 200 {
			cpus[i].ID = i
		}
	}
	for i := range items {
		items[i] = Item{ID: fmt.Sprint(small()), Load: number(), Current: small() / 4, Node: small() / 32, Consumer: small() / 16, Group: fmt.Sprint(small() / 64)}
		for range next() % 4 {
			items[i].Allowed = items[i].Allowed.Union(cpuset.Of(int(next()) / 8))
		}
	}
	return cpus, items, o
}

// check asserts what holds for any input whatever.
func check(t *testing.T, cpus []CPU, items []Item, o Options) {
	t.Helper()
	sol := Solve(cpus, items, o)
	given, twice := map[int]bool{}, map[int]bool{}
	for _, c := range cpus {
		twice[c.ID] = given[c.ID]
		given[c.ID] = c.ID >= 0
	}
	come := map[int]int{}
	unplaced := map[int]bool{}
	for _, i := range sol.Unplaced {
		unplaced[i] = true
	}
	for i, c := range sol.CPU {
		if (c == -1) != unplaced[i] {
			t.Errorf("item %d on CPU %d, Unplaced %v", i, c, sol.Unplaced)
		}
		if c == -1 {
			continue
		}
		if items[i].Current != c {
			come[c]++
		}
		if !given[c] || !items[i].Allowed.IsEmpty() && !items[i].Allowed.Has(c) {
			t.Errorf("item %d on CPU %d, not given or not allowed (%v)", i, c, items[i].Allowed)
		}
	}
	for _, c := range cpus {
		if c.Room != 0 && come[c.ID] > max(c.Room, 0) && !twice[c.ID] {
			t.Errorf("%d items come to CPU %d, which has room for %d", come[c.ID], c.ID, c.Room)
		}
	}
	for _, v := range []float64{sol.Before, sol.Max, sol.LowerBound} {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			t.Errorf("impossible figures: %+v", sol)
		}
	}
	if sol.LowerBound > sol.Max || len(sol.CPU) != len(items) {
		t.Errorf("lower bound %v, max %v, %d of %d items", sol.LowerBound, sol.Max, len(sol.CPU), len(items))
	}
}

func TestMutatedInput(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	data := make([]byte, 600)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for range 10_000 {
		for range 1 + r.IntN(20) {
			data[r.IntN(len(data))] = byte(r.Uint32())
		}
		cpus, items, o := decode(data)
		check(t, cpus, items, o)
		if t.Failed() {
			t.Fatalf("input %x", data)
		}
	}
}

func FuzzSolve(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1})
	r := rand.New(rand.NewPCG(21, 22))
	for range 4 {
		data := make([]byte, 300)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cpus, items, o := decode(data)
		check(t, cpus, items, o)
	})
}
