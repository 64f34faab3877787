package soak

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var all = Machine{CPUs: 8, Queues: 4, RSS: true, Port: true}

func rounds(seed uint64, n int) string {
	w, out := NewWalk(seed, all), ""
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
	w, seen := NewWalk(1, all), map[string]bool{}
	for range 500 {
		round := w.Round()
		if round[0].Verb != Fault || round[len(round)-1].Verb != Rollback {
			t.Fatalf("a round of %v", round)
		}
		there := true
		for _, s := range round {
			if s.Script == plug {
				if there {
					t.Fatalf("a NIC that is there is plugged in: %v", round)
				}
				there = true
			}
			if s.Script == unplug {
				there = false
			}
			seen[string(s.Verb)+s.Signal] = true
			seen[s.Name] = true
		}
		if !there {
			t.Fatalf("nobody plugs the NIC in: %v", round)
		}
	}
	for _, want := range []string{
		"by throughput", "apply", "applyKILL", "applyINT", "rollback", "rollbackKILL", "rollbackINT", "disturb",
		"GRO off", "link flap", "CPU 7 goes", "4 channels for a moment", "one pass of irqbalance", "the NIC is unplugged and plugged in",
		"the NIC is removed from the bus and found anew", "the NIC's driver is taken off and put on", "the cable is pulled and put back",
		"by latency while the NIC is unplugged", "the NIC is unplugged", "the NIC is plugged in",
	} {
		if !seen[want] {
			t.Errorf("500 rounds without %q", want)
		}
	}
}
