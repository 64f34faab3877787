package rules_test

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
)

// boundary is an observation of which one quantity is just below a threshold or
// just above it; what the rule says must not be the same.
type boundary struct {
	threshold, rule string
	below, above    float64
	make            func(x float64) *scene
}

// coarse are thresholds of quantities that cannot come closer: counts of few
// things, and histograms whose buckets double.
var coarse = map[string]bool{"churn-moves": true, "rps-min-targets": true, "softirq-wait-p99": true}

var boundaries = []boundary{
	{"active-average-rate", "irq-stacked", 98, 102, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", all(4, 0, uint64(x*250)), nil)
		s.sinceBoot()
		s.obs.Window = 1000 * time.Second
	})},
	{"active-interrupts-since-boot", "irq-stacked", 498_000, 502_000, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", all(4, 0, uint64(x/4)), nil)
		s.sinceBoot()
	})},
	{"active-interrupt-rate", "irq-stacked", 990, 1010, at(4, func(s *scene, x float64) { s.nic("eth0", "physical", all(4, 0, uint64(x*10/4)), nil) })},
	{"active-softirq-share", "irq-stacked", 0.049, 0.051, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", all(4, 0, 500), nil)
		s.heat(0, x)
	})},
	{"active-queue-share", "irq-on-isolated-cpu", 0.0098, 0.0102, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: uint64(50_000 * (1 - x))}, {3: uint64(50_000 * x)}}, nil)
		s.snap.Topo.Isolated = cpuset.Of(3)
		s.heat(3, 0.06)
	})},
	{"hot-softirq-share", "virtio-host-single-queue", 0.49, 0.51, at(4, func(s *scene, x float64) {
		s.nic("eth0", "virtio", even(1, 90_000), nil)
		s.heat(0, x)
	})},
	{"software-steered-rate", "arfs-off", 49_500, 50_500, at(8, func(s *scene, x float64) { steered(s, "mlx5_core", uint64(x)) })},
	{"backlog-drop-rate", "backlog-drops", 0.099, 0.101, at(4, func(s *scene, x float64) {
		s.set(knob.Global(backlog), "1000")
		s.obs.Window = 10_000 * time.Second
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 900_000, Dropped: uint64(math.Round(x * 10_000))}
	})},
	{"backlog-ceiling", "backlog-drops", 9_990, 10_000, at(4, func(s *scene, x float64) {
		s.set(knob.Global(backlog), fmt.Sprint(x))
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 90_000, Dropped: 400}
	})},
	{"budget-time-limit", "budget-oversized", 16_000, 16_100, at(4, func(s *scene, x float64) {
		s.snap.Ident.HZ = 1000
		s.set(knob.Global(usecsKnob), fmt.Sprint(x))
	})},
	{"budget-packet-limit", "budget-oversized", 2_400, 2_401, at(4, func(s *scene, x float64) { s.set(knob.Global(budgetKnob), fmt.Sprint(x)) })},
	{"budget-packet-floor", "budget-undersized", 63, 64, at(4, func(s *scene, x float64) { s.set(knob.Global(budgetKnob), fmt.Sprint(x)) })},
	{"squeeze-rate", "budget-packets", 9.9, 10.1, at(4, func(s *scene, x float64) {
		budgets(s)
		s.squeezed(1, uint64(math.Round(10*x)), "packets", 0.9, 6)
	})},
	{"squeeze-explained", "budget-packets", 0.499, 0.501, at(4, func(s *scene, x float64) {
		budgets(s)
		s.squeezed(1, 1000, "packets", 0.9, 6)
		b := &s.obs.Probes.CPUs[0].Budget
		b.SqueezedPackets = uint64(math.Round(1000 * x))
		b.SqueezedTime = 1000 - b.SqueezedPackets
	})},
	{"full-polls", "budget-packets", 0.49, 0.51, at(4, func(s *scene, x float64) {
		budgets(s)
		s.squeezed(1, 500, "packets", x, 6)
	})},
	{"packet-cost", "budget-time", 4_950, 5_050, at(4, func(s *scene, x float64) {
		budgets(s)
		s.squeezed(1, 500, "time", 0.9, 3)
		s.obs.Probes.NAPIs[0].TimeNs = uint64(x) * s.obs.Probes.NAPIs[0].Work
	})},
	{"budget-idle", "budget-packets", 0.295, 0.305, at(4, func(s *scene, x float64) {
		budgets(s)
		s.squeezed(1, 500, "packets", 0.9, 6)
		s.obs.CPU[1] = detect.CPUShare{Softirq: 0.3, Busy: 1 - x, Idle: x, Ticks: 1000}
	})},
	{"uncoalesced-interrupt-rate", "coalescing-off", 49_500, 50_500, at(4, func(s *scene, x float64) {
		moderation(busyNIC(s, "physical", uint64(x*10/4)), false, 0)
		s.set(knob.Device("eth0", "coalesce.adaptive-rx"), "off")
	})},
	{"latency-rx-usecs", "coalescing-for-wrong-load", 10, 11, at(4, func(s *scene, x float64) {
		moderation(busyNIC(s, "physical", 100), false, int(x))
		s.set(knob.Device("eth0", "coalesce.rx-usecs"), fmt.Sprint(x))
		s.latency = true
	})},
	{"steal-share", "cpu-steal", 0.099, 0.101, at(4, func(s *scene, x float64) { s.obs.CPU[1] = detect.CPUShare{Steal: x, Idle: 0.5, Ticks: 1000} })},

	// Two queues on one CPU: by the share of all packets, and by what a spreading
	// leaves there, of which more is asked where the CPU is hot.
	{"stacked-share", "rps-narrows", 0.745, 0.755, at(8, func(s *scene, x float64) {
		gathered(s, 4, "5", 5)
		for cpu := range 8 {
			s.obs.Softnet[cpu] = detect.SoftnetDelta{Processed: uint64(1_000_000 * (1 - x) / 7)}
		}
		s.obs.Softnet[5] = detect.SoftnetDelta{Processed: uint64(1_000_000 * x)}
	})},
	{"stacked-gain", "irq-stacked", 0.69, 0.71, at(2, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {1: uint64(100_000 * (x - 0.5))}}, nil)
		s.heat(0, 0.9)
	})},
	{"uneven-gain", "irq-stacked", 0.525, 0.535, at(8, func(s *scene, x float64) {
		rx := append([]fire{{0: 50_000}, {0: 50_000}, {1: uint64(100_000 * (x - 0.5))}}, even(8, 50_000)[2:]...)
		s.nic("eth0", "physical", rx, nil)
	})},
	{"move-gain", "irq-stacked", 0.098, 0.102, at(8, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{1: 100_000}, {1: 100_000}, {2: 50_000}, {2: 50_000}, {3: uint64(100_000 / (1 - x))}}, nil)
	})},
	{"lone-ratio", "irq-stacked", 0.49, 0.51, at(2, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: 20_000}}, nil)
		s.nic("eth1", "physical", []fire{{0: 160_000}}, nil)
		s.stranger("mwlwifi", fire{1: uint64(160_000 * x)})
	})},
	{"lone-part", "irq-stacked", 0.0495, 0.0505, at(8, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 600_000), nil)
		s.nic("eno3", "physical", []fire{{0: uint64(600_000 * x / (1 - x))}}, nil)
	})},

	{"smeared-cpus", "irq-smeared", 2.97, 3.03, at(8, func(s *scene, x float64) { s.nic("eth0", "physical", []fire{over(x)}, nil) })},
	{"smeared-online-share", "irq-smeared", 0.795, 0.805, at(3, func(s *scene, x float64) { s.nic("eth0", "physical", []fire{over(3 * x)}, nil) })},
	{"wandering-cpus", "irq-smeared", 2.08, 2.12, at(8, func(s *scene, x float64) { s.nic("eth0", "physical", []fire{over(4), over(x)}, nil) })},
	{"home-share", "queue-pair-split", 0.49, 0.51, at(8, func(s *scene, x float64) {
		rest := uint64(100_000 * (1 - x) / 2)
		s.nic("eth0", "physical", even(2, 50_000), []fire{{2: uint64(100_000 * x), 3: rest, 4: rest}, {1: 50_000}})
	})},
	{"isolated-interrupt-rate", "irq-on-isolated-cpu", 99, 101, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{3: uint64(10 * x)}}, nil)
		s.snap.Topo.Isolated = cpuset.Of(3)
	})},
	{"never-moved-interrupts", "affinity-not-honoured", 9_950, 10_050, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: uint64(x)}}, nil)
		pin(s, "eth0", 1)
		s.sinceBoot()
	})},
	{"outside-mask-share", "affinity-not-honoured", 0.895, 0.905, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: uint64(100_000 * x), 1: uint64(100_000 * (1 - x))}}, nil)
		pin(s, "eth0", 1)
	})},
	{"churn-moves", "irq-churn", 1, 2, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 50_000), nil)
		moved(s, int(x))
	})},
	{"warm-softirq-share", "irq-little-core", 0.198, 0.202, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(1, 50_000), nil)
		s.snap.Topo.Little = cpuset.Range(0, 1)
		s.heat(0, x)
	})},
	{"pinned-share", "irq-on-pinned-cpu", 0.295, 0.305, at(8, func(s *scene, x float64) { squatter(s, x, 0.05, 0.95) })},
	{"pinned-idle", "irq-on-pinned-cpu", 0.195, 0.205, at(8, func(s *scene, x float64) { squatter(s, 0.5, x, 0.95) })},
	{"pinned-refuge-idle", "irq-on-pinned-cpu", 0.495, 0.505, at(8, func(s *scene, x float64) { squatter(s, 0.5, 0.05, x) })},

	{"gro-ratio", "gro-ineffective", 1.19, 1.21, at(4, func(s *scene, x float64) {
		shortTCP(s, "physical")
		g := &s.obs.Probes.GRO[0]
		g.Normal = uint64(100_000 / x)
		g.Merged = 100_000 - g.Normal
	})},
	{"gro-tcp-share", "gro-ineffective", 0.495, 0.505, at(4, func(s *scene, x float64) {
		shortTCP(s, "physical")
		s.obs.Probes.GRO[0].TCPSegments = uint64(x * float64(s.obs.Probes.GRO[0].Segments))
	})},
	{"gro-packet-rate", "gro-ineffective", 19_900, 20_100, at(4, func(s *scene, x float64) {
		shortTCP(s, "physical")
		s.receive("eth0", uint64(10*x))
	})},
	{"short-poll", "gro-short-polls", 7.9, 8.1, at(4, func(s *scene, x float64) {
		shortTCP(s, "physical")
		n := &s.obs.Probes.NAPIs[0]
		n.Work = uint64(math.Round(x * float64(n.Polls)))
	})},
	{"irqbalance-memory", "irqbalance-active", 99, 100, at(4, func(s *scene, x float64) {
		s.snap.Processes = []host.Process{{PID: 9, Comm: "irqbalance", RSSKiB: uint64(x * 1024)}}
	})},
	{"ksoftirqd-share", "ksoftirqd-busy", 0.195, 0.205, at(4, func(s *scene, x float64) { s.thread(11, "ksoftirqd/2", 2, x) })},
	{"vhost-share", "vhost-shares-irq-cpu", 0.195, 0.205, at(4, func(s *scene, x float64) {
		s.heat(1, 0.6)
		s.thread(30, "vhost-4242", 1, x)
	})},
	{"conntrack-full", "loss-elsewhere", 0.949, 0.951, at(4, func(s *scene, x float64) {
		s.snap.Conntrack = detect.Conntrack{Known: true, Count: uint64(100_000 * x), Max: 100_000}
	})},
	{"shared-qdisc-rate", "qdisc-shared", 99_500, 100_500, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 50_000), nil).Qdisc = "mq"
		s.sends(&detect.Device{Name: "bond0", Kind: "bond", Qdisc: "fq", Lower: []string{"eth0"}}, uint64(10*x))
	})},
	{"rps-min-targets", "rps-needed", 1, 2, func(x float64) *scene {
		s := newScene(int(x) + 1)
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.heat(0, 0.9)
		return s
	}},
	{"sensor-tx-share", "sensor-packets", 0.0099, 0.0101, at(4, func(s *scene, x float64) {
		s.sensor("suricata")
		s.sent("eth0", uint64(2_000_000*x))
	})},
	{"loss-packets", "backlog-drops", 9, 10, at(4, func(s *scene, x float64) {
		s.set(knob.Global(backlog), "1000")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 1000, Dropped: uint64(x)}
	})},
	{"loss-share", "backlog-drops", 0.000099, 0.000101, at(4, func(s *scene, x float64) {
		s.set(knob.Global(backlog), "1000")
		s.obs.Softnet[1] = detect.SoftnetDelta{Processed: 10_000_000, Dropped: uint64(math.Round(10_000_000 * x / (1 - x)))}
	})},
	{"latency-packet-rate", "coalescing-for-wrong-load", 99, 101, at(4, func(s *scene, x float64) {
		moderation(busyNIC(s, "physical", 100), false, 50)
		s.receive("eth0", uint64(10*x))
		s.latency = true
	})},
	{"rfs-proportion", "rfs-size", 1.98, 2.02, at(8, func(s *scene, x float64) { rfs(s, 2, 1000, int(500*x)) })},
	{"tunnel-share", "tunnel-hash", 0.495, 0.505, at(4, func(s *scene, x float64) {
		oneFlow(s)
		s.receive("eth0", 1_000_000)
		s.tunnel("gre1", "", uint64(1_000_000*x))
	})},
	{"rps-call-rate", "rps-unneeded", 4_950, 5_050, at(4, func(s *scene, x float64) { s.calledRPS(uint64(x), 0.1, 0.05) })},
	{"outside-irqaffinity-share", "irq-stacked", 0.49, 0.51, at(8, func(s *scene, x float64) {
		s.nic("eth0", "physical", []fire{{0: 50_000}, {0: 50_000}, {5: uint64(100_000 * x / (1 - x))}}, nil)
		s.heat(0, 0.9)
		s.snap.Cmdline = map[string]string{"irqaffinity": "0,7"}
	})},
	{"pinned-idle", "rps-unneeded", 0.198, 0.202, at(4, func(s *scene, x float64) {
		s.calledRPS(9_000, 0.1, 0.05)
		s.obs.CPU[0] = detect.CPUShare{Softirq: 0.1, Busy: 0.85 - x, Idle: 0.15 + x, Ticks: 1000}
	})},
	{"saturated-softirq-share", "rps-covers-irq-cpu", 0.845, 0.855, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(1, 90_000), nil)
		s.set(knob.Rx("eth0", 0, "rps.cpus"), "1")
		s.heat(1, x)
	})},
	{"rps-small-host", "rps-unneeded", 4, 5, func(x float64) *scene {
		s := newScene(int(x))
		s.calledRPS(9_000, 0.1, 0.05)
		return s
	}},
	{"saturated-softirq-share", "rps-needed", 0.845, 0.855, at(16, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 400_000), nil)
		for i := range 4 {
			s.heat(i, x)
		}
	})},
	{"network-softirq-share", "cpu-saturated", 0.495, 0.505, at(4, func(s *scene, x float64) {
		s.heat(1, 0.9)
		s.packets(1, 90_000)
		s.vectors(1, map[string]float64{"NET_RX": 0.9 * x, "BLOCK": 0.9 * (1 - x)})
	})},
	{"udp-share", "rss-udp-hash", 0.299, 0.301, at(4, func(s *scene, x float64) { udpHost(s, "sd", uint64(math.Round(1000*x))) })},
	{"rss-skew-share", "rss-skew", 0.495, 0.505, at(8, func(s *scene, x float64) { skewed(s, 8, x, 1_000_000) })},
	{"rss-skew-factor", "rss-skew", 1.98, 2.02, at(8, func(s *scene, x float64) { skewed(s, 8, x/8, 1_000_000) })},
	{"rss-skew-packets", "rss-skew", 9_900, 10_100, at(8, func(s *scene, x float64) { skewed(s, 8, 0.9, x) })},
	{"flow-share", "single-flow-bound", 0.895, 0.905, at(4, func(s *scene, x float64) {
		skewed(s, 4, x, 1_000_000).HashFields = map[string]string{"udp4": "sdfn"}
		s.heat(0, 0.9)
	})},
	{"few-queues-share", "queues-unused", 0.25, 0.2625, at(80, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(int(math.Round(80*x)), 9000), nil).Channels.MaxCombined = 80
	})},

	{"ring-loss-share", "rx-ring-overrun", 0.000099, 0.000101, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.receive("eth0", 10_000_000)
		lose(s, "eth0", uint64(math.Round(10_000_000*x/(1-x))))
	})},
	{"ring-loss-packets", "rx-ring-overrun", 99, 100, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		s.receive("eth0", 100_000)
		lose(s, "eth0", uint64(x))
	})},
	{"ring-loss-since-boot", "rx-ring-overrun", 9_950, 10_050, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 9000), nil)
		lose(s, "eth0", uint64(x))
		s.sinceBoot()
	})},
	{"ring-ceiling", "rx-ring-overrun", 4095, 4096, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 9000), nil).Rings = &host.Rings{Rx: int(x), MaxRx: 16_384}
		s.set(knob.Device("eth0", "ring.rx"), fmt.Sprint(x))
		lose(s, "eth0", 9000)
	})},
	{"imbalance-max-over-mean", "softirq-imbalance", 2.48, 2.52, at(8, func(s *scene, x float64) { softirqs(s, 80_000, x/8) })},
	{"imbalance-runs", "softirq-imbalance", 9_950, 10_050, at(8, func(s *scene, x float64) { softirqs(s, x, 0.6) })},
	{"softirq-wait-p99", "softirq-latency", 1<<20 - 1, 1<<21 - 1, at(4, func(s *scene, x float64) { waiting(s, uint64(x)) })},
	{"net-tx-share", "tx-softirq-deferred", 0.099, 0.101, at(4, func(s *scene, x float64) { transmitting(s, time.Duration(x*float64(10*time.Second))) })},
	{"requeue-rate", "tx-requeues", 990, 1010, at(4, func(s *scene, x float64) {
		s.nic("eth0", "physical", even(4, 100), nil)
		s.obs.Device["eth0"].Stats["tx_busy"] = uint64(10 * x)
	})},
	{"virtio-control-time", "virtio-ctrl-slow", 9_900_000, 10_100_000, at(4, func(s *scene, x float64) { controlRead(s, uint64(x)) })},
	{"interrupts-per-packet", "virtio-interrupt-per-packet", 0.495, 0.505, at(4, func(s *scene, x float64) {
		perPacket(s)
		s.receive("eth0", uint64(800_000/x))
	})},
	{"interrupt-packet-rate", "virtio-interrupt-per-packet", 9_900, 10_100, at(4, func(s *scene, x float64) {
		busyNIC(s, "virtio", uint64(10*x/4))
		s.receive("eth0", uint64(10*x))
	})},
	{"ring-starved-share", "virtio-ring-starved", 0.0099, 0.0101, at(4, func(s *scene, x float64) { starved(s, uint64(math.Round(10_000*x))) })},
	{"tx-stop-rate", "virtio-tx-stopped", 9.9, 10.1, at(4, func(s *scene, x float64) { stops(s, uint64(math.Round(10*x))) })},
}

