package faults

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every fault is tried on two machines of different shape that can be booted, and says what it
// expects; a machine is made healthy in one way.
func TestTable(t *testing.T) {
	machines, seen, prepare := map[string]map[string]bool{}, map[string]bool{}, map[string]string{}
	fast := 0
	for _, f := range Table() {
		name := f.Machine.String()
		if seen[f.Name+name] {
			t.Errorf("%s is twice on %s", f.Name, name)
		}
		seen[f.Name+name] = true
		if _, err := f.Machine.Normalize(); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		if was, known := prepare[name]; known && was != f.Prepare {
			t.Errorf("%s is made healthy in two ways", name)
		}
		prepare[name] = f.Prepare
		if f.Finding != "" && (f.Inject == "" || len(f.Changes) == 0 || f.Looks > 0) || f.Finding == "" && (len(f.Changes) > 0 || f.Looks == 0) {
			t.Errorf("%s: injection %q, finding %q and changes %q do not belong together", f.Name, f.Inject, f.Finding, f.Changes)
		}
		for _, pattern := range slices.Concat(f.Changes, f.Beside) {
			if _, err := path.Match(pattern, ""); err != nil {
				t.Errorf("%s: %q: %v", f.Name, pattern, err)
			}
		}
		if f.Fast {
			fast++
		}
		kind := strings.Split(f.Name, ",")[0]
		if machines[kind] == nil {
			machines[kind] = map[string]bool{}
		}
		shape := f.Machine
		shape.Kernel = ""
		machines[kind][shape.String()] = true
	}
	// Other kernels are tried, but no other shape, where it was not found out yet that
	// another one brings the fault about.
	const limits = "loads and limits were measured for one CPU and six NAPIs"
	single := map[string]string{
		"RPS mask of the interrupt's own core":       "RPS masks can be wrong in several ways, and another is tried on two machines",
		"packet budget too small for six busy NAPIs": limits,
		"time limit too small for busy NAPIs":        limits,
	}
	for kind, on := range machines {
		if why := single[kind]; (len(on) < 2) != (why != "") {
			t.Errorf("%s is tried on machines of %d shapes; it may be one because: %q", kind, len(on), why)
		}
	}
	if fast < 4 {
		t.Errorf("the fast part has %d rows", fast)
	}
}

// Every machine is looked at ten times while nothing is wrong with it.
func TestControls(t *testing.T) {
	looks := map[string]int{}
	for _, f := range Table() {
		if f.Finding == "" && f.Inject == "" {
			looks[f.Machine.String()] += f.Looks
		} else {
			looks[f.Machine.String()] += 0
		}
	}
	for name, n := range looks {
		if n < 10 {
			t.Errorf("%s is looked at %d times while healthy", name, n)
		}
	}
}

// A row is judged by the defaults but for the thresholds that it names.
func TestPolicy(t *testing.T) {
	if text := (Fault{}).policy(); text != "" {
		t.Errorf("a row without thresholds has the policy %q", text)
	}
	if text := Policy("latency"); strings.Contains(text, "thresholds") || !strings.Contains(text, "extends: latency\n") {
		t.Errorf("without thresholds:\n%s", text)
	}
	for _, f := range Table() {
		text := f.policy()
		if text == "" {
			continue
		}
		for _, slow := range f.Slow {
			if slow.Why == "" || strings.Contains(slow.Why, ":") || !strings.Contains(text, slow.Name+":\n    value: ") {
				t.Errorf("%s: threshold %+v in\n%s", f.Name, slow, text)
			}
		}
	}
}

