package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-stacked",
	Title: "one CPU takes the interrupts of several queues",
	Page: Page{
		Meaning: "Several receive queues interrupt the same CPU while other CPUs that could share the work take little or none. " +
			"That CPU is the ceiling for the whole host's network traffic, however many queues the NIC has.",
		Evidence: "Interrupts per CPU of every queue, from /proc/interrupts, over the window. smp_affinity is only a wish and " +
			"effective_affinity only a promise; the counts are what happened.",
		Cause: "The default affinity allows all CPUs, but an interrupt controller usually delivers a vector to one CPU of its mask: on x86 the kernel picks " +
			"it, since 4.15 the CPU with most free vectors and before that often the first (arch/x86/kernel/apic/vector.c); many controllers of other machines always take the first. " +
			"irqbalance that was banned, too old or stopped leaves it so; so does a mask that names one CPU.",
		Remedy: "Give every queue pair a CPU of its own: on the NIC's node, whole cores before SMT siblings, receive and transmit of a pair together. " +
			"Only the queues that gain are moved.",
		SideEffects: "None for traffic. In virtual machines without interrupt remapping the move happens at the queue's next interrupt, and a NAPI under " +
			"full load stays on the old CPU until its queue runs empty once.",
		NotWhen: "The CPU is dedicated to interrupts on purpose and has time to spare, or the application is pinned to the other CPUs.",
		Source:  "Documentation/networking/scaling.rst; kernel/irq/manage.c; arch/x86/kernel/apic/msi.c",
		Thresholds: describe(stackedShare, stackedGain, unevenGain, loneRatio, lonePart, activeRate, activeTotal, activeAverage,
			activeSoftirq, activeQueue, moveGain),
	},
	Eval: evalStacked,
})

func evalStacked(c *Case) []plan.Finding {
	var out []plan.Finding
	for _, s := range c.diagnosis.stacked {
		f := c.stackFinding(s)
		if n := len(out) - 1; n >= 0 && out[n].Subject == f.Subject {
			out[n].Wants = append(out[n].Wants, f.Wants...)
			continue
		}
		out = append(out, f)
	}
	return out
}

func (c *Case) stackFinding(s stack) plan.Finding {
	f := plan.Finding{
		Severity: c.harm(s.cpus()),
		Subject:  s.subject(),
		Claim: fmt.Sprintf("CPU %d takes %s of all NIC interrupts: %d queue pairs (%s) fire there while %d CPUs could share them",
			s.cpu, percent(s.share), len(s.pairs), pairNames(s.pairs), c.near(s.pairs).Len()),
		Evidence: []plan.Evidence{
			{Metric: "nic_interrupt_share", Value: s.share, Unit: "of NIC interrupts", Source: "/proc/interrupts"},
			{Metric: "queue_pairs_on_cpu", Value: float64(len(s.pairs)), Unit: "queue pairs", Source: "/proc/interrupts"},
		},
	}
	switch {
	case s.lone:
		f.Claim = fmt.Sprintf("%s shares CPU %d with other devices' queues while a CPU is nearly idle", pairNames(s.movable), s.cpu)
	case !s.company.IsEmpty():
		f.Claim = fmt.Sprintf("%d CPUs (%s) take the interrupts of several queue pairs each while others could share them; the busiest, CPU %d, takes %s of all NIC interrupts with %d pairs (%s)",
			s.company.Len(), s.company, s.cpu, percent(s.share), len(s.pairs), pairNames(s.pairs))
	}
	if !s.lone {
		f.Evidence = append(f.Evidence, plan.Evidence{Metric: "left_after_spreading", Value: s.left, Unit: "of its load",
			Threshold: c.gainAsked(s.cpu, s.share), Source: "/proc/interrupts"})
	}
	f.Evidence = append(f.Evidence, c.cpuEvidence(s.cpu)...)
	if device := c.defiedDevice(s.movable); device != "" {
		f.Because = idNotHonoured + "/" + device
	}
	if c.oddController(s.movable) {
		f.Operator = "this interrupt controller may refuse to move interrupts; threaded NAPI or RPS then spread the work"
	}
	if c.allLocked(s.movable) {
		f.Operator = cmp.Or(f.Operator, "these interrupts cannot be moved here; threaded NAPI or RPS then spread the work")
		f.Wants = c.threadedWants(s.movable[0].dev, s.cpu)
		return f
	}
	f.Wants = c.affinityWants(s.movable, fmt.Sprintf("CPU %d takes %s of NIC interrupts", s.cpu, percent(s.share)), c.relief(s.cpu))
	return f
}

// near are the CPUs that may serve these pairs, on the nodes of their devices.
func (c *Case) near(paths []*path) cpuset.Set {
	out := cpuset.Set{}
	for _, p := range paths {
		out = out.Union(c.interruptCPUs(p.dev))
	}
	return out
}

// oddController reports whether an interrupt hangs on a controller without
// dependable affinity: on some RISC-V boards writes to PLIC lines give EIO.
func (c *Case) oddController(paths []*path) bool {
	return slices.ContainsFunc(paths, func(p *path) bool {
		row := c.row(p.rx.irq)
		return row != nil && strings.Contains(row.Chip, "PLIC")
	})
}

// allLocked reports whether the host refuses to move each of these interrupts.
func (c *Case) allLocked(paths []*path) bool {
	return len(paths) > 0 && !slices.ContainsFunc(paths, func(p *path) bool { return !c.locked(p) })
}

func (c *Case) defiedDevice(paths []*path) string {
	for _, p := range paths {
		if len(c.diagnosis.defied[p.dev.Name]) > 0 {
			return p.dev.Name
		}
	}
	return ""
}

// cpuEvidence is how the CPU spent the window, where /proc/stat tells.
func (c *Case) cpuEvidence(cpu int) []plan.Evidence {
	share, ok := c.CPU[cpu]
	if !ok {
		return nil
	}
	return []plan.Evidence{{Metric: "softirq_share", Value: share.Softirq + share.IRQ, Unit: "of the CPU's time",
		Threshold: c.At(hotSoftirq), Source: "/proc/stat"}}
}

// plural is a count of something, "1 queue pair" or "2 queue pairs".
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// pairNames lists queue pairs, shortened after the first few.
func pairNames(paths []*path) string {
	const shown = 4
	names := make([]string, 0, shown)
	for i, p := range paths {
		if i == shown {
			return strings.Join(names, ", ") + fmt.Sprintf(" and %d more", len(paths)-shown)
		}
		names = append(names, p.id())
	}
	return strings.Join(names, ", ")
}

// percent prints a share the way people read it.
func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return fmt.Sprintf("%.2g %%", 100*share)
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}
