package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/bench"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure and write BENCHMARKS.md",
		Description: "What was measured is kept in the cache, and not measured again without --fresh. A section that cannot be measured is named, and the rest written. NAPITUNE_HOSTS names the captured hosts.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "slow", Usage: "measure in guests too: four hours"},
			&cli.BoolFlag{Name: "fresh", Usage: "measure again what was measured before; what fails then keeps its earlier figures"},
			&cli.StringFlag{Name: "only", Usage: "measure only section `NAME`, show the rest as it was kept"},
			&cli.StringSliceFlag{Name: "take", Usage: "take the results of an earlier run: `SECTION=FILE`, as lab faults or lab rivals wrote them; may be given more than once"},
			&cli.StringFlag{Name: "results", Usage: "keep the output of commands in `DIR` (default: bench in the cache)"},
		},
		Action: func(c *cli.Context) error {
			root, err := output(c.Context, "", "go", "list", "-m", "-f", "{{.Dir}}")
			if err != nil {
				return err
			}
			dir, err := keptIn(c.String("results"))
			if err != nil {
				return err
			}
			b := bench.Bench{Root: root, Dir: dir, Slow: c.Bool("slow"), Fresh: c.Bool("fresh"), Only: c.String("only"), Log: func(format string, args ...any) {
				fmt.Fprintf(os.Stderr, format+"\n", args...)
			}}
			if b.Only != "" {
				if _, err := section(b.Only); err != nil {
					return err
				}
			}
			for _, told := range c.StringSlice("take") {
				if err := take(b, told); err != nil {
					return err
				}
			}
			text, missing := b.Document(c.Context, bench.Sections())
			if text == "" {
				return missing
			}
			return errors.Join(missing, os.WriteFile(filepath.Join(root, "BENCHMARKS.md"), []byte(text), 0o644))
		},
	}
}

// keptIn is the directory of what was measured.
func keptIn(dir string) (string, error) {
	if dir == "" {
		cache, err := lab.DefaultCache()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache.Dir, "bench")
	}
	return filepath.Abs(dir)
}

func section(name string) (bench.Section, error) {
	var names []string
	for _, s := range bench.Sections() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return bench.Section{}, fmt.Errorf("no section %q; there are %s", name, strings.Join(names, ", "))
}

func take(b bench.Bench, told string) error {
	name, file, _ := strings.Cut(told, "=")
	s, err := section(name)
	if err != nil {
		return fmt.Errorf("--take %s: %w", told, err)
	}
	if err := b.Take(s, file); err != nil {
		return fmt.Errorf("--take %s: %w", told, err)
	}
	return nil
}

// sizes are captured hosts from small to the largest there is.
func sizes() []string {
	return []string{
		"web/virtio_8cpu_8q_irqbalance_churn", "issues/irqbalance122_32cpu_all_cpu0", "issues/coreos2135_vmxnet3_46cpu", "openshift-nto/worker2", "pcp/hpe_1152cpu_i40e",
	}
}

// captured finds a host under whatever form it was stored in.
func captured(hosts, name string) (string, error) {
	for _, form := range []string{"", ".txtar", ".txtar.gz", ".tar.gz", ".tar", ".txtar.zst"} {
		path := filepath.Join(hosts, name+form)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("NAPITUNE_HOSTS: no %s in %s", name, hosts)
}

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
			if err := timeProcess(os.Stdout, binary, []string{"version"}, 20); err != nil {
				return err
			}
			hosts := os.Getenv("NAPITUNE_HOSTS")
			if hosts == "" {
				return errors.New("NAPITUNE_HOSTS is not set: no hosts to measure on")
			}
			for _, name := range sizes() {
				path, err := captured(hosts, name)
				if err != nil {
					return err
				}
				if err := timeProcess(os.Stdout, binary, []string{"advise", "--host", path}, 5); err != nil {
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
