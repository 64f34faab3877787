package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/rules/place"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-vectors-full",
	Title: "a CPU has no interrupt vector left",
	Page: Page{
		Meaning: "An x86 CPU can take about 200 device interrupts and no more: each needs a vector, a number of its own. " +
			"These CPUs have none left, so no further interrupt can be moved to them, whoever asks.",
		Evidence: "The column avl of /sys/kernel/debug/irq/domains/VECTOR (root, kernels with CONFIG_GENERIC_IRQ_DEBUGFS); where that cannot be read, " +
			"the interrupts whose effective affinity is the CPU, out of 197.",
		Cause: "Hundreds of queues (NVMe, RDMA, many ports with a queue for every CPU) whose masks name few CPUs; CPUs that were taken offline and left their interrupts to others.",
		Remedy: "The plan here chooses other CPUs. To make room, move other interrupts away, or give NICs and disks fewer queues: for some drivers only by a module " +
			"parameter or devlink before they load, because the vectors are taken then.",
		SideEffects: "None: nothing is changed for this finding.",
		NotWhen:     "No interrupt is to be moved to these CPUs: then it is only a note.",
		Source: "kernel/irq/matrix.c irq_matrix_alloc; arch/x86/kernel/apic/vector.c (ENOSPC from assign_irq_vector); " +
			"arch/x86/include/asm/irq_vectors.h",
		Thresholds: []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		full := c.fullCPUs().Intersect(c.interruptibleAny())
		if full.IsEmpty() || len(c.Paths) == 0 {
			return nil
		}
		f := plan.Finding{
			Severity: plan.Note, Subject: "host",
			Claim:    fmt.Sprintf("CPU %s: no interrupt vector left, so no interrupt can be moved there", full),
			Evidence: []plan.Evidence{{Metric: "full_cpus", Value: float64(full.Len()), Unit: "CPUs without a free vector", Threshold: 1, Source: c.vectorSource()}},
		}
		if homeless := c.place().homeless; len(homeless) > 0 {
			f.Severity = plan.Advice
			f.Claim += fmt.Sprintf("; that leaves no place for %s", pairNames(homeless))
			f.Operator = "make room: move other interrupts off a CPU near the NIC, or configure fewer queues for NICs and disks"
		}
		return []plan.Finding{f}
	},
})

// fullCPUs are those that are known to have no vector left.
func (c *Case) fullCPUs() cpuset.Set {
	full := maps.Clone(c.Last.Vectors.Free)
	maps.DeleteFunc(full, func(cpu, left int) bool { return left > 0 || cpu < 0 || cpu > cpuset.MaxCPU })
	return cpuset.Collect(maps.Keys(full))
}

func (c *Case) vectorSource() string {
	if c.Last.Vectors.Counted {
		return "/proc/irq/*/effective_affinity_list"
	}
	return "/sys/kernel/debug/irq/domains/VECTOR"
}

// limitRoom tells the solver how many pairs each CPU has vectors for. Every pair
// is counted with as many vectors as the one that has most. It reports whether
// any CPU has too few for all.
func (c *Case) limitRoom(cpus []place.CPU, pairs []*path) bool {
	each := 1
	for _, p := range pairs {
		if p.rx.irq >= 0 && p.tx.irq >= 0 {
			each = 2
		}
	}
	limited := false
	for i := range cpus {
		left, known := c.Last.Vectors.Free[cpus[i].ID]
		if fits := left / each; known && fits < len(pairs) {
			limited = true
			if cpus[i].Room = fits; fits <= 0 {
				cpus[i].Room = noRoom
			}
		}
	}
	return limited
}

// noRoom is place.CPU.Room of a full CPU.
const noRoom = -1

// refused finds the pairs whose place would be a full CPU if it had room.
func refused(cpus []place.CPU, pairs []*path, unlimited, placed []int) map[*path]int {
	out := map[*path]int{}
	for i, p := range pairs {
		at := slices.IndexFunc(cpus, func(cpu place.CPU) bool { return cpu.ID == unlimited[i] })
		if at >= 0 && cpus[at].Room != 0 && placed[i] != unlimited[i] && placed[i] >= 0 {
			out[p] = unlimited[i]
		}
	}
	return out
}
