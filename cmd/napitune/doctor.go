package main

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/profiles/boot"
)

func doctorCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "say what napitune can read here, what not, and what would help",
		ArgsUsage: noArguments,
		Flags:     append(sharedFlags(documentFormats()...), &cli.BoolFlag{Name: "no-bpf", Usage: "do not try in-kernel probes"}),
		Action:    func(c *cli.Context) error { return examine(c, e) },
	}
}

func examine(c *cli.Context, e env) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	s, err := snapshot(m, o.devices)
	if err != nil {
		return err
	}
	own, err := privileges(m)
	if err != nil {
		o.log.Warn("own privileges unknown", "err", err)
	}
	for _, line := range unguarded(m.last(), s) {
		_, _ = fmt.Fprintln(e.Stderr, "napitune: "+report.Clean(line))
	}
	return printDocument(e, report.NewDoctor(s, e.Version, own, tryProbes(e, m, s, o)), o)
}

// guardEnabled is what systemd has where the guard starts at boot.
const guardEnabled = "etc/systemd/system/multi-user.target.wants/" + guardUnit

// unguarded are lines about devices of the boot profile that are down and will not
// be set when they come up, because no guard is there to see it.
func unguarded(h *host.Host, s *detect.Snapshot) []string {
	data, err := h.ReadFile(strings.TrimPrefix(installedProfile, "/"))
	if err != nil {
		return nil // none is installed, or its owner keeps it to himself
	}
	if _, err := fs.Stat(h.FS, guardEnabled); err == nil {
		return nil
	}
	profile, _ := boot.ParseRest(installedProfile, data)
	_, problems := profile.Plan(s, boot.Scope{})
	var out []string
	for _, p := range problems {
		dev, _, _ := strings.Cut(p.Subject, "/")
		line := fmt.Sprintf("boot profile %s: %s is down and takes some settings only when it is up; %s", profile.Name, dev, onceUp(dev))
		if p.Kind == boot.Down && !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// tryProbes attaches each probe for a moment, those too that --probes switches on.
func tryProbes(e env, m *machine, s *detect.Snapshot, o options) []report.Probe {
	if !m.live {
		return nil
	}
	all, byDefault := probeNames()
	o.probes = all
	p := startProbes(e, s, o)
	if p.prober == nil {
		return []report.Probe{{Name: "all", State: report.ProbeOff, Reason: p.missing}}
	}
	p.close()
	out := probeStates(p.status())
	for i := range out {
		each := &out[i]
		helps := each.State == report.ProbeAttached || each.State == report.ProbeDenied
		if helps && slices.Contains(all, each.Name) && !slices.Contains(byDefault, each.Name) {
			each.Reason = strings.TrimPrefix(each.Reason+"; counts with --probes "+each.Name+" only", "; ")
		}
	}
	return out
}
