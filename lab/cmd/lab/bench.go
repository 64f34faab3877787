package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/bench"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure and write BENCHMARKS.md",
		Description: "What was measured is kept in the cache, and not measured again without --fresh. NAPITUNE_HOSTS names the captured hosts.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "slow", Usage: "measure in guests and the probes too: an hour"},
			&cli.BoolFlag{Name: "fresh", Usage: "forget what was measured before"},
			&cli.StringFlag{Name: "results", Usage: "keep the output of commands in `DIR` (default: bench in the cache)"},
		},
		Action: func(c *cli.Context) error {
			root, err := output(c.Context, "", "go", "list", "-m", "-f", "{{.Dir}}")
			if err != nil {
				return err
			}
			dir := c.String("results")
			if dir == "" {
				cache, err := lab.DefaultCache()
				if err != nil {
					return err
				}
				dir = filepath.Join(cache.Dir, "bench")
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			if c.Bool("fresh") {
				if err := forget(dir); err != nil {
					return err
				}
			}
			b := bench.Bench{Root: root, Dir: dir, Slow: c.Bool("slow"), Log: func(format string, args ...any) {
				fmt.Fprintf(os.Stderr, format+"\n", args...)
			}}
			text, missing := b.Document(c.Context, bench.Sections())
			if text == "" {
				return missing
			}
			return errors.Join(missing, os.WriteFile(filepath.Join(root, "BENCHMARKS.md"), []byte(text), 0o644))
		},
	}
}

// forget removes what was kept, and nothing else that lies there.
func forget(dir string) error {
	var errs []error
	for _, s := range bench.Sections() {
		for _, kind := range []string{".out", ".json"} {
			if err := os.Remove(filepath.Join(dir, s.Name+kind)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// largestHost is the largest of the captured hosts.
const largestHost = "pcp/hpe_1152cpu_i40e.tar.gz"

func processCommand() *cli.Command {
	return &cli.Command{
		Name: "process", Usage: "measure size, start-up and memory of a napitune binary", ArgsUsage: "BINARY",
		Action: func(c *cli.Context) error {
			binary := c.Args().First()
			info, err := os.Stat(binary)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stdout, "%s: %.1f MiB\n", binary, float64(info.Size())/(1<<20))
			rows := []struct {
				runs int
				args []string
			}{{20, []string{"version"}}}
			if hosts := os.Getenv("NAPITUNE_HOSTS"); hosts != "" {
				rows = append(rows, struct {
					runs int
					args []string
				}{5, []string{"advise", "--host", filepath.Join(hosts, largestHost)}})
			}
			for _, r := range rows {
				if err := timeProcess(os.Stdout, binary, r.args, r.runs); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// timeProcess runs a program some times and prints medians.
func timeProcess(w io.Writer, binary string, args []string, runs int) error {
	var walls, works []time.Duration
	peak := int64(0)
	for range runs {
		command := exec.Command(binary, args...)
		start := time.Now()
		var ended *exec.ExitError
		// 2 says that there is something to change.
		if err := command.Run(); err != nil && !(errors.As(err, &ended) && ended.ExitCode() == 2) {
			return fmt.Errorf("%s %v: %w", binary, args, err)
		}
		walls = append(walls, time.Since(start))
		works = append(works, command.ProcessState.UserTime()+command.ProcessState.SystemTime())
		if usage, ok := command.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = max(peak, usage.Maxrss) // KiB
		}
	}
	name := args[0]
	if len(args) > 1 {
		name += " --host " + filepath.Base(args[len(args)-1])
	}
	_, err := fmt.Fprintf(w, "napitune %s: %v, of which %v on a CPU; median of %d; at most %.1f MiB\n",
		name, median(walls), median(works), runs, float64(peak)/1024)
	return err
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2].Round(100 * time.Microsecond)
}
