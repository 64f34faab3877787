package hosttest

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/cpuset"
)

// parseMask reads a hex mask as the kernel does (lib/bitmap-str.c,
// bitmap_parse): EOVERFLOW for a mask wider than nr_cpu_ids, even if the extra
// digits are zero, and for a group of more than 8 digits; EINVAL for anything
// that is not hex, also "0x".
func parseMask(text string, cpus int) (cpuset.Set, error) {
	groups := strings.Split(strings.TrimLeft(text, ","), ",")
	for _, g := range groups {
		if strings.Trim(g, "0123456789abcdefABCDEF") != "" || g == "" {
			return cpuset.Set{}, syscall.EINVAL
		}
		if len(g) > 8 {
			return cpuset.Set{}, syscall.EOVERFLOW
		}
	}
	if len(groups) > (cpus+31)/32 {
		return cpuset.Set{}, syscall.EOVERFLOW
	}
	set, err := cpuset.ParseMask(strings.TrimLeft(text, ","))
	if err != nil {
		return cpuset.Set{}, syscall.EINVAL
	}
	if set.Max() >= cpus {
		return cpuset.Set{}, syscall.EOVERFLOW
	}
	return set, nil
}

// parseList reads the list form: ERANGE for a CPU beyond nr_cpu_ids
// (lib/bitmap-str.c, bitmap_parselist).
func parseList(text string, cpus int) (cpuset.Set, error) {
	set, err := cpuset.ParseList(text)
	if err != nil {
		return cpuset.Set{}, syscall.EINVAL
	}
	if set.Max() >= cpus {
		return cpuset.Set{}, syscall.ERANGE
	}
	return set, nil
}

// maskText prints a mask as the kernel does: padded to the number of CPUs, a
// comma between groups of 32 (lib/vsprintf.c, bitmap_string).
func maskText(set cpuset.Set, cpus int) string {
	var groups []string
	for top := (cpus + 31) / 32 * 32; top > 0; top -= 32 {
		word := uint32(0)
		for bit := range 32 {
			if set.Has(top - 32 + bit) {
				word |= 1 << bit
			}
		}
		digits := 8
		if len(groups) == 0 && cpus%32 != 0 {
			digits = (cpus%32 + 3) / 4
		}
		groups = append(groups, fmt.Sprintf("%0*x", digits, word))
	}
	return strings.Join(groups, ",")
}

// cpuIDs is nr_cpu_ids.
func (m *Memory) cpuIDs() int { return m.possible(m.last()).Max() + 1 }

var affinityFiles = []string{"smp_affinity", "smp_affinity_list"}

func irqFile(irq int, name string) string { return "proc/irq/" + strconv.Itoa(irq) + "/" + name }

// writeAffinity covers smp_affinity and smp_affinity_list.
func (m *Memory) writeAffinity(number, file, text string) error {
	irq, err := strconv.Atoi(number)
	if err != nil || !m.hasIRQ(irq) {
		return syscall.ENOENT
	}
	if refusal := m.managedRefuses(irq); refusal != nil {
		return refusal
	}
	var want cpuset.Set
	switch file {
	case "smp_affinity":
		want, err = parseMask(text, m.cpuIDs())
	case "smp_affinity_list":
		want, err = parseList(text, m.cpuIDs())
	default:
		return fmt.Errorf("no law for this file: %w", syscall.EACCES)
	}
	if err != nil {
		return err
	}
	return m.setAffinity(irq, want)
}

// hasIRQ: every interrupt of /proc/interrupts has a directory in /proc/irq,
// even where a capture has only the former.
func (m *Memory) hasIRQ(irq int) bool {
	if _, err := m.last().tree.Stat(irqFile(irq, "smp_affinity")); err == nil {
		return true
	}
	if _, err := m.last().tree.Stat(irqFile(irq, "smp_affinity_list")); err == nil {
		return true
	}
	c, err := m.parsed()
	return err == nil && c.interrupts[len(c.interrupts)-1].find(strconv.Itoa(irq)) != nil
}

