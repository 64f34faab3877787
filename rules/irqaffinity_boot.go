package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irqaffinity-boot",
	Title: "the kernel command line keeps interrupts to some of the CPUs",
	Page: Page{
		Meaning: "irqaffinity= on the kernel command line names the CPUs that interrupts go to unless somebody says otherwise. Whoever wrote it wants the others undisturbed, " +
			"so napitune places interrupts on the named CPUs only.",
		Evidence:    "/proc/cmdline, against the online CPUs that are neither isolated nor tickless; softirq and idle time over the window.",
		Cause:       "A choice made at boot, often together with isolcpus= or nohz_full=.",
		Remedy:      "None while these CPUs have time. Once all of them are saturated: widen irqaffinity= and boot again, or name the CPUs for network work in a policy (cpus), which is taken for the later word.",
		SideEffects: "CPUs that were kept free take interrupts.",
		NotWhen:     "The other CPUs run something that must not be disturbed. RPS and XPS are not bound by the option, and drivers that set their own masks (mlx5, virtio_net) are not either.",
		Source:      "Documentation/admin-guide/kernel-parameters.txt (irqaffinity); kernel/irq/irqdesc.c irq_affinity_setup",
		Thresholds:  describe(hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		limited, others := c.interruptibleAny(), c.allowedAny().Minus(c.interruptibleAny())
		if c.bootIRQs.IsEmpty() || len(c.Paths) == 0 || limited.IsEmpty() || others.IsEmpty() {
			return nil
		}
		f := plan.Finding{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("irqaffinity=%s on the kernel command line keeps interrupts off CPUs %s: none is placed there", c.bootIRQs, others),
			Evidence: []plan.Evidence{{Metric: "interrupt_cpus", Value: float64(limited.Len()), Unit: "CPUs", Threshold: float64(c.allowedAny().Len()), Source: "/proc/cmdline"}},
		}
		if c.Basis == detect.BasisWindow && c.allHot(limited) {
			f.Severity = plan.Advice
			f.Claim += fmt.Sprintf("; all of %s are saturated", limited)
			f.Operator = "widen irqaffinity= and boot again, or name the CPUs for network work in a policy (cpus), and napitune places interrupts there"
			f.Evidence = append(f.Evidence, c.cpuEvidence(limited.Min())...)
		}
		return []plan.Finding{f}
	},
})
