package main

import (
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
)

func TestParseMeasure(t *testing.T) {
	for _, test := range []struct {
		args     string
		terminal bool
		confirm  time.Duration
		want     time.Duration
		err      string
		told     string
	}{
		{"", true, 0, 10 * time.Second, "", ""},
		{"", false, 0, 0, "", ""},
		{"--yes", true, 0, 0, "", ""},
		{"--yes --measure 30s", false, 0, 30 * time.Second, "", ""},
		{"--measure off", true, 0, 0, "", ""},
		{"--measure 0", true, 0, 0, "", ""},
		{"--measure 0s", true, 0, 0, "", ""},
		{"", true, 30 * time.Second, 10 * time.Second, "", ""},
		{"", true, 29 * time.Second, 0, "", "nothing will be measured: --confirm-within 29s"},
		{"--measure 10s", true, 29 * time.Second, 0, "leaves no time to answer", ""},
		{"--measure=", true, 0, 0, `--measure "": not a time`, ""},
		{"--measure -5s", true, 0, 0, "it is 1s to 10m", ""},
		{"--measure 10m", true, 0, 10 * time.Minute, "", ""},
		{"--measure 11m", true, 0, 0, "it is 1s to 10m", ""},
	} {
		var stderr strings.Builder
		e := env{Stderr: &stderr, StdinTTY: test.terminal, StderrTTY: test.terminal}
		var got time.Duration
		app := &cli.App{Commands: []*cli.Command{{
			Name: "apply", Flags: applyCommand(e).Flags,
			Action: func(c *cli.Context) (err error) {
				got, err = parseMeasure(c, e, apply.Options{ConfirmWithin: test.confirm})
				return err
			},
		}}}
		err := app.Run(append([]string{"napitune", "apply"}, strings.Fields(test.args)...))
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) || !strings.Contains(stderr.String(), test.told) {
			t.Errorf("%q: %s, %v, told %q; want %s, %q, %q", test.args, got, err, &stderr, test.want, test.err, test.told)
		}
	}
}
