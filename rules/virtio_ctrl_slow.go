package rules

import (
	"fmt"

	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

var controlTime = threshold("virtio-control-time", 10_000_000, "ns",
	"a software backend answers a control command in microseconds; the driver spins meanwhile and holds the network configuration lock",
	"hardware backends (vDPA), which take milliseconds")

var _ = register(Rule{
	ID:    "virtio-ctrl-slow",
	Title: "the hypervisor answers control commands slowly",
	Page: Page{
		Meaning:     "Commands to the virtual NIC (queue count, filters, offloads) take long, and the driver holds a lock and a CPU while it waits.",
		Evidence:    "Time of control-queue commands (probe control), or of our own call where the probe cannot attach.",
		Cause:       "A hardware or remote backend, or an overloaded host.",
		Remedy:      "None in the guest; change queue counts rarely.",
		SideEffects: "None.",
		NotWhen:     "No command is sent in normal operation.",
		Source:      "drivers/net/virtio_net.c virtnet_send_command_reply",
		Thresholds:  describe(controlTime),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Probes == nil {
			return nil
		}
		var all counters.Hist
		for _, p := range c.Probes.Control {
			all = all.Merge(p.CommandNs)
		}
		if all.Count() == 0 {
			return slowReads(c)
		}
		half, _, ok := all.Quantile(0.5)
		if !ok || float64(half) < c.At(controlTime) {
			return nil
		}
		return []plan.Finding{{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("half of %d virtio control commands took %.0f ms or more", all.Count(), float64(half)/1e6),
			Evidence: []plan.Evidence{{Metric: "virtio_control_p50", Value: float64(half), Unit: "ns", Threshold: c.At(controlTime), Source: "probe control"}},
			Operator: slowControlAdvice,
		}}
	},
})

const slowControlAdvice = "the hypervisor's control path is slow; plan changes of queues and filters for quiet times"

// slowReads judges by reads of our own, each of which is one command.
func slowReads(c *Case) []plan.Finding {
	var out []plan.Finding
	for _, r := range c.Probes.ControlReads {
		if float64(r.MedianNs) < c.At(controlTime) {
			continue
		}
		out = append(out, plan.Finding{
			Severity: plan.Note, Subject: r.Device,
			Claim: fmt.Sprintf("half of %d reads of our own through the control queue took %.0f ms or more", r.Reads, float64(r.MedianNs)/1e6),
			Evidence: []plan.Evidence{{Metric: "virtio_control_read_p50", Value: float64(r.MedianNs), Unit: "ns",
				Threshold: c.At(controlTime), Source: "probe virtio-control-read"}},
			Operator: slowControlAdvice,
		})
	}
	return out
}
