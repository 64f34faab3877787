package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

func adviseCommand(e env) *cli.Command {
	formats := []string{"text", "json", "yaml", "shell", "sysctl", "link"}
	flags := append(append(sharedFlags(formats...), windowFlags()...), probesFlag(), profileFlag(),
		&cli.StringFlag{Name: "o", Aliases: []string{"output"}, Usage: "write the plan as JSON to `FILE` as well"})
	return &cli.Command{
		Name:      "advise",
		Usage:     "measure, say what is wrong and why, and propose changes (the default)",
		ArgsUsage: noArguments,
		Description: "Prints findings with their evidence and a plan in which every line reads: setting before → after — reason.\n" +
			"Nothing is written to the host. Ends with 0 if there is nothing to change and with 2 if there is.",
		Flags:  flags,
		Action: func(c *cli.Context) error { return advise(c, e, formats) },
	}
}

func advise(c *cli.Context, e env, formats []string) error {
	o, err := parseOptions(c, e, formats...)
	if err != nil {
		return err
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	result, err := measure(c.Context, e, m, o)
	if err != nil {
		return err
	}
	if err := checkDevices(result.Last, o.devices); err != nil {
		return err
	}
	a := judge(result, o)
	nameOwners(&a.Plan, m, result.Last)
	a.Live = m.live
	if m.live && e.Usage != nil {
		a.Overhead = e.Usage()
	}
	if m.live && result.Probes != nil {
		addCost(&a.Overhead, result.Probes)
	}
	kept := a.Plan
	kept.Placement = a.Placement
	if err := savePlan(c.String("o"), kept); err != nil {
		return err
	}
	if err := printAdvice(e, a, o); err != nil {
		return err
	}
	if len(a.Plan.Changes) > 0 {
		return errChanges
	}
	return nil
}

// judge turns what was measured into findings and plan, and both into the report.
func judge(m measurement, o options) report.Advice {
	findings, placement := rules.Judge(m.Observation, o.policy)
	findings = acknowledge(findings, o.policy, time.Now())
	a := report.NewAdvice(m.Observation, findings, buildPlan(m, findings, o))
	a.Placement = append(a.Placement, placement...)
	a.PolicyFile = o.policyFile
	a.Probeless = m.probeless
	a.Window.Probes = append(a.Window.Probes, m.attached()...)
	return a
}

func savePlan(path string, p plan.Plan) error {
	if path == "" {
		return nil
	}
	var text bytes.Buffer
	if err := report.JSON(&text, p); err != nil {
		return err
	}
	// Readable by all: a plan holds no secret, and who reviews it need not be root.
	if err := renameio.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("-o %s: %w", path, err)
	}
	return nil
}

func printAdvice(e env, a report.Advice, o options) error {
	switch o.format {
	case "json":
		return report.JSON(e.Stdout, a)
	case "yaml":
		return report.YAML(e.Stdout, a)
	case "shell":
		return report.Shell(e.Stdout, a)
	case "sysctl":
		return report.Sysctl(e.Stdout, a)
	case "link":
		return report.Link(e.Stdout, a)
	default:
		return report.Text(e.Stdout, a, o.style)
	}
}
