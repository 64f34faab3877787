package main

import (
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
)

func doctorCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "say what napitune can read here, what not, and what would help",
		ArgsUsage: noArguments,
		Flags:     append(sharedFlags(documentFormats()...), &cli.BoolFlag{Name: "no-bpf", Usage: "do not try in-kernel probes"}),
		Action:    func(c *cli.Context) error { return examine(c, e) },
	}
}

func examine(c *cli.Context, e env) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	s, err := snapshot(m, o.devices)
	if err != nil {
		return err
	}
	own, err := privileges(m)
	if err != nil {
		o.log.Warn("own privileges unknown", "err", err)
	}
	return printDocument(e, report.NewDoctor(s, e.Version, own, probeStates(c, e, m, o)), o)
}

// probeStates tries each probe for a moment.
func probeStates(c *cli.Context, e env, m *machine, o options) []report.Probe {
	if !m.live {
		return nil
	}
	finish, probeless := startProbes(c.Context, e, o)
	states := finish()
	if probeless != "" {
		states = append(states, report.Probe{Name: "all", State: report.ProbeOff, Reason: probeless})
	}
	return states
}
