package main

import (
	_ "embed"
	"io"

	"github.com/urfave/cli/v2"
)

// manPage is made from the command definitions by a test, so that the binary
// needs no Markdown converter.
//
//go:embed napitune.8
var manPage string

func manCommand(e env) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page (napitune man | man -l -)",
		ArgsUsage:   noArguments,
		Description: "To install it: napitune man > /usr/local/share/man/man8/napitune.8",
		Action: func(c *cli.Context) error {
			if err := refuseArguments(c); err != nil {
				return err
			}
			_, err := io.WriteString(e.Stdout, manPage)
			return err
		},
	}
}
