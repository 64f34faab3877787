package probes

import (
	"testing"
	"time"
)

// host is what attached probes cost on some machine, per ns attached, and what
// it costs there to attach and to detach.
type host struct {
	rate           func(at time.Duration) float64
	attach, detach time.Duration
}

// simulated is what simulate found.
type simulated struct {
	cost, attached time.Duration
	slices         int
}

// simulate lets windows pass, one after the other, with the decisions of one
// account. The probes are attached when it begins, as Open leaves them.
func simulate(h host, share float64, windows ...time.Duration) simulated {
	const step = 100 * time.Microsecond
	var out simulated
	var now time.Duration
	a := account{share: share}
	on := true
	spend := func(length time.Duration) float64 {
		var ns float64
		for end := now + length; now < end; now += step {
			ns += h.rate(now) * float64(step)
		}
		out.cost += time.Duration(ns)
		return ns
	}
	out.cost += h.attach
	a.attached(0, 0, float64(h.attach))
	for _, window := range windows {
		for end := now + window; now < end; {
			want, until := a.decide(uint64(now), end-now, on)
			switch {
			case want && !on:
				out.cost += h.attach
				now += h.attach
				a.attached(uint64(now), uint64(h.attach), float64(h.attach))
				out.slices++
			case !want && on:
				out.cost += h.detach
				now += h.detach
				a.detached(uint64(now), uint64(h.detach), float64(h.detach))
			}
			on = want
			until = max(min(until, end-now), 0)
			if !on {
				now += until
				continue
			}
			began := now
			ns := spend(until)
			out.attached += now - began
			a.look(uint64(now), ns)
		}
	}
	return out
}

func steady(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

// TestAccountHolds: over windows of any length the whole cost stays within the
// limit, once the limit pays for one slice, and that slice is always there.
func TestAccountHolds(t *testing.T) {
	const ms = time.Millisecond
	const share = 0.005
	for _, tt := range []struct {
		name     string
		host     host
		window   time.Duration
		most     float64 // of the limit
		coverage [2]float64
	}{
		{"idle", host{steady(0.0001), ms, ms}, 10 * time.Second, 0.1, [2]float64{1, 1}},
		{"at the limit", host{steady(share), ms, ms}, 10 * time.Second, 1.05, [2]float64{1, 1}},
		{"twice the limit", host{steady(2 * share), ms, ms}, 10 * time.Second, 1.05, [2]float64{0.3, 0.5}},
		{"flood, 1 s", host{steady(0.16), 3 * ms / 2, 3 * ms / 2}, time.Second, 1.05, [2]float64{0.008, 0.015}},
		{"flood, 2 s", host{steady(0.16), 3 * ms / 2, 3 * ms / 2}, 2 * time.Second, 1.05, [2]float64{0.01, 0.03}},
		{"flood, 10 s", host{steady(0.16), 3 * ms / 2, 3 * ms / 2}, 10 * time.Second, 1.05, [2]float64{0.015, 0.03}},
		{"switching dear", host{steady(0.02), 150 * ms, 150 * ms}, 10 * time.Second, 8, [2]float64{0.0005, 1}},
		// To detach costs more than to stay: 150 ms against 2 % of 2 s.
		{"switching dearer than staying", host{steady(0.02), 150 * ms, 150 * ms}, 2 * time.Second, 20, [2]float64{1, 1}},
		{"a burst", host{func(at time.Duration) float64 {
			if at > 5*time.Second && at < 6*time.Second {
				return 0.16
			}
			return 0.0001
		}, ms, ms}, 10 * time.Second, 1.05, [2]float64{0.5, 0.95}},
	} {
		got := simulate(tt.host, share, tt.window)
		limit := share * float64(tt.window)
		coverage := float64(got.attached) / float64(tt.window)
		t.Logf("%s: %v of CPU time in %v, %.2f of the limit, covered %.4f, attached again %d times",
			tt.name, got.cost, tt.window, float64(got.cost)/limit, coverage, got.slices)
		if float64(got.cost) > tt.most*limit {
			t.Errorf("%s: cost %.2f of the limit, want at most %.2f", tt.name, float64(got.cost)/limit, tt.most)
		}
		if coverage < tt.coverage[0]-0.001 || coverage > tt.coverage[1]+0.001 {
			t.Errorf("%s: covered %.4f of the time, want %v", tt.name, coverage, tt.coverage)
		}
	}
}

// TestAccountOverWindows: short windows in a row are no way around the limit,
// and see something all the same.
func TestAccountOverWindows(t *testing.T) {
	flood := host{steady(0.16), 1500 * time.Microsecond, 1500 * time.Microsecond}
	windows := make([]time.Duration, 20)
	for i := range windows {
		windows[i] = time.Second
	}
	got := simulate(flood, 0.005, windows...)
	if limit := 0.005 * float64(20*time.Second); float64(got.cost) > 1.05*limit {
		t.Errorf("20 windows of a second cost %v, want at most %v", got.cost, time.Duration(limit))
	}
	if got.slices < 10 {
		t.Errorf("%d slices in 20 windows", got.slices)
	}
}

// TestAccountSavesNothing: after a quiet hour the limit is what it was.
func TestAccountSavesNothing(t *testing.T) {
	a := account{share: 0.005, observed: true}
	a.charge(uint64(time.Hour), 0)
	if a.owed != 0 {
		t.Errorf("owed %v after an hour, want 0", a.owed)
	}
	a.lookedNs = uint64(time.Hour)
	a.look(uint64(time.Hour+time.Second), 0.16e9)
	if stay := a.stay(time.Hour); stay != 0 {
		t.Errorf("may stay for %v after spending 160 ms at 0.5 %%", stay)
	}
}
