package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

// virtioRSS is VIRTIO_NET_F_RSS (include/uapi/linux/virtio_net.h).
const virtioRSS = 60

var _ = register(Rule{
	ID:    "virtio-steering-skew",
	Title: "the hypervisor steers most packets to one queue",
	Page: Page{
		Meaning:     "A virtio device without RSS gets its queue from the host, which remembers on which queue the guest last sent packets of that flow. One receive queue gets most of the packets.",
		Evidence:    "Packets per receive queue, and the RSS feature bit of the device.",
		Cause:       "The host's flow table sends a flow where the guest last transmitted it, so transmit steering (XPS, few sending CPUs) decides; unknown flows go by hash.",
		Remedy:      "Let the sending threads run on more CPUs and leave the driver's XPS as it is; or ask for a device with RSS.",
		SideEffects: "None.",
		NotWhen:     "Few flows. While the CPU of the queue has room to spare it is only a note.",
		Source:      "drivers/net/tun.c tun_automq_select_queue; include/uapi/linux/virtio_net.h VIRTIO_NET_F_RSS",
		Thresholds:  describe(skewShare, skewPackets, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if !hostSteered(d) {
				continue
			}
			share, queue, ok := c.topQueue(d)
			if !ok || c.Basis == detect.BasisBoot || len(d.Queues) < 3 || share < c.At(skewShare) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Advice, Subject: d.Name,
				Claim:    fmt.Sprintf("the host sends %s of the packets to queue %d of %s, which has %d queues and no RSS", percent(share), queue, d.Name, len(d.Queues)),
				Evidence: []plan.Evidence{{Metric: "max_queue_share", Value: share, Unit: "of received packets", Threshold: c.At(skewShare), Source: "queue statistics of " + d.Name}},
				Operator: "the host picks the queue on which the guest last sent a flow: spread the sending threads over CPUs, keep the driver's XPS, or ask for a device with RSS",
			}
			if c.cool(c.cpuOfQueue(d, queue)) {
				f.Severity = plan.Note
			}
			out = append(out, f)
		}
		return out
	},
})

// hostSteered reports whether a virtio device is known to have no RSS of its own.
func hostSteered(d *detect.Device) bool {
	return d.Kind == "virtio" && len(d.VirtioFeatures) > virtioRSS && d.VirtioFeatures[virtioRSS] == '0'
}
