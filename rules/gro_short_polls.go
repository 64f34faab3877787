package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "gro-short-polls",
	Title: "polls are too short for GRO, and interrupts come for almost every packet",
	Page: Page{
		Meaning:  "The NIC interrupts for a few packets at a time; each poll finds a handful, merges little, and the CPU spends its time entering and leaving interrupts.",
		Evidence: "Packets per poll (probe napi), the merge ratio (probe gro), interrupts per second, softirq time.",
		Cause:    "A fast CPU and a NIC without interrupt moderation: virtio without coalescing, or coalescing switched off.",
		Remedy: "Where the device offers interrupt moderation, that: adaptive-rx, or rx-usecs. Else let the kernel defer interrupts: napi_defer_hard_irqs = 2 with gro_flush_timeout = 20,000 ns. " +
			"Both are needed: alone the timeout only delays flushes and the count has no timer to fall back on. Never both remedies at once: each alone gathers packets, together they add their delays.",
		SideEffects: "Up to 20 µs more latency at low load; a sysfs write overwrites the values of every NAPI of the device.",
		NotWhen:     "Single-packet latency matters more than CPU time.",
		Source:      "net/core/dev.c napi_complete_done; commit 6f8b12d661d0 (net: napi: add hard irqs deferral feature); Documentation/networking/napi.rst",
		Thresholds:  describe(shortPoll, groPackets, groTCP, warmSoftirq, groRatio),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Policy.Latency {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			ratio, poor := c.poorGRO(d)
			p, polled := c.devicePolling(d)
			if !poor || !polled || p.perPoll() > c.At(shortPoll) || c.heat(d) < c.At(warmSoftirq) {
				continue
			}
			out = append(out, c.gatherPackets(d, fmt.Sprintf("polls of %s find %.1f packets each, GRO merges %.2f into one, and its CPU spends %s of its time on it",
				d.Name, p.perPoll(), ratio, percent(c.heat(d))), p))
		}
		return out
	},
})

// gatherPackets has a device interrupt for more packets at a time: by its own
// moderation where it offers any, by deferral in the kernel else. Where another
// finding asks for that already, it is the cause.
func (c *Case) gatherPackets(d *detect.Device, claim string, p polling) plan.Finding {
	f := c.deferInterrupts(d, claim, p)
	want, left, offered := c.ownModeration(d)
	switch _, off := c.coalescingOff(d); {
	case off:
		f.Because = "coalescing-off/" + d.Name
		f.Wants, f.Missing = nil, nil
	case c.perPacket(d):
		f.Because = "virtio-interrupt-per-packet/" + d.Name
		f.Wants, f.Missing = nil, nil
	case left:
		f.Wants, f.Missing = []plan.Want{want}, nil
	case offered:
		f.Wants, f.Missing = nil, nil
		f.Claim += "; the device moderates its interrupts already, and deferral in the kernel would add its delay to that"
	}
	return f
}

// ownModeration is what a device can do about its interrupts by itself: the wish, if
// one is left, and whether it offers any moderation at all.
func (c *Case) ownModeration(d *detect.Device) (want plan.Want, left, offered bool) {
	rate, _ := c.interruptRate(d)
	ref := knob.Device(d.Name, "coalesce.rx-usecs")
	usecs, settable := c.knobInt(ref)
	settable = settable && c.Last.Knobs[ref].Status == knob.Known
	step := plan.Want{Ref: ref, Value: strconv.Itoa(coalesceStep), Mode: plan.Raise, Why: fmt.Sprintf("%.0f interrupts/s", rate), Expect: expect("interrupts_per_second", "down", rate/2, "1/s")}
	if d.Kind == "virtio" {
		return step, settable && usecs < coalesceStep, settable
	}
	if d.Coalesce == nil {
		return plan.Want{}, false, false
	}
	now, has := d.Coalesce.Values["rx-usecs"]
	if _, own := dynamicUsecs[d.Driver]; own {
		return moderation(d, rate), has && now == 0, has
	}
	if d.Coalesce.AdaptiveRx != nil {
		return moderation(d, rate), !*d.Coalesce.AdaptiveRx, true
	}
	return step, settable && usecs == 0, has
}

// deferInterrupts proposes hard-interrupt deferral: both values or none.
func (c *Case) deferInterrupts(d *detect.Device, claim string, p polling) plan.Finding {
	f := plan.Finding{
		Severity: plan.Advice, Subject: d.Name, Claim: claim,
		Evidence: []plan.Evidence{{Metric: "packets_per_poll", Value: p.perPoll(), Unit: "packets", Threshold: c.At(shortPoll), Source: "probe napi"}},
	}
	count, timeout := knob.Device(d.Name, "napi_defer_hard_irqs"), knob.Device(d.Name, "gro_flush_timeout")
	_, a := c.knob(count)
	_, b := c.knob(timeout)
	if !a || !b {
		f.Missing = append(f.Missing, "napi_defer_hard_irqs and gro_flush_timeout of "+d.Name+" (kernel 5.10 or a backport)")
		return f
	}
	why := fmt.Sprintf("%.1f packets per poll", p.perPoll())
	interrupts, _ := c.interruptRate(d)
	f.Wants = []plan.Want{
		{Ref: count, Value: "2", Mode: plan.Raise, Why: why, Expect: expect("packets_per_poll", "up", 2*p.perPoll(), "packets")},
		{Ref: timeout, Value: "20000", Mode: plan.Raise, Why: why, Expect: expect("interrupts_per_second", "down", interrupts/2, "1/s")},
	}
	return f
}
