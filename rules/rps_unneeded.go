package rules

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var (
	rpsCalls = threshold("rps-call-rate", 5_000, "calls/s to one CPU",
		"each call interrupts another CPU and costs some microseconds on both, more where the other one sleeps (20 to 150 µs were measured): 5,000 a second are a few per cent of a slow CPU",
		"a measured cost per call")
	smallHost = threshold("rps-small-host", 4, "CPUs",
		"field reports of RPS that cost more than it brought are of routers with two to four slow CPUs; with more, CPUs that would idle take part",
		"packets per second with and without RPS, measured on the host")
)

var _ = register(Rule{
	ID:    "rps-unneeded",
	Title: "RPS hands packets to other CPUs that one could take itself",
	Page: Page{
		Meaning: "RPS has the CPU of a queue's interrupt call other CPUs to process its packets. Each call costs both of them some microseconds, and a packet waits until the other CPU has woken up. " +
			"All the work that these CPUs do together would leave the interrupt's CPU time to spare, so the calls buy nothing.",
		Evidence:    "rps_cpus of the queues, calls per CPU (received_rps, column 10 of /proc/net/softnet_stat), softirq time of the interrupts' CPUs and of all CPUs in the masks, and idle time of the former, over the window (/proc/stat).",
		Cause:       "A script or a distribution's default that switches RPS on everywhere, or a policy of throughput on a host that should answer quickly.",
		Remedy:      "Clear rps_cpus. Under a policy that prefers latency where one CPU is not enough: name only CPUs in the masks that are kept awake.",
		SideEffects: "All of the work comes to the interrupts' CPUs; if load grows until they are saturated, rps-needed says so. Flows move once: reordering for a moment.",
		NotWhen:     "Programs leave the interrupt's CPU no time for more, or it loses packets. Larger hosts that prefer throughput: there the calls cost little, and nothing is said. RFS steers packets to the reading programs on purpose. Load is much higher at other times of the day.",
		Source:      "net/core/dev.c get_rps_cpu and net_rps_send_ipi; Documentation/networking/scaling.rst",
		Thresholds:  describe(rpsCalls, smallHost, hotSoftirq, pinnedIdle, lossCount, lossShare, backlogRate),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Basis != detect.BasisWindow || c.rfsOn() || !c.Policy.Latency && float64(c.Last.Topo.Online.Len()) > c.At(smallHost) {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.needlessRPS(d); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

// needlessRPS judges the masks of a device, unless they are wrong in another way.
func (c *Case) needlessRPS(d *detect.Device) (plan.Finding, bool) {
	if _, gathers := c.narrowed(d); gathers || c.rpsPointless(d) {
		return plan.Finding{}, false
	}
	queues, ok := c.steeringOf(d, func(steered) bool { return false })
	if !ok {
		return plan.Finding{}, false
	}
	homes := queues.homes()
	queues = slices.DeleteFunc(queues, func(q steered) bool { return q.mask.Minus(cpuset.Of(q.home())).IsEmpty() })
	targets := queues.targets()
	calls := c.called(targets)
	work, known := c.workOf(homes.Union(targets))
	if len(queues) == 0 || !known || calls < c.At(rpsCalls) || slices.ContainsFunc(homes.CPUs(), c.lossy) {
		return plan.Finding{}, false
	}
	full, left := c.fullest(homes, work)
	f := plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim: fmt.Sprintf("RPS calls a CPU up to %.0f times a second for packets of %s; with all CPUs that take part, softirqs make %s of one CPU", calls, d.Name, percent(work)),
		Evidence: []plan.Evidence{
			{Metric: "rps_calls", Value: calls, Unit: "calls/s to one CPU", Threshold: c.At(rpsCalls), Source: "/proc/net/softnet_stat column 10"},
			{Metric: "softirq_share_sum", Value: work, Unit: "of one CPU", Threshold: c.At(hotSoftirq), Source: "/proc/stat"},
			{Metric: "idle_left", Value: left, Unit: "of CPU " + strconv.Itoa(full), Threshold: c.At(pinnedIdle), Source: "/proc/stat"},
		},
	}
	switch {
	case work < c.At(hotSoftirq) && left >= c.At(pinnedIdle):
		f.Wants = queues.leave("the CPU of the interrupt can do all of the work")
	case c.Policy.Latency:
		f.Claim += fmt.Sprintf(": more than CPU %d, %s idle, should take alone", full, percent(c.CPU[full].Idle))
		f.Operator = fmt.Sprintf("name only CPUs in the masks that do not sleep deeply (idle states limited by cpupower idle-set or a PM QoS request): waking one costs each batch 20 to 150 µs; the masks name CPUs %s", targets)
	default:
		return plan.Finding{}, false // without RPS it would saturate
	}
	return f, true
}

// fullest is the one of some CPUs that would have the least time left if it did
// all of the work of a set that it is part of, and how much: its programs stay.
func (c *Case) fullest(cpus cpuset.Set, work float64) (full int, left float64) {
	full = -1
	for cpu := range cpus.All() {
		if idle := c.CPU[cpu].Idle - (work - c.softirq(cpu)); full < 0 || idle < left {
			full, left = cpu, idle
		}
	}
	return full, left
}

// called is how often a second the one of these CPUs was called that was called most.
func (c *Case) called(cpus cpuset.Set) float64 {
	most := uint64(0)
	for cpu := range cpus.All() {
		most = max(most, c.Softnet[cpu].ReceivedRPS)
	}
	return c.rate(most)
}

// workOf is the softirq time of several CPUs together; false if that of one is not known.
func (c *Case) workOf(cpus cpuset.Set) (float64, bool) {
	sum := 0.0
	for cpu := range cpus.All() {
		if _, known := c.CPU[cpu]; !known {
			return 0, false
		}
		sum += c.softirq(cpu)
	}
	return sum, true
}
