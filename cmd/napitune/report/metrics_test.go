package report

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect"
)

var (
	metricName  = regexp.MustCompile(`^napitune_[a-z][a-z0-9_]*$`)
	metricLabel = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	labelPair   = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"`)
	sampleLine  = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:` + labelPair.String() + `)(?:,` + labelPair.String() + `)*)\})? (\S+)$`)
)

// checkExposition holds text against the rules of the text format that a
// collector would drop the file for: each family once, HELP and TYPE before its
// samples and the samples together, no series twice, values that are numbers.
func checkExposition(text string) error {
	if !utf8.ValidString(text) || text != "" && !strings.HasSuffix(text, "\n") {
		return fmt.Errorf("not UTF-8, or the last line has no end")
	}
	done, series := map[string]bool{}, map[string]bool{}
	family, helped := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			helped, _, _ = strings.Cut(name, " ")
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != helped || done[name] || kind != "gauge" {
				return fmt.Errorf("%q: after HELP of %s", line, helped)
			}
			family, done[name] = name, true
			continue
		}
		parts := sampleLine.FindStringSubmatch(line)
		if parts == nil || parts[1] != family {
			return fmt.Errorf("%q is no sample of %q", line, family)
		}
		if _, err := strconv.ParseFloat(parts[len(parts)-1], 64); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if id := parts[1] + "{" + parts[2]; series[id] {
			return fmt.Errorf("%q is there twice", id)
		} else {
			series[id] = true
		}
	}
	return nil
}

func metrics() Metrics {
	return Metrics{
		Version: "1.2.3", Profile: "edge", Standing: 5, Differing: 1, Finished: 1.5e9, Drifted: 2,
		Transactions: map[string]int{"confirmed": 2, "rolled-back": 1},
		Findings: []Finding{
			{ID: "irq-stacked", Severity: "problem", Subject: "CPU 0"},
			{ID: "irq-stacked", Severity: "problem", Subject: "CPU 0"},
			{ID: "gro-off", Severity: "note", Subject: "a\"b\\c\n\xff"},
		},
		Observation: &detect.Observation{
			Basis: detect.BasisWindow, Window: 10 * time.Second,
			Softnet: map[int]detect.SoftnetDelta{0: {Processed: 100, Dropped: 10}, 1: {Processed: 100, Squeezed: 1}},
			CPU:     map[int]detect.CPUShare{0: {Softirq: 0.25, IRQ: 0.25}, 1: {Softirq: 0.1}},
			Device:  map[string]detect.DeviceDelta{"eth0": {Known: true, Counters: detect.InterfaceCounters{RxPackets: 50, RxDropped: 4, RxMissed: 5, RxFIFO: 5}}, "gone": {}},
		},
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := metrics().Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := checkExposition(b.String()); err != nil {
		t.Errorf("%v in\n%s", err, b.String())
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`napitune_build_info{version="1.2.3"} 1`,
		`napitune_last_run_timestamp_seconds 1.5e+09`,
		`napitune_window_seconds 10`,
		`napitune_findings{severity="problem"} 2`, `napitune_findings{severity="advice"} 0`, `napitune_findings{severity="note"} 1`,
		`napitune_finding{id="gro-off",severity="note",subject="a\"b\\c\n` + "\uFFFD" + `"} 1`,
		`napitune_finding{id="irq-stacked",severity="problem",subject="CPU 0"} 1`,
		`napitune_advised_changes 0`,
		`napitune_boot_profile_info{name="edge"} 1`,
		`napitune_boot_profile_valid 1`,
		`napitune_boot_profile_settings{state="standing"} 5`, `napitune_boot_profile_settings{state="differing"} 1`,
		`napitune_boot_profile_settings{state="impossible"} 0`,
		`napitune_transactions{state="confirmed"} 2`, `napitune_transactions{state="rolled-back"} 1`,
		`napitune_drifted_settings 2`,
		`napitune_softnet_packets_per_second 20`, `napitune_softnet_drops_per_second 1`, `napitune_softnet_squeezes_per_second 0.1`,
		`napitune_busiest_cpu_softirq_ratio 0.5`,
		`napitune_device_receive_packets_per_second{device="eth0"} 5`,
		`napitune_device_receive_drops_per_second{device="eth0"} 0.5`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A large host has as many samples as a small one, but for two of each device
// in use: nothing is exported for every interrupt or every CPU.
func TestMetricsAreFew(t *testing.T) {
	t.Parallel()
	samples := func(cpus, interrupts int) int {
		m := metrics()
		o := m.Observation
		o.IRQ, o.NetRx, o.NetTx, o.Interrupt = map[int]detect.IRQDelta{}, map[int]uint64{}, map[int]uint64{}, map[int]uint64{}
		for irq := range interrupts {
			o.IRQ[irq] = detect.IRQDelta{Total: 1, CPU: map[int]uint64{irq % cpus: 1}}
		}
		for cpu := range cpus {
			o.Softnet[cpu] = detect.SoftnetDelta{Processed: 100}
			o.CPU[cpu] = detect.CPUShare{Softirq: 0.1}
			o.NetRx[cpu], o.NetTx[cpu], o.Interrupt[cpu] = 1, 1, 1
		}
		var b strings.Builder
		if err := m.Write(&b); err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(b.String()) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	if few, many := samples(2, 20), samples(1152, 3937); many != few {
		t.Errorf("%d samples with 3937 interrupts on 1152 CPUs, %d with 20 on 2", many, few)
	}
}

// Every family is written, is named as Prometheus names gauges, and is in the
// manual.
func TestMetricFamilies(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := metrics().Write(&b); err != nil {
		t.Fatal(err)
	}
	help := MetricsHelp()
	units := []string{"_seconds", "_per_second", "_ratio", "_info"}
	for _, f := range MetricFamilies() {
		if !metricName.MatchString(f.Name) || strings.HasSuffix(f.Name, "_total") || slices.ContainsFunc(f.Labels, func(l string) bool { return !metricLabel.MatchString(l) }) {
			t.Errorf("name %s, labels %v", f.Name, f.Labels)
		}
		for _, word := range []string{"_ms", "_usecs", "_percent", "_milliseconds"} {
			if strings.HasSuffix(f.Name, word) {
				t.Errorf("%s has no base unit (%v)", f.Name, units)
			}
		}
		if !strings.Contains(b.String(), "\n"+f.Name) || !strings.Contains(help, f.Name) || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s is not written or not documented", f.Name)
		}
	}
}

// The check itself finds what a collector would not take.
func TestCheckExposition(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"x 1\n", "# HELP x y\n# TYPE x gauge\nx one\n", "# HELP x y\n# TYPE x gauge\nx 1\nx 2\n", "# TYPE x gauge\nx 1\n",
		"# HELP x y\n# TYPE x gauge\nx{a=\"b} 1\n", "# HELP x y\n# TYPE x gauge\nx 1", "# HELP x y\n# TYPE x gauge\nx{a=\"\\t\"} 1\n",
	} {
		if checkExposition(text) == nil {
			t.Errorf("no complaint about %q", text)
		}
	}
}

// No name of a device or finding can break the file.
func FuzzMetrics(f *testing.F) {
	for _, seed := range []string{"eth0", "a\"b", "\\", "\n# TYPE x counter\n", "\xff\x00"} {
		f.Add(seed, 1.5)
	}
	f.Add("x", math.NaN())
	f.Fuzz(func(t *testing.T, name string, value float64) {
		m := metrics()
		m.Profile, m.Version, m.Finished = name, name, value
		m.Findings[0].Subject = name
		m.Observation.Device[name] = detect.DeviceDelta{Known: true}
		var b strings.Builder
		if err := m.Write(&b); err != nil {
			t.Fatal(err)
		}
		if err := checkExposition(b.String()); err != nil {
			t.Errorf("%v in\n%s", err, b.String())
		}
	})
}
