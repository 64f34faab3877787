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
