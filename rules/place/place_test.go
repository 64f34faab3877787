package place

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/cpuset"
)

// machine makes CPUs: per node so many cores, threads numbered as x86 Linux
// does, first siblings of all cores before the second ones.
func machine(nodes, cores, threads int) []CPU {
	var out []CPU
	for t := range threads {
		for n := range nodes {
			for c := range cores {
				first := n*cores + c
				out = append(out, CPU{ID: t*nodes*cores + first, Core: first, LLC: n * cores, Node: n})
			}
		}
	}
	return out
}

// queues makes items eth0/rx-0… of one device without a present CPU.
func queues(loads ...float64) []Item {
	out := make([]Item, len(loads))
	for i, l := range loads {
		out[i] = Item{ID: fmt.Sprintf("eth0/rx-%d", i), Load: l, Current: -1, Node: -1, Consumer: -1, Group: "eth0"}
	}
	return out
}

// withRoom limits how many items may come to each CPU, in their order.
func withRoom(cpus []CPU, rooms ...int) []CPU {
	for i := range cpus {
		cpus[i].Room = rooms[i]
	}
	return cpus
}

// limitRoom leaves some CPUs with room for few items or none.
func limitRoom(r *rand.Rand, cpus []CPU) {
	for i := range cpus {
		cpus[i].Room = []int{-1, -1, 0, 1, 2, 4}[r.IntN(6)]
	}
}

// roomAfter is the room of a CPU once items have come to it; those that left
// have not given theirs back yet.
func roomAfter(c CPU, items []Item, placed []int) int {
	if c.Room <= 0 {
		return c.Room
	}
	for i, cpu := range placed {
		if cpu == c.ID && items[i].Current != c.ID {
			c.Room--
		}
	}
	if c.Room == 0 {
		return -1
	}
	return c.Room
}

func same(load float64, n int) []float64 { return slices.Repeat([]float64{load}, n) }

func at(items []Item, cpus ...int) []Item {
	for i := range items {
		items[i].Current = cpus[i]
	}
	return items
}

func onNode(items []Item, node int) []Item {
	for i := range items {
		items[i].Node = node
	}
	return items
}

