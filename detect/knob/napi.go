package knob

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

func napi() []*Kind {
	const missing = "this kernel has no such attribute"
	flush := file{
		path: devicePath("gro_flush_timeout"), decode: canonicalInteger, encode: verbatim,
		bounds: within(0, math.MaxInt64), missing: because(missing),
	}
	deferIRQs := file{
		path: devicePath("napi_defer_hard_irqs"), decode: canonicalInteger, encode: verbatim,
		bounds: within(0, math.MaxInt32), missing: because(missing),
	}
	threaded := file{
		path: devicePath("threaded"), decode: canonicalSwitch, encode: encodeSwitch,
		bounds:  func(View, Ref) Bounds { return Bounds{Of: []string{"off", "on"}} },
		missing: because(missing),
	}
	const preserved = " A write sets all NAPIs of the device; those with a value of their own (netlink napi-set) get theirs back afterwards."
	return []*Kind{
		{
			Name: "gro_flush_timeout", Scope: ScopeDevice, Title: "how long GRO may hold packets",
			Doc: "How long packets may be held for merging after a poll ended, and, together with napi_defer_hard_irqs, after " +
				"which time a timer polls again instead of an interrupt. 20000 to 200000 ns with a few deferrals turn many short " +
				"polls into fewer long ones at high rates; the time is added to the latency of lone packets. 0 is off." + preserved,
			Source: "net/core/net-sysfs.c gro_flush_timeout_store, net/core/dev.c napi_complete_done, Documentation/networking/napi.rst",
			Unit:   "ns", Codec: integerCodec, Stage: StageNAPI, Disruption: DisruptsNothing,
			Default: softwareDefault, Refs: attributeRefs("gro_flush_timeout"), Read: flush.read, Shell: flush.shell, Files: flush.written,
			Write: deviceWide(flush, func(n host.NAPI) uint64 { return n.GROFlushTimeout }),
		},
		{
			Name: "napi_defer_hard_irqs", Scope: ScopeDevice, Title: "empty polls before interrupts are on again",
			Doc: "How many polls without work the kernel allows, gro_flush_timeout apart, before it unmasks the interrupt. Acts " +
				"only together with gro_flush_timeout. Saves interrupts at high rates; costs idle polls and, at low rates, " +
				"latency up to the timeout." + preserved,
			Source: "net/core/net-sysfs.c napi_defer_hard_irqs_store, net/core/dev.c napi_complete_done, Documentation/networking/napi.rst",
			Unit:   "polls", Codec: integerCodec, Stage: StageNAPI, Disruption: DisruptsNothing,
			Default: softwareDefault, Refs: attributeRefs("napi_defer_hard_irqs"), Read: deferIRQs.read, Shell: deferIRQs.shell, Files: deferIRQs.written,
			Write: deviceWide(deferIRQs, func(n host.NAPI) uint64 { return n.DeferHardIRQs }),
		},
		{
			Name: "threaded", Scope: ScopeDevice, Title: "poll in kernel threads",
			Doc: "Polls the device's NAPIs in kernel threads (napi/DEV-ID) instead of softirqs. The scheduler then sees and moves " +
				"the work, threads can be pinned and given priorities, and a flood cannot starve user space. Costs a wake-up per " +
				"poll and locality unless the threads are pinned.",
			Source: "net/core/net-sysfs.c threaded_store, net/core/dev.c dev_set_threaded, Documentation/networking/napi.rst",
			Codec:  switchCodec, Stage: StageNAPI, Disruption: DisruptsNothing,
			Default: fixed("off"), Refs: attributeRefs("threaded"), Read: threaded.read, Write: threaded.write, Shell: threaded.shell, Files: threaded.written,
		},
	}
}

// softwareDefault is 0 except for drivers that call
// netdev_sw_irq_coalesce_default_on (net/core/dev.c), whose choice depends on
// the kernel's configuration.
func softwareDefault(v View, r Ref) (string, bool) {
	switch v.device(r.Dev).Driver {
	case "r8169", "":
		return "", false
	default:
		return "0", true
	}
}

// attributeRefs lists the attribute for tunable devices, and for others
// where the file is there.
func attributeRefs(name string) func(View) []Ref {
	return func(v View) []Ref {
		var out []Ref
		for _, d := range v.Devices {
			if d.Tunable || exists(v, d.Name, name) {
				out = append(out, Device(d.Name, name))
			}
		}
		return out
	}
}

func exists(v View, dev, name string) bool {
	if v.Host == nil || v.Host.FS == nil || !validDevice(dev) {
		return false
	}
	_, err := fs.Stat(v.Host.FS, "sys/class/net/"+dev+"/"+name)
	return err == nil
}

// deviceWide writes a device attribute that overwrites the value of every NAPI
// (net/core/dev.h, netdev_set_gro_flush_timeout and
// netdev_set_defer_hard_irqs), and then restores the NAPIs that had a value of
// their own.
func deviceWide(f file, own func(host.NAPI) uint64) func(View, host.Writer, Ref, string) error {
	return func(v View, w host.Writer, r Ref, value string) error {
		special, err := specialNAPIs(f, own, v, r)
		if err != nil {
			return err
		}
		if err := f.write(v, w, r, value); err != nil {
			return err
		}
		var errs []error
		for _, n := range special {
			if w.SetNAPI == nil {
				return fmt.Errorf("restore NAPI %d: %w", n.ID, host.ErrUnsupported)
			}
			if err := w.SetNAPI(n); err != nil {
				errs = append(errs, fmt.Errorf("restore NAPI %d: %w", n.ID, err))
			}
		}
		return errors.Join(errs...)
	}
}

// specialNAPIs lists the NAPIs of the device whose value differs from the
// device's. Kernels without per-NAPI settings have none.
func specialNAPIs(f file, own func(host.NAPI) uint64, v View, r Ref) ([]host.NAPI, error) {
	if v.Host == nil || v.Host.Netdev.NAPIs == nil {
		return nil, nil
	}
	state := f.read(v, r)
	if !state.Has() {
		return nil, nil
	}
	wide, err := strconv.ParseUint(state.Value, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("device value %q: %w", state.Value, err)
	}
	all, err := v.Host.Netdev.NAPIs()
	if errors.Is(err, host.ErrUnsupported) || errors.Is(err, host.ErrNotCaptured) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list NAPIs: %w", err)
	}
	index, err := ifIndex(v.Host, r.Dev)
	if err != nil {
		return nil, err
	}
	var special []host.NAPI
	for _, n := range all {
		if n.IfIndex == index && own(n) != wide {
			special = append(special, n)
		}
	}
	return special, nil
}

func ifIndex(h *host.Host, dev string) (int, error) {
	text, err := h.ReadFile("sys/class/net/" + dev + "/ifindex")
	if err != nil {
		return 0, fmt.Errorf("index of %s: %w", dev, err)
	}
	index, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("index of %s: %q is not a number", dev, clip(string(text)))
	}
	return index, nil
}
