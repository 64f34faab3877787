package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/faults"
)

func faultsCommand() *cli.Command {
	return &cli.Command{
		Name: "faults", Usage: "bring about faults in guests and hold napitune to finding, mending and undoing them",
		Description: "One guest boots for each machine of the table. Ends with 1 if something is not as it must be.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "the whole table, an hour; else its fast part"},
			&cli.StringFlag{Name: "only", Usage: "only faults whose name or machine contains `TEXT`"},
			&cli.BoolFlag{Name: "reboot", Usage: "leave the faults applied, reboot, and hold the guest to what it was after the first boot"},
			againFlag(),
			&cli.StringSliceFlag{Name: "treatment", Value: cli.NewStringSlice("napitune"), Usage: "try `NAME`; may be given more than once"},
			&cli.StringFlag{Name: "results", Usage: "append a JSON line for each fault and treatment to `FILE`"},
			&cli.DurationFlag{Name: "timeout", Value: 20 * time.Minute, Usage: "end a guest after `TIME`"},
		},
		Action: func(c *cli.Context) error {
			machines, rows := chosen(c.Bool("all"), c.String("only"))
			if len(machines) == 0 {
				return fmt.Errorf("no fault contains %q", c.String("only"))
			}
			for _, name := range c.StringSlice("treatment") {
				if !slices.ContainsFunc(faults.Treatments(""), func(t faults.Treatment) bool { return t.Name() == name }) {
					return fmt.Errorf("there is no treatment %q", name)
				}
			}
			failed := false
			var errs []error
			for _, m := range machines {
				fmt.Fprintf(os.Stderr, "== %s: %s\n", m, strings.Join(rows[m.String()], "; "))
				err := again(c, "the faults of "+m.String(), func() error { return bootFaults(c, m, rows[m.String()]) })
				var ended status
				if err != nil && !errors.As(err, &ended) {
					errs = append(errs, fmt.Errorf("%s: %w", m, err))
				}
				failed = failed || err != nil
				if c.Context.Err() != nil {
					break
				}
			}
			if failed && len(errs) == 0 {
				return status(1)
			}
			return errors.Join(errs...)
		},
	}
}

// bootFaults runs the test of a machine's faults, or the two boots of the one
// that reboots it.
func bootFaults(c *cli.Context, m lab.Machine, rows []string) error {
	command := func(test string) []string {
		return []string{
			"env", "LAB_MACHINE=" + m.String(), "LAB_FAULTS=" + strings.Join(rows, "\n"),
			"LAB_TREATMENTS=" + strings.Join(c.StringSlice("treatment"), " "),
			"/lab/bin/guest.test", "-test.run=^" + test + "$", "-test.v", "-test.timeout=" + testTimeout(c),
		}
	}
	tests := map[string]string{"guest.test": "./lab/faults"}
	scratch, err := os.MkdirTemp("", "lab-faults-")
	if err != nil {
		return err
	}
	defer lab.RemoveAll(scratch)
	if !c.Bool("reboot") {
		results := cmp.Or(c.String("results"), filepath.Join(scratch, "results"))
		before, err := faults.Recorded(results)
		if err != nil {
			return err
		}
		ended := bootInto(c, results, m, tests, command("TestFaults"))
		if ended != nil && !errors.As(ended, new(status)) {
			return ended
		}
		after, err := faults.Recorded(results)
		return cmp.Or(errors.Join(err, lacking(before, after, m, rows, c.StringSlice("treatment"))), ended)
	}
	onDisk := m
	onDisk.Disk = filepath.Join(scratch, "disk")
	// Alone, a command is started before anything reads units, sysctl.d or rules of udev.
	onDisk.Mode = lab.ModeSystemd
	if err := boot(c, onDisk, tests, command("TestReboot")); err != nil {
		return err
	}
	return boot(c, onDisk, tests, command("TestReboot"))
}

// lacking names the rows and treatments that a guest left no result of: a test
// that only skips ends well.
func lacking(before, after map[string]int, m lab.Machine, rows, treatments []string) error {
	var errs []error
	for _, row := range rows {
		for _, treatment := range treatments {
			key := faults.Result{Fault: row, Machine: m.String(), Treatment: treatment}.Row()
			if n := after[key] - before[key]; n != 1 {
				errs = append(errs, fmt.Errorf("%s by %s: %d results, want 1", row, treatment, n))
			}
		}
	}
	return errors.Join(errs...)
}

// testTimeout ends a test before its guest is ended, so that it can say where it was.
func testTimeout(c *cli.Context) string {
	long := c.Duration("timeout")
	return max(long-time.Minute, long/2).String()
}

func rivalsCommand() *cli.Command {
	return &cli.Command{
		Name: "rivals", Usage: "bring about faults in guests and have napitune and other programs treat them",
		Description: "One guest boots for each fault. A fault whose results are in the file is left out. LAB_FILES names a directory with what Debian\ndoes not package; lab/faults/others.sh fills it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "only", Usage: "only faults whose name contains `TEXT`"},
			&cli.StringFlag{Name: "results", Usage: "append a JSON line for each fault and program to `FILE`"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Minute, Usage: "end a guest after `TIME`"},
		},
		Action: func(c *cli.Context) error {
			done, err := faults.Tried(c.String("results"))
			if err != nil {
				return err
			}
			var errs []error
			for _, f := range faults.Contest() {
				if done[f.Name] || !strings.Contains(f.Name, c.String("only")) {
					continue
				}
				if err := compete(c, f); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
				}
				if c.Context.Err() != nil {
					break
				}
			}
			return errors.Join(errs...)
		},
	}
}

// compete boots a guest for one fault. A test that only skips ends well: what
// counts are results.
func compete(c *cli.Context, f faults.Fault) error {
	fmt.Fprintf(os.Stderr, "== %s: %s\n", f.Machine, f.Name)
	command := []string{"env", "LAB_FAULTS=" + f.Name, "/lab/bin/guest.test", "-test.run=TestRivals", "-test.v", "-test.timeout=" + testTimeout(c)}
	if err := boot(c, f.Machine, map[string]string{"guest.test": "./lab/faults"}, command); err != nil {
		return err
	}
	done, err := faults.Tried(c.String("results"))
	if err == nil && c.String("results") != "" && !done[f.Name] {
		err = errors.New("the guest left no results")
	}
	return err
}

// chosen lists machines in the order of the table and the faults of each.
func chosen(all bool, only string) (machines []lab.Machine, rows map[string][]string) {
	rows = map[string][]string{}
	for _, f := range faults.Table() {
		name := f.Machine.String()
		if !all && only == "" && !f.Fast || !strings.Contains(f.Name, only) && !strings.Contains(name, only) {
			continue
		}
		if !slices.ContainsFunc(machines, func(m lab.Machine) bool { return m.String() == name }) {
			machines = append(machines, f.Machine)
		}
		rows[name] = append(rows[name], f.Name)
	}
	return machines, rows
}
