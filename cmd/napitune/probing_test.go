package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
)

// failingProbes count until one of their calls is told to fail: the n-th of
// its kind, from 1; 0 never does.
type failingProbes struct {
	fakeProbes
	watch, read, sub int
	state            counters.State
	watched, closed  int
}

func (f *failingProbes) Watch(context.Context, time.Duration) error {
	f.watched++
	if f.watched == f.watch {
		return errors.New("observe: detach tp_btf/napi_poll: bad file descriptor")
	}
	return nil
}

func (f *failingProbes) Read() (*counters.Counters, error) {
	out, err := f.fakeProbes.Read()
	switch int(f.reads) {
	case f.read:
		return nil, errors.New("read softirq counters: key does not exist")
	case f.sub:
		out.Cost[0].TimeNs = 0
	}
	return out, err
}

func (f *failingProbes) Status() []counters.Status {
	return []counters.Status{{Name: "softirq", State: f.state, Capability: "CAP_BPF"}}
}

func (f *failingProbes) Close() error {
	f.closed++
	return nil
}

// What fails about probes while the window passes is told, and no verb fails
// for it.
func TestProbesThatFail(t *testing.T) {
	for _, test := range []struct {
		name    string
		probes  failingProbes
		want    string
		watched int
	}{
		{"observing", failingProbes{watch: 1}, "no probe figures: observe: detach tp_btf/napi_poll: bad file descriptor", 1},
		{"reading", failingProbes{read: 2}, "no probe figures: read softirq counters: key does not exist", 1},
		{"reading at once", failingProbes{read: 1}, "no probe figures: read softirq counters: key does not exist", 0},
		{"subtracting", failingProbes{sub: 2}, "no probe figures: time_ns went backwards: probe counters are not comparable", 1},
		{"nothing attached", failingProbes{state: counters.Denied, watch: 1}, "no in-kernel probes: not permitted; CAP_BPF would permit them", 0},
	} {
		for _, verb := range []string{"advise", "map", "capture"} {
			t.Run(test.name+"/"+verb, func(t *testing.T) {
				p := test.probes
				if p.state == "" {
					p.state = counters.Attached
				}
				args := []string{verb, "--for", "20ms"}
				if verb == "capture" {
					args = append(args, "-o", filepath.Join(t.TempDir(), "x.txtar"))
				}
				e := env{Probes: func(*detect.Snapshot, []string) (prober, error) { return &p, nil }}
				code, stdout, stderr := invoke(context.Background(), t, e, args...)
				told := strings.Contains(stdout+stderr, test.want)
				if verb == "capture" && test.name == "subtracting" {
					told = true // a capture keeps both readings as they are
				}
				if code != exitDone || !told {
					t.Errorf("ended with %d, want %q in:\n%s%s", code, test.want, stdout, stderr)
				}
				if p.watched != test.watched || p.closed == 0 {
					t.Errorf("watched %d times, want %d; closed %d times", p.watched, test.watched, p.closed)
				}
				if verb == "capture" {
					return
				}
				p = test.probes
				if p.state == "" {
					p.state = counters.Attached
				}
				_, stdout, stderr = invoke(context.Background(), t, e, append(args, "--format", "json")...)
				var doc struct {
					Window report.Window
					Gaps   []detect.Gap
				}
				if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(doc.Gaps, detect.Gap{Source: report.GapProbes, Reason: test.want}) || len(doc.Window.Probes) > 0 {
					t.Errorf("%q is no gap, or probes took part: %+v\n%s", test.want, doc, stderr)
				}
			})
		}
	}
}

// closingProbes fail a second into a window, and tell when they were detached.
type closingProbes struct {
	fakeProbes
	closed []time.Time
}

func (p *closingProbes) Watch(context.Context, time.Duration) error {
	time.Sleep(time.Second)
	return errors.New("observe: detach tp_btf/napi_poll: bad file descriptor")
}

func (p *closingProbes) Close() error {
	p.closed = append(p.closed, time.Now())
	return nil
}

// Probes that fail are detached at once, since nobody bounds their cost any more,
// and the rest of the window passes without them.
func TestFailedProbesDetachAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p closingProbes
		c := &counting{prober: &p}
		start := time.Now()
		err := c.pass(context.Background(), time.Minute, &progress{quiet: true})
		if took := time.Since(start); err != nil || took != time.Minute || c.active() {
			t.Errorf("%v after %s, active: %v", err, took, c.active())
		}
		if len(p.closed) != 1 || p.closed[0].Sub(start) != time.Second {
			t.Errorf("began at %s, detached at %s", start, p.closed)
		}
	})
}

// A list of probes is names, or words for several; anything else has a remedy.
func TestParseProbes(t *testing.T) {
	all, byDefault := probeNames()
	if all == nil {
		if runtime.GOOS == "linux" {
			t.Fatal("a build for Linux has probes")
		}
		t.Skip("this build has no probes")
	}
	for _, test := range []struct {
		args, err string
		want      []string
	}{
		{"", "", nil},
		{"--probes default", "", nil},
		{"--probes drops,softirq,drops", "", []string{"drops", "softirq"}},
		{"--probes all", "", slices.Sorted(slices.Values(all))},
		{"--probes default,latency", "", slices.Sorted(slices.Values(append([]string{"latency"}, byDefault...)))},
		{"--probes latencey", `there is no probe "latencey"; did you mean latency?`, nil},
		{"--probes drops,", `there is no probe ""`, nil},
		{"--probes=", `(--no-bpf uses none)`, nil},
		{"--probes all --no-bpf", `--probes "all" with --no-bpf: give one of them`, nil},
	} {
		for _, verb := range []string{"advise", "capture -o -"} {
			asked := [][]string{}
			e := env{Probes: func(_ *detect.Snapshot, names []string) (prober, error) {
				asked = append(asked, names)
				return &fakeProbes{}, nil
			}}
			code, _, stderr := invoke(context.Background(), t, e, strings.Fields(verb+" --for 20ms "+test.args)...)
			if (code == exitError) != (test.err != "") || !strings.Contains(stderr, test.err) {
				t.Errorf("%s %s: ended with %d, %q; want %q", verb, test.args, code, stderr, test.err)
			}
			if test.err == "" && (len(asked) != 1 || !slices.Equal(asked[0], test.want)) {
				t.Errorf("%s %s: attached %q, want %q", verb, test.args, asked, test.want)
			}
		}
	}
}
