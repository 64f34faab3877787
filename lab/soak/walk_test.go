package soak

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func rounds(seed uint64, n int) string {
	w, out := NewWalk(seed, 8, 4, true), ""
	for range n {
		out += fmt.Sprintln(w.Round())
	}
	return out
}

// A walk that found something can be walked again.
func TestWalkRepeats(t *testing.T) {
	if diff := cmp.Diff(rounds(7, 200), rounds(7, 200)); diff != "" {
		t.Error(diff)
	}
	if rounds(7, 5) == rounds(8, 5) {
		t.Error("two seeds give the same walk")
	}
}

// Every round applies and takes back, and in many of them all there is to do
// has been done.
func TestWalkVisits(t *testing.T) {
	w, seen := NewWalk(1, 8, 4, true), map[string]bool{}
	for range 500 {
		round := w.Round()
		if round[0].Verb != Fault || round[len(round)-1].Verb != Rollback {
			t.Fatalf("a round of %v", round)
		}
		for _, s := range round {
			seen[string(s.Verb)+s.Signal] = true
			seen[s.Name] = true
		}
	}
	for _, want := range []string{
		"apply", "applyKILL", "applyINT", "rollback", "rollbackKILL", "rollbackINT", "disturb",
		"GRO off", "link flap", "CPU 7 goes", "4 channels for a moment", "one pass of irqbalance", "the NIC is unplugged and comes back",
	} {
		if !seen[want] {
			t.Errorf("500 rounds without %q", want)
		}
	}
}
