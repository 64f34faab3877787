package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
)

// liveTests are tests that need a machine to themselves, and how they are run.
type liveTests struct {
	names []string // all must pass: one that skips, or that there is not, has not
	// command runs them; self is this program.
	command func(ctx context.Context, self string) *exec.Cmd
}

// pattern is what -run takes for these tests and no others.
func (l liveTests) pattern() string { return "^(" + strings.Join(l.names, "|") + ")$" }

// liveTable lists them. Those of package lab boot their own guests, again and again.
func liveTable() []liveTests {
	inGuest := liveTests{names: []string{"TestTimerLive", "TestIrqbalanceLive"}}
	inGuest.command = func(ctx context.Context, self string) *exec.Cmd {
		return exec.CommandContext(ctx, self, "test", "--mode", "systemd", "--steady", "--nic", "virtio,queues=4", "--timeout", "20m",
			"./cmd/napitune", "--", "-test.v", "-test.timeout=0", "-test.run="+inGuest.pattern())
	}
	ofGuests := liveTests{names: []string{"TestBootProfile", "TestGuardUnit"}}
	ofGuests.command = func(ctx context.Context, _ string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "go", "test", "-v", "-count=1", "-timeout=40m", "-run="+ofGuests.pattern(), "./lab")
		cmd.Env = append(os.Environ(), "NAPITUNE_LAB=1")
		return cmd
	}
	return []liveTests{inGuest, ofGuests}
}

func liveCommand() *cli.Command {
	return &cli.Command{
		Name: "live", Usage: "run the tests that want a machine with systemd to themselves, in guests",
		Description: "They run at the same time, in guests whose clocks do not see it. Ends with 1 if one fails, skips or is not there.",
		Action: func(c *cli.Context) error {
			if missing := lab.Doctor(); len(missing) > 0 {
				return errors.New(lab.InstallHint(missing))
			}
			root, err := output(c.Context, "", "go", "list", "-m", "-f", "{{.Dir}}")
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			table := liveTable()
			errs := make([]error, len(table))
			var all sync.WaitGroup
			for i, tests := range table {
				all.Go(func() { errs[i] = tests.run(c.Context, self, root) })
			}
			all.Wait()
			return errors.Join(errs...)
		},
	}
}

// run runs the tests and holds that each of them passed.
func (l liveTests) run(ctx context.Context, self, root string) error {
	began := time.Now()
	cmd := l.command(ctx, self)
	cmd.Dir = root
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	fmt.Fprintf(os.Stdout, "== %s: %s\n%s", strings.Join(l.names, ", "), time.Since(began).Round(time.Second), &out)
	return errors.Join(append(notPassed(l.names, out.String()), err)...)
}

// notPassed names the tests of which the output of "go test -v" does not say that
// they passed.
func notPassed(names []string, output string) []error {
	var errs []error
	for _, name := range names {
		if !strings.Contains("\n"+output, "\n--- PASS: "+name+" ") {
			errs = append(errs, fmt.Errorf("%s has not passed: it failed, was skipped or is not there", name))
		}
	}
	return errs
}
