package place

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/napitune/napitune/rules/place/peers"
)

// lines is how another tool sees the items: one interrupt each. Who balances
// what is there starts with everything on the first two CPUs of the node.
func lines(cpus []CPU, items []Item) ([]peers.CPU, []peers.Line) {
	var at []peers.CPU
	for _, c := range cpus {
		at = append(at, peers.CPU{ID: c.ID, Core: c.Core, LLC: c.LLC, Node: c.Node, Base: c.Base})
	}
	var out []peers.Line
	for i, it := range items {
		first := slices.IndexFunc(cpus, func(c CPU) bool { return c.Node == it.Node })
		out = append(out, peers.Line{Device: it.Group, Queue: i, Load: it.Load, Now: cpus[first+i%2].ID, Node: it.Node})
	}
	return at, out
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
	rivals := peers.Tools()
	scores := make([]score, len(rivals)+1)
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
		theirCPUs, theirLines := lines(cpus, items)
		for i, peer := range rivals {
			place := peer.Place(theirCPUs, theirLines)
			theirs := or.judge(place)
			add(&scores[i+1], place, theirs)
			if ours.compare(theirs) > 0 {
				t.Errorf("host %d: %s is better: %+v against %+v", n, peer.Name, theirs, ours)
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d hosts\tmax over lower bound, mean\tworst\tmax/mean core load\thosts with more remote load\tplace is better on\t\n", hosts)
	for i, s := range scores {
		name := "place"
		if i > 0 {
			name = rivals[i-1].Name
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
