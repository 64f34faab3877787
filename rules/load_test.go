package rules_test

import (
	"testing"
	"time"

	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
)

// What a receive softirq costs beside its polls moves with the queues: four
// queues that are polled for 4 % of CPU 0 each, in softirqs of twice that time,
// make 8 % of a CPU each wherever they go.
func TestPredictionTakesSoftirqsAlong(t *testing.T) {
	const share = 0.04
	s := scene4(func(s *scene) {
		d := s.nic("eth0", "physical", all(4, 0, 50_000), nil)
		s.heat(0, 8*share)
		for cpu := 1; cpu < 4; cpu++ {
			s.heat(cpu, 0)
		}
		p := s.probe()
		poll := uint64(share * float64(10*time.Second))
		for i := range d.Queues {
			d.Queues[i].NAPI = 10 + i
			p.NAPIs = append(p.NAPIs, counters.NAPI{CPU: 0, ID: uint32(10 + i), Device: "eth0", Polls: 1000, Work: 1000, TimedPolls: 1000, TimeNs: poll})
		}
		p.CPUs = append(p.CPUs, counters.CPU{CPU: 0, Softirq: map[string]counters.Softirq{"NET_RX": {Runs: 1000, TimedRuns: 1000, TimeNs: 8 * poll}}})
	})()
	_, placed := rules.Judge(s.obs, profiles.Policy{})
	if len(placed) != 1 {
		t.Fatalf("%d placements, want one", len(placed))
	}
	if got, want := placed[0].PredictedMax, 2*share; got < want-0.002 || got > want+0.002 {
		t.Errorf("the busiest CPU is predicted to spend %.3f of its time, want %.3f", got, want)
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
