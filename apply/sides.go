package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// sides are the settings that a write may change besides its own (see
// knob.Kind.MayChange), with their values. The error names those whose values
// the host does not tell, which could not be put back.
func sides(v knob.View, kind *knob.Kind, ref knob.Ref, after string) (map[knob.Ref]string, error) {
	var errs []error
	out := map[knob.Ref]string{}
	seen := map[string]bool{address(v, ref): true}
	own := v
	own.Devices = slices.DeleteFunc(slices.Clone(v.Devices), func(d knob.Dev) bool { return d.Name != ref.Dev })
	for i := range own.Devices {
		// The kernel overwrites settings whether or not advice is about them.
		own.Devices[i].Tunable = true
	}
	for _, other := range knob.All() {
		if !kind.MayChange(other) {
			continue
		}
		refs := other.Refs(own)
		if kind.Stage == knob.StageChannels && other.Name == affinityKind {
			refs = append(refs, spareVectors(own, after)...)
		}
		for _, r := range refs {
			at := address(v, r)
			if r.Dev != ref.Dev || seen[at] {
				continue
			}
			seen[at] = true
			switch state := other.Read(v, r); {
			case state.Has():
				out[r] = state.Value
			case other.Name == affinityKind && at == r.String():
				// Which interrupt it is, if the queue has one, is not known: devices
				// without vectors of their own, and those that are down.
			case state.Withheld():
				errs = append(errs, fmt.Errorf("%s, which the change may overwrite, cannot be read and could not be put back: %s: %s", r, state.Status, state.Reason))
			}
		}
	}
	return out, errors.Join(errs...)
}

// spareVectors are the interrupts of queues that a channel change will bring
// into use: virtio_net has them from the start and moves them then
// (drivers/net/virtio_net.c, virtnet_set_affinity).
func spareVectors(v knob.View, after string) []knob.Ref {
	n, err := strconv.Atoi(after)
	if err != nil || v.IRQ == nil {
		return nil
	}
	var out []knob.Ref
	for _, d := range v.Devices {
		for q := min(d.RxQueues, d.TxQueues); q < n; q++ {
			for _, tx := range []bool{false, true} {
				if irq, err := v.IRQ(d.Name, tx, q); err == nil && irq >= 0 {
					out = append(out, knob.Ref{Kind: affinityKind, Dev: d.Name, Tx: tx, Queue: q})
				}
			}
		}
	}
	return out
}

// napiValues are the settings of one NAPI that differ from its device's, found
// again by receive queue, since NAPI numbers change with the queues.
type napiValues struct {
	ID         int    `json:"id"`
	Queue      int    `json:"queue"` // receive queue, -1 if not known
	Defer      uint64 `json:"defer_hard_irqs"`
	Flush      uint64 `json:"gro_flush_timeout"`
	Suspend    uint64 `json:"irq_suspend_timeout"`
	Threaded   int    `json:"threaded"`
	WideDefer  uint64 `json:"device_defer_hard_irqs"` // the device's at that time
	WideFlush  uint64 `json:"device_gro_flush_timeout"`
	WideThread int    `json:"device_threaded"`
}

func (n napiValues) special() bool {
	return n.Defer != n.WideDefer || n.Flush != n.WideFlush || n.Suspend != 0 || n.Threaded != n.WideThread
}

// specialNAPIs lists the NAPIs whose own values a write of this kind destroys:
// device-wide values overwrite them (net/core/dev.h, netdev_set_gro_flush_timeout),
// and new queues have new NAPIs.
func specialNAPIs(v knob.View, kind *knob.Kind, ref knob.Ref) ([]napiValues, error) {
	if len(kind.Clobbers) == 0 && kind.Stage != knob.StageNAPI {
		return nil, nil
	}
	napis, err := deviceNAPIs(v, ref.Dev)
	if err != nil {
		return nil, err
	}
	var out []napiValues
	for _, n := range napis {
		if n.special() {
			out = append(out, n)
		}
	}
	return out, nil
}

// deviceNAPIs lists the NAPIs of a device; none on kernels that do not show them.
func deviceNAPIs(v knob.View, dev string) ([]napiValues, error) {
	if v.Host == nil || v.Host.Netdev.NAPIs == nil {
		return nil, nil
	}
	napis, err := v.Host.Netdev.NAPIs()
	if errors.Is(err, host.ErrUnsupported) || errors.Is(err, host.ErrNotCaptured) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list NAPIs: %w", err)
	}
	index, err := ifIndex(v.Host, dev)
	if err != nil {
		return nil, err
	}
	queues := map[int]int{}
	if v.Host.Netdev.Queues != nil {
		// Without the queues NAPIs are found by number.
		list, _ := v.Host.Netdev.Queues()
		for _, q := range list {
			if q.IfIndex == index && !q.Tx && q.NAPI > 0 {
				queues[q.NAPI] = q.ID
			}
		}
	}
	deferral, hasDefer := wide(v, dev, "napi_defer_hard_irqs")
	flush, hasFlush := wide(v, dev, "gro_flush_timeout")
	threaded, hasThreaded := wide(v, dev, "threaded")
	var out []napiValues
	for _, n := range napis {
		if n.IfIndex != index {
			continue
		}
		one := napiValues{
			ID: n.ID, Queue: -1, Defer: n.DeferHardIRQs, Flush: n.GROFlushTimeout, Suspend: n.IRQSuspend, Threaded: n.Threaded,
			WideDefer: deferral, WideFlush: flush, WideThread: int(threaded),
		}
		if !hasDefer {
			one.WideDefer = one.Defer
		}
		if !hasFlush {
			one.WideFlush = one.Flush
		}
		if !hasThreaded {
			one.WideThread = one.Threaded
		}
		if q, ok := queues[n.ID]; ok {
			one.Queue = q
		}
		out = append(out, one)
	}
	return out, nil
}

// wide reads a device-wide NAPI setting as a number.
func wide(v knob.View, dev, name string) (uint64, bool) {
	kind, ok := knob.Lookup(name)
	if !ok {
		return 0, false
	}
	state := kind.Read(v, knob.Device(dev, name))
	switch {
	case !state.Has():
		return 0, false
	case state.Value == "on":
		return 1, true
	case state.Value == "off":
		return 0, true
	}
	n, err := strconv.ParseUint(state.Value, 10, 64)
	return n, err == nil
}

func ifIndex(h *host.Host, dev string) (int, error) {
	text, err := h.ReadFile("sys/class/net/" + dev + "/ifindex")
	if err != nil {
		return 0, fmt.Errorf("index of %s: %w", dev, err)
	}
	index, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("index of %s: %w", dev, err)
	}
	return index, nil
}
