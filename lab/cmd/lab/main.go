// Command lab builds and boots the guests in which napitune is tried.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/bench"
	"github.com/napitune/napitune/lab/wire"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), lab.Signals()...)
	defer stop()
	app := &cli.App{
		Name:                      "lab",
		Usage:                     "boot guests with multi-queue NICs and try napitune in them",
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		Commands: []*cli.Command{
			buildCommand(), runCommand(), testCommand(), liveCommand(), faultsCommand(), rivalsCommand(), benchCommand(), processCommand(), doctorCommand(), sendCommand(), nicCommand(),
			{Name: "inside", Hidden: true, Action: func(c *cli.Context) error {
				return lab.Inside(c.Context, c.Args().First(), os.Stdout, os.Stderr)
			}},
		},
		ExitErrHandler: func(*cli.Context, error) {},
	}
	// mkfs.ext4, depmod and their like are no commands of users on Debian.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	err := app.RunContext(ctx, os.Args)
	var ended status
	if errors.As(err, &ended) {
		os.Exit(int(ended))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(125)
	}
}

// status is the exit status of the guest's command, passed on.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func buildCommand() *cli.Command {
	return &cli.Command{
		Name: "build", Usage: "build the image and the kernels, unless they are there",
		Flags: []cli.Flag{&cli.StringSliceFlag{Name: "kernel", Usage: "kernel `NAME`: 6.1, 6.12, new or all; may be given more than once", Value: cli.NewStringSlice("6.1")}},
		Action: func(c *cli.Context) error {
			cache, err := lab.DefaultCache()
			if err != nil {
				return err
			}
			var names []string
			for _, name := range c.StringSlice("kernel") {
				if name != "all" {
					names = append(names, name)
					continue
				}
				for _, k := range lab.Kernels() {
					names = append(names, k.Name)
				}
			}
			return lab.Builder{Cache: cache, Log: os.Stderr}.Build(c.Context, names...)
		},
	}
}

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "say what is missing on this host",
		Action: func(*cli.Context) error {
			if missing := lab.Doctor(); len(missing) > 0 {
				return errors.New(lab.InstallHint(missing))
			}
			fmt.Fprintln(os.Stdout, "nothing is missing")
			return nil
		},
	}
}

func machineFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kernel", Value: "6.1", Usage: "kernel `NAME`: 6.1, 6.12 or new"},
		&cli.IntFlag{Name: "cpus", Value: 4, Usage: "`N` virtual CPUs"},
		&cli.BoolFlag{Name: "smt", Usage: "two threads to a core"},
		&cli.IntFlag{Name: "nodes", Value: 1, Usage: "`N` NUMA nodes"},
		&cli.IntFlag{Name: "memory", Value: 1024, Usage: "`MIB` of memory"},
		&cli.StringSliceFlag{Name: "nic", Usage: "`MODEL[,queues=N][,rss][,plain][,port]`: virtio, e1000e, igb or vmxnet3; with a port it can be unplugged; may be given more than once"},
		&cli.StringFlag{Name: "mode", Value: "run", Usage: "`MODE`: run (the command alone) or systemd (after a complete boot)"},
		&cli.StringFlag{Name: "disk", Usage: "keep the root's changes over boots in `FILE`"},
		&cli.BoolFlag{Name: "steady", Usage: "the guest's clock counts instructions, one a nanosecond, and does not see how busy the host is"},
		&cli.StringSliceFlag{Name: "append", Usage: "add `WORD` to the kernel's command line; may be given more than once"},
		&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "end the guest after `TIME`"},
	}
}

func machineOf(c *cli.Context) (lab.Machine, error) {
	m := lab.Machine{
		Kernel: c.String("kernel"), CPUs: c.Int("cpus"), SMT: c.Bool("smt"), Nodes: c.Int("nodes"), MemoryMiB: c.Int("memory"),
		Mode: lab.Mode(c.String("mode")), Append: c.StringSlice("append"),
		Steady: c.Bool("steady"),
	}
	for _, text := range c.StringSlice("nic") {
		nic, err := lab.ParseNIC(text)
		if err != nil {
			return m, err
		}
		m.NICs = append(m.NICs, nic)
	}
	if disk := c.String("disk"); disk != "" {
		path, err := filepath.Abs(disk)
		if err != nil {
			return m, err
		}
		m.Disk = path
	}
	return m, nil
}

func againFlag() cli.Flag {
	return &cli.IntFlag{Name: "again", Usage: "try what fails `N` more times in fresh guests, and say so: emulation on a busy host fails at times, a defect every time"}
}

// again tries something until it passes, at most as often as --again says more.
func again(c *cli.Context, what string, try func() error) error {
	err := try()
	for n := 1; err != nil && n <= c.Int("again") && c.Context.Err() == nil; n++ {
		fmt.Fprintf(os.Stderr, "lab: %s: %v\n== again, %d of %d: %s\n", what, err, n, c.Int("again"), what)
		if err = try(); err == nil {
			fmt.Fprintf(os.Stderr, "== passed only when tried again: %s\n", what)
		}
	}
	return err
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "boot a guest, run a command in it as root and end with its status", ArgsUsage: "-- COMMAND [ARGUMENT...]",
		Description: "The guest has napitune and lab on its PATH. \"lab send\" in it makes traffic from the host's end of the wire.",
		Flags:       machineFlags(),
		Action: func(c *cli.Context) error {
			m, err := machineOf(c)
			if err != nil {
				return err
			}
			if !c.Args().Present() {
				return errors.New("no command: lab run [OPTIONS] -- COMMAND")
			}
			return boot(c, m, nil, c.Args().Slice())
		},
	}
}

