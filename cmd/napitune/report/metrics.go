package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

// Metrics is what node_exporter's textfile collector is told
// (https://prometheus.io/docs/instrumenting/exposition_formats/, text format
// 0.0.4). Names and meanings are in MetricFamilies.
type Metrics struct {
	Version     string
	Observation *detect.Observation
	Findings    []Finding
	Plan        plan.Plan
	// Profile is the name of the boot profile in force, "" for none.
	Profile string
	// Standing, Differing and Impossible count its settings.
	Standing, Differing, Impossible int
	// ProfileUnreadable: a profile is in force and cannot be read wholly.
	ProfileUnreadable bool
	// Transactions counts those of this boot by state; Drifted are settings
	// that somebody else changed since.
	Transactions map[string]int
	Drifted      int
	// Finished is the time of the run in seconds since the epoch.
	Finished float64
}

// MetricFamily documents one metric.
type MetricFamily struct {
	Name, Help string
	// Labels are in the order of writing.
	Labels []string
}

// MetricFamilies are all metrics, in the order of writing. All are gauges: the
// counters of the kernel that they are made from are node_exporter's own.
func MetricFamilies() []MetricFamily {
	return []MetricFamily{
		{"napitune_build_info", "Version of napitune; always 1.", []string{"version"}},
		{"napitune_last_run_timestamp_seconds", "When these values were measured.", nil},
		{"napitune_window_seconds", "How long was measured; 0 if the values are totals since boot.", nil},
		{"napitune_findings", "Findings by severity: problem (measured harm), advice, note.", []string{"severity"}},
		{"napitune_finding", "One finding; always 1. napitune explain ID tells what it means.", []string{"id", "severity", "subject"}},
		{"napitune_advised_changes", "Settings that napitune advises to change.", nil},
		{"napitune_boot_profile_info", "The boot profile in force; always 1.", []string{"name"}},
		{"napitune_boot_profile_valid", "1 if all of the boot profile can be read, 0 if there are mistakes in it.", nil},
		{"napitune_boot_profile_settings", "Settings of the boot profile by state: standing, differing, impossible on this host.", []string{"state"}},
		{"napitune_transactions", "Transactions of this boot by state.", []string{"state"}},
		{"napitune_drifted_settings", "Settings that napitune set and somebody else changed since.", nil},
		{"napitune_softnet_packets_per_second", "Packets that the kernel took in, over all CPUs.", nil},
		{"napitune_softnet_drops_per_second", "Packets dropped because the backlog of a CPU was full.", nil},
		{"napitune_softnet_squeezes_per_second", "Times that a CPU stopped polling because its budget was used up.", nil},
		{"napitune_busiest_cpu_softirq_ratio", "Share of its time that the busiest CPU spent in interrupts and softirqs.", nil},
		{"napitune_device_receive_packets_per_second", "Packets that a device received.", []string{"device"}},
		{"napitune_device_receive_drops_per_second", "Packets that a device or its driver lost: the largest of dropped, missed, FIFO and ring overruns, since drivers count one loss under several names.", []string{"device"}},
	}
}

// sample is one line: values of the labels, and the value.
type sample struct {
	labels []string
	value  float64
}

// Write writes the metrics that there are values for.
func (m Metrics) Write(w io.Writer) error {
	p := &page{w: w}
	values := m.values()
	for _, family := range MetricFamilies() {
		samples := values[family.Name]
		if len(samples) == 0 {
			continue
		}
		p.line("# HELP " + family.Name + " " + escapeHelp(family.Help))
		p.line("# TYPE " + family.Name + " gauge")
		for _, s := range samples {
			p.line(family.Name + labelText(family.Labels, s.labels) + " " + strconv.FormatFloat(s.value, 'g', -1, 64))
		}
	}
	return p.err
}