// managedRefuses: the kernel alone moves a managed or unmovable interrupt. EIO
// up to 6.11, EPERM and a read-only file since 6.12 (kernel/irq/proc.c,
// write_irq_affinity).
func (m *Memory) managedRefuses(irq int) error {
	if err := m.managed[irq]; err != nil {
		return err
	}
	info, err := m.last().tree.Stat(irqFile(irq, "smp_affinity"))
	if err == nil && info.Mode().Perm()&0o222 == 0 {
		return syscall.EPERM
	}
	return nil
}

// setAffinity: a mask without an online CPU is EINVAL (kernel/irq/proc.c,
// write_irq_affinity), one whose CPUs have no vector left is ENOSPC; else it is stored as written, and the interrupt fires on
// one CPU of it from then on.
func (m *Memory) setAffinity(irq int, want cpuset.Set) error {
	online := m.online(m.last())
	if !want.Overlaps(online) {
		return syscall.EINVAL
	}
	reachable := m.withVectors(irq, want.Intersect(online))
	if reachable.IsEmpty() {
		return syscall.ENOSPC
	}
	return m.routeIRQ(irq, want, m.targetCPU(irq, reachable))
}

// withVectors leaves the CPUs on which the interrupt has its vector or finds a
// free one (arch/x86/kernel/apic/vector.c, assign_irq_vector). Where the machine
// shows no table of vectors there are enough.
func (m *Memory) withVectors(irq int, cpus cpuset.Set) cpuset.Set {
	table, err := m.last().tree.ReadFile("sys/kernel/debug/irq/domains/VECTOR")
	if err != nil {
		return cpus
	}
	_, rows, _ := strings.Cut(string(table), "vectors\n")
	for row := range strings.Lines(rows) {
		fields := strings.Fields(row)
		if len(fields) < 2 || fields[1] != "0" {
			continue
		}
		if cpu, err := strconv.Atoi(fields[0]); err == nil && !m.servedBy(irq).Has(cpu) {
			cpus = cpus.Minus(cpuset.Of(cpu))
		}
	}
	return cpus
}

// servedBy is the effective affinity of an interrupt, empty if not shown.
func (m *Memory) servedBy(irq int) cpuset.Set {
	text, err := m.last().tree.ReadFile(irqFile(irq, "effective_affinity_list"))
	if err != nil {
		return cpuset.Set{}
	}
	set, err := cpuset.ParseList(string(text))
	if err != nil {
		return cpuset.Set{}
	}
	return set
}

// targetCPU: x86 delivers to one CPU of the mask, and leaves the interrupt
// where it is if that CPU is in the new mask (arch/x86/kernel/apic/vector.c,
// assign_vector_locked). The search for a free vector is taken to find the first.
func (m *Memory) targetCPU(irq int, mask cpuset.Set) int {
	if now := m.servedBy(irq); now.Len() == 1 && mask.Has(now.Min()) {
		return now.Min()
	}
	return mask.Min()
}

// routeIRQ stores wish and target of an interrupt and moves what it counted
// since the first sample, with the work that followed it, to the target.
func (m *Memory) routeIRQ(irq int, wish cpuset.Set, target int) error {
	if err := m.storeAffinity(irq, wish, target); err != nil {
		return err
	}
	return m.rearrange([]int{irq}, func(cpus []int, was deltas) deltas {
		will := deltas{}
		for irq, delta := range was {
			will[irq] = gather(cpus, delta, target)
		}
		return will
	})
}

// gather puts all of a rise on one CPU; as it was if that CPU has no column.
func gather(cpus []int, delta []uint64, target int) []uint64 {
	out := make([]uint64, len(delta))
	total, at := uint64(0), -1
	for col, n := range delta {
		total += n
		if cpus[col] == target {
			at = col
		}
	}
	if at < 0 {
		return delta
	}
	out[at] = total
	return out
}

