package rules_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// TestMutatedObservations judges ten thousand observations in which values were
// dropped, zeroed, made huge or impossible. No panic, and nothing asked for that
// this host cannot take, as impossible knows it: most settings of the scenes have
// no bounds by which the builder could have refused it.
func TestMutatedObservations(t *testing.T) {
	const count, seed = 10_000, 20261122
	random := rand.New(rand.NewPCG(seed, 1))
	cases := allCases()
	for n := range count {
		tc := cases[n%len(cases)]
		s := tc.make()
		for range 1 + random.IntN(6) {
			mutate(random, s)
		}
		policy := profiles.Balanced()
		policy.Latency = random.IntN(4) == 0
		if s.policy != nil {
			s.policy(&policy)
		}
		findings := rules.Evaluate(s.obs, policy)
		p := plan.Build(findings, plan.Input{States: s.snap.Knobs, View: s.snap.View()})
		for _, c := range p.Changes {
			if why := impossible(s, policy, c.Ref, c.After); why != "" {
				t.Errorf("seed %d, case %d (%s): %s → %s: %s", seed, n, tc.name, c.Ref, c.After, why)
			}
			if c.Before == c.After {
				t.Errorf("seed %d, case %d (%s): %s is changed from %s to itself", seed, n, tc.name, c.Ref, c.Before)
			}
		}
		for _, f := range findings {
			for _, w := range f.Wants { // of what is blocked as well: a reader may do it by hand
				if why := impossible(s, policy, w.Ref, w.Value); why != "" {
					t.Errorf("seed %d, case %d (%s): %s asks for %s = %s: %s", seed, n, tc.name, f.ID, w.Ref, w.Value, why)
				}
			}
			for _, e := range f.Evidence {
				if math.IsNaN(e.Value) || math.IsInf(e.Value, 0) {
					t.Errorf("seed %d, case %d (%s): %s says %s = %v", seed, n, tc.name, f.ID, e.Metric, e.Value)
				}
			}
		}
	}
}

// odd are numbers that counters take when they wrap, break or were never there.
var odd = []uint64{0, 1, 63, 64, 1 << 31, 1<<32 - 1, 1 << 40, 1 << 62, math.MaxUint64}

func pick[V any](random *rand.Rand, from []V) V { return from[random.IntN(len(from))] }

func mutate(random *rand.Rand, s *scene) {
	mutations := []func(*rand.Rand, *scene){
		mutateInterrupts, mutateCPU, mutateSoftnet, mutateDevice, mutateKnobs, mutateTopology, mutateProbes, mutateWindow, mutateRows, mutateIdent,
	}
	pick(random, mutations)(random, s)
}

func mutateInterrupts(random *rand.Rand, s *scene) {
	for irq, d := range s.obs.IRQ {
		switch random.IntN(5) {
		case 0:
			delete(s.obs.IRQ, irq)
		case 1:
			cpu := random.IntN(70) - 2
			n := pick(random, odd)
			s.obs.IRQ[irq] = detect.IRQDelta{Total: n, CPU: map[int]uint64{cpu: n}, Home: cpu, HomeShare: 1, Moves: random.IntN(9)}
		case 2:
			d.Total = pick(random, odd)
			s.obs.IRQ[irq] = d
		}
	}
}

func mutateCPU(random *rand.Rand, s *scene) {
	shares := []float64{0, 1, -1, 2, 0.5, 0.9, 1e12}
	for cpu := range s.obs.CPU {
		switch random.IntN(4) {
		case 0:
			delete(s.obs.CPU, cpu)
		case 1:
			s.obs.CPU[cpu] = detect.CPUShare{Softirq: pick(random, shares), IRQ: pick(random, shares), Steal: pick(random, shares), Idle: pick(random, shares), Ticks: pick(random, odd)}
		}
	}
}

func mutateSoftnet(random *rand.Rand, s *scene) {
	for cpu := range s.obs.Softnet {
		if random.IntN(3) == 0 {
			s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: pick(random, odd), Dropped: pick(random, odd), Squeezed: pick(random, odd), FlowLimit: pick(random, odd)}
			s.obs.NetRx[cpu] = pick(random, odd)
		}
	}
}

