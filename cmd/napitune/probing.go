package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/profiles/strict"
)

// prober counts with in-kernel probes while a window passes.
type prober interface {
	// Watch lets the window pass and counts meanwhile. It ends early, without
	// an error, when ctx does.
	Watch(ctx context.Context, window time.Duration) error
	Read() (*counters.Counters, error)
	Status() []counters.Status
	Close() error
}

// probing attaches the named probes, or those of the default for nil, as suits
// a machine. A probe that cannot be attached is a status and no error.
type probing func(s *detect.Snapshot, names []string) (prober, error)

func probesFlag() cli.Flag {
	return &cli.StringFlag{Name: "probes", Value: defaultProbes,
		Usage: "count with the in-kernel probes of `LIST`: default, all, or names (napitune doctor lists them), such as default,latency,drops"}
}

// Words of --probes that stand for several probes.
const (
	defaultProbes = "default"
	allProbes     = "all"
)

// parseProbes is which probes to attach, nil for those of the default.
func parseProbes(c *cli.Context) ([]string, error) {
	if !c.IsSet("probes") || c.String("probes") == defaultProbes {
		return nil, nil
	}
	text := c.String("probes")
	all, byDefault := probeNames()
	if c.Bool("no-bpf") {
		return nil, fmt.Errorf("--probes %q with --no-bpf: give one of them", text)
	}
	var out []string
	for word := range strings.SplitSeq(text, ",") {
		switch {
		case word == allProbes:
			out = append(out, all...)
		case word == defaultProbes:
			out = append(out, byDefault...)
		case slices.Contains(all, word):
			out = append(out, word)
		default:
			return nil, fmt.Errorf("--probes %q: there is no probe %q%s (--no-bpf uses none)",
				text, word, strict.Choices(word, append([]string{defaultProbes, allProbes}, all...)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// counting is what a verb has of the probes: their figures for as long as they
// give any. What fails about them ends the figures and never the verb: advice
// from files is worth having, and a good change must not be rolled back for it.
type counting struct {
	prober prober // nil where none was opened
	// missing is why no probe is attached, failed why those that were give no
	// figures any more; both "" while there are figures.
	missing, failed string
	log             *slog.Logger
}

// startProbes attaches the probes, as far as that is wanted and possible.
func startProbes(e env, s *detect.Snapshot, o options) *counting {
	c := &counting{log: o.log}
	switch {
	case o.noBPF:
		c.missing = "switched off with --no-bpf"
	case e.Probes == nil:
		c.missing = "this build has none"
	default:
		p, err := e.Probes(s, o.probes)
		if err != nil {
			c.missing = err.Error()
			break
		}
		c.prober, c.missing = p, withoutProbes(p.Status())
	}
	return c
}

// active reports whether figures are to be had.
func (c *counting) active() bool { return c.missing == "" && c.failed == "" }

// why says in a phrase why there are no figures, "" while there are.
func (c *counting) why() string {
	switch {
	case c.failed != "":
		return "no probe figures: " + c.failed
	case c.missing != "":
		return "no in-kernel probes: " + c.missing
	}
	return ""
}

func (c *counting) status() []counters.Status {
	if c.prober == nil {
		return nil
	}
	return c.prober.Status()
}

// sound reports whether there was no error. With one the probes are detached:
// nobody keeps their cost within bounds any more.
func (c *counting) sound(err error) bool {
	if err == nil {
		return true
	}
	c.failed = err.Error()
	c.close()
	return false
}

// pass lets the window pass while the probes count. It ends early, with the
// cause, if ctx does, and not for probes that fail.
func (c *counting) pass(ctx context.Context, window time.Duration, line *progress) error {
	if !c.active() {
		return wait(ctx, window, line)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.sound(c.prober.Watch(ctx, window))
	}()
	waited := wait(ctx, window, line)
	<-watched
	return waited
}

// read is what was counted so far, nil without figures.
func (c *counting) read() *counters.Counters {
	if !c.active() {
		return nil
	}
	out, err := c.prober.Read()
	if !c.sound(err) {
		return nil
	}
	return out
}

// between is what was counted between two readings, nil if either is missing.
func (c *counting) between(earlier, later *counters.Counters) *counters.Counters {
	if earlier == nil || later == nil {
		return nil
	}
	out, err := later.Sub(earlier)
	if !c.sound(err) {
		return nil
	}
	return out
}

func (c *counting) close() {
	if c.prober == nil {
		return
	}
	if err := c.prober.Close(); err != nil {
		c.log.Warn("probes not detached", "err", err)
	}
}

// withoutProbes says why no probe is attached, "" if one is.
func withoutProbes(states []counters.Status) string {
	reason := "none is supported here"
	for _, s := range states {
		switch s.State {
		case counters.Attached:
			return ""
		case counters.Denied:
			reason = "not permitted; " + s.Capability + " would permit them"
		}
	}
	return reason
}

func probeStates(states []counters.Status) []report.Probe {
	out := make([]report.Probe, 0, len(states))
	for _, s := range states {
		reason := s.Reason
		if s.State == counters.Denied && s.Capability != "" {
			reason = strings.TrimPrefix(reason+"; "+s.Capability+" would permit it", "; ")
		}
		out = append(out, report.Probe{Name: s.Name, State: string(s.State), Reason: reason})
	}
	return out
}

// addCost adds what the probes cost to what the process did.
func addCost(to *report.Overhead, c *counters.Counters) {
	why := cmp.Or(c.CostUnknown, fmt.Sprintf("BPF statistics take part in windows from %s on", counters.WholeWindow))
	spent, known := c.Spent()
	switch {
	case !known:
		to.ProbesUnknown = why
		return
	case spent.Estimated:
		to.ProbesEstimated = why
		if slices.ContainsFunc(c.Probes, func(s counters.Status) bool { return s.Name == "latency" && s.State == counters.Attached }) {
			to.ProbesEstimated += "; without latency, which counts no events"
		}
	case spent.EstimatedNs > 0:
		to.ProbesEstimated = fmt.Sprintf("%.0f %% of it, of programs that do not count their calls, from the part of the window with BPF statistics",
			100*float64(spent.EstimatedNs)/float64(spent.Ns))
	}
	to.ProbeSeconds, to.ProbeRuns = float64(spent.Ns)/1e9, spent.Runs
}

// replayProbes subtracts the recorded readings of the first and the last
// sample. Without figures it says why in a phrase, as why does; an error is one
// of the file.
func replayProbes(raw []json.RawMessage) (counted *counters.Counters, probeless string, err error) {
	if len(raw) < 2 || len(raw[0]) == 0 || len(raw[len(raw)-1]) == 0 {
		return nil, "no in-kernel probes: the capture has none", nil
	}
	var first, last counters.Counters
	if err := json.Unmarshal(raw[0], &first); err != nil {
		return nil, "", fmt.Errorf("probe counters of the first sample: %w", err)
	}
	if err := json.Unmarshal(raw[len(raw)-1], &last); err != nil {
		return nil, "", fmt.Errorf("probe counters of the last sample: %w", err)
	}
	counted, err = last.Sub(&first)
	if err != nil {
		return nil, "no probe figures: " + err.Error(), nil
	}
	return counted, "", nil
}
