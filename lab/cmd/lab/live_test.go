package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// A test that fails, skips or is not there has not passed.
func TestNotPassed(t *testing.T) {
	t.Parallel()
	const output = `=== RUN   TestGood
    x_test.go:1: --- PASS: TestQuoted (0.00s)
--- PASS: TestGood (1.00s)
    --- PASS: TestGood/part (1.00s)
--- SKIP: TestSkipped (0.00s)
--- FAIL: TestBad (0.00s)
--- PASS: TestGoodToo (0.00s)
PASS
`
	for name, want := range map[string]bool{"TestGood": true, "TestGoodToo": true, "TestGoo": false, "TestSkipped": false, "TestBad": false, "TestQuoted": false, "TestAbsent": false} {
		if errs := notPassed([]string{name}, output); (len(errs) == 0) != want {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

// The tests of the table are there, under these names.
func TestLiveTable(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, dir := range []string{"../..", "../../../cmd/napitune", "../../../detect/host/live", "../../../probes"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), "_test.go") {
				text, err := os.ReadFile(dir + "/" + e.Name())
				if err != nil {
					t.Fatal(err)
				}
				sources.Write(text)
			}
		}
	}
	for _, tests := range liveTable() {
		for _, name := range tests.names {
			if !strings.Contains(sources.String(), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("there is no %s", name)
			}
		}
		cmd := tests.command(t.Context(), "lab", tests.pattern(), 2)
		if !slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.HasSuffix(arg, "run="+tests.pattern()) }) {
			t.Errorf("%v does not run %s", cmd.Args, tests.pattern())
		}
	}
}

// What fails is tried again as often as was asked for and no more.
func TestAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ failures, more, want int }{{0, 1, 1}, {1, 0, 1}, {1, 1, 2}, {5, 2, 3}} {
		tries := 0
		app := &cli.App{Flags: []cli.Flag{againFlag()}, Action: func(c *cli.Context) error {
			return again(c, "a test", func() error {
				if tries++; tries <= test.failures {
					return errors.New("failed")
				}
				return nil
			})
		}}
		err := app.RunContext(t.Context(), []string{"lab", "--again", strconv.Itoa(test.more)})
		if tries != test.want || (err != nil) != (test.failures > test.more) {
			t.Errorf("%d failures, %d more tries: tried %d times, %v", test.failures, test.more, tries, err)
		}
	}
}
