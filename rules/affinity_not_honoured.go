package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

const idNotHonoured = "affinity-not-honoured"

var _ = register(Rule{
	ID:    idNotHonoured,
	Title: "interrupts fire outside their affinity mask",
	Page: Page{
		Meaning: "The mask of an interrupt names certain CPUs, but it fires on others. Writing the mask again changes nothing: the platform ignores it.",
		Evidence: "Counts of /proc/interrupts against smp_affinity, both unchanged over the window. A move that is merely pending, as in virtual machines " +
			"before the next interrupt, is not reported.",
		Cause: "A defect of the virtual PCI bus or the interrupt controller (Hyper-V vPCI of old kernels, PLIC, some MSI controllers without affinity). " +
			"A NAPI under full load, which stays where it polls, is something else: its interrupt is off and does not fire at all.",
		Remedy: "A newer kernel or platform. Until then RPS spreads the protocol work from the overloaded CPU, and threaded NAPI " +
			"lets the scheduler move the polling itself: that is proposed where the CPU is saturated.",
		SideEffects: "Threaded NAPI costs a wake-up per poll, RPS an inter-processor interrupt per batch.",
		NotWhen:     "The interrupt fired fewer than a hundred times in the window.",
		Source:      "kernel/irq/proc.c show_irq_affinity; arch/x86/kernel/apic/msi.c; kernel/irq/manage.c irq_do_set_affinity",
		Thresholds:  describe(defiedShare, neverMovedTotal, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, dev := range c.Last.Devices {
			pairs := c.diagnosis.defied[dev.Name]
			if len(pairs) == 0 {
				continue
			}
			p := pairs[0]
			f := p.rx
			if f.irq < 0 {
				f = p.tx
			}
			finding := plan.Finding{
				Severity: plan.Advice,
				Subject:  dev.Name,
				Claim: fmt.Sprintf("%d queue pairs of %s fire outside their mask: interrupt %d is allowed on CPUs %s and fires on CPU %d",
					len(pairs), dev.Name, f.irq, c.row(f.irq).Affinity, f.home),
				Evidence: []plan.Evidence{{Metric: "interrupts_outside_mask", Value: float64(len(pairs)), Unit: "queue pairs", Threshold: 1, Source: "/proc/interrupts, /proc/irq/*/smp_affinity"}},
				Operator: "the setting is right and the platform ignores it: look for a kernel or hypervisor update; RPS or threaded NAPI can spread the work until then",
			}
			finding.Wants = c.threadedWants(dev, f.home)
			out = append(out, finding)
		}
		return out
	},
})

// threadedWants asks for NAPI threads where interrupts that cannot be moved
// saturate a CPU: the scheduler moves the threads.
func (c *Case) threadedWants(d *detect.Device, cpu int) []plan.Want {
	ref := knob.Device(d.Name, "threaded")
	if now, known := c.knob(ref); !known || now != "off" || !c.hot(cpu) || c.Allowed.Len() < 2 {
		return nil
	}
	share := c.softirq(cpu)
	return []plan.Want{{Ref: ref, Value: "on", Why: fmt.Sprintf("CPU %d is saturated and its interrupts cannot be moved", cpu),
		Expect: expect("max_cpu_softirq_share", "down", share/2, "of a CPU")}}
}
