package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	backlogRate = threshold("backlog-drop-rate", 0.1, "1/s",
		"steady loss counts however slow it is, if it comes to loss-packets in the window and to loss-share of the packets",
		"applications that tolerate loss")
	lossCount = threshold("loss-packets", 10, "packets",
		"single packets are lost at start-up, when a link changes or a reader is late once; ten in a window of ten seconds are one for every second of it",
		"windows much longer than ten seconds")
	lossShare = threshold("loss-share", 0.0001, "of the packets processed there",
		"TCP throughput over a WAN suffers from loss of about one packet in ten thousand; below it a longer queue or another setting cannot be seen to help",
		"UDP feeds that tolerate no loss")
	backlogCeiling = threshold("backlog-ceiling", 10_000, "packets",
		"Documentation/networking/scaling.rst reports that 1000 and 10000 both worked; a longer queue adds latency and memory (up to 64 KiB per GRO packet), never capacity",
		"measured bursts above this length")
)

var _ = register(Rule{
	ID:    "backlog-drops",
	Title: "packets are dropped from a CPU's backlog queue",
	Page: Page{
		Meaning: "Packets that are handed to a CPU's backlog queue (from RPS, veth, loopback, tunnels) are dropped because the queue is full or the flow limit hit.",
		Evidence: "Column 2 of /proc/net/softnet_stat over the window, per CPU. It is charged to the CPU that should have processed the packet. " +
			"Driver ring drops are never counted here; kernels up to 6.9 also count packets of a device that was going down.",
		Cause:       "Bursts longer than netdev_max_backlog, or a CPU that cannot keep up with what RPS sends it.",
		Remedy:      "If the CPU has time to spare, double netdev_max_backlog (bounded). If it is saturated, spread the work: a longer queue only adds delay.",
		SideEffects: "Up to twice the new length of packets wait per CPU (those being worked off count apart): more latency and memory under overload.",
		NotWhen:     "The drops are old (totals since boot are not acted on), or a handful in the window.",
		Source:      "net/core/dev.c enqueue_to_backlog; net/core/net-procfs.c; Documentation/networking/scaling.rst",
		Thresholds:  describe(backlogRate, lossCount, lossShare, backlogCeiling, hotSoftirq),
	},
	Eval: evalBacklog,
})

func evalBacklog(c *Case) []plan.Finding {
	var dropped, handled uint64
	worst := map[int]uint64{}
	for _, cpu := range slices.Sorted(maps.Keys(c.Softnet)) {
		if n := c.Softnet[cpu].Dropped; n > 0 {
			dropped += n
			handled += c.Softnet[cpu].Processed
			worst[cpu] = n
		}
	}
	cpu := busiest(worst)
	if dropped == 0 {
		return nil
	}
	f := plan.Finding{
		Severity: plan.Note,
		Subject:  "host",
		Claim:    fmt.Sprintf("%d packets were dropped from backlog queues, %d of them on CPU %d (%s)", dropped, worst[cpu], cpu, c.Basis),
		Evidence: append([]plan.Evidence{{Metric: "backlog_dropped", Value: float64(dropped), Unit: "packets", Source: "/proc/net/softnet_stat column 2"}}, c.cpuEvidence(cpu)...),
	}
	if c.Basis == detect.BasisBoot {
		f.Missing = append(f.Missing, "a second sample: drops since boot may be years old")
		return []plan.Finding{f}
	}
	if !c.losesMany(dropped, handled) {
		f.Claim += "; too few, or too small a part, to act on"
		return []plan.Finding{f}
	}
	f.Severity = plan.Problem
	if c.hot(cpu) {
		f.Claim += fmt.Sprintf("; CPU %d is saturated, so a longer queue would only add delay", cpu)
		f.Because = c.stackedAt(cpu)
		return []plan.Finding{f}
	}
	ref := knob.Global("net.core.netdev_max_backlog")
	switch now, ok := c.knobInt(ref); {
	case !ok || now <= 0:
		f.Missing = append(f.Missing, "the present netdev_max_backlog")
	case float64(now) >= c.At(backlogCeiling):
		f.Claim += fmt.Sprintf("; the queue may hold %d packets already, and a longer one adds delay, not capacity: bursts that long come from one heavy flow or from CPUs that hand on faster than CPU %d takes", now, cpu)
	default:
		want := min(2*max(now, 1000), int64(c.At(backlogCeiling)))
		f.Wants = append(f.Wants, plan.Want{
			Ref: ref, Value: strconv.FormatInt(want, 10), Mode: plan.Raise,
			Why:    fmt.Sprintf("%d backlog drops, CPU %d has time to spare", dropped, cpu),
			Expect: expect("backlog_dropped", "down", 0, "of packets"),
		})
	}
	return []plan.Finding{f}
}

// losesMany reports whether so many packets are lost, beside those handled at the
// same place, that they are worth judging; with none handled their number decides.
func (c *Case) losesMany(lost, handled uint64) bool {
	rate, timed := c.PerSecond(lost)
	return float64(lost) >= c.At(lossCount) && float64(lost) >= c.At(lossShare)*float64(handled+lost) && (!timed || rate >= c.At(backlogRate))
}

// knobInt reads a setting as a number.
func (c *Case) knobInt(ref knob.Ref) (int64, bool) {
	text, ok := c.knob(ref)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}
