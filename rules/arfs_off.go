package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var steeredRate = threshold("software-steered-rate", 50_000, "calls/s",
	"an inter-processor interrupt that hands packets over costs either CPU about a microsecond, and each brings at least one packet: 50,000 are a tenth of a CPU",
	"measured cost of steering on this host")

// steeringDrivers have ndo_rx_flow_steer (searched for in drivers/net of Linux 6.18).
var steeringDrivers = map[string]bool{
	"bnxt_en": true, "enic": true, "hns3": true, "ice": true, "mlx4_en": true, "mlx4_core": true, "mlx5_core": true, "qede": true, "sfc": true,
}

var _ = register(Rule{
	ID:    "arfs-off",
	Title: "flows are steered in software although the NIC could do it",
	Page: Page{
		Meaning:     "RFS is in use and hands packets from CPU to CPU tens of thousands of times a second. This driver can have the NIC put each flow on the queue of the CPU that reads it (accelerated RFS), so that nothing has to be moved.",
		Evidence:    "received_rps of all CPUs (/proc/net/softnet_stat: how often a CPU was called to take packets over, not how many), the flow tables, the driver, and the feature rx-ntuple-filter.",
		Cause:       "ntuple filters are off by default with most drivers.",
		Remedy:      "Switch rx-ntuple-filter on (ethtool -K DEV ntuple on). RFS stays configured: it tells the NIC where flows are read.",
		SideEffects: "Some drivers reset the link. Each flow takes a filter of the NIC; with more flows than filters the rest is steered in software as before.",
		NotWhen:     "Connections live for a few packets only: each would program a filter. Or somebody uses the filters for rules of their own.",
		Source:      "Documentation/networking/scaling.rst (Accelerated RFS); net/core/dev.c set_rps_cpu",
		Thresholds:  describe(steeredRate),
	},
	Eval: func(c *Case) []plan.Finding {
		rate, ok := c.steeredInSoftware()
		if !ok || rate < c.At(steeredRate) || !c.rfsOn() {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			if f, ok := c.couldSteer(d, rate); ok {
				out = append(out, f)
			}
		}
		return out
	},
})

// steeredInSoftware is how often per second CPUs were called to take packets over.
func (c *Case) steeredInSoftware() (float64, bool) {
	var moved uint64
	for _, d := range c.Softnet {
		moved += d.ReceivedRPS
	}
	if c.Basis != detect.BasisWindow || len(c.Softnet) == 0 {
		return 0, false
	}
	return c.PerSecond(moved)
}

func (c *Case) couldSteer(d *detect.Device, rate float64) (plan.Finding, bool) {
	on, _, known := c.flowTables(d)
	filter, listed := d.Features["rx-ntuple-filter"]
	if !known || len(on) == 0 || rxQueues(d) < 2 || !steeringDrivers[d.Driver] || !listed || filter.On || filter.Fixed {
		return plan.Finding{}, false
	}
	ref := knob.Device(d.Name, "feature.rx-ntuple-filter")
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("RFS calls other CPUs %.0f times a second to hand packets over in software; %s (%s) could steer them to the right queue itself", rate, d.Name, d.Driver),
		Evidence: []plan.Evidence{{Metric: "received_rps", Value: rate, Unit: "1/s", Threshold: c.At(steeredRate), Source: "/proc/net/softnet_stat column 10"}},
		Wants: []plan.Want{{Ref: ref, Value: "on", Why: "the NIC can steer flows to the CPUs that read them",
			Expect: expect("received_rps", "down", rate/2, "1/s")}},
	}, true
}
