package rules

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "budget-time",
	Title: "receive runs end because their time is up",
	Page: Page{
		Meaning: "Linux takes received packets in short runs (the receive softirq), during which programs on that CPU wait. One run may last netdev_budget_usecs. " +
			"On this CPU the runs end at that limit, before the packet limit (netdev_budget) is reached. The rest is taken in the next run, mostly at once; budget-packets says when it has to wait.",
		Evidence: "Runs that took less than netdev_budget and whose last poll ended when the limit had passed, counted in ticks of the kernel's clock (jiffies) as the kernel does; the causes add up to time_squeeze. " +
			"The default is two ticks: 2 ms where the clock ticks 1,000 times a second (HZ=1000), 8 ms at HZ=250, 20 ms at HZ=100. " +
			"From Linux 4.12 on it was a fixed 2 ms, until that was mended before 5.10; RHEL 8 had it up to 8.3. Where a tick is longer than 1 ms, that is a single tick, and runs end early for no reason.",
		Cause: "Each packet is dear (filters, connection tracking, tunnels, no GRO), or the virtual CPU was not running (steal). The time limit is only where it shows.",
		Remedy: "Look at steal, at GRO and at the cost per packet first. Only if packets are cheap, the CPU has idle time and polls are full: raise the limit by two ticks, at most to four ticks and never above 16 ms. " +
			"With ticks of 10 ms (HZ=100) that is never: the default of two ticks is 20 ms already, and one step up would let a run hold the CPU for 40 ms. " +
			"A limit of less than two ticks is put right first.",
		SideEffects: "Programs, other softirqs and ordinary timers of that CPU wait for a run up to the new limit, and one poll beyond it: the clock is looked at after a poll.",
		NotWhen:     "On isolated or real-time CPUs, on a saturated CPU, or under steal.",
		Source:      "net/core/dev.c net_rx_action and netdev_budget_usecs; include/linux/jiffies.h (the limit is rounded up to ticks)",
		Thresholds:  describe(squeezeRate, squeezeExplained, packetCost, stealShare, roomIdle, budgetTimeLimit),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, s := range c.squeezes() {
			if !c.hot(s.cpu) && s.mostly(s.time, c.At(squeezeExplained)) {
				out = append(out, c.budgetTime(s))
			}
		}
		return onceWanted(out)
	},
})

func (c *Case) budgetTime(s squeeze) plan.Finding {
	f := plan.Finding{
		Severity: plan.Advice,
		Subject:  cpuName(s.cpu),
		Claim:    fmt.Sprintf("CPU %d ended %d receive runs because their time was up, of %d that ended early", s.cpu, s.time, s.causes),
		Evidence: c.squeezeEvidence(s),
		Because:  c.stackedAt(s.cpu),
	}
	cost, perPacket := c.packetCostAt(s.cpu)
	if cost > 0 {
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "softirq_ns_per_packet", Value: cost, Unit: "ns", Threshold: c.At(packetCost), Source: "probe napi"})
	}
	now, known := c.knobInt(knob.Global(budgetUsecs))
	tick := c.twoJiffies() / 2
	share := c.CPU[s.cpu]
	switch {
	case f.Because != "":
		f.Claim += "; spreading its queues comes first"
	case share.Steal >= c.At(stealShare)/2:
		f.Because = "cpu-steal/host"
		f.Claim += fmt.Sprintf("; the hypervisor took %s of its time, so a longer limit would measure that and nothing else", percent(share.Steal))
	case c.keptFree(s.cpu) != "":
		f.Claim += "; " + c.keptFree(s.cpu)
	case c.groOffAt(s.cpu) != "":
		f.Because = "gro-off/" + c.groOffAt(s.cpu)
		f.Claim += fmt.Sprintf("; GRO is off on %s, which it polls: merged packets cost less time, so that comes first", c.groOffAt(s.cpu))
	case cost >= c.At(packetCost) && perPacket:
		f.Claim += fmt.Sprintf("; each packet costs %.1f µs, so the cost per packet is the cause (filters, connection tracking, tunnels, no GRO), not the limit", cost/1000)
	case cost >= c.At(packetCost):
		f.Claim += fmt.Sprintf("; what a device there hands over costs %.1f µs each and may be many packets in one (LRO, GRO_HW): whether packets are dear is not known", cost/1000)
		f.Missing = append(f.Missing, "how many packets the hardware merged into one (probe gro)")
	case !known || tick == 0:
		f.Missing = append(f.Missing, "the present netdev_budget_usecs and CONFIG_HZ")
	case share.Idle < c.At(roomIdle) || s.polling.fullShare() < c.At(fullPolls):
		f.Claim += "; little was left over or the CPU has no time to give, so a longer limit would not help"
	default:
		c.longerRuns(&f, s, now, tick)
	}
	return f
}

