package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "queues-unused",
	Title: "the NIC was cut to a small part of its queues",
	Page: Page{
		Meaning:     "The NIC has many more queues than it uses, and the host has the CPUs to serve them.",
		Evidence:    "ethtool channels: current and maximum, against the CPUs local to the device that its interrupts may be on.",
		Cause:       "A tuning script that reduces queues by the size class of the host, or a driver default.",
		Remedy:      "Raise the channel count to the local cores. Many drivers reset the link for that.",
		SideEffects: "Seconds of link loss on many drivers; new queues start with default affinity, RPS and XPS, so those are planned again afterwards.",
		NotWhen:     "The CPUs that serve the queues have time to spare, or the device hardly works: then this is only a note.",
		Source:      "Documentation/networking/scaling.rst (suggested configuration)",
		Thresholds:  describe(fewQueues, activeRate, activeSoftirq, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding { return c.unusedQueues(false) },
})

func (c *Case) unusedQueues(virtio bool) []plan.Finding {
	var out []plan.Finding
	for c, d := range c.devices() {
		if (d.Kind == "virtio") != virtio || d.Channels == nil || d.XDP {
			continue
		}
		want, bounded := c.usefulQueues(d)
		now := d.Channels.Combined
		if now <= 0 || now >= want {
			continue
		}
		if !virtio && float64(now) > c.At(fewQueues)*float64(want) {
			continue
		}
		f := plan.Finding{
			Severity: plan.Advice,
			Subject:  d.Name,
			Claim:    fmt.Sprintf("%s uses %d of %d queue pairs", d.Name, now, d.Channels.MaxCombined),
			Evidence: []plan.Evidence{
				{Metric: "combined_channels", Value: float64(now), Unit: "queue pairs", Threshold: float64(want), Source: "ethtool -l " + d.Name},
			},
			Wants: []plan.Want{{
				Ref: knob.Device(d.Name, "channels.combined"), Value: strconv.Itoa(want), Mode: plan.Raise,
				Why:    fmt.Sprintf("%d of %d queue pairs in use", now, d.Channels.MaxCombined),
				Expect: expect("max_cpu_interrupt_share", "down", 1/float64(want), "of NIC interrupts"),
			}},
		}
		switch {
		case c.atRest(d):
			f.Severity, f.Wants = plan.Note, nil
			f.Claim += "; it hardly works, and they are enough for that"
		case !virtio && c.coolDevice(d):
			f.Severity, f.Wants = plan.Note, nil
			f.Claim += fmt.Sprintf("; their CPUs have time to spare (%s at most), and a channel change resets many links", percent(c.heat(d)))
		}
		if bounded {
			f.Claim += fmt.Sprintf("; %d CPUs could serve them", c.interruptCPUs(d).Len())
		} else {
			f.Missing = append(f.Missing, "the number of CPUs: never use more queues than CPUs")
		}
		out = append(out, f)
	}
	return out
}

// usefulQueues is how many queue pairs this host can use: the CPUs (virtio,
// whose vCPUs share nothing the guest can see) or the local cores, of those that
// its interrupts may be on, at most what the device has. bounded is false if the CPUs are not known.
func (c *Case) usefulQueues(d *detect.Device) (want int, bounded bool) {
	want = c.capped(knob.Device(d.Name, "channels.combined"), d, d.Channels.MaxCombined)
	cpus := c.interruptible(d).Len()
	if d.Kind != "virtio" {
		cpus = c.Last.Topo.Cores(c.interruptCPUs(d))
	}
	if !c.Last.Topo.Online.IsEmpty() { // known; none of them may be left for network work
		return min(want, cpus), true
	}
	return want, false
}
