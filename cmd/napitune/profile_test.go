package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules/plan"
)

// runProfile runs the verb alone.
func runProfile(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	app := cli.NewApp()
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.Commands = []*cli.Command{profileCommand(env{Stdout: &out, Width: 80})}
	err = app.Run(append([]string{"napitune", "profile"}, args...))
	return out.String(), err
}

func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What the policies that come with the program name is what the rules have:
// read as a site's file under the full vocabulary they say the same.
func TestPoliciesNameWhatTheRulesHave(t *testing.T) {
	files, err := filepath.Glob("../../profiles/policies/*.yaml")
	if err != nil || len(files) != len(profiles.Names()) {
		t.Fatalf("%d files for %d policies: %v", len(files), len(profiles.Names()), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		// Its own name is taken, by itself.
		text := strings.Replace(string(data), "name: "+name+"\n", "name: site\n", 1)
		got, err := profiles.Parse(file, []byte(text), vocabulary())
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		want, err := profiles.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Thresholds, got.Thresholds); diff != "" {
			t.Errorf("%s (-embedded +parsed)\n%s", name, diff)
		}
		for threshold, value := range want.Thresholds {
			if value == scales()[threshold].Value {
				t.Errorf("%s overrides %s with the value it has", name, threshold)
			}
		}
	}
}

func TestProfileList(t *testing.T) {
	for _, args := range [][]string{{}, {"list"}} {
		out, err := runProfile(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range profiles.Names() {
			if !strings.Contains("\n"+out, "\n"+name+" ") {
				t.Errorf("%v: %s is not listed:\n%s", args, name, out)
			}
		}
	}
	out, err := runProfile(t, "--format", "json", "list")
	if err != nil || !json.Valid([]byte(out)) || !strings.Contains(out, `"schema": "napitune/policies/v1"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestProfileShow(t *testing.T) {
	out, err := runProfile(t, "show", "latency")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"latency (extends balanced)\n", "backlog-ceiling: 1000 instead of 10000 packets — the kernel's default"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.TrimSpace(want)) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	path := policyFile(t, "extends: minimal\ncpus: {network: 0-3}\n")
	out, err = runProfile(t, "--format", "json", "show", path)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Name, Extends, File string
		NetworkCPUs         string `json:"network_cpus"`
		MaxDisruption       string `json:"max_disruption"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Name != "site" || doc.Extends != "minimal" || doc.File != path || doc.NetworkCPUs != "0-3" || doc.MaxDisruption != "none" {
		t.Errorf("%+v", doc)
	}
}

func TestProfileCheck(t *testing.T) {
	path := policyFile(t, "acknowledge:\n  - {finding: gro-off, subject: '*', reason: x, until: 2001-01-01}\n  - {finding: gro-off, subject: eth0, reason: x, until: 9000-01-01}\n")
	out, err := runProfile(t, "check", path)
	if err != nil {
		t.Fatal(err)
	}
	want := path + ": no mistake; policy site extends balanced; 1 of 2 acknowledgements have expired\n" +
		path + ":2: gro-off on * was acknowledged until 2001-01-01\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	bad := policyFile(t, "latency: true\nthresholds:\n  hot-softirq-shar: {value: 1, why: x}\n")
	out, err = runProfile(t, "check", bad)
	if want := bad + `:3:3: there is no threshold "hot-softirq-shar"; did you mean hot-softirq-share?`; err == nil || err.Error() != want || out != "" {
		t.Errorf("%v, want %s; stdout %q", err, want, out)
	}
}

func TestProfileErrors(t *testing.T) {
	large := policyFile(t, strings.Repeat("# comment\n", 100_000))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"lsit"}, `profile cannot "lsit"; did you mean list?`},
		{[]string{"frobnicate"}, `profile cannot "frobnicate"; there is list, show, check, save, install, remove`},
		{[]string{"list", "x"}, `profile list takes no argument "x"`},
		{[]string{"show"}, "profile show needs one argument, NAME|FILE"},
		{[]string{"check"}, "profile check needs one argument, FILE"},
		{[]string{"check", "a", "b"}, "profile check needs one argument, FILE"},
		{[]string{"show", "latancy"}, `there is no policy "latancy"; did you mean latency?`},
		{[]string{"show", "./nowhere"}, "policy: open ./nowhere: no such file or directory"},
		{[]string{"show", "nowhere.yaml"}, "policy: open nowhere.yaml: no such file or directory"},
		{[]string{"check", large}, large + ":1:1: the file has 65537 bytes, a policy at most 65536"},
		{[]string{"--format", "xml", "list"}, `--format "xml": profile prints text, json, yaml, shell, sysctl, link`},
	} {
		out, err := runProfile(t, test.args...)
		if err == nil || err.Error() != test.want || out != "" {
			t.Errorf("%v: %v, want %s; stdout %q", test.args, err, test.want, out)
		}
	}
}

