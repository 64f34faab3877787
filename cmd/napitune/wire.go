package main

import (
	"crypto/sha256"
	"encoding/hex"
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
	return plan.Build(findings, plan.Input{
		Fingerprint: fingerprint(m.Last),
		Profile:     o.policy.Name,
		States:      m.Last.Knobs,
		View:        m.Last.View(),
		Forbidden:   o.policy.Forbidden,
	})
}

// fingerprint tells hosts, boots and device changes apart: a plan is good only
// where it was made. It covers what the addresses in a plan depend on (boot,
// kernel, devices with driver, bus and queues) and nothing that moves by itself.
func fingerprint(s *detect.Snapshot) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q %q\n", s.Ident.BootID, s.Ident.Release)
	for _, d := range s.Devices {
		_, _ = fmt.Fprintf(h, "%q %q %q %d\n", d.Name, d.Driver, d.Bus, len(d.Queues))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
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
