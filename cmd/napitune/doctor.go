package main

import (
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
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
	return printDocument(e, report.NewDoctor(s, e.Version, own, tryProbes(e, m, s, o)), o)
}

// tryProbes attaches each probe for a moment.
func tryProbes(e env, m *machine, s *detect.Snapshot, o options) []report.Probe {
	if !m.live {
		return nil
	}
	p, probeless := startProbes(e, s, o)
	if p == nil {
		return []report.Probe{{Name: "all", State: report.ProbeOff, Reason: probeless}}
	}
	if err := p.Close(); err != nil {
		o.log.Warn("probes not detached", "err", err)
	}
	return probeStates(p.Status())
}