func TestSpread(t *testing.T) {
	ht := machine(1, 4, 2)
	tests := []struct {
		name  string
		cpus  []CPU
		items []Item
		opt   Options
		want  []int
	}{
		{"one queue per core, first siblings", ht, queues(same(0.2, 4)...), Options{}, []int{0, 1, 2, 3}},
		{"load unknown", ht, queues(same(0, 4)...), Options{}, []int{0, 1, 2, 3}},
		{"a queue per thread", ht, queues(same(0.2, 8)...), Options{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"wrap", machine(1, 4, 1), queues(same(0.2, 6)...), Options{}, []int{0, 1, 2, 3, 0, 1}},
		{"wrap over threads", machine(1, 2, 2), queues(same(0, 6)...), Options{}, []int{0, 1, 2, 3, 0, 1}},
		{"names in numeric order", machine(1, 12, 1), queues(same(0, 12)...), Options{}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{"NIC on node 1", machine(2, 4, 1), onNode(queues(same(0.2, 4)...), 1), Options{}, []int{4, 5, 6, 7}},
		{"siblings at home before the other node", machine(2, 2, 2), onNode(queues(same(0.2, 4)...), 1), Options{}, []int{2, 3, 6, 7}},
		{"memory-only node is no node", machine(1, 2, 1), onNode(queues(same(0.2, 2)...), 7), Options{}, []int{0, 1}},
		{"isolated CPUs are not given", ht[2:4], queues(same(0.2, 2)...), Options{}, []int{2, 3}},
		{"busy CPUs are avoided", []CPU{{ID: 0, Core: 0, Base: 0.5}, {ID: 1, Core: 1}, {ID: 2, Core: 2}}, queues(0.2, 0.2), Options{}, []int{1, 2}},
		{"big cores first", []CPU{{ID: 0, Core: 0, Capacity: 0.4}, {ID: 1, Core: 1, Capacity: 0.4}, {ID: 2, Core: 2}, {ID: 3, Core: 3}}, queues(0.3, 0.3), Options{}, []int{2, 3}},
		{"little cores when big ones are fuller", []CPU{{ID: 0, Core: 0, Capacity: 0.6}, {ID: 1, Core: 1}}, queues(0.3, 0.3), Options{}, []int{1, 0}},
		{"idle queues by count", machine(1, 4, 1), queues(0.5, 0.4, 0, 0), Options{}, []int{0, 1, 2, 3}},
		{"room for two", withRoom(machine(1, 2, 1), 2, 2), queues(0.9, 0.1, 0.1, 0.1), Options{}, []int{0, 1, 1, 0}},
		{"the best CPU is full", withRoom(machine(1, 4, 1), 0, -1, 0, 0), at(queues(same(0.2, 3)...), 0, 0, 0), Options{}, []int{2, 3, 0}},
		{"who is there may stay", withRoom(machine(1, 2, 1), -1, -1), at(queues(same(0.2, 2)...), 1, 1), Options{}, []int{1, 1}},
		{"full CPUs exchange nothing", withRoom(machine(2, 1, 1), -1, -1), onNode(at(queues(0.2), 1), 0), Options{}, []int{1}},
		{"cores not told", []CPU{{ID: 0, Core: -1, LLC: -1, Node: -1}, {ID: 1, Core: -1, LLC: -1, Node: -1}}, onNode(queues(0.2, 0.2), 1), Options{}, []int{0, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Solve(tt.cpus, tt.items, tt.opt)
			if diff := cmp.Diff(tt.want, got.CPU); diff != "" {
				t.Errorf("CPUs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConsumerCache(t *testing.T) {
	cpus := machine(1, 8, 1)
	for i := range cpus {
		cpus[i].LLC = i / 4 * 4
	}
	items := queues(0.3, 0.3)
	items[0].Consumer, items[1].Consumer = 4, 0
	if diff := cmp.Diff([]int{4, 0}, Solve(cpus, items, Options{}).CPU); diff != "" {
		t.Errorf("fresh (-want +got):\n%s", diff)
	}
	items = at(items, 0, 4)
	if diff := cmp.Diff([]int{4, 0}, Solve(cpus[:5], items, Options{}).CPU[:2]); diff != "" {
		t.Errorf("present in the wrong caches (-want +got):\n%s", diff)
	}
	items[0].Load, items[1].Load = 0.003, 0.3
	if got := Solve(cpus, items, Options{}); got.CPU[0] != 0 || got.CPU[1] == 4 {
		t.Errorf("CPUs %v: only the busy queue is worth a move", got.CPU)
	}
}

func TestDevicesShareCores(t *testing.T) {
	items := queues(same(0.2, 8)...)
	for i := range items {
		items[i].Group = fmt.Sprint("eth", i/4)
		items[i].ID = fmt.Sprintf("eth%d/rx-%d", i/4, i%4)
	}
	got := Solve(machine(1, 4, 2), items, Options{})
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5, 6, 7}, got.CPU); diff != "" {
		t.Errorf("CPUs (-want +got):\n%s", diff)
	}
}

// Of two half-taken cores with equal loads, the one without the same device.
func TestDevicesAvoidTheirOwnCores(t *testing.T) {
	items := queues(0.2, 0.2, 0.2)
	items[1].Group, items[1].ID = "eth1", "eth0/rx-0b"
	if diff := cmp.Diff([]int{0, 1, 3}, Solve(machine(1, 2, 2), items, Options{}).CPU); diff != "" {
		t.Errorf("CPUs (-want +got):\n%s", diff)
	}
}

func TestLowerBound(t *testing.T) {
	tests := []struct {
		name  string
		cpus  []CPU
		items []Item
		want  float64
	}{
		{"heaviest alone", machine(1, 4, 1), queues(0.7, 0.1), 0.7},
		{"spread like water", machine(1, 2, 1), queues(same(0.1, 10)...), 0.5},
		{"base takes room", []CPU{{ID: 0, Base: 0.4}, {ID: 1}}, queues(0.3, 0.3), 0.8},
		{"pigeonhole", machine(1, 2, 1), queues(0.5, 0.5, 0.5), 1},
		{"allowed CPUs", machine(1, 4, 1), func() []Item {
			items := queues(0.4, 0.4, 0.1)
			items[0].Allowed, items[1].Allowed = cpuset.Of(3), cpuset.Of(3)
			return items
		}(), 0.8},
		{"home node", machine(2, 2, 1), onNode(queues(same(0.2, 6)...), 1), 0.6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Solve(tt.cpus, tt.items, Options{})
			if math.Abs(got.LowerBound-tt.want) > 1e-6 || math.Abs(got.Max-tt.want) > 1e-6 {
				t.Errorf("LowerBound %v, Max %v, want %v", got.LowerBound, got.Max, tt.want)
			}
		})
	}
}

func TestMinimalChange(t *testing.T) {
	eight := machine(1, 8, 1)
	tests := []struct {
		name  string
		cpus  []CPU
		items []Item
		opt   Options
		want  []int
	}{
		{"one of two stacked queues moves", eight,
			at(queues(0.30, 0.28, 0.26, 0.31, 0.29, 0.33, 0.27, 0.25), 0, 1, 2, 3, 4, 7, 6, 7), Options{}, []int{0, 1, 2, 3, 4, 7, 6, 5}},
		{"stacked with loads unknown", eight,
			at(queues(same(0, 8)...), 0, 1, 2, 3, 4, 7, 6, 7), Options{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"well placed stays", eight, at(queues(0.5, 0.1, 0.3, 0.2), 7, 5, 3, 1), Options{}, []int{7, 5, 3, 1}},
		{"idle queues stay stacked", eight, at(queues(0.5, 0.4, 0, 0), 0, 1, 2, 2), Options{}, []int{0, 1, 2, 2}},
		{"too small a gain", machine(1, 2, 1), at(queues(0.5, 0.06, 0.5), 0, 0, 1), Options{MinGain: 0.2}, []int{0, 0, 1}},
		{"an elephant does not excuse a stack", machine(1, 3, 1), at(queues(0.9, 0.4, 0.4), 0, 1, 1), Options{}, []int{0, 2, 1}},
		{"sibling to free core", machine(1, 2, 2), at(queues(0.6, 0.6), 0, 2), Options{}, []int{1, 2}},
		{"off a forbidden CPU, the rest stays", machine(1, 3, 1),
			at([]Item{queues(0.2)[0], {ID: "x", Load: 0.2, Node: -1, Consumer: -1, Allowed: cpuset.Of(1, 2)}, {ID: "y", Load: 0.2, Node: -1, Consumer: -1}}, 0, 0, 1),
			Options{}, []int{0, 2, 1}},
		{"off an offline CPU", machine(1, 2, 1), at(queues(0.2, 0.2), 0, 9), Options{}, []int{0, 1}},
		{"home from the other node", machine(2, 4, 1), onNode(at(queues(same(0.1, 4)...), 4, 5, 2, 3), 1), Options{}, []int{4, 5, 6, 7}},
		{"one idle queue comes home, an uneven but good placement stays", machine(2, 2, 1),
			onNode(at(queues(0.24, 0.22, 0.14, 0.12, 0), 2, 3, 2, 3, 0), 1), Options{}, []int{2, 3, 2, 3, 3}},
		{"homes exchanged when both nodes are full", machine(2, 1, 1), []Item{
			{ID: "a", Load: 0.6, Current: 1, Node: 0, Consumer: -1}, {ID: "b", Load: 0.6, Current: 0, Node: 1, Consumer: -1},
		}, Options{}, []int{0, 1}},
		{"many small ones stacked beside an elephant", machine(1, 20, 1),
			at(queues(append([]float64{0.9}, same(0.04, 4)...)...), 0, 1, 1, 1, 1), Options{}, []int{0, 1, 1, 1, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Solve(tt.cpus, tt.items, tt.opt)
			if tt.name == "many small ones stacked beside an elephant" {
				if got.Moves == 0 || got.Moves > 2 {
					t.Errorf("%d moves, want one or two: %v", got.Moves, got.CPU)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got.CPU); diff != "" {
				t.Errorf("CPUs (-want +got):\n%s", diff)
			}
			moves := 0
			for i, c := range tt.want {
				if c != tt.items[i].Current {
					moves++
				}
			}
			if got.Moves != moves {
				t.Errorf("Moves = %d, want %d", got.Moves, moves)
			}
		})
	}
}

// Everything on CPU 0 (F01): no single move pays, all together do.
func TestAllOnOneCPU(t *testing.T) {
	for _, n := range []int{2, 46, 200} {
		got := Solve(machine(1, n, 1), at(queues(same(1/float64(n), n)...), make([]int, n)...), Options{})
		if got.Moves != n-1 || math.Abs(got.Before-1) > 1e-3 || math.Abs(got.Max-1/float64(n)) > 1e-6 {
			t.Errorf("%d queues: %d moves, %v → %v", n, got.Moves, got.Before, got.Max)
		}
		if math.Abs(got.LowerBound-got.Max) > 1e-6 {
			t.Errorf("%d queues: lower bound %v below the reached optimum %v", n, got.LowerBound, got.Max)
		}
	}
}

func TestSaturatedNode(t *testing.T) {
	cpus := machine(2, 2, 1)
	heavy := onNode(queues(same(0.5, 4)...), 0)
	got := Solve(cpus, heavy, Options{})
	if got.Remote == 0 || got.Max > 0.75 {
		t.Errorf("node 0 at 100 %%: %d remote, max %v; want relief from node 1", got.Remote, got.Max)
	}
	if got := Solve(cpus, heavy, Options{LocalLimit: -1}); got.Remote != 0 {
		t.Errorf("LocalLimit -1: %d remote", got.Remote)
	}
	light := onNode(queues(same(0.3, 4)...), 0)
	if got := Solve(cpus, light, Options{}); got.Remote != 0 || math.Abs(got.Max-0.6) > 1e-9 {
		t.Errorf("node 0 at 60 %%: %d remote, max %v", got.Remote, got.Max)
	}
	if got := Solve(cpus, light, Options{LocalLimit: 0.5}); got.Remote == 0 {
		t.Errorf("LocalLimit 0.5 at 60 %%: all stayed")
	}
}

func TestModel(t *testing.T) {
	ht := machine(1, 1, 2)
	tests := []struct {
		name string
		cpus []CPU
		item []Item
		opt  Options
		max  float64
	}{
		{"a thread has its core alone", ht, queues(0.8), Options{}, 0.8},
		{"siblings share 1.25", ht, queues(0.5, 0.5), Options{}, 0.8},
		{"siblings share 1", ht, queues(0.5, 0.5), Options{SMTShare: 1}, 1},
		{"base on the sibling counts", []CPU{{ID: 0}, {ID: 1, Base: 0.5}}, queues(0.5), Options{}, 0.8},
		{"little core", []CPU{{ID: 0, Capacity: 0.5}}, queues(0.25), Options{}, 0.5},
		{"remote costs 1.25", machine(2, 1, 1)[:2], []Item{{Load: 0.4, Node: 0, Allowed: cpuset.Of(1), Current: -1, Consumer: -1}}, Options{}, 0.5},
		{"idle queue on a busy CPU", []CPU{{ID: 0, Base: 0.9}, {ID: 1, Core: 1}}, at(queues(0, 0.3), 0, 1), Options{}, 0.3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Solve(tt.cpus, tt.item, tt.opt); math.Abs(got.Max-tt.max) > 1e-9 {
				t.Errorf("Max = %v, want %v", got.Max, tt.max)
			}
		})
	}
}

func TestWork(t *testing.T) {
	var o Options
	little := CPU{Node: 1, Capacity: 0.5}
	for _, tt := range []struct {
		node int
		want float64
	}{{1, 0.2}, {-1, 0.2}, {0, 0.16}} {
		if got := o.Work(0.4, little, tt.node); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("Work(0.4, little CPU of node 1, %d) = %v, want %v", tt.node, got, tt.want)
		}
	}
}

func TestPredictedLoad(t *testing.T) {
	cpus := []CPU{{ID: 3, Core: 3, Base: 0.1, Capacity: 0.5}, {ID: 5, Core: 5, Base: 0.2}}
	items := queues(0.2, 0.1)
	items[0].Allowed, items[1].Allowed = cpuset.Of(3), cpuset.Of(5)
	got := Solve(cpus, items, Options{})
	want := map[int]float64{3: 0.6, 5: 0.3}
	for c, l := range want {
		if math.Abs(got.Load[c]-l) > 1e-9 {
			t.Errorf("Load[%d] = %v, want %v", c, got.Load[c], l)
		}
	}
	if len(got.Load) != 2 {
		t.Errorf("Load has %d CPUs, want 2", len(got.Load))
	}
}

func TestImpossible(t *testing.T) {
	nowhere := queues(0.2, 0.1)
	nowhere[0].Allowed = cpuset.Of(9)
	if got := Solve(machine(1, 2, 1), nowhere, Options{}); !reflect.DeepEqual(got.CPU, []int{-1, 0}) || !reflect.DeepEqual(got.Unplaced, []int{0}) {
		t.Errorf("allowed CPU not given: CPU %v, Unplaced %v", got.CPU, got.Unplaced)
	}
	if got := Solve(nil, queues(0.2), Options{}); !reflect.DeepEqual(got.Unplaced, []int{0}) || got.Max != 0 {
		t.Errorf("no CPUs: %+v", got)
	}
	if got := Solve(machine(1, 2, 1), nil, Options{}); len(got.CPU) != 0 || got.Max != 0 || got.LowerBound != 0 || got.Counted {
		t.Errorf("no items: %+v", got)
	}
	if got := Solve(withRoom(machine(1, 2, 1), 2, 2), queues(same(0.1, 5)...), Options{}); len(got.Unplaced) != 1 {
		t.Errorf("five items on four seats: Unplaced %v", got.Unplaced)
	}
	// Greedy puts the heavy item on CPU 0, the only one that the other may use.
	tight := queues(0.9, 0.1)
	tight[1].Allowed = cpuset.Of(0)
	if got := Solve(withRoom(machine(1, 2, 1), 1, 1), tight, Options{}); !reflect.DeepEqual(got.CPU, []int{1, 0}) {
		t.Errorf("last seat taken: CPU %v, want [1 0]", got.CPU)
	}
	odd := queues(math.NaN(), math.Inf(1), -3, 1e300, 0.5)
	got := Solve([]CPU{{ID: 0, Base: math.NaN(), Capacity: math.Inf(-1)}, {ID: 1, Core: 1, Base: -1, Capacity: math.NaN()}, {ID: -4}, {ID: 1}}, odd, Options{MinGain: math.NaN()})
	if len(got.Unplaced) != 0 || math.IsNaN(got.Max) || math.IsInf(got.Max, 0) {
		t.Errorf("odd numbers: %+v", got)
	}
}

// randomInstance makes small hosts of every kind the model knows.
func randomInstance(r *rand.Rand, maxCPUs, maxItems int) ([]CPU, []Item, Options) {
	var cpus []CPU
	threads := 1 + r.IntN(2)
	nodes := 1 + r.IntN(2)
	for len(cpus) == 0 {
		all := machine(nodes, 1+r.IntN(max(1, maxCPUs/threads/nodes)), threads)
		for _, c := range all {
			if r.IntN(8) == 0 {
				continue
			}
			if r.IntN(3) == 0 {
				c.Base = r.Float64() * 0.5
			}
			if r.IntN(4) == 0 {
				c.Capacity = 0.3 + 0.7*r.Float64()
			}
			c.LLC = c.Core &^ 1
			cpus = append(cpus, c)
		}
	}
	items := make([]Item, 1+r.IntN(maxItems))
	for i := range items {
		it := Item{
			ID: fmt.Sprintf("eth%d/rx-%d", i%2, i), Load: r.ExpFloat64() * 0.3, Node: r.IntN(nodes+1) - 1,
			Current: r.IntN(len(cpus)+2) - 1, Consumer: -1, Group: fmt.Sprint("eth", i%2),
		}
		if r.IntN(4) == 0 {
			it.Load = 0.25
		}
		if r.IntN(8) == 0 {
			it.Load = 0
		}
		if r.IntN(5) == 0 {
			it.Allowed = cpuset.Of(cpus[r.IntN(len(cpus))].ID, cpus[r.IntN(len(cpus))].ID)
		}
		if r.IntN(4) == 0 {
			it.Consumer = cpus[r.IntN(len(cpus))].LLC
		}
		items[i] = it
	}
	o := Options{SMTShare: []float64{0, 1, 1.5}[r.IntN(3)]}
	if r.IntN(4) == 0 {
		o.LocalLimit = []float64{-1, 0.3}[r.IntN(2)]
	}
	return cpus, items, o
}

func TestDeterministicUnderShuffle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 1500 {
		cpus, items, o := randomInstance(r, 12, 20)
		want := Solve(cpus, items, o)
		order := r.Perm(len(items))
		shuffled := make([]Item, len(items))
		for i, j := range order {
			shuffled[i] = items[j]
		}
		r.Shuffle(len(cpus), func(i, j int) { cpus[i], cpus[j] = cpus[j], cpus[i] })
		got := Solve(cpus, shuffled, o)
		for i, j := range order {
			if got.CPU[i] != want.CPU[j] {
				t.Fatalf("instance %d: %s on CPU %d, shuffled on %d", n, items[j].ID, want.CPU[j], got.CPU[i])
			}
		}
		got.CPU, want.CPU, got.Unplaced, want.Unplaced = nil, nil, nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("instance %d (-want +got):\n%s", n, diff)
		}
	}
}

func TestFixpoint(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 3000 {
		cpus, items, o := randomInstance(r, 12, 20)
		o.MinGain = []float64{0, -1, 0.02, 0.3}[n%4]
		if n%5 == 0 {
			limitRoom(r, cpus)
		}
		first := Solve(cpus, items, o)
		for i := range cpus {
			cpus[i].Room = roomAfter(cpus[i], items, first.CPU)
		}
		again := at(slices.Clone(items), first.CPU...)
		second := Solve(cpus, again, o)
		if second.Moves != 0 {
			t.Errorf("instance %d, options %+v: %d moves from the solution\n%v\n%v", n, o, second.Moves, first.CPU, second.CPU)
		}
		if second.Before != first.Max {
			t.Errorf("instance %d: Before %v of the solution, predicted %v", n, second.Before, first.Max)
		}
	}
}
