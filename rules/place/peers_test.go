package place

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// The placements of other tools, written from descriptions of what they do.
// Each gives a CPU per item; devices are the items of one Group.
var peers = []struct {
	name  string
	place func(cpus []CPU, items []Item) []int
}{
	{"rss-ladder", rssLadder},
	{"Intel set_irq_affinity local", intelLocal},
	{"Intel set_irq_affinity all", intelAll},
	{"irqbalance, one pass", irqbalancePass},
	{"perftune", perftune},
	{"systemd spread", systemdSpread},
}

// rssLadder: the nth interrupt of a device goes to the nth CPU of its socket,
// around and around.
func rssLadder(cpus []CPU, items []Item) []int {
	return perDevice(items, func(it Item) []int { return numbers(nodeCPUs(cpus, it.Node)) })
}

// intelLocal: the nth interrupt to the nth core of the node.
func intelLocal(cpus []CPU, items []Item) []int { return rssLadder(cpus, items) }

// intelAll: the nth interrupt to the nth CPU of the host.
func intelAll(cpus []CPU, items []Item) []int {
	return perDevice(items, func(Item) []int { return numbers(cpus) })
}

// systemdSpread: first siblings only, grouped by L3; the domains in turn, and
// within a domain halfway, quarters, eighths…
func systemdSpread(cpus []CPU, items []Item) []int {
	var domains [][]int
	byLLC := map[int]int{}
	for _, c := range cpus {
		if c.ID != c.Core {
			continue
		}
		d, ok := byLLC[c.LLC]
		if !ok {
			d = len(domains)
			byLLC[c.LLC] = d
			domains = append(domains, nil)
		}
		domains[d] = append(domains[d], c.ID)
	}
	var order []int
	for n := 0; len(order) < len(byCore(cpus)); n++ {
		for _, d := range domains {
			if n < len(d) {
				order = append(order, equidistant(d)[n])
			}
		}
	}
	return perDevice(items, func(Item) []int { return order })
}

func equidistant(ids []int) []int {
	out := []int{}
	seen := map[int]bool{}
	for step := len(ids); step >= 1; step /= 2 {
		for i := 0; i < len(ids); i += step {
			if !seen[i] {
				seen[i] = true
				out = append(out, ids[i])
			}
		}
	}
	return out
}

// perftune: up to 4 CPUs all of them; up to 4 cores one CPU; up to 16 cores
// core 0; otherwise one core of 16 on every node. hwloc-distrib spreads over them.
func perftune(cpus []CPU, items []Item) []int {
	cores := byCore(cpus)
	var set []int
	switch {
	case len(cpus) <= 4:
		set = numbers(cpus)
	case len(cores) <= 4:
		set = cores[0][:1]
	case len(cores) <= 16:
		set = cores[0]
	default:
		set = perftuneCores(cpus)
	}
	return perDevice(items, func(Item) []int { return set })
}

func perftuneCores(cpus []CPU) []int {
	var set []int
	for n := 0; ; n++ {
		local := byCore(onlyNode(cpus, n))
		if len(local) == 0 {
			return set
		}
		for _, core := range local[:(len(local)+15)/16] {
			set = append(set, core...)
		}
	}
}

// irqbalancePass starts with everything on the first two CPUs of the node and
// applies the rule once: an interrupt leaves its CPU if the least loaded one
// would end below what stays behind, a CPU never loses its last one, and those
// that leave go, heaviest first, to the least loaded CPU.
func irqbalancePass(cpus []CPU, items []Item) []int {
	place := make([]int, len(items))
	load, count := map[int]float64{}, map[int]int{}
	for i, it := range items {
		local := numbers(nodeCPUs(cpus, it.Node))
		place[i] = local[i%min(2, len(local))]
	}
	for _, c := range cpus {
		load[c.ID] = c.Base
	}
	for i, c := range place {
		load[c] += items[i].Load
		count[c]++
	}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(items[b].Load, items[a].Load) })
	var leaving []int
	for _, i := range order {
		local := numbers(nodeCPUs(cpus, items[i].Node))
		least := slices.MinFunc(local, func(a, b int) int { return cmp.Compare(load[a], load[b]) })
		from := place[i]
		if count[from] > 1 && load[least]+items[i].Load < load[from]-items[i].Load {
			load[from] -= items[i].Load
			count[from]--
			leaving = append(leaving, i)
		}
	}
	for _, i := range leaving {
		local := numbers(nodeCPUs(cpus, items[i].Node))
		place[i] = slices.MinFunc(local, func(a, b int) int { return cmp.Compare(load[a], load[b]) })
		load[place[i]] += items[i].Load
	}
	return place
}

func perDevice(items []Item, targets func(it Item) []int) []int {
	next := map[string]int{}
	out := make([]int, len(items))
	for i, it := range items {
		set := targets(it)
		out[i] = set[next[it.Group]%len(set)]
		next[it.Group]++
	}
	return out
}

