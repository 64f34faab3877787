package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/rules/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/NAME, or rewrites the file with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if *update {
		if string(want) != got {
			t.Logf("rewriting %s", path)
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// stacked is a made-up host: eth0 has four queue pairs whose interrupts all
// fire on CPU 0, eth1 is a bond over it.
func stacked() *detect.Observation {
	t := &topo.Topology{Online: cpuset.Range(0, 7), Nodes: []topo.Node{{ID: 0}}, CPUs: map[int]topo.CPU{}}
	for cpu := range 8 {
		t.CPUs[cpu] = topo.CPU{ID: cpu}
	}
	s := &detect.Snapshot{
		Ident: host.Ident{Release: "6.12.8", Arch: "x86_64", BootID: "0f0e", HZ: 250, Virtualization: "kvm", Distribution: "Debian GNU/Linux 12"},
		Topo:  t,
		Devices: []*detect.Device{
			{Name: "bond0", Kind: "bond", Node: topo.Unknown, Lower: []string{"eth0"}, Up: detect.Yes},
			{Name: "eth0", Kind: "virtio", Driver: "virtio_net", Bus: "0000:00:03.0", Node: 0, QueuesKnown: true,
				Up: detect.Yes, Carrier: detect.Yes, Upper: []string{"bond0"}, OtherIRQs: []int{24}, Queues: pairs()},
			{Name: "eth1", Kind: "physical", Driver: "igb", Node: topo.Unknown, Queues: unknownQueues("igb names its interrupts without the device")},
			{Name: "lo", Kind: "loopback"},
			{Name: "veth\x1b[2J", Kind: "veth", Node: topo.Unknown},
		},
		Processes: []host.Process{{Comm: "irqbalance", Args: "/usr/sbin/irqbalance"}, {Comm: "ksoftirqd/0"}},
		Knobs:     knobStates(),
		Gaps: []detect.Gap{
			{Source: "ethtool -x eth0", Reason: "operation not permitted"},
			{Source: "netdev queue-get", Reason: "not supported here"},
		},
	}
	for q := range 4 {
		for side, base := range map[string]int{"input": 25, "output": 35} {
			s.IRQs.Rows = append(s.IRQs.Rows, detect.IRQ{
				Number: base + q, Actions: []string{"virtio0-" + side + "." + string(rune('0'+q))},
				HasSMP: true, Affinity: cpuset.Range(0, 7), Effective: cpuset.Of(0), Device: "eth0",
			})
		}
	}
	o := &detect.Observation{
		First: s, Last: s, Samples: 2, Basis: detect.BasisWindow, Window: 10 * time.Second,
		NetRx:   map[int]uint64{0: 61000, 1: 39000},
		Softnet: map[int]detect.SoftnetDelta{0: {Processed: 1234567, Squeezed: 12}},
		CPU:     map[int]detect.CPUShare{0: {Idle: 0.12, Ticks: 1000}},
		IRQ:     map[int]detect.IRQDelta{},
		Device: map[string]detect.DeviceDelta{"eth0": {
			Known: true, Counters: detect.InterfaceCounters{Known: true, RxPackets: 1230000},
			Queue: map[detect.QueueID]map[string]uint64{{N: 0}: {"packets": 500000}},
		}},
		Gaps: s.Gaps,
	}
	for irq := 25; irq < 29; irq++ {
		o.IRQ[irq] = detect.IRQDelta{Total: uint64(irq) * 1000, Home: 0, HomeShare: 0.98}
	}
	return o
}

func pairs() []detect.Queue {
	var out []detect.Queue
	for q := range 4 {
		out = append(out, detect.Queue{N: q, Rx: true, Tx: true, RxIRQ: 25 + q, TxIRQ: 35 + q, NAPI: 8193 + q, VMBusCPU: -1, Source: detect.SourceMSI})
	}
	return out
}

func unknownQueues(why string) []detect.Queue {
	var out []detect.Queue
	for q := range 3 {
		out = append(out, detect.Queue{N: q, Rx: true, Tx: true, RxIRQ: -1, TxIRQ: -1, NAPI: -1, VMBusCPU: -1, Why: why})
	}
	return out
}

func knobStates() map[knob.Ref]knob.State {
	states := map[knob.Ref]knob.State{
		knob.Global("net.core.netdev_budget"): {Value: "300", Bounds: knob.Bounds{Min: 1, Max: 1<<31 - 1}},
		knob.Device("eth0", "ring.rx"):        {Status: knob.Locked, Value: "256", Reason: "already at its maximum", Bounds: knob.Bounds{Min: 256, Max: 256}},
		knob.Device("eth0", "feature.rx-gro"): {Value: "on", Bounds: knob.Bounds{Of: []string{"on", "off"}}},
		knob.Device("eth0", "rss.table"):      {Status: knob.Denied, Reason: "operation not permitted"},
	}
	for q := range 4 {
		states[knob.Rx("eth0", q, "irq.affinity")] = knob.State{Value: "0-7", Bounds: knob.Bounds{CPUs: "0-7"}}
		states[knob.Rx("eth0", q, "rps.cpus")] = knob.State{Value: "", Bounds: knob.Bounds{CPUs: "0-7"}}
	}
	states[knob.Rx("eth0", 3, "irq.affinity")] = knob.State{Value: "1", Bounds: knob.Bounds{CPUs: "0-7"}}
	return states
}

func stackedFindings() []plan.Finding {
	return []plan.Finding{
		{ID: "virtio-queues-unused", Severity: plan.Note, Subject: "eth0", Claim: "The device could have 8 queues, the driver uses 4.",
			Operator: "Give the guest as many queues as CPUs, e.g. queues=8 with libvirt.", Missing: []string{"virtio features: run as root"}},
		{ID: "irq-stacked", Severity: plan.Problem, Subject: "eth0", Claim: "4 of 4 queue interrupts of eth0 fire on CPU 0, which takes 61% of NET_RX and is 12% idle.",
			Evidence: []plan.Evidence{
				{Metric: "share of NET_RX on CPU 0", Value: 61, Unit: "%", Threshold: 40, Source: "/proc/softirqs"},
				{Metric: "interrupts on CPU 0", Value: 10600, Unit: "/s", Source: "/proc/interrupts"},
			}},
		{ID: "softirq-imbalance", Severity: plan.Advice, Subject: "host", Claim: "One of 8 CPUs does most of the work.", Because: "irq-stacked/eth0", Low: true,
			Evidence: []plan.Evidence{{Metric: "max/mean", Value: 4.88, Unit: "", Source: "/proc/softirqs"}}},
	}
}

func stackedPlan() plan.Plan {
	p := plan.Plan{Fingerprint: "f00d", Profile: "balanced", Complete: true, Applyable: true}
	p.Origin = &plan.Origin{BootID: "0f0e", Release: "6.12.8", Devices: []plan.OriginDevice{{Name: "eth0", Driver: "virtio_net", Bus: "0000:00:03.0", Index: 2, Queues: 4}}}
	for q := range 4 {
		p.Changes = append(p.Changes, plan.Change{
			Seq: q + 1, Ref: knob.Rx("eth0", q, "irq.affinity"), Before: "0-7", After: string(rune('0' + 2*q)), Stage: "affinity", Disruption: "none",
			Findings: []string{"irq-stacked"}, Why: "CPU 0 takes 61% of NET_RX, CPU " + string(rune('0'+2*q)) + " less than 1%",
			Shell:  "echo " + string(rune('0'+2*q)) + " > /proc/irq/" + string(rune('5'+q)) + "/smp_affinity_list",
			Expect: plan.Expect{Metric: "net_rx_share_max", Direction: "down"},
		})
	}
	p.Changes = append(p.Changes,
		plan.Change{Seq: 5, Ref: knob.Device("eth0", "rss.table"), Before: strings.Repeat("0,1,", 63) + "0,1", After: strings.Repeat("0,1,2,3,", 31) + "0,1,2,3",
			Stage: "rss", Disruption: "packets", Findings: []string{"rss-unused-queues"}, Why: "2 of 4 queues are in no slot"},
		plan.Change{Seq: 6, Ref: knob.Global("net.core.netdev_budget"), Before: "5000", After: "300", Stage: "sysctl", Disruption: "none",
			Findings: []string{"budget-oversized"}, Why: "one run may hold the CPU for as long as 5,000 packets take", Shell: "sysctl -w net.core.netdev_budget=300"},
	)
	for q := range 4 {
		p.Kept = append(p.Kept, plan.Kept{Ref: knob.Tx("eth0", q, "xps.cpus"), Value: "0-7", Findings: []string{"xps-mismatch"}})
	}
	p.Blocked = []plan.Blocked{{Ref: knob.Device("eth0", "channels.combined"), Want: "8", Reason: "the device has 4 at most", Findings: []string{"virtio-queues-unused"}}}
	p.Deferred = []plan.Deferred{{Ref: knob.Rx("eth0", 0, "rps.cpus"), Reason: "to be decided once the queues are spread"}}
	p.Conflicts = []plan.Conflict{{Ref: knob.Device("eth0", "ring.rx"), Values: []string{"512", "1024"}, Rules: []string{"rx-ring-overrun", "other"}}}
	return p
}

func stackedAdvice() Advice { return NewAdvice(stacked(), stackedFindings(), stackedPlan()) }

// healthy is the same host without findings, changes or gaps.
func healthy() Advice {
	o := stacked()
	o.Gaps, o.Last.Gaps = nil, nil
	return NewAdvice(o, nil, plan.Plan{Profile: "balanced", Complete: true})
}

// blind is a host that told next to nothing.
func blind() Advice {
	return NewAdvice(&detect.Observation{Last: &detect.Snapshot{}, Samples: 1}, nil, plan.Plan{})
}

// textCases are all documents that have a text form.
func textCases() map[string]func(io.Writer, Style) error {
	text := func(a Advice) func(io.Writer, Style) error {
		return func(w io.Writer, s Style) error { return Text(w, a, s) }
	}
	return map[string]func(io.Writer, Style) error{
		"stacked": text(stackedAdvice()),
		"healthy": text(healthy()),
		"blind":   text(blind()),
		"map":     NewMap(stacked(), nil).Text,
		"knobs":   NewKnobs(stacked().Last, nil, nil).Text,
		"doctor":  newTestDoctor().Text,
		"probed":  text(probedAdvice()),
	}
}

func newTestDoctor() Doctor {
	return NewDoctor(stacked().Last, "1.2.3", Privileges{Known: true, UID: 1000, Missing: []string{"CAP_NET_ADMIN"}},
		[]Probe{{Name: "softirq", State: ProbeDenied, Reason: "CAP_BPF is missing"}})
}

func TestTextGoldens(t *testing.T) {
	for name, render := range textCases() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := render(&out, Style{}); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", out.String())
		})
	}
}

