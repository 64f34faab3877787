package main

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

func profileNames() []string { return profiles.Names() }

// policy is what --profile names. Verbs that judge nothing have no --profile
// and get the default.
func policy(value string) (profiles.Policy, error) {
	if value == "" {
		return profiles.Balanced(), nil
	}
	p, file, err := findPolicy(value)
	if err != nil && file == "" {
		return profiles.Policy{}, fmt.Errorf("--profile %q: %w", value, err)
	}
	return p, err
}

func buildPlan(m measurement, findings []plan.Finding, o options) plan.Plan {
	made := origin(m.Last)
	p := plan.Build(findings, plan.Input{
		Fingerprint: made.Fingerprint(),
		Profile:     o.policy.Name,
		States:      m.Last.Knobs,
		View:        m.Last.View(),
		Forbidden:   o.policy.Forbidden,
		Objection:   objections(o.policy, m.Last),
	})
	p.Origin = &made
	return p
}

// origin is the machine as far as the addresses in a plan depend on it.
func origin(s *detect.Snapshot) plan.Origin {
	o := plan.Origin{BootID: s.Ident.BootID, Release: s.Ident.Release, NetNS: s.Ident.NetNS, Devices: []plan.OriginDevice{}}
	for _, d := range s.Devices {
		o.Devices = append(o.Devices, plan.OriginDevice{
			Name: d.Name, Driver: d.Driver, Bus: d.Bus, Index: d.Index, Queues: len(d.Queues),
		})
	}
	return o
}

// defaults answers what the kernel's own value of a setting is on this host.
func defaults(m *machine, s *detect.Snapshot) func(knob.Ref) (string, bool) {
	view := s.View()
	view.Host = m.last()
	return func(r knob.Ref) (string, bool) {
		kind, ok := knob.Lookup(r.Kind)
		if !ok || kind.Default == nil {
			return "", false
		}
		return kind.Default(view, r)
	}
}
