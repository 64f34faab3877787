package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/probes/counters"
)

var update = flag.Bool("update", false, "rewrite the golden files, scripts included")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"napitune": main})
}

func TestOrder(t *testing.T) {
	app := newApp(env{})
	for _, test := range []struct {
		args string
		want string // "error: …" if it starts so
	}{
		{"", "advise"},
		{"map", "map"},
		{"--host x map", "map --host x"},
		{"map --host x", "map --host x"},
		{"--host=x map", "map --host=x"},
		{"-v map", "map -v"},
		{"--format json", "advise --format json"},
		{"--dev eth0 --dev eth1 knobs", "knobs --dev eth0 --dev eth1"},
		{"explain irq-stacked --no-color", "explain --no-color -- irq-stacked"},
		{"map eth0 --format json", "map --format json -- eth0"},
		{"capture -o -", "capture -o -"},
		{"capture -o - --for 1s", "capture -o - --for 1s"},
		{"--for -5s", "advise --for -5s"},
		{"map -- -x", "map -- -x"},
		{"--help", "--help"},
		{"map --help", "map --help"},
		{"help map", "help map"},
		{"--version", "version"},
		{"mpa", `error: there is no command "mpa"; did you mean map?`},
		{"eth0", `error: there is no command "eth0" (napitune --help lists them; a device is named with --dev)`},
		{"map --force", "error: map has no option --force; capture has"},
		{"map --formt json", "error: map has no option --formt (did you mean --format?)"},
		{"--formt json map", "error: advise has no option --formt (did you mean --format?)"},
		{"map --hots=x", "error: map has no option --hots=x (did you mean --host?)"},
		{"map --zzzzzz", "error: map has no option --zzzzzz (napitune map --help lists them)"},
		{"map --host", "error: option --host needs a value"},
		{"map --host --format json", "error: option --host needs a value"},
	} {
		got := ""
		ordered, err := order(append([]string{"napitune"}, strings.Fields(test.args)...), app)
		if err != nil {
			got = "error: " + err.Error()
		} else {
			got = strings.Join(ordered[1:], " ")
		}
		if got != test.want {
			t.Errorf("napitune %s\n got %s\nwant %s", test.args, got, test.want)
		}
	}
}

// Whatever the arguments, order either refuses them or loses none.
func FuzzOrder(f *testing.F) {
	for _, seed := range []string{"map --host x", "--for 1s -- --x", "- -- -", "-o", "explain a b --all", "--=x"} {
		f.Add(seed)
	}
	app := newApp(env{})
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"napitune"}, strings.Fields(line)...)
		got, err := order(args, app)
		if err != nil {
			if got != nil {
				t.Errorf("error %v with %q", err, got)
			}
			return
		}
		counts := map[string]int{}
		for _, a := range args {
			counts[a]++
		}
		for _, a := range got {
			counts[a]--
		}
		if got[1] == "--help" || got[1] == "version" {
			return
		}
		for word, n := range counts {
			if n > 0 && word != "--" && word != "h" {
				t.Errorf("%q lost %q: %q", args, word, got)
			}
		}
	})
}

func TestComplete(t *testing.T) {
	app := newApp(env{})
	for line, want := range map[string][]string{
		"kn":                       {"knobs"},
		"--format ":                {"text", "json", "yaml", "shell", "sysctl", "link"},
		"profile ":                 {"list", "show", "check", "save", "install", "remove"},
		"map --format ":            {"text", "json", "yaml"},
		"map --fo":                 {"--for", "--format"},
		"completion ":              {"bash", "zsh", "fish"},
		"explain gro-flush":        {"gro-flush-timeout"},
		"--host x.txtar doct":      {"doctor"},
		"--probes de":              {"default"},
		"--probes default,la":      {"default,latency"},
		"capture --probes virtio-": {"virtio-control"},
		"--profile ":               profileNames(),
		"map --host ":              nil,
		"nonsense --format ":       nil,
		"explain irq-stacked zzzz": nil,
	} {
		if got := complete(app, strings.Split(line, " ")); !cmp.Equal(want, got) {
			t.Errorf("napitune %s<TAB>: %q, want %q", line, got, want)
		}
	}
}

func TestParsePrivileges(t *testing.T) {
	const root = "Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n"
	got, err := parsePrivileges(root)
	want := report.Privileges{Known: true, Capabilities: []string{"CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"}}
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("root: %v, %s", err, cmp.Diff(want, got))
	}
	for _, bad := range []string{"", "Uid:\t0\t0\t0\t0\n", "Uid:\tx\tx\tx\tx\nCapEff:\t0\n", "Uid:\t0\t0\t0\t0\nCapEff:\tzz\n"} {
		got, err := parsePrivileges(bad)
		if err == nil || got.Known || got.UID != -1 {
			t.Errorf("parsePrivileges(%q) = %+v, %v", bad, got, err)
		}
	}
}

