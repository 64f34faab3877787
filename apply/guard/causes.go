package guard

import (
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
)

// explains reports whether an event may have changed a setting without anybody
// asking for it. What drivers reset when differs; this is what any of them does.
func explains(e host.Event, ref knob.Ref) bool {
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		return false
	}
	if e.Kind == host.EventsLost {
		return ref.Dev != ""
	}
	if e.Kind == host.CPUChanged {
		// The kernel breaks affinities (kernel/irq/cpuhotplug.c), and virtio_net
		// sets interrupts and XPS anew (drivers/net/virtio_net.c, virtnet_cpu_online).
		return kind.Stage == knob.StageAffinity || ref.Kind == "xps.cpus"
	}
	if ref.Dev == "" || e.Dev != "" && e.Dev != ref.Dev {
		return false
	}
	switch e.Kind {
	case host.DeviceChanged:
		return true
	case host.LinkChanged:
		return reopened(kind)
	case host.QueuesChanged:
		// New queues begin with the defaults of the kernel (net/core/net-sysfs.c,
		// net_rx_queue_update_kobjects).
		return reopened(kind) || ref.Queue >= 0
	case host.SettingChanged:
		return clobbered(e.Setting, kind, ref)
	default:
		return false
	}
}

// reopened tells settings that some driver loses when it closes and opens the
// device, as at ifdown and ifup, an MTU change or a new XDP program. Masks of
// RPS, channels and rings are kept by the core (net/core/net-sysfs.c).
func reopened(kind *knob.Kind) bool {
	switch kind.Stage {
	case knob.StageAffinity, knob.StageNAPI, knob.StageCoalesce, knob.StageRSS, knob.StageFeatures:
		return true
	default:
		return kind.Name == "xps.cpus"
	}
}

// clobbered tells settings that change with a group of ethtool settings.
func clobbered(group string, kind *knob.Kind, ref knob.Ref) bool {
	if inGroup(group, ref.Kind) {
		return false
	}
	switch group {
	case "channels":
		return reopened(kind) || ref.Queue >= 0
	case "private flags":
		return true // they switch anything, by driver
	}
	for _, other := range knob.All() {
		if inGroup(group, other.Name) && slices.Contains(other.Clobbers, kind.Name) {
			return true
		}
	}
	return group == "rings" && reopened(kind)
}

// inGroup reports whether a kind of setting is one of a group of ethtool.
func inGroup(group, kind string) bool {
	prefixes := map[string]string{"channels": "channels.", "rings": "ring.", "coalesce": "coalesce.", "features": "feature.", "rss": "rss."}
	prefix, ok := prefixes[group]
	return ok && strings.HasPrefix(kind, prefix)
}

// wrote reports whether an event is somebody's writing of this very setting,
// or of one that cannot be told from it.
func wrote(e host.Event, ref knob.Ref) bool {
	return e.Kind == host.SettingChanged && e.Dev == ref.Dev && inGroup(e.Setting, ref.Kind)
}

// describe is an event in words.
func describe(e host.Event) string {
	switch {
	case e.Kind == host.SettingChanged:
		return strings.TrimSpace("change of " + e.Setting + of(e.Dev))
	case e.Kind == host.EventsLost:
		return "more events than could be told"
	default:
		return e.Kind.String() + of(e.Dev)
	}
}

func of(dev string) string {
	if dev == "" {
		return ""
	}
	return " of " + dev
}

// suspect is the likeliest of those who write a setting besides napitune: who
// does so again and again before who does so on an event. "" if nobody is known
// to.
func suspect(ref knob.Ref, all []owner.Owner) string {
	for _, habit := range []owner.Habit{owner.Always, owner.OnEvent} {
		for _, o := range all {
			if _, ok := o.Claim(ref); ok && o.Habit == habit {
				return o.Name
			}
		}
	}
	return ""
}