// Whatever the width, no line is wider, and nothing from a host reaches the
// terminal as a control character.
func TestTextFitsAndIsPrintable(t *testing.T) {
	for name, render := range textCases() {
		for _, width := range []int{60, 80, 100, 200} {
			for _, verbose := range []bool{false, true} {
				var out bytes.Buffer
				if err := render(&out, Style{Width: width, Verbose: verbose}); err != nil {
					t.Fatal(err)
				}
				for line := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\n"), "\n") {
					limit := width
					if name == "map" || name == "knobs" {
						limit = max(width, 110) // tables keep their columns on narrow terminals
					}
					if columns(line) > limit {
						t.Errorf("%s at width %d: %d columns: %q", name, width, columns(line), line)
					}
					if strings.ContainsFunc(line, unicode.IsControl) || strings.TrimRight(line, " ") != line {
						t.Errorf("%s: unclean line %q", name, line)
					}
				}
			}
		}
	}
}

// Colours change the looks and not a word.
func TestColor(t *testing.T) {
	for name, render := range textCases() {
		var plain, colored bytes.Buffer
		if err := render(&plain, Style{}); err != nil {
			t.Fatal(err)
		}
		if err := render(&colored, Style{Color: true}); err != nil {
			t.Fatal(err)
		}
		if plain.String() == colored.String() && name != "blind" {
			t.Errorf("%s: no colours", name)
		}
		if diff := cmp.Diff(plain.String(), stripSGR(colored.String())); diff != "" {
			t.Errorf("%s (-plain +colored):\n%s", name, diff)
		}
	}
}

