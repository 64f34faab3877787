package hosttest

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/irqbalance"
)

// RunIrqbalance starts an irqbalance that leaves these interrupts alone, or
// starts it anew, which forgets what it was told.
func (m *Memory) RunIrqbalance(banned ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.irqbalance = &host.Irqbalance{Interval: 10, Banned: slices.Sorted(slices.Values(banned))}
}

// StopIrqbalance ends it.
func (m *Memory) StopIrqbalance() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.irqbalance = nil
}

func (m *Memory) askIrqbalance() (host.Irqbalance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.irqbalance == nil {
		return host.Irqbalance{}, fmt.Errorf("ask irqbalance: it is not running: %w", host.ErrUnsupported)
	}
	return host.Irqbalance{Interval: m.irqbalance.Interval, Banned: slices.Clone(m.irqbalance.Banned)}, nil
}

// banIRQs replaces the list, as "settings ban irqs" does (irqbalance.c, sock_handle).
func (m *Memory) banIRQs(irqs []int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.irqbalance == nil {
		return fmt.Errorf("ban interrupts: irqbalance is not running: %w", host.ErrUnsupported)
	}
	if err := irqbalance.Fits(irqs); err != nil {
		return fmt.Errorf("ban interrupts: %w", err)
	}
	m.irqbalance.Banned = slices.Compact(slices.Sorted(slices.Values(irqs)))
	return nil
}
