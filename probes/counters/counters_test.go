package counters

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func reading(session, taken, scale uint64) *Counters {
	hist := func(n ...uint64) Hist {
		out := make([]uint64, len(n))
		for i := range n {
			out[i] = n[i] * scale
		}
		return NewHist(out, 100*scale)
	}
	return &Counters{
		Session: session, TakenNs: taken, AttachedNs: taken / 2, NetNS: 7, BudgetPackets: 300, BudgetJiffies: 2,
		Probes: []Status{{Name: "budget", State: Attached, Hook: "tp_btf/napi_poll"}},
		CPUs: []CPU{{
			CPU:     3,
			Softirq: map[string]Softirq{"NET_RX": {Runs: 10 * scale, TimeNs: 1000 * scale, TimedRuns: 9 * scale}},
			Rx:      NetSoftirq{RaiseToEntryNs: hist(0, 1, 2), RunNs: hist(1), KsoftirqdRuns: scale},
			Budget: Budget{
				Runs: 10 * scale, Polls: 20 * scale, Work: 30 * scale, Full: scale,
				SqueezedPackets: scale, SqueezedTime: 2 * scale, SqueezedBoth: 3 * scale,
				SqueezedUnexplained: scale, InferredRuns: 2 * scale, MaxPolls: 5,
				PollsPerRun: []uint64{0, scale, scale}, WorkPerRun: hist(0, 4),
			},
			Outside: Outside{ThreadedPolls: scale, ThreadedWork: 2 * scale},
			Backlog: Backlog{QueuePackets: hist(0, 0, 1)},
		}},
		NAPIs: []NAPI{{NetNS: 1, IfIndex: 2, Device: "eth0", ID: 8193, Slot: 5, Kind: "device", Queue: -1, CPU: 3,
			Polls: 20 * scale, Work: 30 * scale, Full: scale, Empty: scale, TimeNs: 500 * scale, TimedPolls: 18 * scale, LongPolls: scale, LongNs: 200 * scale,
			WorkPerPoll: hist(0, 7)}},
		IRQs:    []IRQ{{IRQ: 38, CPU: 3, Count: 7 * scale, Unhandled: scale, TimeNs: 70 * scale, TimedIRQs: 7 * scale}},
		Virtio:  []Virtio{{IfIndex: 2, CPU: 3, IRQ: 38, RingSize: 256, ArmedPolls: 6 * scale, UnarmedPolls: scale, RingReads: 7 * scale, PendingEighths: []uint64{7 * scale}, MaxPending: 4}},
		GRO:     []GRO{{IfIndex: 2, Device: "eth0", In: 40 * scale, Merged: 30 * scale, Held: 10 * scale, Delivered: 10 * scale, Segments: 40 * scale, TCPSegments: 30 * scale, UnknownSegments: 4 * scale, SegmentsPerSKB: hist(0, 0, 0, 10)}},
		Windows: []Window{{Probe: "gro", AttachedNs: 5 * scale, Events: 50 * scale, LimitPerJiffy: 2000}},
		Drops:   []Drop{{CPU: 3, Backlog: &scale, Other: scale, RPSInterrupts: &scale}},
		Latency: []Latency{{CPU: 3, PollToSocketNs: hist(1), SocketToReadNs: hist(2)}},
		Control: []Control{{CPU: 3, CommandNs: hist(3)}}, ControlReads: []ControlRead{{Device: "eth0", Reads: 5, MedianNs: 12_000, MostNs: 20_000}},
		Cost:   []ProgCost{{Program: "btf_napi_poll", Hook: "tp_btf/napi_poll", Runs: 20 * scale, TimeNs: 800 * scale, AttachedNs: 50 * scale, CountedNs: 9 * scale}},
		Calls:  []Calls{{Group: "napi", Calls: 20 * scale}},
		Events: 60 * scale, EstimateNs: 5100 * scale,
	}
}

// TestSub: reading(3) - reading(1) is reading(2), but for what is no count.
func TestSub(t *testing.T) {
	got, err := reading(1, 300, 3).Sub(reading(1, 100, 1))
	if err != nil {
		t.Fatal(err)
	}
	want := reading(0, 200, 2)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
	if c := got.Coverage(); c != 0.5 {
		t.Errorf("coverage = %v, want 0.5", c)
	}
}

func TestSubNewRows(t *testing.T) {
	first := &Counters{Session: 1, TakenNs: 1, BudgetPackets: 600}
	got, err := reading(1, 2, 1).Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	if !got.BudgetChanged || got.CPUs[0].Budget.Runs != 10 || got.NAPIs[0].Work != 30 {
		t.Errorf("rows that are new must count from zero, and the changed budget must be seen: %+v", got)
	}
}