func FuzzParsePrivileges(f *testing.F) {
	f.Add("Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n")
	f.Add("Uid:\nCapEff:")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parsePrivileges(text)
		if (err == nil) != got.Known {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// quiet is a machine in memory on which nothing happens.
func quiet(t *testing.T) *machine {
	t.Helper()
	files := tree.New()
	for name, text := range map[string]string{
		"proc/interrupts":            "           CPU0       CPU1\n 24:        100          0   PCI-MSI 49152-edge      eth0\n",
		"proc/softirqs":              "                    CPU0       CPU1\n      NET_RX:        100         10\n",
		"proc/net/softnet_stat":      "00000064 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n",
		"proc/stat":                  "cpu  1 0 1 100 0 0 0 0 0 0\ncpu0 1 0 1 100 0 0 0 0 0 0\n",
		"sys/class/net/eth0/mtu":     "1500\n",
		"sys/class/net/eth0/ifindex": "2\n",
	} {
		if err := files.WriteFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	h := &host.Host{FS: files, Now: time.Now}
	return &machine{samples: []*host.Host{h}, live: true}
}

// invoke runs the command on a machine in memory. Calls cannot run in
// parallel: the library keeps its --help flag in a package variable.
func invoke(ctx context.Context, t *testing.T, e env, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	e.Stdout, e.Stderr = &out, &errs
	if e.Open == nil {
		e.Open = func(string) (*machine, error) { return quiet(t), nil }
	}
	code = run(ctx, append([]string{"napitune"}, args...), e)
	return code, out.String(), errs.String()
}

// A signal ends the measurement at once, with the shell's code for it and
// nothing on stdout.
func TestInterrupt(t *testing.T) {
	for _, verb := range []string{"advise", "map"} {
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(50*time.Millisecond, func() { cancel(interrupted{syscall.SIGINT}) })
		start := time.Now()
		code, stdout, stderr := invoke(ctx, t, env{}, verb, "--for", "1h")
		if code != 130 || stdout != "" || !strings.Contains(stderr, "interrupted; nothing was changed") {
			t.Errorf("%s: code %d, stdout %q, stderr %q", verb, code, stdout, stderr)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: ended after %s", verb, took)
		}
	}
}

func TestInterruptedCaptureLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(interrupted{syscall.SIGTERM}) })
	code, _, _ := invoke(ctx, t, env{}, "capture", "-o", dir+"/x.txtar", "--for", "1h")
	left, err := os.ReadDir(dir)
	if code != 143 || err != nil || len(left) != 0 {
		t.Errorf("code %d, left %v, %v", code, left, err)
	}
}

func TestProgress(t *testing.T) {
	for _, test := range []struct {
		name string
		e    env
		args []string
		want string // what stderr matches
	}{
		{"terminal", env{StderrTTY: true}, []string{"--for", "1100ms"}, `^\r\x1b\[Kmeasuring: 0 of 1\.1s(\r\x1b\[Kmeasuring: [1-9] of 1\.1s)+\r\x1b\[K$`},
		{"short", env{}, []string{"--for", "20ms"}, `^$`},
		{"short but verbose", env{}, []string{"--for", "20ms", "-v"}, `^measuring for 20ms …\n`},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, _, stderr := invoke(context.Background(), t, test.e, test.args...)
			if code == exitError || !regexp.MustCompile(test.want).MatchString(stderr) {
				t.Errorf("code %d, stderr %q, want %q", code, stderr, test.want)
			}
		})
	}
}

func TestColorIsForTerminals(t *testing.T) {
	for _, test := range []struct {
		e    env
		args []string
		want bool
	}{
		{env{IsTTY: true}, nil, true},
		{env{IsTTY: true}, []string{"--no-color"}, false},
		{env{IsTTY: true, NoColor: true}, nil, false},
		{env{}, nil, false},
	} {
		_, stdout, _ := invoke(context.Background(), t, test.e, append([]string{"knobs"}, test.args...)...)
		if got := strings.Contains(stdout, "\x1b["); got != test.want || stdout == "" {
			t.Errorf("%+v %v: colour %v, want %v", test.e.IsTTY, test.args, got, test.want)
		}
	}
}

// Probes are told of, and their absence has a reason.
func TestProbes(t *testing.T) {
	attach := func(*detect.Snapshot, []string) (prober, error) { return &fakeProbes{}, nil }
	refuse := func(*detect.Snapshot, []string) (prober, error) { return nil, errors.New("kernel is locked down") }
	for _, test := range []struct {
		name   string
		probes probing
		args   []string
		want   string
	}{
		{"attached", attach, []string{"--for", "20ms", "--format", "json"}, `"softirq"`},
		{"off", attach, []string{"--for", "20ms", "--no-bpf", "-v"}, "switched off with --no-bpf"},
		{"refused", refuse, []string{"--for", "20ms", "-v"}, "kernel is locked down"},
		{"counts", attach, []string{"--for", "20ms", "--format", "json"}, `"probe_seconds": 0.004`},
		{"counts, text", attach, []string{"--for", "20ms"}, "cost of the probes: 2 runs, 4.0 ms (estimated: "},
		{"control queue", attach, []string{"--for", "20ms"}, "control queue of eth0: 12 µs, by timing our own read (median of 5)"},
		{"control queue, JSON", attach, []string{"--for", "20ms", "--format", "json"}, `"microseconds": 12`},
		{"doctor", attach, []string{"doctor"}, "CAP_BPF would permit it"},
		{"doctor, off by default", attach, []string{"doctor"}, "counts with --probes latency only"},
		{"doctor without", nil, []string{"doctor"}, "this build has none"},
	} {
		_, stdout, stderr := invoke(context.Background(), t, env{Probes: test.probes}, test.args...)
		if !strings.Contains(stdout, test.want) {
			t.Errorf("%s: %q is not in:\n%s%s", test.name, test.want, stdout, stderr)
		}
		if strings.Contains(stdout, `"gro"`) {
			t.Errorf("%s: a probe that was refused is said to have taken part", test.name)
		}
	}
}

