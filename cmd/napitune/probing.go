package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
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

// probing attaches the probes that suit a machine. A probe that cannot be
// attached is a status and no error.
type probing func(s *detect.Snapshot) (prober, error)

// startProbes attaches the probes, or says why none takes part.
func startProbes(e env, s *detect.Snapshot, o options) (p prober, probeless string) {
	if o.noBPF {
		return nil, "switched off with --no-bpf"
	}
	if e.Probes == nil {
		return nil, "this build has none"
	}
	p, err := e.Probes(s)
	if err != nil {
		return nil, err.Error()
	}
	return p, withoutProbes(p.Status())
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

// probeSeconds is the time the kernel spent in our programs over a whole
// window, from the part of it in which it was measured.
func probeSeconds(c *counters.Counters) float64 {
	if c == nil || c.CostWindowNs == 0 {
		return 0
	}
	var ns uint64
	for _, p := range c.Cost {
		ns += p.TimeNs
	}
	return float64(ns) / 1e9 * float64(c.AttachedNs) / float64(c.CostWindowNs)
}

// replayProbes subtracts the recorded readings of the first and the last
// sample; nil where a capture has none.
func replayProbes(raw []json.RawMessage) (*counters.Counters, error) {
	if len(raw) < 2 || len(raw[0]) == 0 || len(raw[len(raw)-1]) == 0 {
		return nil, nil
	}
	var first, last counters.Counters
	if err := json.Unmarshal(raw[0], &first); err != nil {
		return nil, fmt.Errorf("probe counters of the first sample: %w", err)
	}
	if err := json.Unmarshal(raw[len(raw)-1], &last); err != nil {
		return nil, fmt.Errorf("probe counters of the last sample: %w", err)
	}
	return last.Sub(&first)
}
