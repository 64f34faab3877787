package napitune

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/napitune/napitune"

// kernelPackages are the only packages that talk to the kernel.
var kernelPackages = []string{"detect/host/live", "probes"}

// kernelLibraries are how one talks to the kernel: only kernelPackages import them.
var kernelLibraries = []string{
	"golang.org/x/sys/unix", "github.com/safchain/ethtool", "github.com/vishvananda/", "github.com/cilium/ebpf", "syscall", "unsafe",
}

// busPackages are the only packages that talk to systemd; they alone import the
// libraries for it.
var (
	busPackages  = []string{"apply/deadline"}
	busLibraries = []string{"github.com/coreos/go-systemd/v22/dbus", "github.com/godbus/dbus/v5"}
)

// law is what the packages below a path must not import, tests excepted.
type law struct {
	path   string   // a package and everything below it, relative to the module
	forbid []string // import paths
	why    string
}

var laws = []law{
	{"rules", []string{"os", "net", "math/rand", "math/rand/v2", "log", "log/slog", "io/fs", module + "/detect/host/live", module + "/detect/host/archive", module + "/apply", module + "/probes"},
		"rules are pure functions of an observation"},
	{"rules/plan", []string{module + "/detect/topo", module + "/detect/host/live"}, "the plan knows settings and nothing else of a host"},
	{"cmd", []string{module + "/rules/place/peers", module + "/detect/host/hosttest"}, "test support stays out of the command"},
	{"apply", []string{module + "/rules", module + "/rules/place", module + "/detect/host/live", module + "/probes"}, "apply knows no opinions and is handed its Writer"},
	{"apply/measure", []string{"os", "net", "math/rand", "math/rand/v2", "log", "log/slog", "io/fs", module + "/apply"}, "measuring judges figures that it is handed"},
	{"detect", []string{module + "/rules", module + "/apply", module + "/profiles", module + "/probes"}, "facts know no opinions"},
	{"profiles", []string{"os", "net", module + "/rules", module + "/apply", module + "/probes", module + "/detect/host/live"}, "profiles are parsed text"},
	{"lab", []string{module + "/rules", module + "/apply", module + "/detect", module + "/detect/host/live", module + "/probes"}, "the lab is a witness: it shares no code with what it tries"},
	{"profiles/boot", []string{"os/exec", "io/fs", module + "/detect/host/archive"}, "what a profile asks of a host is reckoned, not tried"},
	{"probes", []string{module + "/rules", module + "/apply", module + "/profiles"}, "probes count and do not judge"},
}

type listed struct {
	ImportPath string
	GoFiles    []string
	Imports    []string
	Module     *struct{ Path string }
}

// packages lists the packages of the module as built for a system, without tests.
func packages(t *testing.T, goos string) []listed {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles,Module", "./...")
	command.Env = append(command.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, strings.TrimSuffix(parent, "/")+"/")
}

// The direction of imports is the architecture (ARCHITECTURE.md). The linter
// says the same earlier; this test says it wherever there is only Go.
func TestDependencyRules(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must have the go command on PATH")
		}
		t.Skip("the go command is needed to list imports, and is not on PATH")
	}
	checked := 0
	for _, goos := range []string{"linux", "darwin"} {
		for _, p := range packages(t, goos) {
			own := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
			for _, path := range p.Imports {
				checked++
				for _, complaint := range judge(own, path) {
					t.Errorf("%s (%s) imports %s: %s", own, goos, path, complaint)
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d imports were checked", checked)
	}
}

// judge says what is wrong with an import of path by the package own.
func judge(own, path string) []string {
	var out []string
	if below(path, module+"/cmd") && !below(own, "cmd") {
		out = append(out, "nothing imports cmd")
	}
	if slices.ContainsFunc(kernelLibraries, func(l string) bool { return below(path, l) }) &&
		!slices.ContainsFunc(kernelPackages, func(k string) bool { return below(own, k) }) && !mayUse(own, path) {
		out = append(out, "only "+strings.Join(kernelPackages, " and ")+" talk to the kernel")
	}
	if slices.ContainsFunc(busLibraries, func(l string) bool { return below(path, l) }) && !slices.Contains(busPackages, own) {
		out = append(out, "only "+strings.Join(busPackages, " and ")+" talk to systemd")
	}
	for _, l := range laws {
		if !below(own, l.path) {
			continue
		}
		for _, f := range l.forbid {
			if path == f {
				out = append(out, l.why)
			}
		}
	}
	if slices.ContainsFunc(strings.Split(own, "/"), vague) {
		out = append(out, "a package is named for what it does")
	}
	return out
}

// mayUse are the exceptions: cmd deals with signals and its own cost, and errno
// values are plain numbers to those who replay or imitate a kernel's answers, and
// the lab names the kernel it measured on and what a program cost.
func mayUse(own, path string) bool {
	return path == "syscall" && (own == "cmd/napitune" || below(own, "detect/host") || own == "detect/knob" || below(own, "apply") || below(own, "lab"))
}

func vague(name string) bool {
	return slices.Contains([]string{"util", "utils", "common", "helpers", "types", "models", "misc"}, name)
}

// The laws can be broken: each complains about what it forbids.
func TestDependencyRulesComplain(t *testing.T) {
	for _, test := range []struct {
		own, path string
		want      bool
	}{
		{"rules", "os", true},
		{"rules/place", "net", true},
		{"rules", "strings", false},
		{"apply", module + "/rules", true},
		{"apply", module + "/rules/plan", false},
		{"apply/measure", "os", true},
		{"detect", module + "/cmd/napitune/report", true},
		{"detect", "golang.org/x/sys/unix", true},
		{"detect/host/live", "golang.org/x/sys/unix", false},
		{"cmd/napitune", "github.com/cilium/ebpf", true},
		{"cmd/napitune", "syscall", false},
		{"cmd/napitune", "github.com/godbus/dbus/v5", true},
		{"apply/deadline", "github.com/godbus/dbus/v5", false},
		{"rules/util", "strings", true},
	} {
		if got := len(judge(test.own, test.path)) > 0; got != test.want {
			t.Errorf("%s imports %s: complaint %v, want %v", test.own, test.path, got, test.want)
		}
	}
}