func TestParseJudgement(t *testing.T) {
	got, err := parseJudgement([]byte(`{"verb":"apply","measured":{"verdict":"better","reason":"less loss","figures":[]}}`))
	if want := (Judgement{Verdict: "better", Reason: "less loss"}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	got, err = parseJudgement([]byte(`{"measured":{"verdict":"better","load_basis":"of a CPU","load":[{"predicted":0.1,"after":0.3},{"predicted":0,"after":0.1},{"after":0.6}]}}`))
	if err != nil || got.Busiest < 0.749 || got.Busiest > 0.751 {
		t.Errorf("%+v, %v; want three quarters", got, err)
	}
	for _, bad := range []string{"", "{}", `{"measured":1}`} {
		if got, err := parseJudgement([]byte(bad)); err == nil {
			t.Errorf("%q is taken: %+v", bad, got)
		}
	}
}

func FuzzParseJudgement(f *testing.F) {
	f.Add([]byte(`{"measured":{"verdict":"worse","reason":"more loss"}}`))
	f.Add([]byte(`{"measured":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := parseJudgement(text); err != nil && got != (Judgement{}) {
			t.Errorf("%v and %+v", err, got)
		}
	})
}

func TestParseSoftnet(t *testing.T) {
	const text = "00000010 00000002 00000001 0 0 0 0 0 0 00000005 00000000 00000000 00000000 0 0\n" +
		"ffffffff 00000000 00000000 0 0 0 0 0 0 00000000 00000000 00000000 00000003 0 0\n"
	c, err := parseSoftnet([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Counters{Processed: map[int]uint64{0: 16, 3: 0xffffffff}, Dropped: map[int]uint64{0: 2, 3: 0}, Squeezed: map[int]uint64{0: 1, 3: 0},
		Steered: map[int]uint64{0: 5, 3: 0}, Sent: map[int]uint64{}, Queues: map[string]uint64{}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	later := want
	later.Processed = map[int]uint64{0: 20, 3: 4}
	if diff := cmp.Diff(map[int]uint64{0: 4, 3: 5}, later.since(c).Processed); diff != "" {
		t.Errorf("a counter of 32 bits that wrapped (-want +got)\n%s", diff)
	}
	for _, bad := range []string{"1 2 3\n", strings.Repeat("x ", 13)} {
		if _, err := parseSoftnet([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseSoftnet(f *testing.F) {
	f.Add([]byte("00000010 00000002 00000001 0 0 0 0 0 0 00000005 00000000 00000000 00000000"))
	f.Add([]byte("1 2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseSoftnet(text); err == nil && c.Processed == nil {
			t.Error("no error and no counters")
		}
	})
}

func TestBusiest(t *testing.T) {
	const before = "cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 10 0 10 100 0 5 5 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\nintr 5\n"
	const after = "cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 10 0 10 170 0 15 25 0 0 0\ncpu1 0 0 0 190 0 0 10 0 0 0\nintr 9\n"
	if got, err := busiest([]byte(before), []byte(after)); err != nil || got != 0.3 {
		t.Errorf("%v, %v; want 0.3: 30 of 100 ticks of CPU 0", got, err)
	}
	for _, bad := range []string{"cpu0 1 2\n", "cpux 1 2 3 4 5 6 7 8\n", "cpu0 1 2 3 4 5 6 -7 8\n"} {
		if _, err := busiest([]byte(before), []byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseTicks(f *testing.F) {
	f.Add([]byte("cpu0 10 0 10 100 0 5 5 0 0 0\n"))
	f.Add([]byte("cpu1 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		packets, all, err := parseTicks(text)
		for cpu := range packets {
			if _, known := all[cpu]; !known || err != nil {
				t.Errorf("CPU %d, error %v", cpu, err)
			}
		}
	})
}

func TestParseStatistics(t *testing.T) {
	got := parseStatistics([]byte("NIC statistics:\n     rx_queue_0_packets: 12\n     rx_queue_0_bytes: 700\n     tx1_packets: 3\n"))
	if diff := cmp.Diff(map[string]uint64{"rx0_packets": 12, "tx1_packets": 3}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseQdiscs(t *testing.T) {
	const text = `[{"kind":"mq","handle":"8001:","root":true,"packets":5},{"kind":"fq_codel","handle":"0:","parent":":a","packets":2},
		{"kind":"fq_codel","handle":"0:","parent":"8001:1","packets":3}]`
	got, err := parseQdiscs([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]uint64{0: 3, 9: 2}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzParseQdiscs(f *testing.F) {
	f.Add([]byte(`[{"kind":"fq_codel","parent":":1","packets":3}]`))
	f.Add([]byte(`[{"parent":"1:","packets":-1}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		queues, err := parseQdiscs(text)
		for queue := range queues {
			if queue < 0 || err != nil {
				t.Errorf("queue %d, error %v", queue, err)
			}
		}
	})
}

func FuzzParseAdvice(f *testing.F) {
	f.Add([]byte(`{"findings":[{"id":"irq-stacked","severity":"advice"}],"plan":{"changes":[{"ref":"a"}]},"placement":[{"cpus":[{"predicted":0.2}]}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if a, err := parseAdvice(text); err == nil && a.Predicted < 0 {
			t.Errorf("a share of %v", a.Predicted)
		}
	})
}

func TestParseAdvice(t *testing.T) {
	a, err := parseAdvice([]byte(`{"findings":[{"id":"irq-stacked","severity":"advice","subject":"CPU 0"},{"id":"x","severity":"note","subject":"y"}],
		"plan":{"changes":[{"ref":"eth0/rx-1/irq.affinity","before":"0","after":"1"}],"blocked":[{"ref":"r","reason":"fixed"}]},
		"placement":[{"cpus":[{"predicted":0.3},{"predicted":0.1}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if !a.finds("irq-stacked") || a.finds("irq-smeared") || a.finds("x") || a.Predicted < 0.74 || a.Predicted > 0.76 {
		t.Errorf("%+v", a)
	}
	if diff := cmp.Diff([]string{"irq-stacked CPU 0"}, a.alarms()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	all, beyond, missed := match(append(a.Changes, Change{Ref: "net.core.netdev_budget"}), []string{"eth0/[rt]x-*/irq.affinity", "eth0/rss.table"})
	if len(all) != 2 || len(beyond) != 1 || len(missed) != 1 {
		t.Errorf("changes %q, beyond need %q, missed %q", all, beyond, missed)
	}
}

func TestSettingsDiff(t *testing.T) {
	was := Settings{"/proc/irq/1/smp_affinity_list": "0\n", "ethtool -k eth0": "Features:\na: on\nb: off\n", "/same": "1"}
	is := Settings{"/proc/irq/1/smp_affinity_list": "1\n", "ethtool -k eth0": "Features:\na: on\nb: on\n", "/same": "1", "/new": "2"}
	want := []string{"/new:  → 2", "/proc/irq/1/smp_affinity_list: 0 → 1", "ethtool -k eth0: b: off → b: on"}
	if diff := cmp.Diff(want, was.Diff(is)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A result is held to every demand of its row.
func TestJudge(t *testing.T) {
	f := Fault{Finding: "irq-stacked", Subject: "CPU 0", Beside: []string{"cpu-*"}, Changes: []string{"eth0/*/irq.affinity"}, Metric: maxShare()}
	good := Result{Found: true, Alarms: []string{"irq-stacked CPU 0", "cpu-saturated CPU 0", "ksoftirqd-busy CPU 1"}, Healthy: 0.25, Faulty: 1, Treated: 0.26, Predicted: 0.25, Measured: 0.26}
	if got := good.Judge(f); len(got) > 0 {
		t.Errorf("a good result: %q", got)
	}
	for name, spoil := range map[string]func(*Result){
		"not found":   func(r *Result) { r.Found = false },
		"false alarm": func(r *Result) { r.FalseOnes = []string{"y"} },
		"elsewhere":   func(r *Result) { r.Alarms = []string{"irq-stacked CPU 1"} },
		"strange":     func(r *Result) { r.Alarms = append(slices.Clone(r.Alarms), "irq-smeared eth0") },
		"too much":    func(r *Result) { r.Beyond = []string{"y"} },
		"too little":  func(r *Result) { r.Missed = []string{"x"} },
		"foretold":    func(r *Result) { r.Predicted = 0 },
		"unmeasured":  func(r *Result) { r.Measured = 0 },
		"no fault":    func(r *Result) { r.Faulty = 0.26 },
		"not mended":  func(r *Result) { r.Treated = 0.4 },
		"prediction":  func(r *Result) { r.Measured = 0.35 },
		"not undone":  func(r *Result) { r.Differs = []string{"z"} },
		"kill":        func(r *Result) { r.Killed = []string{"z"} },
		"split pairs": func(r *Result) { r.Split = []string{"q"} },
		"error":       func(r *Result) { r.Error = "e" },
		"verdict":     func(r *Result) { r.Verdict = "worse" },
	} {
		bad := good
		spoil(&bad)
		if got := bad.Judge(f); len(got) == 0 {
			t.Errorf("%s: no complaint", name)
		}
	}
}
