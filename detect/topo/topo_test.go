package topo

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
)

func TestDistance(t *testing.T) {
	m := &Topology{CPUs: map[int]CPU{
		0: {ID: 0, Core: 0, LLC: 0, Node: 0}, 1: {ID: 1, Core: 0, LLC: 0, Node: 0}, 2: {ID: 2, Core: 2, LLC: 0, Node: 0},
		3: {ID: 3, Core: 3, LLC: 3, Node: 0}, 4: {ID: 4, Core: 4, LLC: 4, Node: 1}, 5: {ID: 5, Core: Unknown, LLC: Unknown, Node: Unknown},
	}}
	for _, test := range [][3]int{{0, 0, 0}, {0, 1, 1}, {0, 2, 2}, {0, 3, 3}, {0, 4, 4}, {5, 5, 0}, {0, 5, 4}, {0, 9, 4}} {
		if got := m.Distance(test[0], test[1]); got != test[2] {
			t.Errorf("from CPU %d to CPU %d: %d, want %d", test[0], test[1], got, test[2])
		}
	}
}

// Each CPU goes to the nearest home, the rest to the one with the fewest; a
// home that is not known gets none.
func TestShare(t *testing.T) {
	host := &Topology{Online: cpuset.Range(0, 7), CPUs: map[int]CPU{}}
	for id := range 8 {
		host.CPUs[id] = CPU{ID: id, Core: id % 4, LLC: id % 4 / 2 * 2, Node: 0}
	}
	for _, test := range []struct {
		homes []int
		want  []string
	}{
		{nil, nil},
		{[]int{-1}, []string{""}},
		{[]int{3}, []string{"0-7"}},
		{[]int{0, 2}, []string{"0-1,4-5", "2-3,6-7"}},
		{[]int{2, -1, 0}, []string{"2-3,6-7", "", "0-1,4-5"}},
		{[]int{0, 1}, []string{"0,2,4,6", "1,3,5,7"}},
		{[]int{0, 0}, []string{"0,2,4,6", "1,3,5,7"}},
	} {
		var got []string
		for _, share := range host.Share(test.homes) {
			got = append(got, share.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Share(%v): (-want +got)\n%s", test.homes, diff)
		}
	}
}
