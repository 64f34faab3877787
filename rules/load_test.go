package rules_test

import (
	"testing"
	"time"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
)

// What a receive softirq costs beside its polls moves with the queues: four
// queues that are polled for 4 % of CPU 0 each, in softirqs of twice that time,
// make 8 % of a CPU each wherever they go.
func TestPredictionTakesSoftirqsAlong(t *testing.T) {
	if got, want := predictedMax(t, 0), 2*polled; got < want-0.002 || got > want+0.002 {
		t.Errorf("the busiest CPU is predicted to spend %.3f of its time, want %.3f", got, want)
	}
}

// A hypervisor that takes a CPU away in the middle of a tenth of the polls, 50
// ms of CPU time in a guest of the lab, makes no queue heavier.
func TestPredictionLeavesOutLostTime(t *testing.T) {
	if got, want := predictedMax(t, 100), 2*polled; got < want-0.002 || got > want+0.002 {
		t.Errorf("the busiest CPU is predicted to spend %.3f of its time, want %.3f", got, want)
	}
}

// polled is what polling each of four queues takes of CPU 0.
const polled = 0.04

// predictedMax is how busy any CPU will be when four queues of CPU 0 are spread,
// of whose 1000 polls some lost the CPU.
func predictedMax(t *testing.T, lost uint64) float64 {
	t.Helper()
	s := scene4(func(s *scene) {
		d := s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.heat(0, 8*polled)
		for cpu := 1; cpu < 4; cpu++ {
			s.heat(cpu, 0)
		}
		p := s.probe()
		each := uint64(polled * float64(10*time.Second) / 1000)
		runs := 8 * 1000 * each
		for i := range d.Queues {
			d.Queues[i].NAPI = 10 + i
			n := counters.NAPI{CPU: 0, ID: uint32(10 + i), Device: "eth0", Polls: 1000, Work: 1000, TimedPolls: 1000, TimeNs: 1000 * each}
			n.LongPolls, n.LongNs = lost, lost*uint64(50*time.Millisecond)
			n.TimedPolls, n.TimeNs = n.TimedPolls-lost, n.TimeNs-lost*each
			runs += n.LongNs - 2*lost*each
			p.NAPIs = append(p.NAPIs, n)
		}
		p.CPUs = append(p.CPUs, counters.CPU{CPU: 0, Softirq: map[string]counters.Softirq{"NET_RX": {Runs: 1000, TimedRuns: 1000, TimeNs: runs}}})
	})()
	_, placed := rules.Judge(s.obs, profiles.Policy{})
	if len(placed) != 1 {
		t.Fatalf("%d placements, want one", len(placed))
	}
	return placed[0].PredictedMax
}

// Irqbalance took the interrupts of four pairs apart, so that XPS sends the answers
// of pair 2 on queue 0 and nothing on queue 1: once each pair is on a CPU of its own
// queue, they come along. Where XPS lets every CPU send on every queue, who caused
// which transmit interrupt is not known, and they stay with their queue.
func TestPredictionTakesAnswersAlong(t *testing.T) {
	for _, tt := range []struct {
		name  string
		masks []string
		want  float64
	}{
		{"a queue for each two CPUs", []string{"0-1", "2-3", "4-5", "6-7"}, 0.25},
		{"every queue for all", []string{"0-7", "0-7", "0-7", "0-7"}, 0.375},
		{"unknown", nil, 0.375},
	} {
		s := newScene(8)
		s.nic("eth0", "virtio", []fire{{0: 50_000}, {7: 50_000}, {1: 50_000}, {5: 50_000}}, []fire{{6: 100_000}, {4: 1}, {2: 50_000}, {3: 50_000}})
		for n := range 4 {
			delete(s.snap.Knobs, knob.Tx("eth0", n, "xps.cpus"))
			if tt.masks != nil {
				s.set(knob.Tx("eth0", n, "xps.cpus"), tt.masks[n])
			}
		}
		_, placed := rules.Judge(s.obs, profiles.Balanced())
		if len(placed) != 1 {
			t.Fatalf("%s: %d placements, want one", tt.name, len(placed))
		}
		if got := placed[0].PredictedMax; got < tt.want-0.002 || got > tt.want+0.002 {
			t.Errorf("%s: the busiest CPU is predicted to get %.3f of the interrupts, want %.3f", tt.name, got, tt.want)
		}
	}
}

// Polls of a pod's device with the name, number and queues of ours are load of
// their CPU and of no queue of ours.
func TestLoadOfPodsIsNotOurs(t *testing.T) {
	const share, pods = 0.04, 0.03
	s := scene4(func(s *scene) {
		d := s.nic("eth0", "virtio", all(3, 0, 50_000), nil)
		d.Index = 2
		s.heat(0, 3*share)
		s.heat(1, pods)
		s.heat(2, 0)
		s.heat(3, 0)
		p := s.probe()
		p.NetNS = ourNetNS
		for queue := range 3 {
			row := counters.NAPI{Kind: "virtio-rx", NetNS: ourNetNS, IfIndex: 2, Device: "eth0", Queue: queue, Polls: 1000, Work: 1000, TimedPolls: 1000, TimeNs: uint64(share * float64(10*time.Second))}
			pod := row
			pod.NetNS, pod.CPU, pod.TimeNs = podNetNS, 1, uint64(pods/3*10*1e9)
			p.NAPIs = append(p.NAPIs, row, pod)
		}
	})()
	_, placed := rules.Judge(s.obs, profiles.Policy{})
	if len(placed) != 1 {
		t.Fatalf("%d placements, want one", len(placed))
	}
	if got := placed[0].PredictedMax; got < share-0.002 || got > share+0.002 {
		t.Errorf("the busiest CPU is predicted to spend %.3f of its time, want %.3f", got, share)
	}
}
