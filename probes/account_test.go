package probes

import (
	"slices"
	"testing"
	"time"

	"github.com/napitune/napitune/probes/counters"
)

// host is what attached probes cost on some machine, per ns attached, and what
// it costs there to attach and to detach.
type host struct {
	rate           func(at time.Duration) float64
	attach, detach time.Duration
	// packets is what a probe that runs once per packet costs, per ns attached,
	// and switching what it costs to attach and detach it; no such probe if 0.
	packets   float64
	switching time.Duration
}

// simulated is what simulate found.
type simulated struct {
	cost, attached time.Duration
	slices         int
	// blind is how many windows saw nothing, packets how many looked at
	// packets.
	blind, packets int
}

// simulate lets windows pass, one after the other, with the decisions of one
// account and in the order of Watch. The probes are attached when it begins, as
// Open leaves them.
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
	detach := func() {
		out.cost += h.detach
		now += h.detach
		a.detached(uint64(now), uint64(h.detach), float64(h.detach))
		on = false
	}
	observe := func(end time.Duration) {
		for now < end {
			want, until := a.decide(uint64(now), end-now, on)
			switch {
			case want && !on:
				out.cost += h.attach
				now += h.attach
				a.attached(uint64(now), uint64(h.attach), float64(h.attach))
				out.slices++
			case !want && on:
				detach()
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
		if on && !a.affordable() {
			detach()
		}
	}
	lookAtPackets := func(left time.Duration) {
		credit, open := a.perPacket(uint64(now), left, float64(h.switching), out.packets == 0)
		if !open {
			return
		}
		const look = 5 * time.Millisecond
		var ns float64
		for end := now + packetWindow; now < end && ns <= credit; now += look {
			ns += h.packets * float64(look)
		}
		ns += float64(h.switching)
		out.cost += time.Duration(ns)
		a.charge(uint64(now), ns)
		out.packets++
	}
	for _, window := range windows {
		end, before := now+window, out.attached
		if window >= counters.WholeWindow && h.switching > 0 {
			observe(now + costWindow)
			lookAtPackets(end - now)
		}
		observe(end)
		if out.attached == before {
			out.blind++
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
		{"idle", host{rate: steady(0.0001), attach: ms, detach: ms}, 10 * time.Second, 0.1, [2]float64{1, 1}},
		{"at the limit", host{rate: steady(share), attach: ms, detach: ms}, 10 * time.Second, 1.05, [2]float64{1, 1}},
		{"twice the limit", host{rate: steady(2 * share), attach: ms, detach: ms}, 10 * time.Second, 1.05, [2]float64{0.3, 0.5}},
		{"flood, 1 s", host{rate: steady(0.16), attach: 3 * ms / 2, detach: 3 * ms / 2}, time.Second, 1.05, [2]float64{0.008, 0.015}},
		{"flood, 2 s", host{rate: steady(0.16), attach: 3 * ms / 2, detach: 3 * ms / 2}, 2 * time.Second, 1.05, [2]float64{0.01, 0.03}},
		{"flood, 10 s", host{rate: steady(0.16), attach: 3 * ms / 2, detach: 3 * ms / 2}, 10 * time.Second, 1.05, [2]float64{0.015, 0.03}},
		{"switching dear", host{rate: steady(0.02), attach: 150 * ms, detach: 150 * ms}, 10 * time.Second, 8, [2]float64{0.0005, 1}},
		// To detach costs more than to stay: 150 ms against 2 % of 2 s. At the end
		// it has to be, or the probes would go on without anybody observing.
		{"switching dearer than staying", host{rate: steady(0.02), attach: 150 * ms, detach: 150 * ms}, 2 * time.Second, 35, [2]float64{1, 1}},
		{"a burst", host{rate: func(at time.Duration) float64 {
			if at > 5*time.Second && at < 6*time.Second {
				return 0.16
			}
			return 0.0001
		}, attach: ms, detach: ms}, 10 * time.Second, 1.05, [2]float64{0.5, 0.95}},
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

// TestAccountOverWindows: windows in a row are no way around the limit, and each
// sees something all the same, also if a probe that runs once per packet wants
// its own part of them.
func TestAccountOverWindows(t *testing.T) {
	const ms = time.Millisecond
	flood := host{rate: steady(0.16), attach: 3 * ms / 2, detach: 3 * ms / 2}
	packets := flood
	packets.packets, packets.switching = 0.2, 3*ms
	dear := packets
	dear.switching = 8 * ms
	idle := host{rate: steady(0.0001), attach: ms, detach: ms, packets: 0.0001, switching: 3 * ms}
	for _, tt := range []struct {
		name    string
		host    host
		windows int
		length  time.Duration
		most    float64 // of the limit
		blind   int
		packets [2]int // windows that look at packets
	}{
		// A second pays for one slice and hardly more.
		{"1 s", flood, 20, time.Second, 1.05, 4, [2]int{0, 0}},
		{"3 s, packets", packets, 10, 3 * time.Second, 1.05, 0, [2]int{3, 10}},
		{"3 s, packets, switching dear", dear, 10, 3 * time.Second, 1.05, 0, [2]int{1, 10}},
		{"3 s, packets, idle", idle, 10, 3 * time.Second, 0.5, 0, [2]int{10, 10}},
		{"10 s, packets", packets, 4, 10 * time.Second, 1.05, 0, [2]int{4, 4}},
	} {
		windows := slices.Repeat([]time.Duration{tt.length}, tt.windows)
		got := simulate(tt.host, 0.005, windows...)
		limit := 0.005 * float64(time.Duration(tt.windows)*tt.length)
		t.Logf("%s: %v of CPU time, %.2f of the limit, attached again %d times, %d windows blind, %d with packets",
			tt.name, got.cost, float64(got.cost)/limit, got.slices, got.blind, got.packets)
		if float64(got.cost) > tt.most*limit {
			t.Errorf("%s: cost %v, want at most %v", tt.name, got.cost, time.Duration(limit))
		}
		if got.blind > tt.blind {
			t.Errorf("%s: %d of %d windows saw nothing, want at most %d", tt.name, got.blind, tt.windows, tt.blind)
		}
		if got.packets < tt.packets[0] || got.packets > tt.packets[1] {
			t.Errorf("%s: %d of %d windows looked at packets, want %v", tt.name, got.packets, tt.windows, tt.packets)
		}
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
