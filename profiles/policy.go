// Package profiles holds what a site decides: the policy (thresholds, CPU
// roles, what may be touched) under which rules judge, and profiles (desired
// values for a class of hosts). It parses strictly and does no I/O.
package profiles

import (
	"maps"
	"slices"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
)

// Policy is what rules judge by. The zero value restricts nothing and
// overrides nothing.
type Policy struct {
	// Name is how reports and plans call the policy.
	Name string
	// Description says in one paragraph what kind of host it is for.
	Description string
	// Extends is the policy this one was made from, "" for one that stands alone.
	Extends string
	// Thresholds overrides values of rules.Thresholds by name.
	Thresholds map[string]float64
	// Reasons says why each of Thresholds was overridden, by the same names.
	Reasons map[string]string
	// Devices limits the judgement to these devices; empty means all.
	Devices []string
	// NetworkCPUs limits where interrupts may be put; empty means every
	// housekeeping CPU.
	NetworkCPUs cpuset.Set
	// ForbiddenCPUs must not be given interrupts or RPS work, whatever
	// NetworkCPUs says.
	ForbiddenCPUs cpuset.Set
	// Forbidden names settings that must not be changed: those of Bans without
	// wildcards, for readers that compare literally. Objection knows all bans.
	Forbidden []string
	// Bans are the settings that must not be changed, with wildcards.
	Bans []Ban
	// Latency: the site prefers latency to throughput.
	Latency bool
	// Forwarding: packets leave this host again, whether or not the kernel's
	// forwarding switches show it.
	Forwarding bool
	// HarmOnly: only findings with measured harm may lead to changes.
	HarmOnly bool
	// MaxDisruption is the worst that a change may do to traffic; nil allows
	// everything.
	MaxDisruption *knob.Disruption
	// Caps hold for every device that no entry of Overrides gives others.
	Caps Caps
	// Overrides are the rules for single devices, in the order of the file;
	// where several match a device the last one wins.
	Overrides []Override
	// Acknowledgements are findings the site knows of and accepts.
	Acknowledgements []Acknowledgement
	// Lists are the CPU lists of the file with their lines, the host's and
	// those of devices, for the check against a machine.
	Lists []CPUList
}

// CPUList is one list of CPUs in a policy file.
type CPUList struct {
	File string
	Line int
	Key  string // "cpus.network", "devices.cpus.forbidden"
	CPUs cpuset.Set
}

// Ban is a setting, or a pattern of settings, that must not be changed.
type Ban struct {
	Pattern Pattern
	Why     string
}

// Caps are upper limits for proposed values; 0 means no limit.
type Caps struct {
	Queues int // channels of a device, each kind for itself
	RxRing int // receive descriptors per queue
	TxRing int // transmit descriptors per queue
}

// Override is what holds for some devices only.
type Override struct {
	// Name and Driver are wildcards ("eth*"), and both must match; "" matches
	// every device.
	Name, Driver string
	Caps         Caps
	Bans         []Ban
	// Thresholds overrides the policy's for what is judged of these devices
	// alone; what is judged of CPUs and of the whole host keeps the policy's.
	Thresholds map[string]float64
	Reasons    map[string]string
	// NetworkCPUs takes the place of the policy's for these devices, if not
	// empty; ForbiddenCPUs comes on top of the policy's.
	NetworkCPUs, ForbiddenCPUs cpuset.Set
}

// clone makes a copy that shares nothing that can be changed.
func (p Policy) clone() Policy {
	p.Thresholds, p.Reasons = maps.Clone(p.Thresholds), maps.Clone(p.Reasons)
	p.Devices, p.Forbidden = slices.Clone(p.Devices), slices.Clone(p.Forbidden)
	p.Bans, p.Overrides = slices.Clone(p.Bans), slices.Clone(p.Overrides)
	for i, o := range p.Overrides {
		p.Overrides[i].Thresholds, p.Overrides[i].Reasons = maps.Clone(o.Thresholds), maps.Clone(o.Reasons)
		p.Overrides[i].Bans = slices.Clone(o.Bans)
	}
	p.Acknowledgements = slices.Clone(p.Acknowledgements)
	p.Lists = slices.Clone(p.Lists)
	if p.MaxDisruption != nil {
		limit := *p.MaxDisruption
		p.MaxDisruption = &limit
	}
	return p
}
