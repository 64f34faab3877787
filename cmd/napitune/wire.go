package main

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

// policies are the profiles that a host can be judged by.
func policies() []profiles.Policy { return []profiles.Policy{profiles.Balanced()} }

func profileNames() []string {
	var names []string
	for _, p := range policies() {
		names = append(names, p.Name)
	}
	return names
}

// policy finds a profile by name. Verbs that judge nothing have no --profile
// and get the default.
func policy(name string) (profiles.Policy, error) {
	if name == "" {
		return profiles.Balanced(), nil
	}
	for _, p := range policies() {
		if p.Name == name {
			return p, nil
		}
	}
	return profiles.Policy{}, fmt.Errorf("--profile %q: there is no such profile; there is %s", name, strings.Join(profileNames(), ", "))
}

func buildPlan(m measurement, findings []plan.Finding, o options) plan.Plan {
	made := origin(m.Last)
	p := plan.Build(findings, plan.Input{
		Fingerprint: made.Fingerprint(),
		Profile:     o.policy.Name,
		States:      m.Last.Knobs,
		View:        m.Last.View(),
		Forbidden:   o.policy.Forbidden,
	})
	p.Origin = &made
	return p
}

// origin is the machine as far as the addresses in a plan depend on it.
func origin(s *detect.Snapshot) plan.Origin {
	o := plan.Origin{BootID: s.Ident.BootID, Release: s.Ident.Release, Devices: []plan.OriginDevice{}}
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
