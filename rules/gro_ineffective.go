package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	groRatio = threshold("gro-ratio", 1.2, "packets per skb",
		"bulk TCP merges to 10 and more; 1.2 is next to nothing",
		"jumbo frames, which need less merging")
	groTCP = threshold("gro-tcp-share", 0.5, "of the packets",
		"GRO merges TCP (and UDP only on request): with mostly other traffic a ratio near 1 is normal",
		"nothing known")
	groPackets = threshold("gro-packet-rate", 20_000, "packets/s",
		"below, merging cannot save as much as one percent of a CPU (0.5 to 2 µs per packet)",
		"slower CPUs")
	shortPoll = threshold("short-poll", 8, "packets per poll",
		"GRO is flushed at the end of every poll that is not full, so polls of a few packets leave little to merge; the kernel's own batch (gro_normal_batch) is 8",
		"kernels where a flush timeout is set")
)

var _ = register(Rule{
	ID:    "gro-ineffective",
	Title: "GRO is on but merges hardly anything of bulk TCP traffic",
	Page: Page{
		Meaning:     "Most packets are TCP and come fast enough to be merged, but nearly every packet goes up the stack alone.",
		Evidence:    "Packets handed to GRO and its verdicts, counted in the kernel for a short window (probe gro), with the share of TCP.",
		Cause:       "Polls too short to hold a second packet of a flow (gro-short-polls), more concurrent flows than GRO holds (8 per NAPI without a hardware hash, 64 with), or segments that cannot merge (options, sizes, ECN marks).",
		Remedy:      "If polls are short: see gro-short-polls. If the device reports no receive hash: switch rx-hashing on. Otherwise it is the traffic.",
		SideEffects: "None from here.",
		NotWhen:     "Small requests and answers: there is nothing to merge.",
		Source:      "net/core/gro.c dev_gro_receive, GRO_HASH_BUCKETS, MAX_GRO_SKBS",
		Thresholds:  describe(groRatio, groTCP, groPackets),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			ratio, ok := c.poorGRO(d)
			if !ok {
				continue
			}
			f := plan.Finding{
				Severity: plan.Note, Subject: d.Name,
				Claim:    fmt.Sprintf("GRO merges %.2f packets into one on %s although the traffic is mostly TCP", ratio, d.Name),
				Evidence: []plan.Evidence{{Metric: "gro_ratio", Value: ratio, Unit: "packets per skb", Threshold: c.At(groRatio), Source: "probe gro"}},
			}
			if p, known := c.devicePolling(d); known && p.perPoll() <= c.At(shortPoll) && c.heat(d) >= c.At(warmSoftirq) && !c.Policy.Latency {
				f.Because = "gro-short-polls/" + d.Name
			}
			if hash, has := d.Features["rx-hashing"]; has && !hash.On && !hash.Fixed {
				f.Severity = plan.Advice
				f.Claim += "; without a receive hash GRO holds 8 flows per NAPI instead of 64"
				f.Wants = []plan.Want{{Ref: knob.Device(d.Name, "feature.rx-hashing"), Value: "on", Why: "GRO finds flows by the receive hash",
					Expect: expect("gro_ratio", "up", c.At(groRatio), "packets")}}
			}
			out = append(out, f)
		}
		return out
	},
})

// poorGRO is a device's merge ratio if it is poor although it need not be.
func (c *Case) poorGRO(d *detect.Device) (float64, bool) {
	g, seen := c.groOf(d)
	ratio, verdicts := g.Ratio()
	rate, rated := c.packetRate(d)
	gro := d.Features["rx-gro"]
	if !seen || !verdicts || !rated || !gro.On || rate < c.At(groPackets) {
		return 0, false
	}
	if tcp, known := g.TCPShare(); !known || tcp < c.At(groTCP) || ratio >= c.At(groRatio) {
		return 0, false
	}
	return ratio, true
}
