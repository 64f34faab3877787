package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	coalesceRate = threshold("uncoalesced-interrupt-rate", 50_000, "1/s on one device",
		"at 2 to 5 µs each, 50,000 interrupts a second are 10 to 25 % of a CPU",
		"a measured cost per interrupt")
	latencyUsecs = threshold("latency-rx-usecs", 10, "µs",
		"a fixed delay above the time a packet needs through the stack shows in the latency of every request",
		"the site's own latency budget")
)

var _ = register(Rule{
	ID:    "coalescing-off",
	Title: "interrupt moderation is off at a high interrupt rate",
	Page: Page{
		Meaning:     "The NIC interrupts for almost every packet because moderation is off, and a good part of a CPU goes into interrupts.",
		Evidence:    "Interrupts per second of the device's queues, adaptive-rx and rx-usecs (ethtool -c), softirq time.",
		Cause:       "Switched off for latency once, or a driver default.",
		Remedy:      "adaptive-rx on, where the driver has it: it moderates under load and not at rest.",
		SideEffects: "Some microseconds more latency under load.",
		NotWhen:     "The site prefers latency.",
		Source:      "lib/dim (net_dim); Documentation/networking/net_dim.rst",
		Thresholds:  describe(coalesceRate, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, off := c.coalescingOff(d); off {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) coalescingOff(d *detect.Device) (plan.Finding, bool) {
	rate, known := c.interruptRate(d)
	if c.Policy.Latency || !known || rate < c.At(coalesceRate) || d.Coalesce == nil || d.Kind == "virtio" || c.heat(d) < c.At(warmSoftirq) {
		return plan.Finding{}, false
	}
	adaptive := d.Coalesce.AdaptiveRx // nil where the driver does not know the word
	usecs, has := d.Coalesce.Values["rx-usecs"]
	_, own := dynamicUsecs[d.Driver]
	if !own && (adaptive == nil || *adaptive) || !has || usecs > 0 {
		return plan.Finding{}, false
	}
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("%s raises %.0f interrupts a second without moderation", d.Name, rate),
		Evidence: []plan.Evidence{{Metric: "interrupts_per_second", Value: rate, Unit: "1/s", Threshold: c.At(coalesceRate), Source: "/proc/interrupts, ethtool -c " + d.Name}},
		Wants:    []plan.Want{moderation(d, rate)},
	}, true
}

// dynamicUsecs are drivers without adaptive-rx, for which a small rx-usecs stands
// for their own dynamic moderation: 3 is e1000e's, igb's and igc's conservative
// one and their default, 1 is ixgbe's (e1000e_set_coalesce, igb_set_coalesce,
// igc_ethtool_set_coalesce, ixgbe_set_coalesce; Documentation/networking/
// device_drivers/ethernet/intel).
var dynamicUsecs = map[string]string{"e1000e": "3", "igb": "3", "igc": "3", "ixgbe": "1", "ixgbevf": "1"}

// moderation asks for the moderation that a device's driver can do by itself.
func moderation(d *detect.Device, rate float64) plan.Want {
	ref, value := knob.Device(d.Name, "coalesce.adaptive-rx"), "on"
	if usecs, own := dynamicUsecs[d.Driver]; own {
		ref, value = knob.Device(d.Name, "coalesce.rx-usecs"), usecs
	}
	return plan.Want{Ref: ref, Value: value, Why: fmt.Sprintf("%.0f interrupts/s", rate), Expect: expect("interrupts_per_second", "down", rate/2, "1/s")}
}
