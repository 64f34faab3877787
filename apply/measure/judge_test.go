package measure

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

func TestChance(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after series
		want          float64
	}{
		// C(6,3) = 20 splits, one of which ranks highest.
		{"apart", series{1, 2, 3}, series{4, 5, 6}, 1.0 / 20},
		{"apart the other way", series{4, 5, 6}, series{1, 2, 3}, 1},
		{"equal", series{1, 1}, series{1, 1}, 1},
		// Of 0 0 | 0 1 the 1 is among two of four in half of the splits.
		{"a tie", series{0, 0}, series{0, 1}, 0.5},
		{"mixed", series{1, 3}, series{2, 4}, 2.0 / 6},
		{"different lengths", series{1, 2}, series{3, 4, 5}, 1.0 / 10},
		{"ten each", series{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, series{11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, 1.0 / 184756},
	} {
		if got := chance(test.before, test.after); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestNoise(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		s    series
		want float64
	}{
		{"none", series{5, 5, 5, 5}, 0},
		{"a single burst is no noise", series{5, 5, 5, 5, 5, 5, 5, 5, 500, 5}, 0},
		{"drift counts in full", series{1, 1, 1, 1, 9, 9, 9, 9}, 8},
		{"spread", series{4, 6, 4, 6, 4, 6}, 1.4826},
		{"one value", series{3}, 0},
	} {
		// The drift of alternating values is that of the medians of the halves.
		got := test.s.deviation()
		if test.name != "spread" {
			got = test.s.noise()
		}
		if math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	if m := (series{}).median(); !math.IsNaN(m) {
		t.Errorf("median of nothing: %v", m)
	}
}

// phase is a host without noise: 50,000 packets a second, a quarter of a CPU.
func phase(change func(s *Sample)) []Sample {
	out := make([]Sample, Windows)
	for i := range out {
		out[i] = Sample{
			Seconds: 1, Packets: 50_000, Bytes: 40e6, Elsewhere: 1, UDPShare: 0.5, OtherWork: 0.5,
			CPUs:    map[int]CPU{0: {Busy: 0.4, Softirq: 0.2}, 1: {Busy: 0.3, Softirq: 0.05}},
			Carrier: map[string]bool{"eth0": true},
			Values: map[Key]float64{
				{softirqShare, ""}: 0.25, {maxSoftirq, ""}: 0.2, {"device_lost", ""}: 0, {backlogDropped, ""}: 0,
				{rxBytes, "eth0"}: 36e6, {txBytes, "eth0"}: 4e6, {"squeezes", ""}: 1, {"interrupts_per_packet", ""}: 0.4,
				{"received_rps", ""}: 0, {anyQueueShare, "eth0"}: 0.9,
			},
		}
		if change != nil {
			change(&out[i])
		}
	}
	return out
}

func set(values map[Key]float64) func(*Sample) {
	return func(s *Sample) {
		for k, v := range values {
			s.Values[k] = v
		}
	}
}

func expect(ref knob.Ref, metric, direction string) plan.Change {
	return plan.Change{Ref: ref, Before: "0", After: "1", Expect: plan.Expect{Metric: metric, Direction: direction}}
}

// Softirqs of CPUs without a tick are not in the softirq time: what leaves them
// seems to cost more than before.
func TestJudgeTickless(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		before, after float64
		want          Verdict
	}{{1, 0, Unclear}, {0, 1, Unclear}, {0, 0, Worse}, {1, 1, Worse}} {
		before := phase(func(s *Sample) {
			s.Tickless, s.Values[Key{softirqShare, ""}], s.Values[Key{maxSoftirq, ""}] = test.before, 0.06, 0.03
		})
		after := phase(func(s *Sample) {
			s.Tickless, s.Values[Key{softirqShare, ""}], s.Values[Key{maxSoftirq, ""}] = test.after, 0.28, 0.09
		})
		if r := Judge(before, after, Promise{}); r.Verdict != test.want {
			t.Errorf("from %v of the interrupts on CPUs without a tick to %v: %s, %s; want %s", test.before, test.after, r.Verdict, r.Reason, test.want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	eth0 := func(kind string) knob.Ref { return knob.Device("eth0", kind) }
	dearer := func(s *Sample) { s.Values[Key{softirqShare, ""}], s.Values[Key{maxSoftirq, ""}] = 0.4, 0.3 }
	for _, test := range []struct {
		name    string
		before  func(*Sample)
		after   func(*Sample)
		changes []plan.Change
		want    Verdict
		reason  string
	}{
		{"nothing changed", nil, nil, nil, Same, "nothing moved by more than its noise"},
		{"loss", nil, set(map[Key]float64{{"device_lost", ""}: 0.62}), nil, Worse, "packets lost at devices 0 % → 62 % of packets"},
		{"loss less than matters", nil, set(map[Key]float64{{"device_lost", ""}: 0.00005}), nil, Same, ""},
		{"dearer", nil, dearer, nil, Worse, "softirq time of the busiest CPU 20 % → 30 % of a CPU"},
		{"dearer, as the price of what came", nil,
			func(s *Sample) { dearer(s); s.Values[Key{anyQueueShare, "eth0"}] = 0.3 },
			[]plan.Change{expect(eth0("rss.table"), anyQueueShare, "down")}, Better, "eth0 packets in the busiest receive queue 90 % → 30 % of packets"},
		{"twice as dear is no price", nil,
			func(s *Sample) { s.Values[Key{softirqShare, ""}] = 0.6; s.Values[Key{anyQueueShare, "eth0"}] = 0.3 },
			[]plan.Change{expect(eth0("rss.table"), anyQueueShare, "down")}, Worse, "softirq time of all CPUs 25 % → 60 % of a CPU"},
		{"twice as dear, spread thin",
			set(map[Key]float64{{softirqShare, ""}: 0.08, {maxSoftirq, ""}: 0.08}),
			set(map[Key]float64{{softirqShare, ""}: 0.22, {maxSoftirq, ""}: 0.07, {anyQueueShare, "eth0"}: 0.3}),
			[]plan.Change{expect(eth0("channels.combined"), anyQueueShare, "down")}, Better, "eth0 packets in the busiest receive queue 90 % → 30 % of packets"},
		{"twice as dear for nothing",
			set(map[Key]float64{{softirqShare, ""}: 0.08, {maxSoftirq, ""}: 0.08}),
			set(map[Key]float64{{softirqShare, ""}: 0.22, {maxSoftirq, ""}: 0.07}),
			[]plan.Change{expect(eth0("channels.combined"), anyQueueShare, "down")}, Worse, "softirq time of all CPUs 8.0 % → 22 % of a CPU"},
		{"twice as dear on the busiest CPU",
			set(map[Key]float64{{softirqShare, ""}: 0.08, {maxSoftirq, ""}: 0.08}),
			set(map[Key]float64{{softirqShare, ""}: 0.22, {maxSoftirq, ""}: 0.2, {anyQueueShare, "eth0"}: 0.3}),
			[]plan.Change{expect(eth0("channels.combined"), anyQueueShare, "down")}, Worse, "softirq time of the busiest CPU 8.0 % → 20 % of a CPU"},
		{"loss is no price", nil,
			set(map[Key]float64{{"device_lost", ""}: 0.01, {anyQueueShare, "eth0"}: 0.3}),
			[]plan.Change{expect(eth0("rss.table"), anyQueueShare, "down")}, Worse, "packets lost at devices"},
		{"the opposite of what was promised", nil, set(map[Key]float64{{"received_rps", ""}: 50_000}),
			[]plan.Change{expect(eth0("rps.cpus"), "received_rps", "down")}, Worse, "interrupts between CPUs for RPS 0 → 50,000/s"},
		{"what nobody promised and nobody asks", nil, set(map[Key]float64{{"received_rps", ""}: 50_000}), nil, Same, ""},
		{"interrupts bought for latency that nobody saw", nil, set(map[Key]float64{{"interrupts_per_packet", ""}: 1}),
			[]plan.Change{expect(eth0("coalesce.rx-usecs"), "latency", "down")}, Unclear, "what it was to bring could not be measured"},
		{"interrupts for nothing", nil, set(map[Key]float64{{"interrupts_per_packet", ""}: 1}), nil, Worse, "interrupts per packet 0.4 → 1 interrupts (+150 %)"},
		{"cheaper", dearer, nil, nil, Better, "softirq time of all CPUs 40 % → 25 %"},
		{"dearer beside a new neighbour", nil, func(s *Sample) { dearer(s); s.OtherWork = 1.5 }, nil, Unclear, "other work on this host changed"},
		{"twice as dear beside a new neighbour", nil, func(s *Sample) { s.Values[Key{softirqShare, ""}] = 0.7; s.OtherWork = 1.5 }, nil, Worse, "softirq time of all CPUs"},
		{"a new neighbour and nothing else", nil, func(s *Sample) { s.OtherWork = 1.5 }, nil, Same, ""},
		{"backlog drops of others", nil, func(s *Sample) { s.Elsewhere = 9; s.Values[Key{backlogDropped, ""}] = 0.2 }, nil, Unclear, "other traffic on this host changed"},
		{"own backlog drops", nil, set(map[Key]float64{{backlogDropped, ""}: 0.2}), nil, Worse, "packets dropped at a CPU's backlog"},
		{"dearer while stolen", nil, func(s *Sample) { dearer(s); s.Steal = 0.3 }, nil, Unclear, "the hypervisor took"},
		{"the link is gone", nil, func(s *Sample) { s.Carrier["eth0"] = false; s.Packets, s.Bytes = 0, 0 }, nil, Worse, "eth0 lost its link"},
		{"a link that was down before", func(s *Sample) { s.Carrier["eth0"] = false }, func(s *Sample) { s.Carrier["eth0"] = false }, nil, Same, ""},
		{"another mix", nil, func(s *Sample) { s.UDPShare = 0.9 }, nil, Unclear, "UDP was 50 % of datagrams"},
		{"idle", func(s *Sample) { s.Packets, s.Bytes = 10, 500 }, func(s *Sample) { s.Packets, s.Bytes = 10, 500 }, nil, Unclear, "hardly any traffic: 10 packets/s before and 10 after"},
		{"idle but for chatter that ended", func(s *Sample) { s.Packets, s.Bytes = 4, 380 }, func(s *Sample) { s.Packets, s.Bytes = 0, 0 }, nil, Unclear, "hardly any traffic: 4 packets/s before and 0 after"},
		{"idle from the start, then not", func(s *Sample) { s.Packets, s.Bytes = 0, 0 }, nil, nil, Unclear, "from nothing"},
		{"half the throughput for no reason", nil,
			func(s *Sample) {
				s.Packets, s.Bytes = 25_000, 20e6
				s.Values[Key{rxBytes, "eth0"}], s.Values[Key{softirqShare, ""}], s.Values[Key{maxSoftirq, ""}] = 18e6, 0.12, 0.1
			}, nil, Unclear, "offered load 50,000 → 25,000 packets/s (-50 %)"},
		{"half the throughput at a CPU's limit", nil,
			func(s *Sample) {
				s.Packets, s.Bytes = 25_000, 20e6
				s.Values[Key{rxBytes, "eth0"}] = 18e6
				s.CPUs[0] = CPU{Busy: 0.99, Softirq: 0.9}
			}, nil, Worse, "eth0 received 36,000,000 → 18,000,000 bytes/s (-50 %)"},
		{"twice the throughput, relieved", func(s *Sample) { s.CPUs[0] = CPU{Busy: 0.99, Softirq: 0.9} },
			func(s *Sample) { s.Packets, s.Bytes = 100_000, 80e6; s.Values[Key{rxBytes, "eth0"}] = 72e6 }, nil, Better, "eth0 received"},
		{"one device falls silent among others", nil, func(s *Sample) { s.Values[Key{txBytes, "eth0"}] = 1e6 }, nil, Unclear, "nothing tells whether the change did it"},
		{"more packets for the same bytes after an offload", nil, func(s *Sample) { s.Packets = 200_000 },
			[]plan.Change{{Ref: eth0("feature.rx-gro"), Before: "on", After: "off"}}, Same, ""},
	} {
		r := Judge(phase(test.before), phase(test.after), Promise{Changes: test.changes})
		if r.Verdict != test.want || !strings.Contains(r.Reason, test.reason) {
			t.Errorf("%s: %s: %s\nwant %s: %s\nchanged %q", test.name, r.Verdict, r.Reason, test.want, test.reason, r.Changed)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestPromises(t *testing.T) {
	t.Parallel()
	predicted := 0.3
	changes := []plan.Change{
		{Ref: knob.Rx("eth0", 1, "irq.affinity"), Expect: plan.Expect{Metric: maxSoftirq, Direction: "down", Predicted: &predicted}},
		expect(knob.Global("net.core.netdev_budget"), "squeezed_by_packets", "down"),
		expect(knob.Tx("eth0", 1, "xps.cpus"), "xps_mismatched_queues", "down"),
		{Ref: knob.Device("eth0", "ring.rx")},
	}
	placement := []plan.Placement{{Basis: "of a CPU", CPUs: []plan.CPULoad{{CPU: 0, Before: 0.5, Predicted: 0.25}}}}
	r := Judge(phase(nil), phase(func(s *Sample) { s.CPUs[0] = CPU{Softirq: 0.22} }), Promise{Changes: changes, Placement: placement})
	want := []Unmeasured{
		{"xps_mismatched_queues", "napitune cannot measure it"},
		{"squeezed_by_packets", "it was not seen in both phases (in-kernel probes)"},
	}
	if diff := cmp.Diff(want, r.Unmeasured); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	i := slices.IndexFunc(r.Figures, func(f Figure) bool { return f.Metric == maxSoftirq })
	if i < 0 || r.Figures[i].Promised != "down" || r.Figures[i].Predicted == nil || *r.Figures[i].Predicted != predicted {
		t.Errorf("figures: %+v", r.Figures)
	}
	p := 0.25
	if diff := cmp.Diff([]Load{{CPU: 0, Predicted: &p, Before: 0.2, After: 0.22}, {CPU: 1, Before: 0.05, After: 0.05}}, r.Loads); diff != "" {
		t.Errorf("loads -want +got:\n%s", diff)
	}
}

func TestTooFewWindows(t *testing.T) {
	t.Parallel()
	if r := Judge(phase(nil)[:1], phase(nil), Promise{}); r.Verdict != Unclear || r.Figures == nil {
		t.Errorf("%+v", r)
	}
}

// Every metric that can be compared has words for people, and no two share a name.
func TestMetrics(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, m := range metrics() {
		if m.title == "" || m.unit == "" || m.source == "" || m.floor <= 0 && m.class != throughput || seen[m.name] {
			t.Errorf("%+v", m)
		}
		seen[m.name] = true
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 0.123456: "0.123", 99: "99", 1234.5: "1,234", 1e6: "1,000,000", -1500: "-1,500"} {
		if got := rate(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0 %", 0.5: "50 %", 0.034: "3.4 %", 0.00012: "0.012 %"} {
		if got := percent(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
