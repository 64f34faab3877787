package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/profiles"
)

// options are the shared options after checking.
type options struct {
	host   string
	policy profiles.Policy
	// policyFile is where policy was read from, "" if it came with napitune.
	policyFile string
	devices    []string
	window     time.Duration
	format     string
	noBPF      bool
	probes     []string // those to attach; nil for the default
	style      report.Style
	log        *slog.Logger
}

// Longest and shortest window: below, the counters of a busy host move by too
// little to say anything; above, the 32-bit counters of a busy CPU may wrap
// more than once (2^32 packets at 1 M/s are 71 minutes).
const (
	maxWindow = time.Hour
	minWindow = 10 * time.Millisecond
)

// sharedFlags are the options that every reading verb has.
func sharedFlags(formats ...string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "host", Usage: "read the captured host `PATH` (capture file, directory with proc/ and sys/, sosreport) instead of this machine"},
		&cli.StringSliceFlag{Name: "dev", Usage: "look at device `NAME` only; may be given more than once"},
		&cli.StringFlag{Name: "format", Value: formats[0], Usage: "print as `WORD`: " + strings.Join(formats, ", ")},
		&cli.BoolFlag{Name: "v", Aliases: []string{"verbose"}, Usage: "show everything that is otherwise folded, and log to stderr"},
		&cli.BoolFlag{Name: "no-color", Usage: "print without colours"},
	}
}

// windowFlags are the options of verbs that measure.
func windowFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "for", Value: "10s", Usage: "measure for `TIME`, such as 500ms, 30s or 2m; 0s takes the counters since boot"},
		&cli.BoolFlag{Name: "no-bpf", Usage: "use no in-kernel probes"},
	}
}

func profileFlag() cli.Flag {
	return &cli.StringFlag{Name: "profile", Value: "balanced", DefaultText: "/etc/napitune/policy.yaml if it is there and no --host is given, else balanced",
		Usage: "judge by policy `NAME|FILE` (napitune profile lists them; a value with a slash or ending in .yaml is a file)"}
}

// parseOptions checks the shared options. Each error names the value and what
// would be right.
func parseOptions(c *cli.Context, e env, formats ...string) (options, error) {
	if err := checkArguments(c); err != nil {
		return options{}, err
	}
	o := options{
		host: c.String("host"), devices: c.StringSlice("dev"), format: c.String("format"), noBPF: c.Bool("no-bpf"),
		log: logger(e, c.Bool("v")),
		style: report.Style{
			Width: e.Width, Verbose: c.Bool("v"),
			Color: e.IsTTY && !e.NoColor && !c.Bool("no-color"),
		},
	}
	if c.IsSet("host") && o.host == "" {
		return options{}, fmt.Errorf("--host \"\": a path of a captured host is needed")
	}
	if !slices.Contains(formats, o.format) {
		return options{}, fmt.Errorf("--format %q: %s prints %s", o.format, c.Command.Name, strings.Join(formats, ", "))
	}
	if slices.Contains(o.devices, "") {
		return options{}, fmt.Errorf("--dev \"\": a device name is needed")
	}
	var err error
	if o.probes, err = parseProbes(c); err != nil {
		return options{}, err
	}
	if o.window, err = parseWindow(c); err != nil {
		return options{}, err
	}
	if o.policy, o.policyFile, err = o.choosePolicy(c, e); err != nil {
		return options{}, err
	}
	o.policy.Devices = o.devices
	for _, name := range []string{"for", "probes"} {
		if o.host != "" && c.IsSet(name) {
			o.log.Warn("--" + name + " has no effect: a captured host was measured when it was captured")
		}
	}
	return o, err
}

func checkArguments(c *cli.Context) error {
	if c.Command.ArgsUsage != noArguments {
		return nil
	}
	return refuseArguments(c)
}

// noArguments marks verbs without arguments; help then shows none.
const noArguments = " "

func parseWindow(c *cli.Context) (time.Duration, error) {
	text := c.String("for")
	if text == "" && !c.IsSet("for") {
		return 0, nil
	}
	window, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("--for %q: not a time with its unit, such as 500ms, 10s or 2m", text)
	case window < 0 || window > maxWindow || window > 0 && window < minWindow:
		return 0, fmt.Errorf("--for %q: the window is 0s or %s to 1h", text, minWindow)
	}
	return window, nil
}

// checkDevices refuses names of devices that the host does not have.
func checkDevices(s *detect.Snapshot, wanted []string) error {
	for _, name := range wanted {
		if s.Device(name) != nil {
			continue
		}
		var there []string
		for _, d := range s.Devices {
			there = append(there, d.Name)
		}
		if len(there) == 0 {
			return fmt.Errorf("--dev %q: this host shows no network devices", name)
		}
		return fmt.Errorf("--dev %q: there is no such device; there are %s", name, strings.Join(there, ", "))
	}
	return nil
}
