package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

// probedObservation is the stacked host with two nodes and all that probes
// count beside what rules read.
func probedObservation() *detect.Observation {
	o := stacked()
	o.Gaps, o.Last.Gaps = nil, nil
	o.Last.Topo.Nodes = []topo.Node{{ID: 0}, {ID: 1}}
	for cpu := range 8 {
		o.Last.Topo.CPUs[cpu] = topo.CPU{ID: cpu, Node: cpu / 4}
	}
	o.Last.Devices[1].Index = 2
	attached := func(names ...string) (out []counters.Status) {
		for _, n := range names {
			out = append(out, counters.Status{Name: n, State: counters.Attached})
		}
		return out
	}
	three, nine := uint64(3), uint64(9)
	hist := func(bucket int, n uint64) counters.Hist {
		buckets := make([]uint64, bucket+1)
		buckets[bucket] = n
		return counters.NewHist(buckets, 0)
	}
	o.Probes = &counters.Counters{
		NetNS: 1, TakenNs: 10e9, AttachedNs: 10e9, Probes: attached("budget", "latency", "drops", "virtio-control"),
		CPUs: []counters.CPU{
			{CPU: 0, Budget: counters.Budget{Runs: 1500, SqueezedPackets: 5, SqueezedTime: 4}},
			{CPU: 1, Budget: counters.Budget{Runs: 500, SqueezedTime: 3}},
		},
		NAPIs: []counters.NAPI{
			{NetNS: 1, IfIndex: 2, Device: "eth0", ID: 8193, Kind: "virtio-rx", Queue: 0, CPU: 0, Polls: 400, Work: 10_000},
			{NetNS: 1, IfIndex: 2, Device: "eth0", ID: 8193, Kind: "virtio-rx", Queue: 0, CPU: 2, Polls: 100, Work: 2000},
			{NetNS: 1, IfIndex: 2, Device: "eth0", Kind: "virtio-rx", Queue: 1, CPU: 1, Polls: 8, Work: 8},
			{NetNS: 1, IfIndex: 2, Device: "eth0", ID: 8195, Kind: "device", Queue: -1, CPU: 3, Polls: 10, Work: 45},
			{NetNS: 9, IfIndex: 2, Device: "eth0", ID: 9000, Kind: "virtio-rx", Queue: 3, CPU: 3, Polls: 1000, Work: 1},
		},
		Virtio: []counters.Virtio{
			{NetNS: 1, IfIndex: 2, Queue: 0, CPU: 0, IRQ: 25, ArmedPolls: 300, UnarmedPolls: 90},
			{NetNS: 1, IfIndex: 2, Queue: 0, CPU: 2, IRQ: 25, ArmedPolls: 90, UnarmedPolls: 10},
			{NetNS: 1, IfIndex: 2, Queue: 1, CPU: 1, IRQ: -1},
			{NetNS: 9, IfIndex: 2, Queue: 0, CPU: 0, IRQ: 25, UnarmedPolls: 5000},
		},
		IRQs: []counters.IRQ{{IRQ: 25, CPU: 0, Count: 300, Unhandled: 7}, {IRQ: 25, CPU: 2, Count: 100}, {IRQ: 26, CPU: 1, Count: 8}},
		Latency: []counters.Latency{
			{CPU: 0, PollToSocketNs: hist(14, 90), SocketToReadNs: hist(16, 50)},
			{CPU: 1, PollToSocketNs: hist(20, 10)},
			{CPU: 5, PollToSocketNs: hist(13, 7)},
		},
		Windows: []counters.Window{{Probe: "drops", AttachedNs: 300e6, Events: 12, LimitPerJiffy: 2000}},
		Drops:   []counters.Drop{{CPU: 0, Backlog: &nine, Other: 2}, {CPU: 1, RPSInterrupts: &three}, {CPU: 2}},
	}
	return o
}

func probedAdvice() Advice {
	return NewAdvice(probedObservation(), nil, plan.Plan{Profile: "balanced", Complete: true})
}

// Percentiles are those of all CPUs of a node together.
func TestLatencyByNode(t *testing.T) {
	want := []Latency{
		{Path: pathPoll, Node: 0, CPUs: "0-1", Samples: 100, P50Ns: 1<<14 - 1, P90Ns: 1<<14 - 1, P99Ns: 1<<20 - 1},
		{Path: pathPoll, Node: 1, CPUs: "5", Samples: 7, P50Ns: 1<<13 - 1, P90Ns: 1<<13 - 1, P99Ns: 1<<13 - 1},
		{Path: pathRead, Node: 0, CPUs: "0", Samples: 50, P50Ns: 1<<16 - 1, P90Ns: 1<<16 - 1, P99Ns: 1<<16 - 1},
	}
	if diff := cmp.Diff(want, probedAdvice().Probed.Latency); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What waits longer than the histograms tell apart is not given a bound.
func TestLatencyBeyondHistogram(t *testing.T) {
	o := probedObservation()
	buckets := make([]uint64, counters.TimeBuckets)
	buckets[10], buckets[counters.TimeBuckets-1] = 95, 5
	o.Probes.Latency = []counters.Latency{{CPU: 0, PollToSocketNs: counters.NewHist(buckets, 0)}}
	advice := NewAdvice(o, nil, plan.Plan{})
	want := []Latency{{Path: pathPoll, Node: 0, CPUs: "0", Samples: 100, P50Ns: 1<<10 - 1, P90Ns: 1<<10 - 1, P99Ns: 1<<26 - 1, P99More: true}}
	if diff := cmp.Diff(want, advice.Probed.Latency); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	if err := Text(&out, advice, Style{}); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, "90 % within 1.02 µs, more than 1 % above 67,109 µs (100 sampled)") {
		t.Errorf("no word of a percentile without a bound in:\n%s", &out)
	}
}

