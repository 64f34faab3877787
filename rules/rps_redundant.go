package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "rps-redundant",
	Title: "RPS repeats in software what the NIC's queues already do",
	Page: Page{
		Meaning:     "The device has a receive queue for each CPU that could be a target, and RPS then moves packets a second time: an inter-processor interrupt and a cold cache per batch for nothing.",
		Evidence:    "rps_cpus of each receive queue against the number of receive queues, the CPUs of the device's node, and those of them that its interrupts may be on (irqaffinity= of /proc/cmdline).",
		Cause:       "A script or profile that switches RPS on everywhere.",
		Remedy:      "Clear rps_cpus. One report halved its softirq time by that.",
		SideEffects: "Flows move to the CPU of their queue; reordering for a moment.",
		NotWhen:     "Interrupts are kept to some of the cores: then RPS is what brings packets to the others. The hash leaves most queues empty (tunnels, PPPoE), RFS steers packets to the reading threads on purpose, or the device hardly works.",
		Source:      "Documentation/networking/scaling.rst: \"if RSS is configured so that a hardware receive queue is mapped to each CPU, then RPS is probably redundant\"",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if !c.rpsPointless(d) {
				continue
			}
			queues := rxQueues(d)
			cpus, _ := c.queuePerCore(d)
			f := plan.Finding{
				Severity: plan.Advice,
				Subject:  d.Name,
				Evidence: []plan.Evidence{{Metric: "rx_queues", Value: float64(queues), Unit: "queues", Threshold: float64(cpus), Source: "/sys/class/net/" + d.Name + "/queues"}},
			}
			for i := range d.Queues {
				ref := knob.Rx(d.Name, d.Queues[i].N, "rps.cpus")
				if now, ok := c.knob(ref); ok && d.Queues[i].Rx && now != "" {
					f.Wants = append(f.Wants, plan.Want{Ref: ref, Value: "", Why: fmt.Sprintf("%d queues for %d cores", queues, cpus),
						Expect: expect("received_rps", "down", 0, "1/s")})
				}
			}
			if on := len(f.Wants); on > 0 {
				if c.quiet(d) {
					f.Severity, f.Wants = plan.Note, nil
				}
				f.Claim = fmt.Sprintf("RPS is on for %d queues of %s although it has %d receive queues for %d local cores", on, d.Name, queues, cpus)
				out = append(out, f)
			}
		}
		return out
	},
})

// rfsOn reports whether receive flow steering is fully configured somewhere.
func (c *Case) rfsOn() bool {
	global, ok := c.knobInt(knob.Global(rfsGlobal))
	return ok && global > 0
}

const (
	rfsGlobal = "net.core.rps_sock_flow_entries"
	// rfsEntries is what scaling.rst calls working "fairly well" for a
	// moderately loaded server.
	rfsEntries = 32768
)
