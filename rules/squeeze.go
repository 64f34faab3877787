package rules

import (
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var (
	squeezeRate = threshold("squeeze-rate", 10, "1/s on one CPU",
		"a squeeze leaves the rest of the work to the next run, mostly at once; hundreds since boot or a few a minute were alarms without harm in every report read",
		"a service that must answer in less than 1 ms")
	squeezeExplained = threshold("squeeze-explained", 0.5, "of the squeezes",
		"one cause must account for at least half of them before a setting is changed for it",
		"nothing known")
	fullPolls = threshold("full-polls", 0.5, "of the polls",
		"when most polls take as many packets as they may (their weight), more are waiting; otherwise the run ended with nothing left and the squeeze cost nothing",
		"drivers with a weight other than 64")
	packetCost = threshold("packet-cost", 5_000, "ns per packet",
		"the receive path of a plain packet costs 0.5 to 2 µs on current CPUs; above 5 µs something is done to every packet: filters, connection tracking, tunnels, emulation",
		"slow CPUs and emulated ones")
	roomIdle = threshold("budget-idle", 0.3, "of the CPU's time",
		"a longer run pays only if the CPU has time to give",
		"nothing known")
)

// fullNAPIs is how many NAPIs of weight 64 (NAPI_POLL_WEIGHT,
// include/linux/netdevice.h) must be full in one run before a packet budget can end it.
func fullNAPIs(budget int64) int64 { return (budget + 63) / 64 }

// squeeze is one CPU whose receive runs ended early, and why.
type squeeze struct {
	cpu                   int
	count                 uint64
	packets, time, causes uint64 // by probes; causes = all attributed
	polling               polling
	polled                bool
	maxPolls              uint64
}

// squeezes lists the CPUs that were squeezed often enough to look at.
func (c *Case) squeezes() []squeeze {
	var out []squeeze
	for _, cpu := range slices.Sorted(maps.Keys(c.Softnet)) {
		n := c.Softnet[cpu].Squeezed
		rate, timed := c.PerSecond(n)
		if !timed || c.Basis != detect.BasisWindow || rate < c.At(squeezeRate) {
			continue
		}
		s := squeeze{cpu: cpu, count: n}
		if p, ok := c.probedCPU(cpu); ok {
			s.packets = p.Budget.SqueezedPackets + p.Budget.SqueezedBoth
			s.time = p.Budget.SqueezedTime
			s.causes = p.Budget.Squeezes()
			s.maxPolls = p.Budget.MaxPolls
			s.polling = polling{polls: p.Budget.Polls, work: p.Budget.Work, full: p.Budget.Full}
			if napis, ok := c.cpuPolling(cpu); ok {
				s.polling.empty = min(napis.empty, p.Budget.Polls-min(p.Budget.Polls, p.Budget.Full))
			}
			s.polled = p.Budget.Polls > 0
		}
		out = append(out, s)
	}
	return out
}

func (s *squeeze) mostly(part uint64, share float64) bool {
	return s.causes > 0 && float64(part) >= share*float64(s.causes)
}

func (c *Case) squeezeEvidence(s squeeze) []plan.Evidence {
	out := []plan.Evidence{{Metric: "time_squeeze", Value: float64(s.count), Unit: "squeezes", Threshold: c.At(squeezeRate) * c.Window.Seconds(), Source: "/proc/net/softnet_stat column 3"}}
	if s.causes > 0 {
		out = append(out,
			plan.Evidence{Metric: "squeezed_by_packets_share", Value: float64(s.packets) / float64(s.causes), Unit: "of attributed squeezes", Threshold: c.At(squeezeExplained), Source: "probe budget"},
			plan.Evidence{Metric: "full_polls", Value: s.polling.fullShare(), Unit: "of polls with work", Threshold: c.At(fullPolls), Source: "probe budget"},
			plan.Evidence{Metric: "max_polls_per_run", Value: float64(s.maxPolls), Unit: "polls", Source: "probe budget"})
	}
	return append(out, c.cpuEvidence(s.cpu)...)
}
