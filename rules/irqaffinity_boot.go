package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irqaffinity-boot",
	Title: "the kernel command line keeps interrupts to some of the CPUs",
	Page: Page{
		Meaning: "irqaffinity= on the kernel command line names the CPUs that interrupts go to unless somebody says otherwise. Whoever wrote it wants the others undisturbed, " +
			"so napitune places interrupts on the named CPUs only, unless those of the device fire elsewhere already.",
		Evidence:    "/proc/cmdline, against the online CPUs that are neither isolated nor tickless; where each device's interrupts fire (/proc/interrupts); softirq and idle time over the window.",
		Cause:       "A choice made at boot, often together with isolcpus= or nohz_full=.",
		Remedy:      "None while these CPUs have time. Once all of them are saturated: widen irqaffinity= and boot again, or name the CPUs for network work in a policy (cpus), which is taken for the later word.",
		SideEffects: "CPUs that were kept free take interrupts.",
		NotWhen:     "The other CPUs run something that must not be disturbed. RPS and XPS are not bound by the option, and drivers that set their own masks (mlx5, virtio_net) are not either: where most interrupts of a device fire outside the named CPUs, the option is void for it.",
		Source:      "Documentation/admin-guide/kernel-parameters.txt (irqaffinity); kernel/irq/irqdesc.c irq_affinity_setup",
		Thresholds:  describe(hotSoftirq, strayShare),
	},
	Eval: func(c *Case) []plan.Finding {
		var limited, all cpuset.Set
		var bound, stray []string
		for _, group := range byDevice(c.Paths) {
			d := group[0].dev
			boot := c.allowed(d).Intersect(c.bootIRQs)
			switch {
			case boot.IsEmpty() || boot == c.allowed(d) || c.Policy.NamesCPUs(d.Name, d.Driver):
			case c.strays(d):
				stray = append(stray, fmt.Sprintf("%s (%s)", d.Name, percent(c.astray[d.Name])))
			default:
				bound = append(bound, d.Name)
				limited, all = limited.Union(boot), all.Union(c.allowed(d))
			}
		}
		f := plan.Finding{Severity: plan.Note, Subject: "host"}
		var seen []string
		if len(bound) > 0 {
			seen = append(seen, fmt.Sprintf("irqaffinity=%s on the kernel command line keeps interrupts of %s off CPUs %s: none is placed there", c.bootIRQs, strings.Join(bound, ", "), all.Minus(limited)))
			f.Evidence = append(f.Evidence, plan.Evidence{Metric: "interrupt_cpus", Value: float64(limited.Len()), Unit: "CPUs", Threshold: float64(all.Len()), Source: "/proc/cmdline"})
		}
		if len(bound) > 0 && c.Basis == detect.BasisWindow && c.allHot(limited) {
			f.Severity = plan.Advice
			seen = append(seen, fmt.Sprintf("all of %s are saturated", limited))
			f.Operator = "widen irqaffinity= and boot again, or name the CPUs for network work in a policy (cpus), and napitune places interrupts there"
			f.Evidence = append(f.Evidence, c.cpuEvidence(limited.Min())...)
		}
		if len(stray) > 0 {
			seen = append(seen, fmt.Sprintf("irqaffinity=%s does not bind interrupts that fire on other CPUs already, which is taken for the driver's choice or somebody's: %s", c.bootIRQs, strings.Join(stray, ", ")))
			f.Evidence = append(f.Evidence, plan.Evidence{Metric: "devices_outside_irqaffinity", Value: float64(len(stray)), Unit: "devices", Threshold: 1, Source: "/proc/interrupts, /proc/cmdline"})
		}
		if len(seen) == 0 {
			return nil
		}
		f.Claim = strings.Join(seen, "; ")
		return []plan.Finding{f}
	},
})

var strayShare = threshold("outside-irqaffinity-share", 0.5, "of a device's interrupts",
	"the option binds interrupts that nobody sets, and those all fire inside; drivers that set their own masks fire all over the host; half is as far from one as from the other",
	"the mask that the driver set, which is known only until somebody writes another")

// strays reports whether a device shows by where its interrupts fire that
// irqaffinity= does not bind it.
func (c *Case) strays(d *detect.Device) bool { return c.astray[d.Name] >= c.At(strayShare) }

// outsideBoot is, by device, the part of its interrupts that fires outside
// irqaffinity=, none for one without interrupts.
func (c *Case) outsideBoot() map[string]float64 {
	out := map[string]float64{}
	if c.bootIRQs.IsEmpty() {
		return out
	}
	for _, group := range byDevice(c.Paths) {
		outside, all := 0.0, 0.0
		for cpu, n := range cpuLoads(group) {
			all += float64(n)
			if !c.bootIRQs.Has(cpu) {
				outside += float64(n)
			}
		}
		if all > 0 {
			out[group[0].dev.Name] = outside / all
		}
	}
	return out
}
