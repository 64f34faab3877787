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
	attached := func(names ...string) (out []counters.Status) {
		for _, n := range names {
			out = append(out, counters.Status{Name: n, State: counters.Attached})
		}
		return out
	}
	three := uint64(3)
	hist := func(bucket int, n uint64) counters.Hist {
		buckets := make([]uint64, bucket+1)
		buckets[bucket] = n
		return counters.NewHist(buckets, 0)
	}
	o.Probes = &counters.Counters{
		TakenNs: 10e9, AttachedNs: 10e9, Probes: attached("softirq", "latency", "drops", "virtio-control"),
		Latency: []counters.Latency{
			{CPU: 0, PollToSocketNs: hist(14, 90), SocketToReadNs: hist(16, 50)},
			{CPU: 1, PollToSocketNs: hist(20, 10)},
			{CPU: 5, PollToSocketNs: hist(13, 7)},
		},
		Windows: []counters.Window{{Probe: "drops", AttachedNs: 300e6, Events: 12, LimitPerJiffy: 2000}},
		Drops:   []counters.Drop{{CPU: 0, Backlog: 9, Other: 2}, {CPU: 1, RPSInterrupts: &three}, {CPU: 2}},
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
