package main

import (
	"context"
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
)

// machine is what a verb reads: the running one, or the samples of a captured one.
type machine struct {
	samples []*host.Host
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
	return &machine{samples: capture.Samples}, nil
}

// last is the newest sample: what the machine is like now.
func (m *machine) last() *host.Host { return m.samples[len(m.samples)-1] }

// probing starts the in-kernel probes and returns what ends them and tells
// their states. A probe that cannot be attached is a state and no error.
type probing func(ctx context.Context) (finish func() []report.Probe, err error)

// measurement is an observation with the probes that took part.
type measurement struct {
	*detect.Observation
	probes    []report.Probe
	probeless string // why no probe took part, "" if one did
}

// measure reads the machine at both ends of the window. A captured machine
// has its samples already; a window of zero is one sample.
func measure(ctx context.Context, e env, m *machine, o options) (measurement, error) {
	if !m.live {
		obs, err := replay(m)
		return measurement{Observation: obs, probeless: "a captured host"}, err
	}
	finish, probeless := startProbes(ctx, e, o)
	obs, err := watch(ctx, e, m, o)
	return measurement{Observation: obs, probes: finish(), probeless: probeless}, err
}

func replay(m *machine) (*detect.Observation, error) {
	var snapshots []*detect.Snapshot
	for i, h := range m.samples {
		s, err := detect.Collect(h)
		if err != nil {
			return nil, fmt.Errorf("sample %d of the captured host: %w", i, err)
		}
		snapshots = append(snapshots, s)
	}
	return detect.Between(snapshots...), nil
}

func watch(ctx context.Context, e env, m *machine, o options) (*detect.Observation, error) {
	first, err := detect.Collect(m.last())
	if err != nil {
		return nil, err
	}
	// A misspelt device is told before the window, not after it.
	if err := checkDevices(first, o.devices); err != nil {
		return nil, err
	}
	if o.window == 0 {
		return detect.Between(first), nil
	}
	if err := wait(ctx, o.window, newProgress(e, o)); err != nil {
		return nil, err
	}
	second, err := detect.Collect(m.last())
	if err != nil {
		return nil, err
	}
	return detect.Between(first, second), nil
}

func startProbes(ctx context.Context, e env, o options) (finish func() []report.Probe, probeless string) {
	none := func() []report.Probe { return nil }
	if o.noBPF {
		return none, "switched off with --no-bpf"
	}
	if e.Probes == nil {
		return none, "this build has none"
	}
	finish, err := e.Probes(ctx)
	if err != nil {
		return none, err.Error()
	}
	return finish, ""
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
	out := report.Privileges{UID: -1}
	effective := uint64(0)
	lines := 0
	for line := range strings.SplitSeq(status, "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		var err error
		switch {
		case name == "Uid" && len(fields) == 4:
			out.UID, err = strconv.Atoi(fields[1])
			lines++
		case name == "CapEff" && len(fields) == 1:
			effective, err = strconv.ParseUint(fields[0], 16, 64)
			lines++
		}
		if err != nil {
			return report.Privileges{UID: -1}, fmt.Errorf("proc/self/status: %s: %w", name, err)
		}
	}
	if lines != 2 {
		return report.Privileges{UID: -1}, errNoPrivileges
	}
	out.Known = true
	for _, c := range capabilities {
		if effective&(1<<c.bit) != 0 {
			out.Capabilities = append(out.Capabilities, c.name)
		} else {
			out.Missing = append(out.Missing, c.name)
		}
	}
	return out, nil
}
