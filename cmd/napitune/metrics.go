package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/profiles/boot"
)

func metricsCommand(e env) *cli.Command {
	shared := sharedFlags("prometheus")
	var flags []cli.Flag
	for _, f := range shared {
		if name := f.Names()[0]; name == "host" || name == "dev" || name == "v" {
			flags = append(flags, f)
		}
	}
	flags = append(append(flags, windowFlags()...), profileFlag(),
		&cli.StringFlag{Name: "o", Aliases: []string{"output"}, Usage: "write to `FILE`, at one stroke; it ends in .prom, as node_exporter reads no others"})
	return &cli.Command{
		Name:      "metrics",
		Usage:     "measure, and write findings, drift and rates for node_exporter's textfile collector",
		ArgsUsage: noArguments,
		Description: "For a timer or cron, each run writes the whole file:\n\n" +
			"napitune metrics --for 10s -o /var/lib/prometheus/node-exporter/napitune.prom\n\n" +
			"The metrics, all of them gauges:\n\n" + report.MetricsHelp(),
		Flags:  flags,
		Action: func(c *cli.Context) error { return writeMetrics(c, e) },
	}
}

func writeMetrics(c *cli.Context, e env) error {
	path := c.String("o")
	if path != "" && path != "-" && !strings.HasSuffix(path, ".prom") {
		return fmt.Errorf("-o %s: node_exporter reads only files that end in .prom", path)
	}
	o, err := parseOptions(c, e, "")
	if err != nil {
		return err
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	doc, err := gatherMetrics(c.Context, e, m, o)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := doc.Write(&text); err != nil {
		return err
	}
	if path == "" || path == "-" {
		_, err := e.Stdout.Write(text.Bytes())
		return err
	}
	if err := renameio.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("-o %s: %w", path, err)
	}
	return nil
}

func gatherMetrics(ctx context.Context, e env, m *machine, o options) (report.Metrics, error) {
	measured, err := measure(ctx, e, m, o)
	if err != nil {
		return report.Metrics{}, err
	}
	a := judge(measured, o)
	out := report.Metrics{
		Version: e.Version, Observation: measured.Observation, Findings: a.Findings, Plan: a.Plan, Transactions: map[string]int{},
		Finished: float64(time.Now().UnixMilli()) / 1000,
	}
	if !m.live {
		return out, nil
	}
	return out, errors.Join(profileMetrics(m, &out), transactionMetrics(e, m, o, &out))
}

func profileMetrics(m *machine, out *report.Metrics) error {
	p, mistakes, err := readProfile(installedProfile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	todo, problems, err := profilePlan(m, p, boot.Scope{})
	problems = slices.DeleteFunc(problems, boot.Problem.Excused)
	out.Profile, out.ProfileUnreadable = p.Name, len(mistakes) > 0
	out.Standing, out.Differing, out.Impossible = len(todo.Kept), len(todo.Changes)+len(todo.Deferred), 0
	for _, problem := range problems {
		out.Impossible += max(1, len(problem.Refs))
	}
	return err
}

func transactionMetrics(e env, m *machine, o options, out *report.Metrics) error {
	if e.Files.ReadDir == nil {
		return nil
	}
	a, err := applier(e, m, o)
	if err != nil {
		return err
	}
	list, err := a.Status()
	if err != nil {
		return private(journalDir, "metrics", err)
	}
	for _, s := range list {
		out.Transactions[string(s.State)]++
		out.Drifted += drifted(s.Drift)
	}
	return nil
}

// drifted counts settings that somebody else changed. Those of a device that is gone
// nobody did.
func drifted(all []apply.Drift) int {
	n := 0
	for _, d := range all {
		if d.Drifted && d.By == "" && !d.Gone {
			n++
		}
	}
	return n
}