// at is a scene of so many CPUs of which one quantity is x.
func at(cpus int, f func(s *scene, x float64)) func(x float64) *scene {
	return func(x float64) *scene {
		s := newScene(cpus)
		f(s, x)
		return s
	}
}

// over is an interrupt that fired on x CPUs by the inverse Simpson index: on some
// evenly, on one more less often.
func over(x float64) fire {
	const count = 50_000
	whole := math.Floor(x)
	low, high := 0.0, 1.0
	for range 40 {
		if r := (low + high) / 2; (whole+r)*(whole+r)/(whole+r*r) < x {
			low = r
		} else {
			high = r
		}
	}
	out := fire{}
	for cpu := range int(whole) {
		out[cpu] = count
	}
	if x > whole {
		out[int(whole)] = uint64(count * low)
	}
	return out
}

// skewed is a device whose queue 0 gets a share of the packets.
func skewed(s *scene, queues int, share, total float64) *detect.Device {
	packets := make([]uint64, queues)
	for i := range packets {
		packets[i] = uint64(math.Round(total * (1 - share) / float64(queues-1)))
	}
	packets[0] = uint64(math.Round(total * share))
	d := spread(s, packets...)
	d.HashFields = map[string]string{"udp4": "sd"}
	s.set(knob.Device("eth0", "rss.hash.udp4"), "sd")
	s.heat(0, 0.4)
	return d
}

