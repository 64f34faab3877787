package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var (
	interruptPerPacket = threshold("interrupts-per-packet", 0.5, "interrupts per packet",
		"event-index suppression and polling leave well below one interrupt per packet under load; one for every second packet means that nearly every packet pays for an interrupt",
		"hosts that coalesce on their side")
	interruptPackets = threshold("interrupt-packet-rate", 10_000, "packets/s",
		"below, an interrupt per packet costs less than some 5 % of a CPU and gives the best latency",
		"slower CPUs")
)

var _ = register(Rule{
	ID:    "virtio-interrupt-per-packet",
	Title: "the hypervisor interrupts the guest for nearly every packet",
	Page: Page{
		Meaning:     "Each received packet brings its own interrupt, and in a guest an interrupt is dear. Waiting a few microseconds for more packets would save most of them.",
		Evidence:    "Interrupts of the receive queues and received packets over the window, softirq time.",
		Cause:       "A fast backend and no coalescing.",
		Remedy:      "Where the device offers notification coalescing: rx-usecs. Else deferral in the guest: napi_defer_hard_irqs = 2 with gro_flush_timeout = 20,000 ns.",
		SideEffects: "Latency of up to the chosen time at low load.",
		NotWhen:     "Latency counts more than CPU time.",
		Source:      "drivers/net/virtio_net.c (VIRTIO_NET_F_NOTF_COAL); net/core/dev.c napi_complete_done",
		Thresholds:  describe(interruptPerPacket, interruptPackets, warmSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for c, d := range c.devices() {
			if c.perPacket(d) {
				packets, _ := c.packetRate(d)
				out = append(out, c.fewerInterrupts(d, c.receiveInterruptRate(d)/packets))
			}
		}
		return out
	},
})

// perPacket reports whether a virtio device interrupts for nearly every packet.
func (c *Case) perPacket(d *detect.Device) bool {
	packets, known := c.packetRate(d)
	return d.Kind == "virtio" && !c.Policy.Latency && known && packets >= c.At(interruptPackets) &&
		c.receiveInterruptRate(d) >= c.At(interruptPerPacket)*packets && c.heat(d) >= c.At(warmSoftirq)
}

func (c *Case) receiveInterruptRate(d *detect.Device) float64 {
	total, _ := c.receiveInterrupts(d)
	rate, _ := c.PerSecond(total)
	return rate
}

// coalesceStep is a first step, in microseconds: at 50,000 interrupts a second it halves them.
const coalesceStep = 20

func (c *Case) fewerInterrupts(d *detect.Device, per float64) plan.Finding {
	claim := fmt.Sprintf("%s gets %.2f interrupts per received packet, and its CPU spends %s of its time on it", d.Name, per, percent(c.heat(d)))
	ref := knob.Device(d.Name, "coalesce.rx-usecs")
	if state, ok := c.Last.Knobs[ref]; ok && state.Status == knob.Known {
		return plan.Finding{
			Severity: plan.Advice, Subject: d.Name, Claim: claim,
			Evidence: []plan.Evidence{{Metric: "interrupts_per_packet", Value: per, Unit: "interrupts", Threshold: c.At(interruptPerPacket), Source: "/proc/interrupts, /proc/net/dev"}},
			Wants: []plan.Want{{Ref: ref, Value: strconv.Itoa(coalesceStep), Mode: plan.Raise, Why: fmt.Sprintf("%.2f interrupts per packet", per),
				Expect: expect("interrupts_per_packet", "down", per/2, "interrupts")}},
		}
	}
	p, _ := c.devicePolling(d)
	f := c.deferInterrupts(d, claim, p)
	f.Evidence = []plan.Evidence{{Metric: "interrupts_per_packet", Value: per, Unit: "interrupts", Threshold: c.At(interruptPerPacket), Source: "/proc/interrupts, /proc/net/dev"}}
	for i := range f.Wants {
		f.Wants[i].Why = fmt.Sprintf("%.2f interrupts per packet", per)
	}
	return f
}