func stripSGR(text string) string {
	var b strings.Builder
	for text != "" {
		before, after, found := strings.Cut(text, "\x1b[")
		b.WriteString(before)
		if !found {
			break
		}
		_, text, _ = strings.Cut(after, "m")
	}
	return b.String()
}

// documents are all documents that have a JSON form, by name of their schema.
func documents() map[string][]struct {
	name  string
	value any
} {
	type doc = struct {
		name  string
		value any
	}
	blindSnapshot := &detect.Snapshot{}
	blindObservation := &detect.Observation{Last: blindSnapshot, Samples: 1}
	return map[string][]doc{
		"advice":      {{"stacked", stackedAdvice()}, {"healthy", healthy()}, {"blind", blind()}, {"probed", probedAdvice()}},
		"map":         {{"map", NewMap(stacked(), nil)}, {"map-probed", NewMap(probedObservation(), nil)}, {"map-blind", NewMap(blindObservation, nil)}},
		"knobs":       {{"knobs", NewKnobs(stacked().Last, nil, func(r knob.Ref) (string, bool) { return "300", r.Dev == "" })}, {"knobs-blind", NewKnobs(blindSnapshot, nil, nil)}},
		"transaction": {{"transaction", appliedTransaction()}, {"transaction-dirty", dirtyTransaction()}},
		"status":      {{"status", testStatus()}, {"status-none", NewStatus(nil)}},
		"history":     {{"history", testHistory()}, {"history-none", NewHistory(nil, 0)}},
		"doctor":      {{"doctor", newTestDoctor()}, {"doctor-blind", NewDoctor(blindSnapshot, "", Privileges{UID: -1}, nil)}},
	}
}