// What was not asked for is not mentioned, and what found nothing is.
func TestProbedOnlyIfAskedFor(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(c *counters.Counters)
		want   string
	}{
		{"default probes", func(c *counters.Counters) { c.Probes, c.Windows = c.Probes[:1], nil }, ""},
		{"no packet", func(c *counters.Counters) { c.Latency = nil }, "latency: nothing happened that it samples"},
		{"no drop", func(c *counters.Counters) { c.Drops = nil }, "drops: none and no RPS interrupt in 0.3 s"},
		{"window never opened", func(c *counters.Counters) { c.Windows[0].AttachedNs = 0 }, "virtio-control: nothing happened"},
	} {
		o := probedObservation()
		test.change(o.Probes)
		var out bytes.Buffer
		if err := Text(&out, NewAdvice(o, nil, plan.Plan{}), Style{}); err != nil {
			t.Fatal(err)
		}
		if told := strings.Contains(out.String(), "Counted by probes"); told != (test.want != "") || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: want %q in:\n%s", test.name, test.want, &out)
		}
		if strings.Contains(out.String(), "dropped in") != (test.name == "no packet") {
			t.Errorf("%s: drops:\n%s", test.name, &out)
		}
	}
}

// What switched itself off, overflowed or is not known for sure is said in a
// line, and is a gap in JSON; where all is known nothing is said.
func TestProbeGaps(t *testing.T) {
	for _, test := range []struct {
		want   string
		change func(o *detect.Observation)
	}{
		{"probes were attached 43 % of the window", func(o *detect.Observation) { o.Probes.AttachedNs = 4.3e9 }},
		{"gro switched itself off 2 times, above 2,000 events per CPU and tick: 7,000 events not looked at", func(o *detect.Observation) {
			o.Probes.Windows = append(o.Probes.Windows, counters.Window{Probe: "gro", AttachedNs: 3e8, SwitchedOff: 2, Skipped: 7000, LimitPerJiffy: 2000})
		}},
		{"drops: no room for some devices, 5 events not counted", func(o *detect.Observation) { o.Probes.Windows[0].Overflow = 5 }},
		{"drops: not looked at, the window is too short", func(o *detect.Observation) { o.Probes.Windows[0].AttachedNs = 0 }},
		{"no room for some NAPIs: 17 polls counted in no NAPI", func(o *detect.Observation) { o.Probes.CPUs[0].NAPIOverflow, o.Probes.CPUs[1].NAPIOverflow = 8, 9 }},
		{"no room for 2 receive queues of virtio", func(o *detect.Observation) { o.Probes.CPUs[1].VirtioOverflow = 2 }},
		{"netdev_budget or netdev_budget_usecs changed in the window", func(o *detect.Observation) { o.Probes.BudgetChanged = true }},
		{"30 of 2,000 receive softirqs judged without the kernel's own counter", func(o *detect.Observation) { o.Probes.CPUs[0].Budget.InferredRuns = 30 }},
		{"4 squeezes without a cause", func(o *detect.Observation) {
			o.Probes.CPUs[0].Budget.SqueezedUnexplained = 4
			o.Probes.CPUs[0].Budget.SqueezedPackets -= 4
		}},
		{"softnet_stat counted 3 squeezes more than the probes", func(o *detect.Observation) { o.Probes.CPUs[0].Budget.SqueezedTime -= 3 }},
		{"the probes counted 1 squeeze more than softnet_stat", func(o *detect.Observation) { o.Probes.CPUs[1].Budget.SqueezedTime++ }},
		{"", func(*detect.Observation) {}},
		{"", func(o *detect.Observation) { o.Probes = nil }},
	} {
		o := probedObservation()
		test.change(o)
		var out bytes.Buffer
		a := NewAdvice(o, nil, plan.Plan{})
		if err := Text(&out, a, Style{Width: 200}); err != nil {
			t.Fatal(err)
		}
		var reasons []string
		for _, g := range a.Gaps {
			if g.Source == GapProbes {
				reasons = append(reasons, g.Reason)
			}
		}
		if test.want == "" && len(reasons) > 0 || test.want != "" && (len(reasons) != 1 || !strings.Contains(reasons[0], test.want)) {
			t.Errorf("gaps %q, want %q", reasons, test.want)
		}
		if !strings.Contains(out.String(), test.want) || strings.Contains(out.String(), "could not be read") {
			t.Errorf("want %q in:\n%s", test.want, &out)
		}
	}
}

// Polls are those of our device's queues; what only virtio tells is absent where
// the interrupt of a queue was not seen.
func TestPolling(t *testing.T) {
	perIRQ, spurious, without := 30.0, uint64(7), uint64(100)
	want := []MapPolling{
		{Queue: 0, CPUs: "0,2", Polls: 500, PacketsPerPoll: 24, PacketsPerIRQ: &perIRQ, SpuriousIRQs: &spurious, PollsWithoutIRQ: &without},
		{Queue: 1, CPUs: "1", Polls: 8, PacketsPerPoll: 1},
		{Queue: 2, CPUs: "3", Polls: 10, PacketsPerPoll: 4.5},
	}
	m := NewMap(probedObservation(), []string{"eth0"})
	if diff := cmp.Diff(want, m.Devices[0].Polling); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for verbose, lines := range map[bool]int{false: 0, true: 1} {
		var out bytes.Buffer
		if err := m.Text(&out, Style{Verbose: verbose}); err != nil {
			t.Fatal(err)
		}
		const line = "  rx-0     500        24       30              7                100  CPU 0,2\n"
		if strings.Count(out.String(), line) != lines {
			t.Errorf("-v %v: want %q %d times in:\n%s", verbose, line, lines, &out)
		}
	}
}
