package rules

import (
	"github.com/napitune/napitune/rules/plan"
)

var fewQueues = threshold("few-queues-share", 0.25, "of the queues the host could use",
	"a NIC cut to a quarter of its useful queues was cut by a tool or an old default (2 of 16 in the field); between a quarter and all of them fewer queues can be a choice: "+
		"the fewest that do not overflow are the most efficient (Documentation/networking/scaling.rst)",
	"a measured load per queue")

var _ = register(Rule{
	ID:    "virtio-queues-unused",
	Title: "the virtio device offers more queue pairs than the guest uses",
	Page: Page{
		Meaning:  "The hypervisor offers several queue pairs, the guest uses fewer than it has CPUs. All traffic then goes through the few CPUs that serve them.",
		Evidence: "ethtool channels: current and maximum combined queues, against the CPUs that its interrupts may be on; interrupts and softirq time over the window.",
		Cause:    "Old distributions and guest kernels start with one pair; since then the driver takes min(CPUs, maximum) at probe (drivers/net/virtio_net.c virtnet_probe).",
		Remedy:   "ethtool -L DEV combined N with N = min(CPUs, maximum). On virtio this is a control command without reset or link loss.",
		SideEffects: "The driver sets all interrupt masks and XPS of the device anew (virtnet_set_affinity); memory per queue; " +
			"traffic of one single flow gains nothing.",
		NotWhen:    "One virtual CPU, or a single flow carries the traffic. While the device hardly works it is only a note.",
		Source:     "drivers/net/virtio_net.c virtnet_set_channels, virtnet_set_affinity",
		Thresholds: describe(activeRate, activeSoftirq),
	},
	Eval: func(c *Case) []plan.Finding { return c.unusedQueues(true) },
})