func labelText(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	var parts []string
	for i, name := range names {
		parts = append(parts, name+`="`+escapeLabel(values[i])+`"`)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// escapeLabel and escapeHelp are as in the text format. A value that is not
// UTF-8 would cost the whole file.
func escapeLabel(text string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(text, "\uFFFD"))
}

func escapeHelp(text string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(text)
}

func (m Metrics) values() map[string][]sample {
	out := map[string][]sample{}
	set := func(name string, value float64, labels ...string) {
		out["napitune_"+name] = append(out["napitune_"+name], sample{labels, value})
	}
	set("build_info", 1, m.Version)
	set("last_run_timestamp_seconds", m.Finished)
	set("advised_changes", float64(len(m.Plan.Changes)))
	set("drifted_settings", float64(m.Drifted))
	for _, state := range slices.Sorted(maps.Keys(m.Transactions)) {
		set("transactions", float64(m.Transactions[state]), state)
	}
	m.findings(set)
	if m.Profile != "" {
		set("boot_profile_info", 1, m.Profile)
		set("boot_profile_valid", boolean(!m.ProfileUnreadable))
		set("boot_profile_settings", float64(m.Standing), "standing")
		set("boot_profile_settings", float64(m.Differing), "differing")
		set("boot_profile_settings", float64(m.Impossible), "impossible")
	}
	if m.Observation != nil {
		m.rates(set)
	}
	return out
}

func boolean(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (m Metrics) findings(set func(name string, value float64, labels ...string)) {
	bySeverity := map[string]int{}
	seen := map[[3]string]bool{}
	for _, f := range m.Findings {
		bySeverity[f.Severity]++
	}
	for _, severity := range []plan.Severity{plan.Problem, plan.Advice, plan.Note} {
		set("findings", float64(bySeverity[severity.String()]), severity.String())
	}
	list := slices.Clone(m.Findings)
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Severity, b.Severity))
	})
	for _, f := range list {
		key := [3]string{f.ID, f.Severity, f.Subject}
		if !seen[key] { // the same series twice would cost the whole file
			set("finding", 1, key[:]...)
		}
		seen[key] = true
	}
}

// rates are over the window, and absent without one.
func (m Metrics) rates(set func(name string, value float64, labels ...string)) {
	o := m.Observation
	seconds := 0.0
	if o.Basis == detect.BasisWindow {
		seconds = o.Window.Seconds()
	}
	set("window_seconds", seconds)
	if seconds == 0 {
		return
	}
	var softnet detect.SoftnetDelta
	for _, d := range o.Softnet {
		softnet.Processed += d.Processed
		softnet.Dropped += d.Dropped
		softnet.Squeezed += d.Squeezed
	}
	if len(o.Softnet) > 0 {
		set("softnet_packets_per_second", float64(softnet.Processed)/seconds)
		set("softnet_drops_per_second", float64(softnet.Dropped)/seconds)
		set("softnet_squeezes_per_second", float64(softnet.Squeezed)/seconds)
	}
	busiest := 0.0
	for _, share := range o.CPU {
		busiest = max(busiest, share.Softirq+share.IRQ)
	}
	if len(o.CPU) > 0 {
		set("busiest_cpu_softirq_ratio", busiest)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Device)) {
		if d := o.Device[name]; d.Known {
			c := d.Counters
			// Drivers book the same loss under several of these names
			// (Documentation/networking/statistics.rst).
			set("device_receive_packets_per_second", float64(c.RxPackets)/seconds, name)
			set("device_receive_drops_per_second", float64(max(c.RxDropped, c.RxMissed, c.RxFIFO, c.RxOver))/seconds, name)
		}
	}
}

// MetricsHelp lists names and meanings, for the manual.
func MetricsHelp() string {
	var b strings.Builder
	for _, f := range MetricFamilies() {
		labels := ""
		if len(f.Labels) > 0 {
			labels = "{" + strings.Join(f.Labels, ",") + "}"
		}
		fmt.Fprintf(&b, "%s%s\n    %s\n", f.Name, labels, f.Help)
	}
	return b.String()
}