func TestSubRefuses(t *testing.T) {
	for name, pair := range map[string][2]*Counters{
		"other session":   {reading(1, 2, 2), reading(2, 1, 1)},
		"a difference":    {reading(0, 2, 2), reading(0, 1, 1)},
		"wrong order":     {reading(1, 1, 1), reading(1, 2, 2)},
		"counter shrinks": {reading(1, 2, 1), reading(1, 1, 2)},
	} {
		got, err := pair[0].Sub(pair[1])
		if !errors.Is(err, ErrNotComparable) || got != nil {
			t.Errorf("%s: %v, %v, want ErrNotComparable", name, got, err)
		}
	}
}

// TestSpent: what a call costs comes from the part of the time in which
// statistics were on, a quiet one here, and how many there were from the
// programs themselves.
func TestSpent(t *testing.T) {
	poll := ProgCost{Program: "napi_poll", Group: "napi", Runs: 10, TimeNs: 900, AttachedNs: 1000, CountedNs: 100}
	unseen := ProgCost{Program: "softirq_entry", Group: "softirq", AttachedNs: 1000, CountedNs: 100}
	raise := ProgCost{Program: "softirq_raise", Runs: 4, TimeNs: 200, AttachedNs: 1000, CountedNs: 100}
	gro := ProgCost{Program: "receive_skb", Group: "gro", Runs: 70, TimeNs: 5000, AttachedNs: 300, CountedNs: 300}
	idle := ProgCost{Program: "kfree_skb", Group: "drops"}
	calls := []Calls{{"napi", 5000}, {"softirq", 50}, {"gro", 60}, {"drops", 0}}
	for name, tt := range map[string]struct {
		c    Counters
		want Spent
		ok   bool
	}{
		"by its own count":          {Counters{Cost: []ProgCost{poll, gro, idle}, Calls: calls}, Spent{Runs: 5070, Ns: 455_000}, true},
		"without a count":           {Counters{Cost: []ProgCost{raise, gro}, Calls: calls}, Spent{Runs: 110, Ns: 7000, EstimatedNs: 1800}, true},
		"not called while measured": {Counters{Cost: []ProgCost{unseen, gro}, Calls: calls, Events: 100, EstimateNs: 8500}, Spent{Runs: 120, Ns: 9250, EstimatedNs: 4250}, true},
		"no statistics":             {Counters{Cost: []ProgCost{idle}, Events: 5, EstimateNs: 425}, Spent{Runs: 5, Ns: 425, Estimated: true, EstimatedNs: 425}, true},
		"nothing told":              {Counters{Cost: []ProgCost{idle}}, Spent{Estimated: true}, false},
	} {
		if got, ok := tt.c.Spent(); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestJSON(t *testing.T) {
	want := reading(1, 2, 3)
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := new(Counters)
	if err := json.Unmarshal(data, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
}

func TestSoftirqNs(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    NAPI
		want float64
	}{
		{"nothing timed", NAPI{Polls: 10}, 0},
		{"all timed", NAPI{Polls: 10, TimedPolls: 10, TimeNs: 500}, 500},
		{"sampled", NAPI{Polls: 12, TimedPolls: 16, TimeNs: 800}, 600},
		{"one lost its CPU", NAPI{Polls: 10, TimedPolls: 9, TimeNs: 450, LongPolls: 1, LongNs: 100e6}, 500},
		{"some in threads", NAPI{Polls: 10, Outside: 4, TimedPolls: 6, TimeNs: 300}, 300},
		{"impossible", NAPI{Polls: 1, Outside: 2, TimedPolls: 1, TimeNs: 50}, 0},
	} {
		if got := tt.n.SoftirqNs(); got != tt.want {
			t.Errorf("%s: %v ns, want %v", tt.name, got, tt.want)
		}
	}
}

func TestUnexplained(t *testing.T) {
	b := Budget{SqueezedPackets: 2, SqueezedTime: 2, SqueezedBoth: 1, SqueezedUnexplained: 1}
	for squeezes, want := range map[uint64]int64{6: 0, 8: 2, 5: -1} {
		if got := b.Unexplained(squeezes); got != want {
			t.Errorf("of %d squeezes %d unexplained, want %d", squeezes, got, want)
		}
	}
}

func TestHist(t *testing.T) {
	for value, want := range map[uint64]int{0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 63: 6, 64: 7, 1 << 40: 41} {
		if got := Bucket(value); got != want {
			t.Errorf("Bucket(%d) = %d, want %d", value, got, want)
		}
		if low, high := Bounds(Bucket(value)); value < low || value > high {
			t.Errorf("%d is not within %d … %d", value, low, high)
		}
	}
	h := NewHist([]uint64{1, 0, 8, 1, 0}, 20)
	if len(h.Buckets) != 4 || h.Count() != 10 {
		t.Errorf("%+v", h)
	}
	if mean, ok := h.Mean(); !ok || mean != 2 {
		t.Errorf("mean %v", mean)
	}
	for q, want := range map[float64]uint64{0.1: 0, 0.5: 3, 0.9: 3, 0.95: 7, 1: 7} {
		if got, ok := h.AtMost(q); !ok || got != want {
			t.Errorf("AtMost(%v) = %d, want %d", q, got, want)
		}
	}
	long := NewHist(append(make([]uint64, TimeBuckets-2), 9, 1), 0)
	for q, want := range map[float64]struct {
		edge uint64
		more bool
	}{0.9: {1<<26 - 1, false}, 0.95: {1<<26 - 1, true}, 1: {1<<26 - 1, true}} {
		if edge, more, ok := long.Quantile(q); edge != want.edge || more != want.more || !ok {
			t.Errorf("Quantile(%v) = %d, more %v, %v, want %+v", q, edge, more, ok, want)
		}
		if bound, ok := long.AtMost(q); ok == want.more || ok && bound != want.edge {
			t.Errorf("AtMost(%v) = %d, %v", q, bound, ok)
		}
	}
	var empty Hist
	if _, ok := empty.Mean(); ok {
		t.Error("an empty histogram has a mean")
	}
	if _, ok := empty.AtMost(0.5); ok {
		t.Error("an empty histogram has a median")
	}
	if diff := cmp.Diff(Hist{Buckets: []uint64{1, 2, 3}, Sum: 3}, NewHist([]uint64{1, 1}, 1).Merge(NewHist([]uint64{0, 1, 3}, 2))); diff != "" {
		t.Error(diff)
	}
}

func TestGRO(t *testing.T) {
	for _, tt := range []struct {
		g                GRO
		ratio, delivered float64
		ok               bool
	}{
		{GRO{}, 0, 0, false},
		{GRO{Merged: 30, Held: 10, Delivered: 10, Segments: 40}, 4, 4, true},
		{GRO{Normal: 5, Delivered: 5, Segments: 5}, 1, 1, true},
		{GRO{Merged: 5}, 0, 0, false}, // only the tail of packets held before the window
	} {
		ratio, ok := tt.g.Ratio()
		delivered, _ := tt.g.DeliveredRatio()
		if ratio != tt.ratio || ok != tt.ok || delivered != tt.delivered {
			t.Errorf("%+v: %v, %v, %v", tt.g, ratio, delivered, ok)
		}
	}
}

// TestTCPShare: packets of which nobody knows what they are say nothing of the
// others.
func TestTCPShare(t *testing.T) {
	for _, tt := range []struct {
		g    GRO
		want float64
		ok   bool
	}{
		{GRO{Segments: 40, TCPSegments: 10}, 0.25, true},
		{GRO{Segments: 40, TCPSegments: 10, UnknownSegments: 20}, 0.5, true},
		{GRO{Segments: 40, UnknownSegments: 40}, 0, false},
		{GRO{}, 0, false},
	} {
		if got, ok := tt.g.TCPShare(); got != tt.want || ok != tt.ok {
			t.Errorf("%+v: %v, %v, want %v, %v", tt.g, got, ok, tt.want, tt.ok)
		}
	}
}

// TestNetstatGRO uses the figures of a veth TCP run on 6.18.
func TestNetstatGRO(t *testing.T) {
	wire, skbs, ok := NetstatGRO(map[string]uint64{"IpExt.InNoECTPkts": 1256796, "Ip.InReceives": 30297})
	if ratio := float64(wire) / float64(skbs); !ok || math.Abs(ratio-41.48) > 0.01 {
		t.Errorf("ratio %v", ratio)
	}
	wire, skbs, ok = NetstatGRO(map[string]uint64{"Ip6InNoECTPkts": 10, "Ip6InECT0Pkts": 2, "Ip6InReceives": 4, "IpExt.InCEPkts": 1, "Ip.InReceives": 1})
	if wire != 13 || skbs != 5 || !ok {
		t.Errorf("%d, %d, %v", wire, skbs, ok)
	}
	if _, _, ok := NetstatGRO(nil); ok {
		t.Error("nothing received, and yet a ratio")
	}
}

func TestPacketsPerInterrupt(t *testing.T) {
	napi := func(queue, cpu int, work uint64) NAPI {
		return NAPI{IfIndex: 2, Kind: "virtio-rx", Queue: queue, CPU: cpu, Work: work}
	}
	c := &Counters{
		NAPIs: []NAPI{napi(0, 0, 60), napi(0, 1, 40), napi(1, 1, 7), {IfIndex: 2, Kind: "device", Queue: 0, Work: 1000}},
		IRQs:  []IRQ{{IRQ: 38, CPU: 0, Count: 6}, {IRQ: 38, CPU: 1, Count: 4}, {IRQ: 40, CPU: 1, Count: 99}},
	}
	for _, tt := range []struct {
		queue, irq int
		want       float64
		ok         bool
	}{{0, 38, 10, true}, {1, -1, 0, false}, {1, 41, 0, false}} {
		got, ok := c.PacketsPerInterrupt(Virtio{IfIndex: 2, Queue: tt.queue, IRQ: tt.irq})
		if got != tt.want || ok != tt.ok {
			t.Errorf("queue %d, interrupt %d: %v, %v, want %v, %v", tt.queue, tt.irq, got, ok, tt.want, tt.ok)
		}
	}
}
