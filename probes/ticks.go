package probes

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// ticks is how programs learn the time in ticks of the kernel.
type ticks struct {
	hz int
	// byClock: this kernel has no bpf_jiffies64 (before 5.6), so programs read
	// the monotonic clock instead and see ns.
	byClock bool
}

// findTicks asks the kernel. Whoever may not load programs gets no answer, and
// hears of that from the programs themselves.
func findTicks(hz int) ticks {
	err := features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnJiffies64)
	return ticks{hz: hz, byClock: errors.Is(err, ebpf.ErrNotSupported)}
}

// limit is a number of jiffies in the unit that programs see.
func (t ticks) limit(jiffies uint32) uint32 {
	if !t.byClock {
		return jiffies
	}
	return uint32(min(uint64(jiffies)*uint64(time.Second)/uint64(t.hz), math.MaxUint32))
}

// prepare has the programs read the clock where they must.
func (t ticks) prepare(spec *ebpf.CollectionSpec) error {
	shift := spec.Variables["tick_shift"]
	if !t.byClock || shift == nil {
		return nil
	}
	// The nearest power of two: sampling and brakes need no exact tick.
	if err := shift.Set(uint32(math.Round(math.Log2(float64(time.Second) / float64(t.hz))))); err != nil {
		return fmt.Errorf("set tick_shift: %w", err)
	}
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if call := &p.Instructions[i]; call.IsBuiltinCall() && call.Constant == int64(asm.FnJiffies64) {
				call.Constant = int64(asm.FnKtimeGetNs)
			}
		}
	}
	return nil
}