// softirqs are so many runs of which CPU 0 has a share.
func softirqs(s *scene, total, first float64) {
	n := len(s.obs.NetRx)
	for cpu := range n {
		s.obs.NetRx[cpu] = uint64(total * (1 - first) / float64(n-1))
	}
	s.obs.NetRx[0] = uint64(total * first)
}

// squatter is a thread pinned to the CPU that takes a NIC's interrupts.
func squatter(s *scene, takes, left, elsewhere float64) {
	s.nic("eth0", "physical", []fire{{1: 90_000}}, nil)
	s.pinnedThread(900, "haproxy", 1, takes)
	for cpu := range s.obs.CPU {
		s.obs.CPU[cpu] = detect.CPUShare{Busy: 1 - elsewhere, Idle: elsewhere, Ticks: 1000}
	}
	s.obs.CPU[1] = detect.CPUShare{Softirq: 0.3, Busy: 1 - left, Idle: left, Ticks: 1000}
}

// verdict is what a rule says of a scene, without the numbers of its sentences.
func verdict(s *scene, rule string, thresholds map[string]float64) string {
	policy := profiles.Balanced()
	policy.Latency = s.latency
	policy.Thresholds = maps.Clone(policy.Thresholds)
	if policy.Thresholds == nil {
		policy.Thresholds = map[string]float64{}
	}
	maps.Copy(policy.Thresholds, thresholds)
	var out []string
	for _, f := range rules.Evaluate(s.obs, policy) {
		if f.ID != rule {
			continue
		}
		line := fmt.Sprintf("%s [%s] operator=%v", f.Severity, f.Subject, f.Operator != "")
		for _, w := range f.Wants {
			line += fmt.Sprintf(" %s=%s", w.Ref, w.Value)
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

// TestThresholds: every threshold decides something, at its value and at no
// other, and a policy that moves it moves the decision. One that nothing can
// change is a number that means nothing.
func TestThresholds(t *testing.T) {
	values := map[string]float64{}
	for _, th := range rules.Thresholds() {
		values[th.Name] = th.Value
	}
	seen := map[string]bool{}
	for _, b := range boundaries {
		seen[b.threshold] = true
		t.Run(b.threshold, func(t *testing.T) {
			value, known := values[b.threshold]
			if !known {
				t.Fatal("no such threshold")
			}
			if gap := b.above - b.below; b.below > value || value > b.above || gap <= 0 || gap > 0.05*value+1e-12 && gap != 1 && !coarse[b.threshold] {
				t.Fatalf("%g and %g are not just below and just above %g", b.below, b.above, value)
			}
			below, above := verdict(b.make(b.below), b.rule, nil), verdict(b.make(b.above), b.rule, nil)
			if below == above {
				t.Fatalf("%s says the same at %g and at %g: %q", b.rule, b.below, b.above, below)
			}
			moved := func(to float64) map[string]float64 { return map[string]float64{b.threshold: to} }
			gap := b.above - b.below
			if got := verdict(b.make(b.below), b.rule, moved(b.below-gap)); got == below {
				t.Errorf("with a threshold of %g, %s says of %g what it said before: %q", b.below-gap, b.rule, b.below, got)
			}
			if got := verdict(b.make(b.above), b.rule, moved(b.above+gap)); got == above {
				t.Errorf("with a threshold of %g, %s says of %g what it said before: %q", b.above+gap, b.rule, b.above, got)
			}
		})
	}
	for name := range values {
		if !seen[name] {
			t.Errorf("threshold %s has no observation that it decides", name)
		}
	}
}
