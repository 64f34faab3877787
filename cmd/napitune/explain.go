package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules"
)

func explainCommand(e env) *cli.Command {
	return &cli.Command{
		Name:        "explain",
		Usage:       "explain a finding, a setting or a term",
		ArgsUsage:   "[FINDING|SETTING|TERM]…",
		Description: "Without a name, lists what can be explained.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "print the whole manual"},
			&cli.BoolFlag{Name: "no-color", Usage: "print without colours"},
		},
		Action: func(c *cli.Context) error { return explain(c, e) },
	}
}

func explain(c *cli.Context, e env) error {
	m, err := manual()
	if err != nil {
		return err
	}
	style := report.Style{Width: e.Width, Color: e.IsTTY && !e.NoColor && !c.Bool("no-color")}
	switch {
	case c.Bool("all") && c.NArg() > 0:
		return fmt.Errorf("explain --all prints everything and takes no name %q", c.Args().First())
	case c.Bool("all"):
		return m.All(e.Stdout, style)
	case c.NArg() == 0:
		return m.List(e.Stdout, style)
	}
	var failed []error
	for i, name := range c.Args().Slice() {
		if i > 0 {
			_, _ = fmt.Fprintln(e.Stdout)
		}
		if err := m.Explain(e.Stdout, name, style); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func manual() (report.Manual, error) {
	terms, err := report.ParseGlossary(napitune.Glossary())
	return report.Manual{Rules: rules.All(), Knobs: knob.All(), Terms: terms}, err
}
