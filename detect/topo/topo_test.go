package topo

import "testing"

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
