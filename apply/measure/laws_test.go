package measure

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// world makes the sub-windows of a host that never was. Every value has its own
// noise on top of that of the load; CPU time comes in ticks, as in /proc/stat.
type world struct {
	seconds float64
	packets float64 // offered per second
	size    float64 // bytes per packet
	cost    float64 // seconds of softirq time per packet
	cpus    int     // that share it
	skew    float64 // part of it that the first of them has
	other   float64 // CPU time of everything else, in CPUs
	loss    float64 // part of the packets
	resent  float64 // part of the TCP segments
	wait    float64 // ns; 0 where no probe took part
	spread  float64 // noise: standard deviation as a part of the value
	memory  float64 // how much of the noise stays from one sub-window to the next
	bursts  float64 // chance that a sub-window loses a burst of packets anyway
}

// calm is a host as others of the tests vary it: 50,000 packets a second that
// cost 3 µs each.
func calm(spread float64) world {
	return world{seconds: 1, packets: 50_000, size: 800, cost: 3e-6, cpus: 4, skew: 0.4, other: 0.8, resent: 0.0005, wait: 8000, spread: spread, bursts: 0.05}
}

// noise walks: with memory 0 its steps are independent.
type noise struct {
	rng            *rand.Rand
	spread, memory float64
	at             float64
}

func (n *noise) next() float64 {
	n.at = n.memory*n.at + math.Sqrt(1-n.memory*n.memory)*n.rng.NormFloat64()
	return max(0.05, 1+n.spread*n.at)
}

// poisson approximates a count.
func poisson(rng *rand.Rand, mean float64) float64 {
	return max(0, math.Round(mean+math.Sqrt(mean)*rng.NormFloat64()))
}

func (w world) phase(rng *rand.Rand) []Sample {
	walk := func(part float64) *noise {
		n := &noise{rng, part * w.spread, w.memory, 0}
		n.at = rng.NormFloat64()
		return n
	}
	load, price, share, work, wait := walk(1), walk(0.5), walk(0.3), walk(1), walk(1)
	out := make([]Sample, Windows)
	for i := range out {
		offered := w.packets * load.next()
		gone := w.loss
		if rng.Float64() < w.bursts {
			gone += 0.01 * rng.Float64()
		}
		delivered := offered * (1 - gone)
		out[i] = Sample{
			Seconds: w.seconds, Packets: offered, Bytes: delivered * w.size, Elsewhere: 1 + 0.05*rng.NormFloat64(), UDPShare: 0.3,
			OtherWork: w.other * work.next(), CPUs: map[int]CPU{}, Carrier: map[string]bool{"eth0": true}, Values: map[Key]float64{},
		}
		s := &out[i]
		sum, most := w.spreadWork(s, delivered*w.cost*price.next(), w.skew*share.next(), rng)
		counted := offered * w.seconds
		for key, v := range map[Key]float64{
			{softirqShare, ""}: sum, {maxSoftirq, ""}: most,
			{"device_lost", ""}:           poisson(rng, counted*gone) / counted,
			{backlogDropped, ""}:          0,
			{"tcp_retransmits", ""}:       poisson(rng, counted*w.resent) / counted,
			{"tcp_out_of_order", ""}:      poisson(rng, counted*w.resent*2) / counted,
			{rxBytes, "eth0"}:             0.9 * s.Bytes,
			{txBytes, "eth0"}:             0.1 * s.Bytes,
			{"squeezes", ""}:              poisson(rng, 5*w.seconds) / w.seconds,
			{"interrupts_per_packet", ""}: 0.3 * price.next(),
			{"gro_ratio", ""}:             3 * share.next(),
		} {
			s.Values[key] = v
		}
		if w.wait > 0 {
			s.Values[Key{"softirq_latency", ""}] = w.wait * wait.next()
		}
	}
	return out
}

// spreadWork puts softirq time on CPUs in ticks.
func (w world) spreadWork(s *Sample, total, skew float64, rng *rand.Rand) (sum, most float64) {
	const userHZ = 100
	for cpu := range w.cpus {
		share := total * (1 - skew) / float64(max(1, w.cpus-1))
		if cpu == 0 {
			share = total * skew
		}
		ticks := userHZ * w.seconds
		share = math.Floor(share*ticks+rng.Float64()) / ticks
		s.CPUs[cpu] = CPU{Softirq: share, Busy: min(1, share+s.OtherWork/float64(w.cpus))}
		sum += share
		most = max(most, share)
	}
	return sum, most
}

// trials runs many judgements and counts their verdicts.
func trials(n int, seed uint64, before, after func(rng *rand.Rand) world) (map[Verdict]int, map[string]int) {
	verdicts, blamed := map[Verdict]int{}, map[string]int{}
	for i := range n {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		r := Judge(before(rng).phase(rng), after(rng).phase(rng), Promise{})
		verdicts[r.Verdict]++
		for _, f := range r.Figures {
			if f.Verdict == Worse {
				blamed[f.Metric]++
			}
		}
	}
	return verdicts, blamed
}

// trialsEnv is how many judgements each law is tried with, ten thousand for each
// level of noise and each size of harm:
//
//	NAPITUNE_TRIALS=10000 go test -run 'Test.*Law' -v ./apply/measure
const trialsEnv = "NAPITUNE_TRIALS"

