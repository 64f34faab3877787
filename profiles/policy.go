// Package profiles holds what a site decides: the policy (thresholds, CPU
// roles, what may be touched) under which rules judge, and profiles (desired
// values for a class of hosts). It parses strictly and does no I/O.
package profiles

import "github.com/napitune/napitune/detect/cpuset"

// Policy is what rules judge by.
type Policy struct {
	Name string
	// Thresholds overrides values of rules.Thresholds by name.
	Thresholds map[string]float64
	// Devices limits the judgement to these devices; empty means all.
	Devices []string
	// NetworkCPUs limits where interrupts may be put; empty means every
	// housekeeping CPU.
	NetworkCPUs cpuset.Set
	// Forbidden names kinds of settings that must not be changed.
	Forbidden []string
	Latency   bool // the site prefers latency to throughput
}

// Balanced is the default policy.
func Balanced() Policy { return Policy{Name: "balanced"} }
