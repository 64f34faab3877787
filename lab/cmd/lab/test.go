package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func testCommand() *cli.Command {
	return &cli.Command{
		Name: "test", Usage: "compile the tests of a package and run them in a guest", ArgsUsage: "PACKAGE [-- -test.run=... -test.v]",
		Flags: append(machineFlags(), &cli.StringFlag{Name: "results", Usage: "append the JSON lines that tests write to /lab/results to `FILE`"}),
		Action: func(c *cli.Context) error {
			m, err := machineOf(c)
			if err != nil {
				return err
			}
			if !c.Args().Present() {
				return errors.New("no package: lab test [OPTIONS] PACKAGE")
			}
			// Tests find their files: they start in the directory of their package.
			const script = `cd "/src/$0" && exec /lab/bin/guest.test "$@"`
			flags := c.Args().Tail()
			if len(flags) > 0 && flags[0] == "--" {
				flags = flags[1:]
			}
			command := append([]string{"sh", "-c", script, c.Args().First()}, flags...)
			return boot(c, m, map[string]string{"guest.test": c.Args().First()}, command)
		},
	}
}
