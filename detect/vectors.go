package detect

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
)

// Vectors is how many more interrupts the CPUs can take. Every interrupt of an
// x86 CPU has a vector there, and a CPU without a free one refuses more: a write
// of smp_affinity then fails with ENOSPC. Elsewhere interrupts have
// numbers of the controller and not of the CPU (GIC of arm64), and no such limit.
type Vectors struct {
	// Free is by CPU; a CPU that is not there has no known limit. Nil if
	// nothing is known, or so few interrupts exist that no CPU can be full.
	Free map[int]int
	// Counted says that Free was worked out from the effective affinity of all
	// interrupts because the kernel's own table could not be read. Vectors that
	// are reserved for kernel-managed interrupts are not seen then, so a CPU
	// may be fuller than this.
	Counted bool
}

const (
	// vectorTable is the allocator's own account (kernel/irq/matrix.c,
	// irq_matrix_debug_show, shown by arch/x86/kernel/apic/vector.c). It needs
	// root, a mounted debugfs and CONFIG_GENERIC_IRQ_DEBUGFS.
	vectorTable = "sys/kernel/debug/irq/domains/VECTOR"
	// vectorsPerCPU is what an x86 CPU has for devices where the kernel does
	// not tell: 256 entries less 32 exceptions, the system call 0x80, the
	// cascade of the old controllers, and the vectors from 0xec up that the
	// kernel keeps (arch/x86/include/asm/irq_vectors.h). Tables of kernels from
	// 4.15 to 6.12 show 197, on hosts with posted interrupts, to 202.
	vectorsPerCPU = 197
)

// vectors asks only where there are interrupts enough to fill half a CPU: with
// fewer, all of them could move to one CPU and it would still have room.
func (c *collector) vectors() {
	active := 0
	for i := range c.s.IRQs.Rows {
		if onVector(&c.s.IRQs.Rows[i]) {
			active++
		}
	}
	if 2*active < vectorsPerCPU {
		return
	}
	data, err := c.h.ReadFile(vectorTable)
	if err == nil {
		free, errs := parseVectorTable(data)
		c.gaps(vectorTable, errs)
		if free != nil {
			c.s.Vectors = Vectors{Free: free}
			return
		}
	}
	if c.x86() {
		c.countVectors()
	}
}

// onVector reports whether an interrupt takes a vector: it has a handler, and
// is not an event channel of Xen (drivers/xen/events).
func onVector(row *IRQ) bool {
	return len(row.Actions) > 0 && !strings.HasPrefix(row.Chip, "xen-")
}

// x86 goes by the machine's name, and by the interrupt controller that no
// other architecture with many interrupts has where a capture lacks it.
func (c *collector) x86() bool {
	arch := c.s.Ident.Arch
	if arch != "" {
		return arch == "x86_64" || len(arch) == 4 && strings.HasSuffix(arch, "86")
	}
	for i := range c.s.IRQs.Rows {
		if strings.Contains(c.s.IRQs.Rows[i].Chip, "IO-APIC") {
			return true
		}
	}
	return false
}

// countVectors adds up the interrupts of each CPU. Without the effective
// affinity of most of them nothing can be said.
func (c *collector) countVectors() {
	free := map[int]int{}
	for _, cpu := range c.s.IRQs.CPUs {
		free[cpu] = vectorsPerCPU
	}
	active, told := 0, 0
	for i := range c.s.IRQs.Rows {
		row := &c.s.IRQs.Rows[i]
		if !onVector(row) {
			continue
		}
		active++
		at := row.Effective
		if at.IsEmpty() {
			at = c.effective(row.Number)
		}
		if at.IsEmpty() {
			continue
		}
		told++
		for cpu := range at.All() {
			if left, online := free[cpu]; online {
				free[cpu] = max(0, left-1)
			}
		}
	}
	const most = 0.9
	if float64(told) >= most*float64(active) {
		c.s.Vectors = Vectors{Free: free, Counted: true}
	}
}

// effective is where an interrupt that is not of a network device has its
// vector; empty if not told.
func (c *collector) effective(irq int) cpuset.Set {
	text, ok := c.text("proc/irq/" + strconv.Itoa(irq) + "/effective_affinity_list")
	if !ok {
		return cpuset.Set{}
	}
	set, err := cpuset.ParseList(text)
	if err != nil {
		return cpuset.Set{}
	}
	return set
}

// parseVectorTable reads the column "avl" of the table that begins with
// "| CPU | avl | man | mac | act | vectors": vectors that are neither in use
// nor reserved for kernel-managed interrupts.
func parseVectorTable(data []byte) (map[int]int, []error) {
	var free map[int]int
	var errs []error
	in := lines{rest: data}
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if free == nil {
			if bytes.HasPrefix(bytes.TrimSpace(line), []byte("| CPU | avl |")) {
				free = map[int]int{}
			}
			continue
		}
		if err := vectorLine(line, free); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	if len(free) == 0 {
		return nil, append(errs, errors.New("no table of vectors"))
	}
	return free, errs
}

func vectorLine(line []byte, free map[int]int) error {
	first, rest := token(line)
	second, _ := token(rest)
	if len(first) == 0 {
		return nil
	}
	cpu, err := strconv.ParseUint(string(first), 10, 16)
	if err != nil || cpu > cpuset.MaxCPU {
		return fmt.Errorf("%q is not a CPU", clip(first))
	}
	left, err := strconv.ParseUint(string(second), 10, 16)
	if err != nil {
		return fmt.Errorf("CPU %d: %q is not a number of vectors", cpu, clip(second))
	}
	if _, twice := free[int(cpu)]; twice {
		return fmt.Errorf("CPU %d is there twice", cpu)
	}
	free[int(cpu)] = int(left)
	return nil
}