// fakeProbes are one probe that counts and one that was refused.
type fakeProbes struct{ reads uint64 }

func (*fakeProbes) Watch(context.Context, time.Duration) error { return nil }
func (*fakeProbes) Close() error                               { return nil }

func (*fakeProbes) Status() []counters.Status {
	return []counters.Status{
		{Name: "softirq", State: counters.Attached}, {Name: "gro", State: counters.Denied, Capability: "CAP_BPF"},
		{Name: "latency", State: counters.Denied, Capability: "CAP_PERFMON"},
	}
}

// Read costs 2 ms of 10 ms in which it was measured, of 20 ms attached.
func (f *fakeProbes) Read() (*counters.Counters, error) {
	f.reads++
	return &counters.Counters{
		Session: 1, TakenNs: f.reads * 20e6, AttachedNs: f.reads * 20e6,
		Cost:         []counters.ProgCost{{Program: "napi_poll", Runs: f.reads, TimeNs: f.reads * 2e6, AttachedNs: f.reads * 20e6, CountedNs: f.reads * 10e6}},
		ControlReads: []counters.ControlRead{{Device: "eth0", Reads: 5, MedianNs: 12_000, MostNs: 30_000}},
	}, nil
}

// A capture keeps what the probes counted, and advice from it has it again.
func TestProbesInCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.txtar")
	e := env{Probes: func(*detect.Snapshot, []string) (prober, error) { return &fakeProbes{}, nil }}
	if code, _, stderr := invoke(context.Background(), t, e, "capture", "-o", path, "--for", "20ms"); code != exitDone {
		t.Fatal(stderr)
	}
	m, err := openHost(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := replay(m)
	if err != nil {
		t.Fatal(err)
	}
	if got.Probes == nil || got.Probes.TakenNs != 20e6 || len(got.Probes.Cost) != 1 || got.Probes.Cost[0].TimeNs != 2e6 {
		t.Errorf("probe counters of the capture: %+v", got.Probes)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// Output that cannot be written is an error and not success.
func TestWriteErrors(t *testing.T) {
	for _, line := range []string{"advise --for 0s", "map --for 0s", "knobs", "doctor", "explain", "version", "man", "completion bash", "--for 0s --format shell", "capture -o - --for 0s"} {
		e := env{Stdout: brokenPipe{}, Stderr: io.Discard, Open: func(string) (*machine, error) { return quiet(t), nil }}
		if code := run(context.Background(), append([]string{"napitune"}, strings.Fields(line)...), e); code != exitError {
			t.Errorf("%s: code %d", line, code)
		}
	}
}

func TestFingerprint(t *testing.T) {
	base := func() *detect.Snapshot {
		return &detect.Snapshot{Ident: host.Ident{BootID: "b", Release: "6.12"}, Devices: []*detect.Device{{Name: "eth0", Queues: make([]detect.Queue, 2)}}}
	}
	fingerprint := func(s *detect.Snapshot) string { return origin(s).Fingerprint() }
	same, other := fingerprint(base()), []string{}
	for _, change := range []func(*detect.Snapshot){
		func(s *detect.Snapshot) { s.Ident.BootID = "c" },
		func(s *detect.Snapshot) { s.Ident.Release = "6.13" },
		func(s *detect.Snapshot) { s.Devices[0].Queues = s.Devices[0].Queues[:1] },
		func(s *detect.Snapshot) { s.Devices[0].Name = "eth1" },
	} {
		s := base()
		change(s)
		other = append(other, fingerprint(s))
	}
	for i, f := range other {
		if f == same {
			t.Errorf("change %d is not in the fingerprint", i)
		}
	}
	if again := base(); fingerprint(again) != same {
		t.Error("the same host has two fingerprints")
	}
}

// Every option says what it does, and none is defined twice with another meaning.
func TestFlags(t *testing.T) {
	takes := map[string]bool{}
	for _, c := range newApp(env{}).Commands {
		if c.Usage == "" {
			t.Errorf("%s has no usage", c.Name)
		}
		for name, value := range valued(c) {
			if before, ok := takes[name]; ok && before != value {
				t.Errorf("--%s takes a value on one command only", name)
			}
			takes[name] = value
		}
		for _, f := range c.Flags {
			if f.(cli.DocGenerationFlag).GetUsage() == "" {
				t.Errorf("%s %v has no usage", c.Name, f.Names())
			}
		}
	}
}