func mutateDevice(random *rand.Rand, s *scene) {
	for _, d := range s.snap.Devices {
		switch random.IntN(9) {
		case 0:
			d.Channels = &host.Channels{MaxCombined: random.IntN(70_000), Combined: random.IntN(70_000) - 5}
		case 1:
			d.Rings = &host.Rings{Rx: random.IntN(9000) - 9, MaxRx: random.IntN(9000)}
		case 2:
			d.RSS = &host.RSS{Table: make([]uint32, random.IntN(2000)), RxRings: random.IntN(99)}
		case 3:
			d.Node = random.IntN(40) - 3
		case 4:
			d.Queues = d.Queues[:random.IntN(len(d.Queues)+1)]
		case 5:
			for i := range d.Queues {
				d.Queues[i].N, d.Queues[i].RxIRQ, d.Queues[i].TxIRQ = random.IntN(70_000), random.IntN(99)-2, random.IntN(99)-2
			}
		case 6:
			d.Kind, d.VirtioFeatures = pick(random, []string{"virtio", "physical", "tap", "bridge", ""}), pick(random, []string{"", "1", bits(22, 60)})
		case 7:
			s.obs.Device[d.Name] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{RxPackets: pick(random, odd), RxMissed: pick(random, odd)},
				Queue: map[detect.QueueID]map[string]uint64{{N: 0}: {"packets": pick(random, odd)}, {N: 1}: {"packets": pick(random, odd)}, {N: 9}: {"packets": pick(random, odd)}}}
		default:
			delete(s.obs.Device, d.Name)
		}
	}
}

func mutateKnobs(random *rand.Rand, s *scene) {
	for ref, state := range s.snap.Knobs {
		switch random.IntN(8) {
		case 0:
			delete(s.snap.Knobs, ref)
		case 1:
			state.Status = knob.Status(random.IntN(5))
		case 2:
			state.Value = pick(random, []string{"", "-1", "0", "999999999999999999999", "0-3", "off", "nonsense", strconv.Itoa(random.IntN(1 << 30))})
		case 3:
			state.Bounds = knob.Bounds{Min: int64(random.IntN(100)), Max: int64(random.IntN(2000)), CPUs: pick(random, []string{"", "0", "1-2"})}
		default:
			continue
		}
		if _, there := s.snap.Knobs[ref]; there {
			s.snap.Knobs[ref] = state
		}
	}
}

func mutateTopology(random *rand.Rand, s *scene) {
	t := s.snap.Topo
	for id, cpu := range t.CPUs {
		switch random.IntN(6) {
		case 0:
			delete(t.CPUs, id)
		case 1:
			cpu.Core, cpu.LLC, cpu.Node = random.IntN(9)-2, random.IntN(9)-2, random.IntN(9)-2
			t.CPUs[id] = cpu
		}
	}
	if random.IntN(3) == 0 {
		t.Isolated = t.Online
	}
	if random.IntN(3) == 0 {
		t.Nodes = nil
	}
	if random.IntN(3) == 0 {
		s.snap.Vectors.Free = map[int]int{random.IntN(9) - 2: random.IntN(5) - 2, 1: 0, 2: 1 << 40}
	}
}

func mutateProbes(random *rand.Rand, s *scene) {
	p := s.probe()
	p.AttachedNs = pick(random, odd)
	p.CPUs = append(p.CPUs, counters.CPU{CPU: random.IntN(9), Budget: counters.Budget{Runs: pick(random, odd), Polls: pick(random, odd), Full: pick(random, odd),
		SqueezedPackets: pick(random, odd), SqueezedTime: pick(random, odd), MaxPolls: pick(random, odd)}})
	p.NAPIs = append(p.NAPIs, counters.NAPI{Device: "eth0", ID: 1, CPU: random.IntN(9), Polls: pick(random, odd), Work: pick(random, odd), Empty: pick(random, odd), TimeNs: pick(random, odd), TimedPolls: pick(random, odd)})
	p.GRO = append(p.GRO, counters.GRO{Device: "eth0", Merged: pick(random, odd), Normal: pick(random, odd), Segments: pick(random, odd), TCPSegments: pick(random, odd)})
}

func mutateWindow(random *rand.Rand, s *scene) {
	s.obs.Window = pick(random, []time.Duration{0, 1, -1, 1 << 62, 10 * time.Second})
	s.obs.Basis = pick(random, []detect.Basis{detect.BasisBoot, detect.BasisUntimed, detect.BasisWindow})
}

func mutateIdent(random *rand.Rand, s *scene) {
	s.snap.Ident.HZ = pick(random, []int{-1, 0, 100, 250, 300, 1000})
}

func mutateRows(random *rand.Rand, s *scene) {
	rows := s.snap.IRQs.Rows
	if len(rows) > 0 {
		s.snap.IRQs.Rows = rows[:random.IntN(len(rows))]
	}
}
