package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

// exportFormats are the other forms of a boot profile.
func exportFormats() []string { return []string{"shell", "sysctl", "link"} }

// findBootProfile reads a boot profile by file or by the name under which it
// was saved; found is false for what is none.
func findBootProfile(value string) (path string, data []byte, found bool) {
	path = value
	if !isPolicyFile(value) {
		path = savedPath("", value)
	}
	data, err := readProfileFile(path)
	if err != nil || !boot.IsProfile(data) {
		return "", nil, false
	}
	return path, data, true
}

// showBootProfile describes a boot profile, or writes it in another form for the
// machine at hand.
func showBootProfile(c *cli.Context, e env, path string, data []byte, o options) error {
	p, err := boot.Parse(path, data)
	if err != nil {
		return err
	}
	if !slices.Contains(exportFormats(), o.format) {
		return printDocument(e, report.NewBootProfile(p, path), o)
	}
	m, err := e.Open(c.String("host"))
	if err != nil {
		return err
	}
	s, err := detect.Collect(m.last())
	if err != nil {
		return err
	}
	whole, problems := wholePlan(p, s)
	for _, problem := range problems {
		_, _ = fmt.Fprintf(e.Stderr, "napitune: %s: %s\n", path, report.Clean(problem.String()))
	}
	a := report.NewAdvice(detect.Between(s), nil, whole)
	a.Live = m.live
	return printAdvice(e, a, o)
}

// wholePlan is everything that a profile sets on a host, also what stands
// already: another form of a profile must not depend on what was set before.
func wholePlan(p boot.Profile, s *detect.Snapshot) (plan.Plan, []boot.Problem) {
	out, problems := p.Plan(s, boot.Scope{})
	made, view := origin(s), s.View()
	out.Origin, out.Fingerprint = &made, made.Fingerprint()
	for _, k := range out.Kept {
		kind, ok := knob.Lookup(k.Ref.Kind)
		if !ok {
			continue
		}
		change := plan.Change{
			Ref: k.Ref, Before: k.Value, After: k.Value, Stage: kind.Stage.String(), Findings: k.Findings,
			Disruption: knob.DisruptsNothing.String(), Why: "boot profile " + p.Name,
		}
		if kind.Shell != nil {
			change.Shell = kind.Shell(view, k.Ref, k.Value)
		}
		out.Changes = append(out.Changes, change)
	}
	out.Kept = []plan.Kept{}
	for _, problem := range problems {
		for _, ref := range problem.Refs {
			out.Blocked = append(out.Blocked, plan.Blocked{Ref: ref, Want: problem.Want, Reason: problem.Reason, Findings: []string{"boot-profile"}})
		}
	}
	stage := func(c plan.Change) knob.Stage {
		kind, _ := knob.Lookup(c.Ref.Kind)
		return kind.Stage
	}
	slices.SortStableFunc(out.Changes, func(a, b plan.Change) int { return cmp.Compare(stage(a), stage(b)) })
	for i := range out.Changes {
		out.Changes[i].Seq = i + 1
	}
	return out, problems
}