func (m *Memory) storeAffinity(irq int, wish cpuset.Set, target int) error {
	cpus := m.cpuIDs()
	one := cpuset.Of(target)
	for _, s := range m.samples {
		for _, f := range []struct {
			name, text string
			always     bool
		}{
			{"smp_affinity", maskText(wish, cpus), true},
			{"smp_affinity_list", wish.String(), true},
			{"effective_affinity", maskText(one, cpus), false},
			{"effective_affinity_list", one.String(), false},
		} {
			name := irqFile(irq, f.name)
			if _, err := s.tree.ReadFile(name); err != nil && !f.always {
				continue
			}
			if err := s.tree.WriteFile(name, []byte(f.text+"\n")); err != nil {
				return bare(err)
			}
		}
	}
	return nil
}

// writeQueue covers the steering files of queues.
func (m *Memory) writeQueue(name, file, text string) error {
	if _, err := m.last().tree.ReadFile(name); err != nil {
		// xps_cpus of a device with one queue gives ENOENT although the file
		// is there (net/core/net-sysfs.c, netif_is_multiqueue).
		return bare(err)
	}
	if text == "" {
		return nil // an empty write is never handed to the attribute
	}
	switch file {
	case "rps_cpus":
		return m.writeRPS(name, text)
	case "rps_flow_cnt":
		return m.writeFlowCount(name, text)
	case "xps_cpus":
		return m.writeXPS(name, text)
	case "xps_rxqs":
		return m.writeXPSQueues(name, text)
	}
	return fmt.Errorf("no law for this file: %w", syscall.EACCES)
}

// writeRPS: isolated and tickless CPUs are taken off the mask, EINVAL only if
// that leaves none; offline CPUs are dropped without a word
// (net/core/net-sysfs.c, rps_cpumask_housekeeping and netdev_rx_queue_set_rps_mask).
func (m *Memory) writeRPS(name, text string) error {
	want, err := parseMask(text, m.cpuIDs())
	if err != nil {
		return err
	}
	allowed := want.Intersect(m.housekeeping(m.last()))
	if !want.IsEmpty() && allowed.IsEmpty() {
		return syscall.EINVAL
	}
	return m.store(name, maskText(allowed.Intersect(m.online(m.last())), m.cpuIDs()))
}

// writeXPS keeps the online CPUs of the mask (net/core/dev.c, __netif_set_xps_queue).
func (m *Memory) writeXPS(name, text string) error {
	want, err := parseMask(text, m.cpuIDs())
	if err != nil {
		return err
	}
	return m.store(name, maskText(want.Intersect(m.online(m.last())), m.cpuIDs()))
}

// writeXPSQueues takes a mask of the receive queues that the device was made
// with, more are EOVERFLOW (net/core/net-sysfs.c, xps_rxqs_store).
func (m *Memory) writeXPSQueues(name, text string) error {
	made := m.madeQueues(strings.Split(name, "/")[3])
	want, err := parseMask(text, made)
	if err != nil {
		return err
	}
	return m.store(name, maskText(want, made))
}

// madeQueues is the number of receive queues that a device was made with, in use
// or not (num_rx_queues).
func (m *Memory) madeQueues(dev string) int {
	if m.last().base.Links != nil {
		if links, err := m.last().base.Links(); err == nil {
			for _, l := range links {
				if l.Name == dev && l.RxQueues > 0 {
					return l.RxQueues
				}
			}
		}
	}
	return m.queueCount(dev, "rx")
}

// writeFlowCount rounds up to a power of two; 0 frees the table
// (net/core/net-sysfs.c, store_rps_dev_flow_table_cnt).
func (m *Memory) writeFlowCount(name, text string) error {
	n, err := decimal(text, 0, 1<<31-1)
	if err != nil {
		return syscall.EINVAL
	}
	return m.store(name, strconv.FormatInt(roundUpPowerOfTwo(n), 10))
}

func roundUpPowerOfTwo(n int64) int64 {
	if n <= 0 {
		return 0
	}
	power := int64(1)
	for power < n {
		power *= 2
	}
	return power
}
