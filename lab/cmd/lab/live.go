package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
)

// liveTests are tests that need a machine to themselves, and how they are run.
type liveTests struct {
	names []string // all must pass: one that skips, or that there is not, has not
	// command runs those of a pattern, so many guests at a time; self is this program.
	command func(ctx context.Context, self, pattern string, guests int) *exec.Cmd
}

// pattern is what -run takes for these tests and no others.
func (l liveTests) pattern() string { return "^(" + strings.Join(l.names, "|") + ")$" }

// liveTable lists them. Those of package lab boot their own guests, again and again.
func liveTable() []liveTests {
	inGuest := func(kernel, mode, pkg string, names ...string) liveTests {
		return liveTests{names, func(ctx context.Context, self, pattern string, _ int) *exec.Cmd {
			return lab.Child(ctx, self, "test", "--kernel", kernel, "--mode", mode, "--nic", "virtio,queues=4", "--timeout", "20m",
				pkg, "--", "-test.v", "-test.timeout=0", "-test.run="+pattern)
		}}
	}
	ofGuests := liveTests{names: []string{"TestBootProfile", "TestGuardUnit"}}
	ofGuests.command = func(ctx context.Context, _, pattern string, guests int) *exec.Cmd {
		// go does not tell the test that it was asked to end.
		cmd := lab.Child(ctx, "go", "test", "-exec=setpriv --pdeathsig TERM", "-v", "-count=1", "-timeout=40m", "-parallel="+strconv.Itoa(guests), "-run="+pattern, "./lab")
		cmd.Env = append(os.Environ(), "NAPITUNE_LAB=1")
		return cmd
	}
	return []liveTests{
		ofGuests,
		inGuest("6.1", "systemd", "./cmd/napitune", "TestTimerLive", "TestIrqbalanceLive", "TestTunedAndLinkLive"),
		// In a guest of its own: those above leave other channels and owners behind.
		inGuest("6.1", "systemd", "./cmd/napitune", "TestLabGuardLeavesToIrqbalance"),
		inGuest("6.1", "run", "./detect/host/live", "TestAffinityLive"),
		inGuest("6.1", "run", "./probes", "TestVirtio", "TestVirtioLoad", "TestVirtioResized", "TestVirtioOverflow", "TestVirtioControl"),
		// The first kernel that has objects of queues and of NAPIs.
		inGuest("6.12", "run", "./detect/host/live", "TestVirtio"),
	}
}

func liveCommand() *cli.Command {
	return &cli.Command{
		Name: "live", Usage: "run the tests that want a machine with systemd to themselves, in guests",
		Description: "What is timed has a clock that does not see how busy the host is. Ends with 125 if one fails, skips or is not there.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "guests", Value: runtime.NumCPU(), Usage: "boot `N` guests at a time, and one beside them; each keeps a third of a CPU busy"},
			againFlag(),
		},
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
			live := func(i int, out io.Writer) {
				tests := table[i]
				errs[i] = again(c, strings.Join(tests.names, ", "), func() (err error) {
					tests.names, err = tests.run(c.Context, self, root, max(c.Int("guests"), 1), out)
					return err
				})
			}
			// The first boots guest after guest and takes longer than all others
			// together, one after another; those wait most of their time, too.
			var others bytes.Buffer
			var wait sync.WaitGroup
			wait.Go(func() {
				for i := range table[1:] {
					live(i+1, &others)
				}
			})
			live(0, os.Stdout)
			wait.Wait()
			_, err = others.WriteTo(os.Stdout)
			return errors.Join(append(errs, err)...)
		},
	}
}

// run runs the tests and holds that each of them passed; those that have not are
// returned. What they say goes to to.
func (l liveTests) run(ctx context.Context, self, root string, guests int, to io.Writer) (left []string, err error) {
	began := time.Now()
	cmd := l.command(ctx, self, l.pattern(), guests)
	// A test that is asked to end leaves its directories, with disks of guests.
	scratch, err := os.MkdirTemp("", "lab-live-")
	if err != nil {
		return l.names, err
	}
	defer lab.RemoveAll(scratch)
	cmd.Dir, cmd.Env = root, append(cmd.Environ(), "TMPDIR="+scratch)
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, to)
	cmd.Stderr = cmd.Stdout
	err = lab.RunChild(cmd)
	fmt.Fprintf(to, "== %s: %s\n", strings.Join(l.names, ", "), time.Since(began).Round(time.Second))
	left = notPassed(l.names, out.String())
	for _, name := range left {
		err = errors.Join(err, fmt.Errorf("%s has not passed: it failed, was skipped or is not there", name))
	}
	if len(left) == 0 && err != nil {
		left = l.names
	}
	return left, err
}

// notPassed names the tests of which the output of "go test -v" does not say that
// they passed.
func notPassed(names []string, output string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return strings.Contains("\n"+output, "\n--- PASS: "+name+" ")
	})
}