const budgetUsecs = "net.core.netdev_budget_usecs"

// longerRuns asks for a higher time limit in whole ticks, or says why for none. One
// below two ticks is put right first: by the tick within which a run starts it may
// leave no time at all, and kernels from 6.14 on refuse it.
func (c *Case) longerRuns(f *plan.Finding, s squeeze, now, tick int64) {
	ticks := (now + tick - 1) / tick // the kernel rounds up (usecs_to_jiffies)
	most := min(4*tick, int64(c.At(budgetTimeLimit))/tick*tick)
	want := min((ticks+2)*tick, most)
	why := fmt.Sprintf("%d runs on CPU %d ended by time with full polls and an idle CPU", s.time, s.cpu)
	switch {
	case now < 2*tick:
		want = 2 * tick
		why = fmt.Sprintf("two timer ticks of %d µs are the kernel's default and least limit", tick)
	case want <= ticks*tick:
		f.Claim += fmt.Sprintf("; the limit is %d ticks of %d µs already, and a longer one would only make everything else on the CPU wait: fewer queues for it, or less work per packet", ticks, tick)
		return
	}
	f.Wants = []plan.Want{{Ref: knob.Global(budgetUsecs), Value: strconv.FormatInt(want, 10), Mode: plan.Raise, Why: why,
		Expect: expect("squeezed_by_time", "down", c.rate(s.time)*float64(now)/float64(want), "1/s")}}
}

// keptFree says why runs on a CPU must not get longer, "" if they may.
func (c *Case) keptFree(cpu int) string {
	switch {
	case c.Last.Ident.Realtime:
		return "this is a real-time kernel, and longer runs would delay what it is there for"
	case c.isolated().Has(cpu):
		return "the CPU is isolated, and a longer run would delay the work it is kept for"
	}
	return ""
}

// packetCostAt is the softirq time per unit of work on a CPU, and whether such a
// unit is a packet: what LRO and GRO_HW merged counts as one. Where the probes saw
// how much is merged, that is taken into account.
func (c *Case) packetCostAt(cpu int) (ns float64, perPacket bool) {
	p, ok := c.cpuPolling(cpu)
	if !ok {
		return 0, false
	}
	ns, perPacket = p.nsPerPacket(), true
	var in, segments uint64
	for _, d := range c.polledAt(cpu) {
		if !d.Features["rx-lro"].On && !d.Features["rx-gro-hw"].On {
			continue
		}
		g, seen := c.groOf(d)
		perPacket = perPacket && seen && g.In > 0 && g.Segments >= g.In
		in, segments = in+g.In, segments+g.Segments
	}
	if perPacket && in > 0 {
		ns *= float64(in) / float64(segments)
	}
	return ns, perPacket
}

// polledAt are the devices with hardware queues that were polled on a CPU.
func (c *Case) polledAt(cpu int) []*detect.Device {
	var out []*detect.Device
	for _, d := range c.devices() {
		if slices.ContainsFunc(c.Probes.NAPIs, func(n counters.NAPI) bool { return n.CPU == cpu && n.Device == d.Name && n.Work > 0 }) {
			out = append(out, d)
		}
	}
	return out
}

// groOffAt is a device that is polled on a CPU and should have GRO, "" if none.
func (c *Case) groOffAt(cpu int) string {
	for _, d := range c.polledAt(cpu) {
		if f, off := c.of(d).groOff(d); off && f.Severity > plan.Note {
			return d.Name
		}
	}
	return ""
}

func cpuName(cpu int) string { return "CPU " + strconv.Itoa(cpu) }
