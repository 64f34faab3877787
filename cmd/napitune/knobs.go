package main

import (
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
)

func knobsCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "knobs",
		Usage:     "list the settings of this host: value, default, range, and why one is locked",
		ArgsUsage: noArguments,
		Description: "Queues with the same reading share a line; -v gives each its own.\n" +
			"napitune explain SETTING says what a setting does and costs.",
		Flags:  sharedFlags(documentFormats()...),
		Action: func(c *cli.Context) error { return listKnobs(c, e) },
	}
}

func listKnobs(c *cli.Context, e env) error {
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
	return printDocument(e, report.NewKnobs(s, o.devices, defaults(m, s)), o)
}
