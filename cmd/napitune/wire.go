package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

func profileNames() []string { return profiles.Names() }

// choosePolicy is what --profile names; without it, this machine's site policy
// if there is one, else the default. A captured host is another machine, which
// this machine's policy says nothing about. Verbs that judge nothing have no
// --profile and get the default.
func (o options) choosePolicy(c *cli.Context, e env) (p profiles.Policy, file string, err error) {
	value := c.String("profile")
	switch {
	case value == "":
		return profiles.Balanced(), "", nil
	case !c.IsSet("profile") && o.host == "" && e.SitePolicy != "":
		p, err = readPolicy(e.SitePolicy)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, e.SitePolicy, err
		}
	}
	p, file, err = findPolicy(value)
	if err != nil && file == "" {
		return profiles.Policy{}, "", fmt.Errorf("--profile %q: %w", value, err)
	}
	return p, file, err
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
