package soak

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

var all = Machine{CPUs: 8, Queues: 4, RSS: true, Port: true}

// rounds are all fields of all steps: what is printed leaves some out.
func rounds(seed uint64, n int) [][]Step {
	w, out := NewWalk(seed, all), [][]Step{}
	for range n {
		out = append(out, w.Round())
	}
	return out
}

// A walk that found something can be walked again.
func TestWalkRepeats(t *testing.T) {
	if diff := cmp.Diff(rounds(7, 20), rounds(7, 20)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(rounds(7, 5), rounds(8, 5)) {
		t.Error("two seeds give the same walk")
	}
}

// Walks ask for four times what is demanded of them, and each apply has
// something else to want where advise wants nothing.
func TestWalkAsks(t *testing.T) {
	const n = 1000
	asked := map[Kind]int{}
	for _, round := range rounds(3, n) {
		for _, s := range round {
			switch {
			case s.Verb == Apply && len(s.Wants) < 6:
				t.Fatalf("%v wants only %v", s, s.Wants)
			case s.Verb == Apply && s.Signal == "KILL":
				asked[KilledApply]++
			case s.Verb == Apply && s.Signal == "INT":
				asked[Interrupted]++
			case s.Verb == Apply:
				asked[Applied]++
			case s.Verb == Rollback && (s.Signal == "KILL" || s.Script != ""):
				asked[CutRollback]++
			}
			for _, want := range s.Wants {
				if want.Values[0] == want.Values[1] {
					t.Fatalf("%v gets one value", want)
				}
			}
			if s.Kind != "" {
				asked[s.Kind]++
			}
		}
	}
	for _, d := range demands {
		t.Logf("%s: %d in %d rounds, demanded %d", d.kind, asked[d.kind], n, n/d.oneIn)
		least := 4 * n / d.oneIn
		if d.kind == Applied {
			least = n / 2 // one in three is demanded, and no chance is in it: these end by themselves
		}
		if asked[d.kind] < least {
			t.Errorf("%s: asked for %d in %d rounds", d.kind, asked[d.kind], n)
		}
	}
}

func TestJudge(t *testing.T) {
	if missing, short := judge(nil, 2); len(missing) > 0 || len(short) != len(demands) {
		t.Errorf("two rounds: missing %q, short %q", missing, short)
	}
	if missing, short := judge(nil, 100); len(missing) != len(demands) || len(short) > 0 {
		t.Errorf("nothing met: missing %q, short %q", missing, short)
	}
	met := map[Kind]int{}
	for _, d := range demands {
		met[d.kind] = 100 / d.oneIn
	}
	if missing, _ := judge(met, 100); len(missing) > 0 {
		t.Errorf("all met: missing %q", missing)
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