func TestFindPolicy(t *testing.T) {
	path := policyFile(t, "extends: latency\n")
	for _, test := range []struct{ value, name, file string }{
		{"minimal", "minimal", ""}, {path, "site", path},
	} {
		p, file, err := findPolicy(test.value)
		if err != nil || p.Name != test.name || file != test.file {
			t.Errorf("%s: %s from %q, %v", test.value, p.Name, file, err)
		}
	}
}

func TestObjections(t *testing.T) {
	p, err := profiles.Parse("f.yaml", []byte("max-disruption: packets\ndevices:\n  - {driver: igb, caps: {queues: 4}}\n"), vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	s := &detect.Snapshot{Devices: []*detect.Device{{Name: "eth0", Driver: "igb", Kind: "physical"}, {Name: "eth1", Driver: "virtio_net", Kind: "virtio"}}}
	object := objections(p, s)
	for _, test := range []struct {
		ref   knob.Ref
		value string
		want  string
	}{
		{knob.Device("eth0", "ring.rx"), "512", "it disturbs traffic (link), and the policy allows packets"},
		{knob.Device("eth1", "ring.rx"), "512", ""}, // virtio_net restarts queues without losing the link
		{knob.Device("eth1", "channels.combined"), "8", ""},
		{knob.Global("net.core.netdev_budget"), "600", ""},
		{knob.Rx("eth9", 0, "irq.affinity"), "1", ""},
	} {
		if got := object(test.ref, test.value); got != test.want {
			t.Errorf("%s to %s: %q, want %q", test.ref, test.value, got, test.want)
		}
	}
}

func TestAcknowledge(t *testing.T) {
	p, err := profiles.Parse("f.yaml", []byte(`acknowledge:
  - {finding: irq-stacked, subject: CPU 0, reason: known, until: 2031-03-31}
  - {finding: gro-off, subject: 'eth*', reason: old, until: 2029-12-31}
`), vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Want{{Ref: knob.Device("eth0", "feature.rx-gro"), Value: "on"}}
	before := []plan.Finding{
		{ID: "irq-stacked", Subject: "CPU 0", Severity: plan.Problem, Claim: "stacked", Wants: want},
		{ID: "irq-stacked", Subject: "CPU 1", Severity: plan.Problem, Claim: "stacked", Wants: want},
		{ID: "gro-off", Subject: "eth0", Severity: plan.Advice, Claim: "off", Wants: want},
	}
	got := acknowledge(before, p, time.Date(2030, 6, 1, 0, 0, 0, 0, time.UTC))
	after := []plan.Finding{
		{ID: "irq-stacked", Subject: "CPU 1", Severity: plan.Problem, Claim: "stacked", Wants: want},
		{ID: "gro-off", Subject: "eth0", Severity: plan.Advice, Claim: "off (its acknowledgement expired on 2029-12-31: old)", Wants: want},
		{ID: "irq-stacked", Subject: "CPU 0", Severity: plan.Note, Claim: "stacked (acknowledged until 2031-03-31: known)"},
	}
	if diff := cmp.Diff(after, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if before[0].Severity != plan.Problem || before[0].Wants == nil {
		t.Error("the findings of the caller were changed")
	}
}

// The machine's own policy file judges it unless --profile names another
// policy or --host another machine; a mistake in it is loud.
func TestSitePolicy(t *testing.T) {
	site := policyFile(t, "name: edge\ncpus: {network: 0-4095}\n")
	for _, tt := range []struct {
		name, file string
		args       []string
		want, not  string
	}{
		{"picked up", site, nil, "judged by the policy edge of " + site, ""},
		{"its CPUs are compared with the host's", site, []string{"-v"}, "cpus.network in line 2 of the policy names CPUs", ""},
		{"--profile wins", site, []string{"--profile", "balanced"}, "", "judged by"},
		{"--profile by name", site, []string{"--profile", "latency"}, "judged by the policy latency", site},
		{"another machine", site, []string{"--host", "elsewhere"}, "", "judged by"},
		{"not there", site + ".not", nil, "", "judged by"},
		{"a mistake", policyFile(t, "nmae: x\n"), nil, `site.yaml:1:1: unknown key "nmae"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := env{Open: func(string) (*machine, error) { return quiet(t), nil }, SitePolicy: tt.file}
			_, stdout, stderr := invoke(t.Context(), t, e, append([]string{"advise", "--for", "0s"}, tt.args...)...)
			if out := stdout + stderr; !strings.Contains(out, tt.want) || tt.not != "" && strings.Contains(out, tt.not) {
				t.Errorf("want %q and not %q:\n%s", tt.want, tt.not, out)
			}
		})
	}
}
