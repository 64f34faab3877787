package knob

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

func affinities() []*Kind {
	const name = "irq.affinity"
	return []*Kind{{
		Name: name, Scope: ScopeQueue, Title: "CPUs that may take the queue's interrupt",
		Doc: "The CPUs on which the interrupt of this queue may fire; on x86 the kernel picks one of them. The CPU that takes " +
			"the interrupt also polls the queue, runs GRO and most of the protocol code, so this decides where receive work " +
			"happens. One CPU per busy queue, near the NIC, spread over cores before hyper-threads. Without interrupt remapping " +
			"(most virtual machines) the move takes place at the next interrupt. For a queue pair with one vector the rx and " +
			"the tx address are the same interrupt. Managed and per-CPU interrupts refuse the write.",
		Source: "kernel/irq/proc.c write_irq_affinity, kernel/irq/manage.c, Documentation/core-api/irq/irq-affinity.rst",
		Unit:   "CPUs", Codec: cpusCodec, Stage: StageAffinity, Disruption: DisruptsNothing,
		Default: noDefault,
		Refs: func(v View) []Ref {
			var out []Ref
			for _, d := range v.Devices {
				if !d.Tunable {
					continue
				}
				for q := range d.RxQueues {
					out = append(out, Rx(d.Name, q, name))
				}
				for q := range d.TxQueues {
					out = append(out, Tx(d.Name, q, name))
				}
			}
			return out
		},
		Read:  readAffinity,
		Write: writeAffinity,
		Files: func(v View, r Ref) []string {
			irq, err := queueIRQ(v, r)
			if err != nil {
				return nil
			}
			dir := "proc/irq/" + strconv.Itoa(irq)
			return []string{dir + "/smp_affinity", dir + "/smp_affinity_list"}
		},
		Shell: func(v View, r Ref, value string) string {
			irq, err := queueIRQ(v, r)
			if err != nil || value == "" {
				return ""
			}
			return "echo " + value + " > /proc/irq/" + strconv.Itoa(irq) + "/smp_affinity_list"
		},
	}}
}

func queueIRQ(v View, r Ref) (int, error) {
	if v.IRQ == nil {
		return 0, fmt.Errorf("interrupt of %s: the queue map is %w", r, host.ErrNotCaptured)
	}
	irq, err := v.IRQ(r.Dev, r.Tx, r.Queue)
	if err != nil {
		return 0, err
	}
	if irq < 0 {
		return 0, fmt.Errorf("interrupt of %s is not known", r)
	}
	return irq, nil
}

func readAffinity(v View, r Ref) State {
	irq, err := queueIRQ(v, r)
	if err != nil {
		return failure(err, err.Error())
	}
	if v.Host == nil {
		return State{Status: Unknown, Reason: notCaptured}
	}
	set, err := irqMask(v.Host, irq)
	if err != nil {
		return failure(err, fmt.Sprintf("IRQ %d has no affinity", irq))
	}
	lock := ""
	if readOnly(v.Host, irq) {
		lock = fmt.Sprintf("IRQ %d is managed by the kernel or cannot be moved: its file is read-only", irq)
	}
	return known(set.String(), lock, Bounds{Min: 1, CPUs: v.OnlineCPUs})
}

// irqMask reads the wish. Captures may have either form of the file.
func irqMask(h *host.Host, irq int) (cpuset.Set, error) {
	dir := "proc/irq/" + strconv.Itoa(irq)
	parse := cpuset.ParseList
	text, err := h.ReadFile(dir + "/smp_affinity_list")
	if err != nil {
		mask, maskErr := h.ReadFile(dir + "/smp_affinity")
		if maskErr != nil {
			return cpuset.Set{}, err
		}
		text, parse = mask, cpuset.ParseMask
	}
	set, err := parse(string(text))
	if err != nil {
		return cpuset.Set{}, fmt.Errorf("read affinity of IRQ %d: %w", irq, err)
	}
	if set.IsEmpty() {
		return cpuset.Set{}, fmt.Errorf("read affinity of IRQ %d: %w: an empty mask", irq, host.ErrInconclusive)
	}
	return set, nil
}

// readOnly tells a managed or unmovable interrupt by the mode 0444 of its file
// (kernel/irq/proc.c, register_irq_proc, since 6.12; older kernels tell only
// by refusing the write). Many captures have no true modes: they are believed
// only where default_smp_affinity, which the kernel always makes 0644, is
// shown as writable.
func readOnly(h *host.Host, irq int) bool {
	if h.FS == nil {
		return false
	}
	const anyWrite = 0o222
	reference, err := fs.Stat(h.FS, "proc/irq/default_smp_affinity")
	if err != nil || reference.Mode()&anyWrite == 0 {
		return false
	}
	own, err := fs.Stat(h.FS, "proc/irq/"+strconv.Itoa(irq)+"/smp_affinity")
	return err == nil && own.Mode()&anyWrite == 0
}

func writeAffinity(v View, w host.Writer, r Ref, value string) error {
	irq, err := queueIRQ(v, r)
	if err != nil {
		return err
	}
	err = writeFile(w, "proc/irq/"+strconv.Itoa(irq)+"/smp_affinity", encodeMask(value))
	return explained(err, syscall.ENOSPC, "CPU "+value+" has no free interrupt vector; choose another CPU, or move other interrupts away from it")
}

// explained adds what an errno means for this setting and what to do then.
func explained(err error, errno syscall.Errno, meaning string) error {
	if !errors.Is(err, errno) {
		return err
	}
	return fmt.Errorf("%w: %s", err, meaning)
}
