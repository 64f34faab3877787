package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "gro-off",
	Title: "GRO is switched off",
	Page: Page{
		Meaning:     "Generic receive offload merges segments of one TCP flow before the stack sees them, so that up to some forty packets pass it as one. On this device it is off.",
		Evidence:    "Feature rx-gro (ethtool -k). How much there is to merge is shown by probes or by the share of TCP. The processes of the host, for programs that want it so, and what the port sends beside what it receives.",
		Cause:       "Switched off by hand or by a capture or intrusion-detection tool, which wants to see packets as they were sent.",
		Remedy:      "ethtool -K DEV gro on.",
		SideEffects: "Packet captures show merged packets. Latency rises by at most one poll.",
		NotWhen:     "An intrusion detection or capture program (suricata, zeek, snort, arkime) runs here, and the port looks like its own, on a mirror or tap (see sensor-packets): then it is a note that names the program. On other ports of that host the program is named as a caution. Or it measures single-packet latency. With few packets and cool CPUs it is only a note, too.",
		Source:      "net/core/gro.c; Documentation/networking/segmentation-offloads.rst",
		Thresholds:  describe(groPackets, warmSoftirq, sensorSends),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, off := c.groOff(d); off {
				out = append(out, f)
			}
		}
		return out
	},
})

func (c *Case) groOff(d *detect.Device) (plan.Finding, bool) {
	gro, ok := d.Features["rx-gro"]
	if !ok || gro.On || gro.Fixed || c.Policy.Latency {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Advice,
		Subject:  d.Name,
		Claim:    fmt.Sprintf("GRO is off on %s: every TCP segment goes through the stack alone", d.Name),
		Evidence: []plan.Evidence{{Metric: "rx-gro", Value: 0, Unit: "switch", Threshold: 1, Source: "ethtool -k " + d.Name}},
		Missing:  []string{"the share of TCP and the merge ratio, which say how much it would save"},
		Wants: []plan.Want{{Ref: knob.Device(d.Name, "feature.rx-gro"), Value: "on", Why: "segments are processed one by one",
			Expect: expect("gro_ratio", "up", c.At(groRatio), "packets")}},
	}
	switch sensor := c.sensor(); {
	case sensor == "":
	case c.mirrorPort(d):
		f.Severity, f.Wants, f.Missing = plan.Note, nil, nil
		f.Claim += fmt.Sprintf("; %s runs on this host and wants packets as they were sent, so that is left alone", sensor)
		return f, true
	default:
		f.Operator = fmt.Sprintf("%s runs on this host: leave it off if it looks at %s", sensor, d.Name)
	}
	rate, known := c.packetRate(d)
	if known && rate < c.At(groPackets) && c.coolDevice(d) {
		f.Severity, f.Wants = plan.Note, nil
		f.Claim += fmt.Sprintf("; at %.0f packets a second that costs next to nothing", rate)
	}
	return f, true
}

// sensor is an intrusion detection or capture program that runs here, "" if none.
func (c *Case) sensor() string {
	for _, p := range c.Last.Processes {
		if host.Sensor(p.Comm) {
			return p.Comm
		}
	}
	return ""
}
