package hosttest

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/host"
)

// writeSysctl covers the settings of net.core (net/core/sysctl_net_core.c).
func (m *Memory) writeSysctl(name, sysctl, text string) error {
	switch sysctl {
	case "netdev_budget", "netdev_max_backlog":
		// proc_dointvec without bounds: even negative values are taken.
		return m.storeNumber(name, text, math.MinInt32, math.MaxInt32)
	case "netdev_budget_usecs":
		return m.writeBudgetTime(name, text)
	case "dev_weight", "dev_weight_rx_bias", "dev_weight_tx_bias", "gro_normal_batch":
		return m.storeNumber(name, text, 1, math.MaxInt32)
	case "rps_sock_flow_entries":
		return m.writeFlowEntries(name, text)
	case "flow_limit_table_len":
		return m.writeFlowTable(name, text)
	case "flow_limit_cpu_bitmap", "rps_default_mask":
		return m.writeCPUBitmap(name, text)
	}
	return fmt.Errorf("no law for this sysctl: %w", syscall.EACCES)
}

// sysctlNumber reads a number as proc_dointvec_minmax does: EINVAL for
// everything outside the range (kernel/sysctl.c).
func sysctlNumber(text string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 0, 64)
	if err != nil || n < least || n > most {
		return 0, syscall.EINVAL
	}
	return n, nil
}

func (m *Memory) storeNumber(name, text string, least, most int64) error {
	n, err := sysctlNumber(text, least, most)
	if err != nil {
		return err
	}
	return m.store(name, strconv.FormatInt(n, 10))
}

// writeBudgetTime: less than two jiffies is EINVAL since 6.14 and the stable
// kernels of early 2025 (net/core/sysctl_net_core.c, netdev_budget_usecs_min).
// The law is applied to every kernel whose HZ is known: what newer kernels
// refuse must not be relied on.
func (m *Memory) writeBudgetTime(name, text string) error {
	least := int64(math.MinInt32)
	if hz := m.hz(); hz > 0 {
		least = 2_000_000 / int64(hz)
	}
	return m.storeNumber(name, text, least, math.MaxInt32)
}

// writeFlowEntries rounds up to a power of two; more than 2^29 is EINVAL
// (rps_sock_flow_sysctl).
func (m *Memory) writeFlowEntries(name, text string) error {
	n, err := sysctlNumber(text, 0, 1<<29)
	if err != nil {
		return err
	}
	return m.store(name, strconv.FormatInt(roundUpPowerOfTwo(n), 10))
}

// writeFlowTable takes powers of two only (flow_limit_table_len_sysctl).
func (m *Memory) writeFlowTable(name, text string) error {
	n, err := sysctlNumber(text, 1, math.MaxInt32)
	if err != nil || n&(n-1) != 0 {
		return syscall.EINVAL
	}
	return m.store(name, strconv.FormatInt(n, 10))
}

// writeCPUBitmap takes a mask of CPUs (flow_limit_cpu_sysctl, rps_default_mask_sysctl).
func (m *Memory) writeCPUBitmap(name, text string) error {
	set, err := parseMask(text, m.cpuIDs())
	if err != nil {
		return err
	}
	return m.store(name, maskText(set, m.cpuIDs()))
}

// writeAttribute covers the attributes of a device (net/core/net-sysfs.c).
func (m *Memory) writeAttribute(name, dev, attribute, text string) error {
	switch attribute {
	case "gro_flush_timeout":
		return m.writeFlushTimeout(name, dev, text)
	case "napi_defer_hard_irqs":
		return m.writeDeferral(name, dev, text)
	case "threaded":
		return m.writeThreaded(name, dev, text)
	}
	return fmt.Errorf("no law for this attribute: %w", syscall.EACCES)
}

// writeFlushTimeout sets the device and overwrites every NAPI's own value
// (net/core/dev.h, netdev_set_gro_flush_timeout).
func (m *Memory) writeFlushTimeout(name, dev, text string) error {
	n, err := decimal(text, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	if err := m.store(name, strconv.FormatInt(n, 10)); err != nil {
		return err
	}
	return m.everyNAPI(dev, func(napi *host.NAPI) { napi.GROFlushTimeout = uint64(n) })
}

// writeDeferral sets the device and overwrites every NAPI's own value; more
// than INT_MAX is ERANGE (net/core/dev.h, netdev_set_defer_hard_irqs).
func (m *Memory) writeDeferral(name, dev, text string) error {
	n, err := decimal(text, 0, math.MaxInt32)
	if err != nil {
		return err
	}
	if err := m.store(name, strconv.FormatInt(n, 10)); err != nil {
		return err
	}
	return m.everyNAPI(dev, func(napi *host.NAPI) { napi.DeferHardIRQs = uint64(n) })
}

// writeThreaded takes 0 and 1 only, for the device and all its NAPIs
// (net/core/net-sysfs.c, modify_napi_threaded).
func (m *Memory) writeThreaded(name, dev, text string) error {
	n, err := decimal(text, 0, math.MaxInt64)
	switch {
	case err != nil:
		return err
	case n > 1:
		return syscall.EOPNOTSUPP
	}
	if err := m.store(name, strconv.FormatInt(n, 10)); err != nil {
		return err
	}
	return m.everyNAPI(dev, func(napi *host.NAPI) { napi.Threaded = int(n) })
}

// everyNAPI changes the NAPIs of one device, on kernels that show them.
func (m *Memory) everyNAPI(dev string, change func(*host.NAPI)) error {
	napis, err := list(m.napis, m.last().base.Netdev.NAPIs)
	if missing(err) || errors.Is(err, host.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	index := m.ifIndex(dev)
	for i := range napis {
		if napis[i].IfIndex == index {
			change(&napis[i])
		}
	}
	m.napis = napis
	return nil
}

func (m *Memory) ifIndex(dev string) int {
	text, err := m.last().tree.ReadFile(deviceFile(dev, "ifindex"))
	if err != nil {
		return 0
	}
	index, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return index
}

// setNAPI changes the values of one NAPI (net/core/netdev-genl.c, netdev_nl_napi_set_doit).
func (m *Memory) setNAPI(n host.NAPI) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	napis, err := list(m.napis, m.last().base.Netdev.NAPIs)
	if err != nil {
		return fmt.Errorf("set NAPI %d: %w", n.ID, err)
	}
	for i := range napis {
		if napis[i].ID != n.ID {
			continue
		}
		if n.DeferHardIRQs > math.MaxInt32 {
			return fmt.Errorf("set NAPI %d: defer %d: %w", n.ID, n.DeferHardIRQs, syscall.ERANGE)
		}
		to := &napis[i]
		to.DeferHardIRQs, to.GROFlushTimeout, to.IRQSuspend, to.Threaded = n.DeferHardIRQs, n.GROFlushTimeout, n.IRQSuspend, n.Threaded
		m.napis = napis
		return nil
	}
	return fmt.Errorf("set NAPI %d: %w", n.ID, syscall.ENOENT)
}