// boot runs a command in a guest with fresh builds of lab and napitune.
func boot(c *cli.Context, m lab.Machine, tests map[string]string, command []string) error {
	return bootInto(c, c.String("results"), m, tests, command)
}

// bootInto is boot with another file for the results.
func bootInto(c *cli.Context, results string, m lab.Machine, tests map[string]string, command []string) error {
	if missing := lab.Doctor(); len(missing) > 0 {
		return errors.New(lab.InstallHint(missing))
	}
	cache, err := lab.DefaultCache()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "lab-bin-")
	if err != nil {
		return err
	}
	defer lab.RemoveAll(scratch)
	root, err := output(c.Context, "", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	files := map[string]string{}
	for name, pkg := range map[string]string{"lab": "./lab/cmd/lab", "napitune": "./cmd/napitune"} {
		files[name] = filepath.Join(scratch, name)
		if _, err := output(c.Context, root, "go", "build", "-o", files[name], pkg); err != nil {
			return err
		}
	}
	for name, pkg := range tests {
		files[name] = filepath.Join(scratch, name)
		if _, err := output(c.Context, root, "go", "test", "-c", "-o", files[name], pkg); err != nil {
			return err
		}
	}
	if err := addOwn(files, os.Getenv("LAB_FILES")); err != nil {
		return err
	}
	self := files["lab"]
	delete(files, "lab")
	ctx, cancel := context.WithTimeoutCause(c.Context, c.Duration("timeout"), errors.New("timed out; --timeout gives it longer"))
	defer cancel()
	runner := lab.Runner{Cache: cache, Self: self, Files: files, Source: root, Out: results, Stdout: os.Stdout, Stderr: os.Stderr}
	end := bench.Watch(root)
	code, err := runner.Run(ctx, m, command)
	if origin := end(); runner.Out != "" {
		err = errors.Join(err, bench.Sign(runner.Out, origin))
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return status(code)
	}
	return nil
}

// addOwn puts the files of a directory into the guest as well: scripts of others
// that are tried beside napitune and that Debian does not package.
func addOwn(files map[string]string, dir string) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("LAB_FILES: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			files[e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	return nil
}

// output runs a program of the Go toolchain with static results.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	// An interrupted go leaves its scratch directory.
	scratch, err := os.MkdirTemp("", "lab-go-")
	if err != nil {
		return "", err
	}
	defer lab.RemoveAll(scratch)
	command := lab.Child(ctx, name, args...)
	command.Dir, command.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOTMPDIR="+scratch)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, os.Stderr
	if err := lab.RunChild(command); err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out.String()), nil
}

func sendCommand() *cli.Command {
	load := wire.Load{}
	return &cli.Command{
		Name: "send", Usage: "in a guest: have the host's end of the wire send traffic, and wait for it",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "here", Usage: "send from this end instead"},
			&cli.StringFlag{Name: "kind", Value: "udp", Destination: &load.Kind, Usage: "`KIND` of traffic: udp or tcp"},
			&cli.StringFlag{Name: "to", Value: "10.99.0.9:9", Destination: &load.To, Usage: "`ADDRESS:PORT`; 10.99.K.9 reaches NIC K and is dropped there"},
			&cli.IntFlag{Name: "flows", Value: 64, Destination: &load.Flows, Usage: "`N` source ports"},
			&cli.IntFlag{Name: "size", Destination: &load.Size, Usage: "`BYTES` of payload"},
			&cli.IntFlag{Name: "packets", Destination: &load.Packets, Usage: "end after `N` datagrams"},
			&cli.IntFlag{Name: "rate", Value: 5000, Destination: &load.PerSecond, Usage: "`N` datagrams in a second; 0: as many as possible"},
			&cli.IntFlag{Name: "burst", Destination: &load.Burst, Usage: "send `N` datagrams at once, then wait until the rate is kept"},
			&cli.Float64Flag{Name: "seconds", Value: 2, Destination: &load.Seconds, Usage: "end after `SECONDS`"},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("here") {
				sent, err := wire.Send(c.Context, load)
				printSent(os.Stdout, sent)
				return err
			}
			peer, err := wire.Open()
			if err != nil {
				return err
			}
			defer peer.Close()
			sent, err := peer.Send(load)
			printSent(os.Stdout, sent)
			return err
		},
	}
}

func nicCommand() *cli.Command {
	verbs := []string{lab.Unplug, lab.Plug, lab.LinkDown, lab.LinkUp}
	return &cli.Command{
		Name: "nic", Usage: "in a guest: have the hypervisor do something to NIC K, and wait for it", ArgsUsage: strings.Join(verbs, "|") + " K",
		Description: "A NIC that is to be unplugged needs a port: --nic virtio,port.",
		Action: func(c *cli.Context) error {
			k, err := strconv.Atoi(c.Args().Get(1))
			if c.NArg() != 2 || err != nil || !slices.Contains(verbs, c.Args().First()) {
				return fmt.Errorf("want a verb (%s) and the number of a NIC", strings.Join(verbs, ", "))
			}
			return lab.Hypervisor(c.Args().First(), k)
		},
	}
}

func printSent(w io.Writer, s wire.Sent) {
	fmt.Fprintf(w, "%d packets, %d bytes, %d failed in %.2f s\n", s.Packets, s.Bytes, s.Failed, s.Seconds)
}