func onlyNode(cpus []CPU, node int) []CPU {
	return slices.DeleteFunc(slices.Clone(cpus), func(c CPU) bool { return c.Node != node })
}

func nodeCPUs(cpus []CPU, node int) []CPU {
	if local := onlyNode(cpus, node); len(local) > 0 {
		return local
	}
	return cpus
}

func numbers(cpus []CPU) []int {
	out := make([]int, len(cpus))
	for i, c := range cpus {
		out[i] = c.ID
	}
	return out
}

func byCore(cpus []CPU) [][]int {
	var out [][]int
	index := map[int]int{}
	for _, c := range cpus {
		k, ok := index[c.Core]
		if !ok {
			k = len(out)
			index[c.Core] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], c.ID)
	}
	return out
}

// realHost makes a host as found in the field: one or two NICs with a queue
// per core or fewer, a few heavy queues and many light ones, some base load.
func realHost(r *rand.Rand) ([]CPU, []Item) {
	shape := [][3]int{{1, 4, 1}, {1, 8, 2}, {2, 8, 2}, {2, 16, 2}, {2, 32, 2}}[r.IntN(5)]
	cpus := machine(shape[0], shape[1], shape[2])
	for i := range cpus {
		if shape[1] == 32 {
			cpus[i].LLC = cpus[i].Core / 8 * 8
		}
		if r.IntN(6) == 0 {
			cpus[i].Base = 0.1 * r.Float64()
		}
	}
	var items []Item
	for nic := range 1 + r.IntN(2) {
		node := r.IntN(shape[0])
		n := []int{4, 8, 16, 32}[r.IntN(4)]
		weights, sum := make([]float64, n), 0.0
		for q := range weights {
			weights[q] = math.Exp(r.NormFloat64())
			sum += weights[q]
		}
		total := float64(shape[1]) * (0.1 + 0.4*r.Float64())
		for q, w := range weights {
			items = append(items, Item{
				ID: fmt.Sprintf("eth%d/rx-%d", nic, q), Load: min(0.7, total*w/sum), Current: -1,
				Node: node, Consumer: -1, Group: fmt.Sprint("eth", nic),
			})
		}
	}
	return cpus, items
}

func TestAgainstPeers(t *testing.T) {
	type score struct {
		excess, worst, spread float64
		remote, better        int
	}
	r := rand.New(rand.NewPCG(11, 12))
	const hosts = 300
	scores := make([]score, len(peers)+1)
	for n := range hosts {
		cpus, items := realHost(r)
		or := newOracle(cpus, items, Options{})
		sol := Solve(cpus, items, Options{})
		ours := or.judge(sol.CPU)
		add := func(s *score, place []int, v verdict) {
			ratio := v.served / sol.LowerBound
			s.excess += ratio - 1
			s.worst = max(s.worst, ratio)
			s.spread += v.served / or.mean(place)
			if v.remote > ours.remote {
				s.remote++
			}
			if ours.compare(v) < 0 {
				s.better++
			}
		}
		add(&scores[0], sol.CPU, ours)
		for i, peer := range peers {
			place := peer.place(cpus, items)
			theirs := or.judge(place)
			add(&scores[i+1], place, theirs)
			if ours.compare(theirs) > 0 {
				t.Errorf("host %d: %s is better: %+v against %+v", n, peer.name, theirs, ours)
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d hosts\tmax over lower bound, mean\tworst\tmax/mean core load\thosts with more remote load\tplace is better on\t\n", hosts)
	for i, s := range scores {
		name := "place"
		if i > 0 {
			name = peers[i-1].name
		}
		fmt.Fprintf(w, "%s\t%+.1f %%\t%.2f×\t%.2f\t%d\t%d\t\n", name, 100*s.excess/hosts, s.worst, s.spread/hosts, s.remote, s.better)
	}
	w.Flush()
	t.Log("\n" + table.String())
	if mean := scores[0].excess / hosts; mean > 0.05 {
		t.Errorf("mean distance to the lower bound %.3f, want at most 0.05", mean)
	}
}

// mean is the mean load of the cores of nodes that have a NIC.
func (or *oracle) mean(place []int) float64 {
	nodes := map[int]bool{}
	for _, it := range or.items {
		nodes[it.Node] = true
	}
	load := map[int]float64{}
	for _, c := range or.cpus {
		load[c.ID] = c.Base
	}
	for i, c := range place {
		load[c] += or.items[i].Load
	}
	sum, n := 0.0, 0
	for _, c := range or.cpus {
		if c.ID == c.Core && (nodes[c.Node] || nodes[-1]) {
			sum += or.core(c.Core, load)
			n++
		}
	}
	return sum / float64(n)
}