func TestJSONGoldensMatchTheSchemas(t *testing.T) {
	for schema, docs := range documents() {
		compiled := compileSchema(t, schema)
		for _, d := range docs {
			t.Run(d.name, func(t *testing.T) {
				var out bytes.Buffer
				if err := JSON(&out, d.value); err != nil {
					t.Fatal(err)
				}
				golden(t, d.name+".json", out.String())
				if strings.Contains(out.String(), ": null") && schema == "advice" {
					t.Errorf("null in %s", out.String())
				}
				if err := compiled.Validate(decode(t, out.Bytes())); err != nil {
					t.Errorf("%#v", err)
				}
			})
		}
	}
}

func compileSchema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "..", "testdata", "schema", name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// The schemas must be able to refuse: a document with a field missing, added
// or null does not pass.
func TestSchemaRefuses(t *testing.T) {
	schema := compileSchema(t, "advice")
	for name, spoil := range map[string]func(map[string]any){
		"missing": func(m map[string]any) { delete(m, "gaps") },
		"added":   func(m map[string]any) { m["surprise"] = 1 },
		"null":    func(m map[string]any) { m["findings"] = nil },
		"verdict": func(m map[string]any) { m["verdict"] = "fine" },
	} {
		var out bytes.Buffer
		if err := JSON(&out, stackedAdvice()); err != nil {
			t.Fatal(err)
		}
		document := decode(t, out.Bytes()).(map[string]any)
		spoil(document)
		if schema.Validate(document) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// YAML and JSON say the same.
func TestYAMLEqualsJSON(t *testing.T) {
	for _, docs := range documents() {
		for _, d := range docs {
			var asJSON, asYAML bytes.Buffer
			if err := JSON(&asJSON, d.value); err != nil {
				t.Fatal(err)
			}
			if err := YAML(&asYAML, d.value); err != nil {
				t.Fatal(err)
			}
			var fromYAML any
			if err := yaml.Unmarshal(asYAML.Bytes(), &fromYAML); err != nil {
				t.Fatalf("%s: %v\n%s", d.name, err, asYAML.String())
			}
			back, err := json.Marshal(fromYAML)
			if err != nil {
				t.Fatal(err)
			}
			want, got := decode(t, asJSON.Bytes()), decode(t, back)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-json +yaml):\n%s", d.name, diff)
			}
		}
	}
}

func TestShellGolden(t *testing.T) {
	a := stackedAdvice()
	a.Live = true
	var out bytes.Buffer
	if err := Shell(&out, a); err != nil {
		t.Fatal(err)
	}
	golden(t, "stacked.sh", out.String())
}

