package profiles

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
)

// Objection says why the policy does not allow a setting to be given a value,
// "" if it does. driver is that of the setting's device ("" if unknown or
// host-wide), disruption what the write would do to the traffic of the device.
func (p Policy) Objection(ref knob.Ref, value, driver string, disruption knob.Disruption) string {
	if why, banned := p.ban(ref, driver); banned {
		return because("the policy forbids changing it", why)
	}
	if p.MaxDisruption != nil && disruption > *p.MaxDisruption {
		return fmt.Sprintf("it disturbs traffic (%s), and the policy allows %s", disruption, *p.MaxDisruption)
	}
	if limit := p.Cap(ref, driver); limit > 0 {
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > int64(limit) {
			return fmt.Sprintf("the policy caps it at %d", limit)
		}
	}
	return p.objectionToCPUs(ref, value, driver)
}

func because(text, why string) string {
	if why == "" {
		return text
	}
	return text + ": " + why
}

// ban finds the ban on a setting; the last of the file tells the reason.
func (p Policy) ban(ref knob.Ref, driver string) (why string, banned bool) {
	for _, b := range slices.Concat(p.Bans, p.deviceBans(ref.Dev, driver)) {
		if b.Pattern.Match(ref) {
			why, banned = b.Why, true
		}
	}
	return why, banned
}

func (p Policy) deviceBans(dev, driver string) []Ban {
	var out []Ban
	for _, o := range p.Overrides {
		if o.matches(dev, driver) {
			out = append(out, o.Bans...)
		}
	}
	return out
}

func (o Override) matches(dev, driver string) bool {
	return dev != "" && (o.Name == "" || matches(o.Name, dev)) && (o.Driver == "" || matches(o.Driver, driver))
}

// Cap is the upper limit that the policy sets for a value, 0 if none.
func (p Policy) Cap(ref knob.Ref, driver string) int {
	limit := p.Caps.of(ref.Kind)
	for _, o := range p.Overrides {
		if own := o.Caps.of(ref.Kind); own > 0 && o.matches(ref.Dev, driver) {
			limit = own
		}
	}
	return limit
}

func (c Caps) of(kind string) int {
	switch kind {
	case "channels.combined", "channels.rx", "channels.tx":
		return c.Queues
	case "ring.rx":
		return c.RxRing
	case "ring.tx":
		return c.TxRing
	default:
		return 0
	}
}

// Roles narrows the CPUs that may do network work to those the policy gives it.
func (p Policy) Roles(cpus cpuset.Set) cpuset.Set {
	if !p.NetworkCPUs.IsEmpty() {
		cpus = cpus.Intersect(p.NetworkCPUs)
	}
	return cpus.Minus(p.ForbiddenCPUs)
}

// rolesOf are the CPU roles that hold for a device: its own network CPUs, if it
// has any, in place of the policy's, and both kinds of forbidden ones.
func (p Policy) rolesOf(dev, driver string) (network, forbidden cpuset.Set) {
	network, forbidden = p.NetworkCPUs, p.ForbiddenCPUs
	for _, o := range p.Overrides {
		if !o.matches(dev, driver) {
			continue
		}
		if !o.NetworkCPUs.IsEmpty() {
			network = o.NetworkCPUs
		}
		forbidden = forbidden.Union(o.ForbiddenCPUs)
	}
	return network, forbidden
}

// NamesCPUs reports whether the policy says which CPUs are to serve a device.
func (p Policy) NamesCPUs(dev, driver string) bool {
	network, _ := p.rolesOf(dev, driver)
	return !network.IsEmpty()
}

// DeviceRoles narrows the CPUs that may serve a device to those the policy
// gives it. Without an entry for the device it is Roles.
func (p Policy) DeviceRoles(cpus cpuset.Set, dev, driver string) cpuset.Set {
	network, forbidden := p.rolesOf(dev, driver)
	if !network.IsEmpty() {
		cpus = cpus.Intersect(network)
	}
	return cpus.Minus(forbidden)
}

// DeviceThresholds are the thresholds by which a device is judged; the same map
// as Thresholds where no entry of Overrides gives it others.
func (p Policy) DeviceThresholds(dev, driver string) map[string]float64 {
	out := p.Thresholds
	for _, o := range p.Overrides {
		if len(o.Thresholds) > 0 && o.matches(dev, driver) {
			merged := make(map[string]float64, len(out)+len(o.Thresholds))
			maps.Copy(merged, out)
			maps.Copy(merged, o.Thresholds)
			out = merged
		}
	}
	return out
}

// objectionToCPUs holds the CPUs that a value names against their roles. Only
// settings that put work on CPUs count: an XPS mask names the CPUs that send,
// and those may be any.
func (p Policy) objectionToCPUs(ref knob.Ref, value, driver string) string {
	if ref.Kind != "irq.affinity" && ref.Kind != "rps.cpus" {
		return ""
	}
	cpus, err := cpuset.ParseList(value)
	if err != nil {
		return ""
	}
	network, forbidden := p.rolesOf(ref.Dev, driver)
	if bad := cpus.Intersect(forbidden); !bad.IsEmpty() {
		return fmt.Sprintf("the policy keeps network work off CPU %s", bad)
	}
	if bad := cpus.Minus(network); !network.IsEmpty() && !bad.IsEmpty() {
		return fmt.Sprintf("the policy gives network work CPU %s, not %s", network, bad)
	}
	return ""
}