func count(t *testing.T) int {
	t.Helper()
	text := os.Getenv(trialsEnv)
	if text == "" {
		return 200 // in seconds; all that the laws promise takes minutes
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 {
		t.Fatalf("%s=%q: a number of at least 100", trialsEnv, text)
	}
	return n
}

// A change that changes nothing is called worse in at most one of a hundred
// judgements, whatever the noise, also where noise has a memory of several
// sub-windows.
func TestNeutralLaw(t *testing.T) {
	t.Parallel()
	n := count(t)
	for _, spread := range []float64{0, 0.02, 0.05, 0.10, 0.20, 0.40} {
		for _, memory := range []float64{0, 0.5, 0.8} {
			t.Run(fmt.Sprintf("noise %.2f memory %.1f", spread, memory), func(t *testing.T) {
				t.Parallel()
				same := func(*rand.Rand) world {
					w := calm(spread)
					w.memory = memory
					return w
				}
				verdicts, blamed := trials(n, uint64(1000*spread+10*memory), same, same)
				t.Logf("%v %v", verdicts, blamed)
				if verdicts[Worse]*100 > n {
					t.Errorf("%d of %d are worse: %v", verdicts[Worse], n, blamed)
				}
			})
		}
	}
}

// Harm of the stated size is found in at least 95 of a hundred judgements, and
// an improvement as surely; a load that changed is neither.
func TestHarmLaw(t *testing.T) {
	t.Parallel()
	n := count(t)
	for _, test := range []struct {
		name   string
		spread float64
		want   Verdict
		change func(w *world)
	}{
		{"five of a thousand lost", 0.10, Worse, func(w *world) { w.loss = 0.005 }},
		{"a hundredth lost", 0.20, Worse, func(w *world) { w.loss, w.bursts = 0.01, 0 }},
		{"half of it lost", 0.20, Worse, func(w *world) { w.loss = 0.5 }},
		{"packets cost half as much again", 0.10, Worse, func(w *world) { w.cost *= 1.5 }},
		{"packets cost twice as much", 0.15, Worse, func(w *world) { w.cost *= 2 }},
		{"one CPU does it all", 0.10, Worse, func(w *world) { w.skew = 1 }},
		{"ten times the segments sent again", 0.10, Worse, func(w *world) { w.resent *= 10 }},
		{"three times the wait", 0.10, Worse, func(w *world) { w.wait *= 3; w.wait += 20_000 }},
		{"less traffic for more work", 0.10, Worse, func(w *world) { w.packets *= 0.5; w.cost *= 4 }},
		{"less traffic with a CPU at its limit", 0.10, Worse, func(w *world) { w.packets *= 0.5; w.cpus, w.skew, w.cost, w.other = 1, 1, 4e-5, 0.1 }},
		{"less traffic and loss", 0.10, Worse, func(w *world) { w.packets *= 0.5; w.loss = 0.05 }},
		{"packets cost half", 0.10, Better, func(w *world) { w.cost *= 0.5 }},
		{"half the traffic", 0.10, Unclear, func(w *world) { w.packets *= 0.5 }},
		{"twice the traffic", 0.10, Unclear, func(w *world) { w.packets *= 2 }},
		{"ten times the traffic, and loss", 0.10, Unclear, func(w *world) { w.packets *= 10; w.loss = 0.05 }},
		{"a tenth of the traffic", 0.10, Unclear, func(w *world) { w.packets *= 0.1 }},
		{"smaller packets", 0.10, Unclear, func(w *world) { w.size *= 0.3 }},
		{"another process beside it", 0.10, Same, func(w *world) { w.other *= 3 }},
		{"a fifth more traffic", 0.02, Same, func(w *world) { w.packets *= 1.2 }},
		{"a tenth less traffic", 0.02, Same, func(w *world) { w.packets *= 0.9 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			verdicts, blamed := trials(n, 7,
				func(*rand.Rand) world { return calm(test.spread) },
				func(*rand.Rand) world {
					w := calm(test.spread)
					test.change(&w)
					return w
				})
			t.Logf("%v %v", verdicts, blamed)
			if verdicts[test.want]*100 < 95*n {
				t.Errorf("%d of %d are %s: %v %v", verdicts[test.want], n, test.want, verdicts, blamed)
			}
			if test.want != Worse && verdicts[Worse]*100 > n {
				t.Errorf("%d of %d are worse: %v", verdicts[Worse], n, blamed)
			}
		})
	}
}

// Short sub-windows have few ticks each; the clock's own noise is not harm.
func TestShortWindowsLaw(t *testing.T) {
	t.Parallel()
	n := count(t)
	for _, cost := range []float64{1e-7, 1e-6, 5e-6, 2e-5} {
		t.Run(fmt.Sprint(cost), func(t *testing.T) {
			t.Parallel()
			short := func(*rand.Rand) world {
				w := calm(0.1)
				w.seconds, w.cost = 0.1, cost
				return w
			}
			verdicts, blamed := trials(n, 11, short, short)
			t.Logf("%v %v", verdicts, blamed)
			if verdicts[Worse]*100 > n {
				t.Errorf("%d of %d are worse: %v", verdicts[Worse], n, blamed)
			}
		})
	}
}
