package detect_test

import (
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host/live"
)

// TestRunningMachine reads the machine that the tests run on, twice. It
// writes nothing and needs no privilege.
func TestRunningMachine(t *testing.T) {
	h, err := live.Open(live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := detect.Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	second, err := detect.Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	checkSnapshot(t, first)
	o := detect.Between(first, second)
	if o.Basis != detect.BasisWindow || o.Window <= 0 {
		t.Errorf("basis %v, window %v", o.Basis, o.Window)
	}
	if len(o.Inconsistent) > 0 {
		t.Logf("the machine contradicts itself, as containers with a /proc of their own do: %q", o.Inconsistent)
	}
	if first.Topo.Online.IsEmpty() || first.Ident.Release == "" {
		t.Errorf("online %s, release %q", first.Topo.Online, first.Ident.Release)
	}
}
