package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var starvedShare = threshold("ring-starved-share", 0.01, "of looks at the ring",
	"with less than an eighth of the ring to fill, the host is about to drop; one look in a hundred is the start of loss under bursts",
	"rings below 128 descriptors")

var _ = register(Rule{
	ID:    "virtio-ring-starved",
	Title: "the guest gives the hypervisor too few receive buffers",
	Page: Page{
		Meaning:     "When the driver looks at its receive ring, the host has often filled nearly all of it: the host had almost no buffer left and drops what comes next. The guest cannot see those drops.",
		Evidence:    "The ring's indices, read after each poll (probe virtio): how often the host had less than an eighth of the ring to fill.",
		Cause:       "The CPU of the queue polls too late (saturated, or stolen by the hypervisor), or bursts exceed a ring of 256.",
		Remedy:      "If the CPU is saturated: spread. Else a larger ring, where the device can be resized; or ask the hypervisor's owner for rx_queue_size=1024.",
		SideEffects: "A resize resets the queue for a moment.",
		NotWhen:     "It happened once at start-up.",
		Source:      "drivers/net/virtio_net.c try_fill_recv, virtnet_rx_resize; drivers/virtio/virtio_ring.c",
		Thresholds:  describe(starvedShare, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Probes == nil {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			looks, starved := c.ringLooks(d)
			if d.Kind != "virtio" || looks < 1000 || float64(starved) < c.At(starvedShare)*float64(looks) {
				continue
			}
			f := plan.Finding{
				Severity: plan.Problem, Subject: d.Name,
				Claim:    fmt.Sprintf("the host had hardly a receive buffer left in %s of %d looks at the rings of %s", percent(float64(starved)/float64(looks)), looks, d.Name),
				Evidence: []plan.Evidence{{Metric: "ring_starved", Value: float64(starved) / float64(looks), Unit: "of looks", Threshold: c.At(starvedShare), Source: "probe virtio"}},
			}
			switch cpu := c.hotQueueCPU(d); {
			case cpu >= 0:
				f.Claim += fmt.Sprintf("; CPU %d is saturated, so a larger ring would only delay the loss", cpu)
				f.Because = c.stackedAt(cpu)
			case d.Rings != nil && d.Rings.Rx < d.Rings.MaxRx:
				f.Wants = []plan.Want{{Ref: knob.Device(d.Name, "ring.rx"), Value: strconv.Itoa(min(2*d.Rings.Rx, d.Rings.MaxRx)), Mode: plan.Raise,
					Why: "the host runs out of buffers", Expect: expect("ring_starved", "down", 0, "of looks")}}
			default:
				f.Operator = "ask the hypervisor's owner for a larger receive ring (QEMU: rx_queue_size=1024)"
			}
			out = append(out, f)
		}
		return out
	},
})

func (c *Case) ringLooks(d *detect.Device) (looks, starved uint64) {
	for _, v := range c.Probes.Virtio {
		if d.Index != 0 && c.isDevice(d, v.NetNS, v.IfIndex) {
			looks += v.RingReads
			starved += v.Starved
		}
	}
	return looks, starved
}