// Numbers of interrupts change at boot: a script with one runs on the same boot
// only, and one without is a script for every boot.
func TestShellGuards(t *testing.T) {
	for name, test := range map[string]struct{ live, irqs, boot bool }{
		"live, with interrupts": {true, true, true}, "live, without": {true, false, false}, "captured": {false, true, false},
	} {
		a := stackedAdvice()
		a.Live = test.live
		if !test.irqs {
			a.Plan.Changes = slices.DeleteFunc(a.Plan.Changes, func(c plan.Change) bool { return c.Ref.Kind == "irq.affinity" })
		}
		var out bytes.Buffer
		if err := Shell(&out, a); err != nil {
			t.Fatal(err)
		}
		if boot, release := strings.Contains(out.String(), "boot_id"), strings.Contains(out.String(), "uname -r"); boot != test.boot || release == test.boot {
			t.Errorf("%s: tied to the boot: %v, to the kernel: %v", name, boot, release)
		}
	}
}

// A script runs only what the plan holds: texts from the host stay in comments
// and quotes, whatever they contain.
func TestShellIsNotInjectable(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must have sh")
		}
		t.Skip("no sh on this machine")
	}
	dir := t.TempDir()
	evil := "x\necho pwned >" + dir + "/pwned\n'\"$(echo pwned >" + dir + "/pwned)`echo pwned >" + dir + "/pwned`"
	a := Advice{
		Live: true, BootID: evil, Host: Host{Release: evil},
		Plan: plan.Plan{Profile: evil, Changes: []plan.Change{{
			Ref: knob.Device(evil, "ring.rx"), Before: evil, After: evil, Why: evil, Findings: []string{evil}, Disruption: evil,
		}, {Ref: knob.Rx(evil, 0, "irq.affinity"), Shell: ": /proc/irq/1"}}, Blocked: []plan.Blocked{{Ref: knob.Device(evil, "ring.tx"), Want: evil, Reason: evil}}},
	}
	var out bytes.Buffer
	if err := Shell(&out, a); err != nil {
		t.Fatal(err)
	}
	// The guards must hold the script up; without them it must still be harmless.
	unguarded := strings.ReplaceAll(out.String(), "exit 1", ":")
	for _, script := range []string{out.String(), unguarded} {
		command := exec.Command(sh, "-c", script)
		command.Env = []string{"PATH=" + os.Getenv("PATH")}
		_ = command.Run()
	}
	if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
		t.Errorf("text from the host was run:\n%s", out.String())
	}
	if err := exec.Command(sh, "-n", "-c", out.String()).Run(); err != nil {
		t.Errorf("not a shell script: %v\n%s", err, out.String())
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		name     string
		findings []plan.Finding
		changes  int
		want     string
	}{
		{"nothing", nil, 0, Healthy},
		{"note", []plan.Finding{{Severity: plan.Note}}, 0, Healthy},
		{"note with a change", []plan.Finding{{Severity: plan.Note}}, 1, Advised},
		{"advice", []plan.Finding{{Severity: plan.Note}, {Severity: plan.Advice}}, 0, Advised},
		{"problem", []plan.Finding{{Severity: plan.Problem}, {Severity: plan.Advice}}, 1, Problem},
	} {
		if got := verdict(test.findings, plan.Plan{Changes: make([]plan.Change, test.changes)}); got != test.want {
			t.Errorf("%s: verdict %q, want %q", test.name, got, test.want)
		}
	}
}

func TestGapsAreSummedUp(t *testing.T) {
	a := blind()
	for _, dev := range []string{"a", "b", "c", "d", "e", "f"} {
		a.Gaps = append(a.Gaps, detect.Gap{Source: "ethtool -l " + dev, Reason: "not captured"})
	}
	var out bytes.Buffer
	if err := Text(&out, a, Style{}); err != nil {
		t.Fatal(err)
	}
	if want := "  - ethtool -l a, ethtool -l b, ethtool -l c and 3 more: not captured\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in:\n%s", want, out.String())
	}
	if strings.Contains(out.String(), "root") {
		t.Errorf("root is proposed though nothing was refused:\n%s", out.String())
	}
}

type failingWriter struct{ after int }

func (f *failingWriter) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestWriteErrorsAreReturned(t *testing.T) {
	for name, render := range textCases() {
		if err := render(&failingWriter{after: 3}, Style{}); err == nil {
			t.Errorf("%s: a failing writer went unnoticed", name)
		}
	}
	if JSON(&failingWriter{}, 1) == nil || YAML(&failingWriter{}, 1) == nil || Shell(&failingWriter{after: 2}, stackedAdvice()) == nil {
		t.Error("a failing writer went unnoticed")
	}
}
