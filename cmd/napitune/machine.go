package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/live"
	"github.com/napitune/napitune/probes/counters"
)

// machine is what a verb reads: the running one, or the samples of a captured one.
type machine struct {
	samples []*host.Host
	probes  []json.RawMessage // what probes counted up to each sample of a capture
	live    bool
}

// openHost opens the running machine ("") or a captured one.
func openHost(path string) (*machine, error) {
	if path == "" {
		h, err := live.Open(live.Options{})
		if err != nil {
			return nil, fmt.Errorf("read this machine: %w (a captured one is read with --host)", err)
		}
		return &machine{samples: []*host.Host{h}, live: true}, nil
	}
	capture, err := archive.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--host: %w", err)
	}
	return &machine{samples: capture.Samples, probes: capture.Probes}, nil
}

// last is the newest sample: what the machine is like now.
func (m *machine) last() *host.Host { return m.samples[len(m.samples)-1] }

// measurement is an observation with the probes that took part.
type measurement struct {
	*detect.Observation
	probes []report.Probe
	// probeless is why a captured host has no figures of probes, "" if it has;
	// of the running machine that is a gap.
	probeless string
}

// measure reads the machine at both ends of the window. A captured machine
// has its samples already; a window of zero is one sample.
func measure(ctx context.Context, e env, m *machine, o options) (measurement, error) {
	if !m.live {
		return replay(m)
	}
	first, err := detect.Collect(m.last())
	if err != nil {
		return measurement{}, err
	}
	// A misspelt device is told before the window, not after it.
	if err := checkDevices(first, o.devices); err != nil {
		return measurement{}, err
	}
	if o.window == 0 {
		out := measurement{Observation: detect.Between(first)}
		out.lacks(o, "no in-kernel probes: one sample has no window")
		return out, nil
	}
	p := startProbes(e, first, o)
	defer p.close()
	out, err := watch(ctx, e, m.last(), p, o)
	if err != nil {
		return measurement{}, err
	}
	if out.Probes != nil {
		out.probes = probeStates(p.status())
	}
	out.lacks(o, p.why())
	return out, nil
}

// attached names the probes that took part.
func (m *measurement) attached() []string {
	var out []string
	for _, p := range m.probes {
		if p.State == report.ProbeAttached {
			out = append(out, p.Name)
		}
	}
	return out
}

// lacks notes what the probes do not tell here. Who asked for none need not be told.
func (m *measurement) lacks(o options, why string) {
	if why != "" && (!o.noBPF || o.style.Verbose) {
		m.Gaps = append(m.Gaps, detect.Gap{Source: report.GapProbes, Reason: why})
	}
}

func replay(m *machine) (measurement, error) {
	var snapshots []*detect.Snapshot
	for i, h := range m.samples {
		s, err := detect.Collect(h)
		if err != nil {
			return measurement{}, fmt.Errorf("sample %d of the captured host: %w", i, err)
		}
		snapshots = append(snapshots, s)
	}
	out := measurement{Observation: detect.Between(snapshots...)}
	var err error
	if out.Probes, out.probeless, err = replayProbes(m.probes); err != nil {
		return measurement{}, err
	}
	if out.Probes != nil {
		out.probes = probeStates(out.Probes.Probes)
	}
	return out, nil
}

// watch takes both samples with the probes' readings beside them.
func watch(ctx context.Context, e env, h *host.Host, p *counting, o options) (measurement, error) {
	first, begin, err := sample(h, p)
	if err != nil {
		return measurement{}, err
	}
	if err := p.pass(ctx, o.window, newProgress(e, o)); err != nil {
		return measurement{}, err
	}
	last, end, err := sample(h, p)
	if err != nil {
		return measurement{}, err
	}
	out := measurement{Observation: detect.Between(first, last)}
	out.Probes = p.between(begin, end)
	return out, nil
}

// sample reads the machine once, and what the probes counted until then.
func sample(h *host.Host, p *counting) (*detect.Snapshot, *counters.Counters, error) {
	s, err := detect.Collect(h)
	if err != nil {
		return nil, nil, err
	}
	return s, p.read(), nil
}

// wait lets the window pass. It ends at once, with the cause, if ctx does.
func wait(ctx context.Context, window time.Duration, p *progress) error {
	start := time.Now()
	end := time.NewTimer(window)
	defer end.Stop()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	p.show(0, window)
	defer p.done()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case <-tick.C:
			p.show(time.Since(start), window)
		}
	}
}

// snapshot reads the machine once, as it is now.
func snapshot(m *machine, devices []string) (*detect.Snapshot, error) {
	s, err := detect.Collect(m.last())
	if err != nil {
		return nil, err
	}
	return s, checkDevices(s, devices)
}

// capabilities that matter here, by bit (include/uapi/linux/capability.h).
var capabilities = []struct {
	bit  int
	name string
}{
	{2, "CAP_DAC_READ_SEARCH"}, {12, "CAP_NET_ADMIN"}, {21, "CAP_SYS_ADMIN"},
	{38, "CAP_PERFMON"}, {39, "CAP_BPF"},
}

// privileges reads what this process may do from its own status file
// (Documentation/filesystems/proc.rst: Uid, CapEff).
func privileges(m *machine) (report.Privileges, error) {
	out := report.Privileges{UID: -1}
	if !m.live {
		return out, nil
	}
	text, err := m.last().ReadFile("proc/self/status")
	if err != nil {
		return out, err
	}
	return parsePrivileges(string(text))
}

var errNoPrivileges = errors.New("proc/self/status: no Uid and CapEff lines")

func parsePrivileges(status string) (report.Privileges, error) {
	uid, effective, err := parseStatus(status)
	if err != nil {
		return report.Privileges{UID: -1}, err
	}
	out := report.Privileges{UID: uid, Known: true}
	for _, c := range capabilities {
		if effective&(1<<c.bit) != 0 {
			out.Capabilities = append(out.Capabilities, c.name)
		} else {
			out.Missing = append(out.Missing, c.name)
		}
	}
	return out, nil
}

// parseStatus takes the effective user and capabilities out of a status file.
func parseStatus(status string) (uid int, effective uint64, err error) {
	lines := 0
	for line := range strings.SplitSeq(status, "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch {
		case name == "Uid" && len(fields) == 4:
			uid, err = strconv.Atoi(fields[1])
			lines++
		case name == "CapEff" && len(fields) == 1:
			effective, err = strconv.ParseUint(fields[0], 16, 64)
			lines++
		}
		if err != nil {
			return -1, 0, fmt.Errorf("proc/self/status: %s: %w", name, err)
		}
	}
	if lines != 2 {
		return -1, 0, errNoPrivileges
	}
	return uid, effective, nil
}
