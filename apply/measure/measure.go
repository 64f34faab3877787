// Package measure says what a change of settings brought: better, no different,
// worse, or that nothing can be told because the traffic changed. It compares
// sub-windows measured before with sub-windows measured after, and takes the
// noise from the repetition before. It is pure: it reads no clock and no host.
//
// A metric differs if three things hold together: its values after rank higher
// (or lower) than those before by more than chance explains, its median moved by
// more than twice the noise of the sub-windows before, and the move is large
// enough to matter. How often that errs is measured by the tests.
//
// Offered load is kept apart from what was achieved. Packets that were lost
// count as offered, so that loss never looks like less traffic. Less traffic
// without a sign of trouble is not held against a change; see Judge.
package measure

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/rules/plan"
)

// Windows is how many sub-windows a phase is cut into. Ten make chance small
// enough to be divided among some fifty metrics, and long enough each to hold
// traffic: a tenth of ten seconds is 100 ticks of USER_HZ.
const Windows = 10

// Limits of the judgement. None is a property of a host; they were chosen so
// that the tests' synthetic hosts, neutral ones and harmed ones, are told apart
// as often as the tests demand.
const (
	// familyChance is how often all tests of a host together may call chance
	// a difference; it is divided by their number (Bonferroni).
	familyChance = 0.01
	// noises is how many times the noise of the sub-windows before the median
	// must move.
	noises = 2
	// matters is the part of a value by which it must move at least.
	matters = 0.10
	// comparable is by which part the offered load may differ between the
	// phases: up to here figures are scaled, and as much more must they move.
	comparable = 0.25
	// fewPackets is the least traffic of a sub-window: counting n packets has
	// a spread of 1/√n, and below 100 that is more than what matters.
	fewPackets = 100
	// saturated and packetWork tell a CPU at its limit because of packets.
	saturated, packetWork = 0.95, 0.5
	// contended is by how much of a CPU other work may differ between the phases
	// before dearer packets may be its doing: a busy neighbour takes caches
	// and, on a shared core, up to half of it.
	contended = 0.25
	// doubled is what a neighbour cannot explain, and what no promise excuses
	// but where it is thin.
	doubled = 2.0
	// thin is up to how much of a CPU softirqs may take more altogether, by
	// whatever factor, as the price of work that is spread: under a light load
	// each of N queues finds less in a poll (net/core/dev.c, napi_poll) and needs
	// an interrupt for it, which can cost N times as much. It falls again as the
	// load grows. A guest of eight CPUs whose one queue became four: 8 % → 17 %
	// of a CPU, with 0.14 → 0.47 interrupts per packet. It is as much as other
	// work may differ without being noticed.
	thin = contended
	// ticks is by how many ticks CPU time must move: one more or less in a
	// sub-window is how the clock fell. userHZ is USER_HZ on all architectures
	// that napitune supports (include/asm-generic/param.h).
	ticks, userHZ = 2, 100
	// stolen is which part of a CPU the hypervisor may take more.
	stolen = 0.05
)

// Verdict is the answer.
type Verdict string

// Verdicts. Only Worse is a reason to roll back.
const (
	Better  Verdict = "better"
	Same    Verdict = "no different"
	Worse   Verdict = "worse"
	Unclear Verdict = "cannot tell"
)

// Figure is one metric before and after.
type Figure struct {
	Metric string `json:"metric"`
	Device string `json:"device,omitempty"`
	Title  string `json:"title"`
	Unit   string `json:"unit"`
	// Before and After are medians of the sub-windows. Where Scaled is set,
	// After is what the load before would have cost.
	Before float64 `json:"before"`
	After  float64 `json:"after"`
	Scaled bool    `json:"scaled,omitempty"`
	// Noise is how far single sub-windows before the change lay apart by
	// themselves; Needed is how far the median had to move to count.
	Noise  float64 `json:"noise"`
	Needed float64 `json:"needed"`
	// Chance is the probability that such ranks come about without a change.
	Chance  float64 `json:"chance"`
	Verdict Verdict `json:"verdict"`
	// Promised is the direction that the plan expected, Predicted its figure.
	Promised  string   `json:"promised,omitempty"`
	Predicted *float64 `json:"predicted,omitempty"`
	// Reason says why a difference was not counted.
	Reason string `json:"reason,omitempty"`

	class class
}

// Unmeasured is a metric that the plan named and that could not be measured.
type Unmeasured struct {
	Metric string `json:"metric"`
	Reason string `json:"reason"`
}

// Traffic is what was offered to the devices concerned, per second.
type Traffic struct {
	Packets float64 `json:"packets_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
}

// Load is one CPU's load: as planned and as measured. What load means is
// Report.Basis.
type Load struct {
	CPU       int      `json:"cpu"`
	Predicted *float64 `json:"predicted,omitempty"` // nil: the plan says nothing of this CPU
	Before    float64  `json:"before"`
	After     float64  `json:"after"`
}

// Settling is how the host came to the new settings.
type Settling struct {
	Seconds float64 `json:"seconds"`
	// Pending is what had not taken effect when measuring began nevertheless.
	Pending []string `json:"pending,omitempty"`
}

// Report is what measuring found.
type Report struct {
	Verdict Verdict `json:"verdict"`
	// Reason is the verdict in one sentence with figures.
	Reason string `json:"reason"`
	// Seconds is the length of a sub-window, WindowsBefore and WindowsAfter
	// how many there were.
	Seconds       float64  `json:"window_seconds"`
	WindowsBefore int      `json:"windows_before"`
	WindowsAfter  int      `json:"windows_after"`
	Devices       []string `json:"devices"`
	// Before and After are the offered load.
	Before Traffic `json:"traffic_before"`
	After  Traffic `json:"traffic_after"`
	// Changed names what else changed between the phases.
	Changed []string `json:"changed"`
	// Figures begin with what decided.
	Figures    []Figure     `json:"figures"`
	Unmeasured []Unmeasured `json:"unmeasured"`
	Basis      string       `json:"load_basis"`
	Loads      []Load       `json:"load"`
	Settling   Settling     `json:"settling"`
}

// Promise is what the plan said would happen.
type Promise struct {
	Changes []plan.Change
	// Placement is the predicted load of CPUs; nil if the plan moves none.
	Placement []plan.Placement
}

// Judge compares the sub-windows before a change with those after it.
//
// Less traffic is ambiguous: the change may have slowed it down, or nobody
// wanted more. It counts as harm only with a sign of trouble beside it: more
// loss, more retransmissions or reordering, a CPU at its limit with packets, or
// less traffic for more softirq time. Without any the verdict is Unclear and the
// changes stay. More traffic than before excuses loss and cost.
func Judge(before, after []Sample, p Promise) Report {
	j := judge{
		before: before, after: after,
		report: Report{WindowsBefore: len(before), WindowsAfter: len(after), Changed: []string{}, Figures: []Figure{}, Unmeasured: []Unmeasured{}, Devices: []string{}},
	}
	if len(before) < 2 || len(after) < 2 {
		j.report.Verdict, j.report.Reason = Unclear, "too few sub-windows were measured"
		return j.report
	}
	j.promise(p)
	j.traffic()
	j.surroundings()
	j.compare()
	j.throughput()
	j.excuse()
	j.decide()
	j.loads(p.Placement)
	slices.SortStableFunc(j.report.Figures, func(a, b Figure) int { return cmp.Compare(a.rank(), b.rank()) })
	return j.report
}

// judge is a judgement in the making.
type judge struct {
	before, after []Sample
	report        Report
	promised      map[Key]plan.Expect
	bytesOnly     bool // packets are counted differently after the change

	ratio float64 // offered load after over before
	// grew and fell: the offered load left what is comparable. caused: the
	// change did that.
	grew, fell, caused bool
	// few: too few packets to judge by, in one phase or, hardly, in both.
	few, hardly bool
	tests       int

	elsewhere, neighbours, steal bool
	// clocks: interrupts went to or from CPUs that keep softirq time otherwise.
	clocks   bool
	linkLost string
}

// promise gathers what the plan expects, per metric and device.
func (j *judge) promise(p Promise) {
	j.promised = map[Key]plan.Expect{}
	for _, c := range p.Changes {
		j.bytesOnly = j.bytesOnly || segmenting(c.Ref.Kind)
		if c.Expect.Metric == "" {
			continue
		}
		spec, known := lookup(c.Expect.Metric)
		switch {
		case !known:
			j.unmeasured(c.Expect.Metric, "napitune cannot measure it")
		case spec.perDevice:
			j.promised[Key{spec.name, c.Ref.Dev}] = c.Expect
		default:
			j.promised[Key{spec.name, ""}] = c.Expect
		}
	}
	for _, key := range sortedKeys(j.promised) {
		if len(j.series(j.before, key)) < 2 || len(j.series(j.after, key)) < 2 {
			spec, _ := lookup(key.Metric)
			j.unmeasured(key.String(), "it was not seen in both phases ("+spec.source+")")
		}
	}
}

func (j *judge) unmeasured(metric, reason string) {
	u := Unmeasured{metric, reason}
	if !slices.Contains(j.report.Unmeasured, u) {
		j.report.Unmeasured = append(j.report.Unmeasured, u)
	}
}

// series are the values of a metric; sub-windows without one are left out.
func (j *judge) series(of []Sample, key Key) series {
	var out series
	for _, s := range of {
		if v, ok := s.Values[key]; ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
			out = append(out, v)
		}
	}
	return out
}

func each(of []Sample, value func(Sample) float64) series {
	var out series
	for _, s := range of {
		if v := value(s); !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

// traffic finds out whether the phases can be compared.
func (j *judge) traffic() {
	packets := func(s Sample) float64 { return s.Packets }
	bytes := func(s Sample) float64 { return s.Bytes }
	r := &j.report
	r.Seconds = each(j.before, func(s Sample) float64 { return s.Seconds }).median()
	r.Before = Traffic{each(j.before, packets).median(), each(j.before, bytes).median()}
	r.After = Traffic{each(j.after, packets).median(), each(j.after, bytes).median()}
	j.ratio = over(r.After.Packets, r.Before.Packets)
	byBytes := over(r.After.Bytes, r.Before.Bytes)
	if j.bytesOnly {
		j.ratio = byBytes
	}
	if !j.bytesOnly {
		j.moved("packets", r.Before.Packets, r.After.Packets)
	}
	j.moved("bytes", r.Before.Bytes, r.After.Bytes)
	j.few = min(r.Before.Packets, r.After.Packets)*r.Seconds < fewPackets
	j.hardly = max(r.Before.Packets, r.After.Packets)*r.Seconds < fewPackets
	j.mix()
	for name := range links(j.before, true) {
		if links(j.after, false)[name] {
			j.linkLost = name
		}
	}
}

// moved notes an offered load that is not comparable.
func (j *judge) moved(what string, before, after float64) {
	if !apart(before, after) {
		return
	}
	if after > before {
		j.grew = true
	} else {
		j.fell = true
	}
	j.changed("offered load " + rate(before) + " → " + rate(after) + " " + what + "/s (" + percentChange(before, after) + ")")
}

// mix notices that the same amount of traffic is made of other packets.
func (j *judge) mix() {
	udp := func(s Sample) float64 { return s.UDPShare }
	before, after := each(j.before, udp).median(), each(j.after, udp).median()
	if math.Abs(after-before) > comparable && !j.grew && !j.fell {
		j.grew, j.fell = true, true
		j.changed("UDP was " + percent(before) + " of datagrams and segments received and is " + percent(after))
	}
}

// links are the devices whose link was seen in that state in the last sub-window
// of a phase.
func links(of []Sample, up bool) map[string]bool {
	out := map[string]bool{}
	for name, carrier := range of[len(of)-1].Carrier {
		if carrier == up {
			out[name] = true
		}
	}
	return out
}

// surroundings notices what makes packets dearer or cheaper without the change.
func (j *judge) surroundings() {
	median := func(value func(Sample) float64) (float64, float64) {
		return each(j.before, value).median(), each(j.after, value).median()
	}
	if b, a := median(func(s Sample) float64 { return s.Elsewhere }); apart(b, a) {
		j.elsewhere = true
		j.changed("traffic of other devices or namespaces, " + percentChange(b, a) + " for each packet here")
	}
	if b, a := median(func(s Sample) float64 { return s.OtherWork }); math.Abs(a-b) > contended && apart(b, a) {
		j.neighbours = true
		j.changed("other work took " + percent(b) + " of a CPU and takes " + percent(a))
	}
	// CPUs of nohz_full= have no tick by which softirqs are sampled: theirs count
	// as time of the system (kernel/sched/cputime.c, vtime_account_kernel).
	b, a := median(func(s Sample) float64 { return s.Tickless })
	j.clocks = math.Abs(a-b) > comparable
	if b, a := median(func(s Sample) float64 { return s.Steal }); math.Abs(a-b) > stolen {
		j.steal = true
		j.changed("the hypervisor took " + percent(b) + " of a CPU and takes " + percent(a))
	}
}

func (j *judge) changed(what string) { j.report.Changed = append(j.report.Changed, what) }

// apart: two loads differ by more than is comparable.
func apart(before, after float64) bool {
	r := over(after, before)
	return r > 1+comparable || r < 1/(1+comparable)
}

// over is a ratio in which nothing to nothing is no change.
func over(after, before float64) float64 {
	switch {
	case before == after:
		return 1
	case before == 0:
		return math.Inf(1)
	default:
		return after / before
	}
}

// keys are the metrics seen in both phases, ordered.
func (j *judge) keys() []Key {
	all := map[Key]bool{}
	for _, s := range j.before {
		for k := range s.Values {
			all[k] = true
		}
	}
	var out []Key
	for _, k := range sortedKeys(all) {
		spec, known := lookup(k.Metric)
		_, promised := j.promised[k]
		if known && (spec.class != promisedOnly || promised) && len(j.series(j.before, k)) >= 2 && len(j.series(j.after, k)) >= 2 {
			out = append(out, k)
		}
	}
	return out
}

func sortedKeys[V any](m map[Key]V) []Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Device, b.Device))
	})
}

// compare makes a figure of every metric.
func (j *judge) compare() {
	keys := j.keys()
	j.tests = max(1, len(keys))
	for _, k := range keys {
		j.report.Figures = append(j.report.Figures, j.figure(k))
	}
}

func (j *judge) figure(k Key) Figure {
	spec, _ := lookup(k.Metric)
	before, after := j.series(j.before, k), j.series(j.after, k)
	f := Figure{Metric: k.Metric, Device: k.Device, Title: spec.title, Unit: spec.unit, Verdict: Same, class: spec.class}
	if e, ok := j.promised[k]; ok {
		f.Promised, f.Predicted = e.Direction, e.Predicted
	}
	if spec.scaled && !j.grew && !j.fell && j.ratio != 1 {
		after, f.Scaled = after.scaled(1/j.ratio), true
	}
	f.Before, f.After, f.Noise = before.median(), after.median(), before.noise()
	relative := max(spec.relative, matters)
	if spec.class != throughput {
		// Packets are cheaper by the dozen: cost follows load only about.
		relative += min(comparable, math.Abs(j.ratio-1))
	}
	floor := spec.floor
	if spec.ticking {
		floor = max(floor, ticks/(userHZ*j.report.Seconds))
	}
	f.Needed = max(floor, relative*math.Abs(f.Before), noises*f.Noise)
	f.Chance = 1
	shift := f.After - f.Before
	if math.Abs(shift) <= f.Needed {
		return f
	}
	if f.Chance = chance(before, after); shift < 0 {
		f.Chance = chance(after, before)
	}
	if f.Chance > familyChance/float64(j.tests) {
		return f
	}
	f.Verdict = Worse
	if shift > 0 == spec.upIsBetter {
		f.Verdict = Better
	}
	return f
}

// throughput decides what less or more traffic means.
func (j *judge) throughput() {
	pressed, relieved := j.pressed(), j.relieved()
	for i := range j.report.Figures {
		f := &j.report.Figures[i]
		if f.class != throughput || f.Verdict == Same {
			continue
		}
		switch {
		case f.Verdict == Worse && pressed != "":
			f.Reason, j.caused = pressed, true
		case f.Verdict == Better && relieved != "":
			f.Reason, j.caused = relieved, true
		case apart(f.Before, f.After):
			f.Verdict, f.Reason = Unclear, "nothing tells whether the change did it or there was less to move"
			if f.After > f.Before {
				f.Reason = "nothing tells whether the change did it or there was more to move"
			}
		default:
			f.Verdict = Same
		}
	}
}

// pressed is a sign that less traffic is the host's doing, "" if there is none.
func (j *judge) pressed() string {
	for _, f := range j.report.Figures {
		if f.class == loss && f.Verdict == Worse && !(j.elsewhere && f.Metric == backlogDropped) {
			return f.Title + " rose"
		}
	}
	if cpu, ok := limited(j.after); ok {
		return "CPU " + strconv.Itoa(cpu) + " is at its limit with packets"
	}
	if j.fell && !j.elsewhere && !j.neighbours && !j.steal && j.unscaled(Worse) {
		return "softirq time rose for less traffic"
	}
	return ""
}

// relieved is a sign that more traffic is the host's doing.
func (j *judge) relieved() string {
	for _, f := range j.report.Figures {
		if f.class == loss && f.Verdict == Better {
			return f.Title + " fell"
		}
	}
	if cpu, ok := limited(j.before); ok {
		return "CPU " + strconv.Itoa(cpu) + " was at its limit with packets"
	}
	if j.grew && !j.elsewhere && !j.neighbours && !j.steal && j.unscaled(Better) {
		return "softirq time fell for more traffic"
	}
	return ""
}

// unscaled judges softirq time as it was, without regard to the load.
func (j *judge) unscaled(v Verdict) bool {
	if j.clocks {
		return false
	}
	plainly := judge{before: j.before, after: j.after, ratio: 1, tests: j.tests, report: Report{Seconds: j.report.Seconds}}
	return plainly.figure(Key{softirqShare, ""}).Verdict == v
}

// limited finds a CPU that has no time left and spends most of it on packets.
func limited(of []Sample) (int, bool) {
	for _, cpu := range slices.Sorted(maps.Keys(of[0].CPUs)) {
		busy := each(of, func(s Sample) float64 { return s.CPUs[cpu].Busy }).median()
		packets := each(of, func(s Sample) float64 { return s.CPUs[cpu].Softirq }).median()
		if busy >= saturated && packets >= packetWork {
			return cpu, true
		}
	}
	return 0, false
}

// excuse sets aside differences that something else explains.
func (j *judge) excuse() {
	kept := j.promiseKept()
	for i := range j.report.Figures {
		f := &j.report.Figures[i]
		if f.Verdict != Worse && f.Verdict != Better {
			continue
		}
		if reason := j.excuseOf(*f); reason != "" {
			f.Verdict, f.Reason = Unclear, reason
			continue
		}
		if f.Verdict == Worse && f.Promised == "" && (f.class == indicator || f.class == cost && (!f.farOff() || j.spreadThin(*f))) {
			j.price(f, kept)
		}
	}
}

// price sets aside what a promise was expected to cost.
func (j *judge) price(f *Figure, kept bool) {
	switch {
	case kept:
		f.Verdict, f.Reason = Same, "the price of what was promised and came"
	case len(j.report.Unmeasured) > 0:
		f.Verdict, f.Reason = Unclear, "what it was to bring could not be measured"
	}
}

func (j *judge) excuseOf(f Figure) string {
	spec, _ := lookup(f.Metric)
	switch {
	case f.class == throughput:
		return ""
	case j.clocks && spec.ticking:
		return "CPUs without a tick (nohz_full) keep the time of softirqs in another way"
	case f.class == loss && f.Metric == backlogDropped && j.elsewhere:
		return "other traffic on this host changed"
	case f.class == loss && f.Verdict == Worse && !j.grew, f.class == loss && f.Verdict == Better && !j.fell:
		return ""
	case j.grew || j.fell:
		return "the traffic changed"
	case j.few:
		return "there was hardly any traffic"
	case f.farOff():
		return ""
	case j.elsewhere:
		return "other traffic on this host changed"
	case j.neighbours:
		return "other work on this host changed"
	case j.steal:
		return "the hypervisor took another part of the CPUs"
	}
	return ""
}

// farOff: it at least doubled or halved.
func (f Figure) farOff() bool {
	r := over(f.After, f.Before)
	return r >= doubled || r <= 1/doubled
}

// spreadThin: the CPUs together have a little more to do, and none of them so
// much that the busiest has.
func (j *judge) spreadThin(f Figure) bool {
	return f.Metric == softirqShare && f.After-f.Before <= thin && !slices.ContainsFunc(j.report.Figures, func(busiest Figure) bool {
		return busiest.Metric == maxSoftirq && busiest.After-busiest.Before > busiest.Needed
	})
}

// promiseKept: something that the plan promised came about.
func (j *judge) promiseKept() bool {
	return slices.ContainsFunc(j.report.Figures, func(f Figure) bool {
		return f.Promised != "" && f.Verdict == Better && j.excuseOf(f) == ""
	})
}

// rank orders figures: what decided, what was promised, the rest.
func (f Figure) rank() int {
	switch {
	case f.Verdict == Worse:
		return 0
	case f.Verdict == Unclear:
		return 1
	case f.Verdict == Better:
		return 2
	case f.Promised != "":
		return 3
	default:
		return 4
	}
}

// having are the figures of a verdict.
func (j *judge) having(v Verdict) []Figure {
	var out []Figure
	for _, f := range j.report.Figures {
		if f.Verdict == v {
			out = append(out, f)
		}
	}
	return out
}

// decide draws the conclusion.
func (j *judge) decide() {
	r := &j.report
	worse, better, unclear := j.having(Worse), j.having(Better), j.having(Unclear)
	switch {
	case j.linkLost != "":
		r.Verdict, r.Reason = Worse, j.linkLost+" lost its link"
	case len(worse) > 0:
		r.Verdict, r.Reason = Worse, sentence(worse)
	case (j.grew || j.fell) && !j.caused && !j.hardly:
		r.Verdict, r.Reason = Unclear, "the traffic changed: "+strings.Join(r.Changed, "; ")
	case j.few:
		r.Verdict = Unclear
		r.Reason = "there was hardly any traffic: " + rate(r.Before.Packets) + " packets/s before and " + rate(r.After.Packets) + " after"
	case len(unclear) > 0 && !j.caused:
		r.Verdict, r.Reason = Unclear, sentence(unclear)+" — "+unclear[0].Reason
	case len(better) > 0:
		r.Verdict, r.Reason = Better, sentence(better)
	default:
		r.Verdict, r.Reason = Same, "nothing moved by more than its noise before the change"
	}
}

// loads puts the predicted load of each CPU beside the measured one.
func (j *judge) loads(placements []plan.Placement) {
	const share, interrupts = "of a CPU", "of NIC interrupts"
	r := &j.report
	r.Basis, r.Loads = share, []Load{}
	predicted := map[int]float64{}
	for _, p := range placements {
		r.Basis = p.Basis
		for _, c := range p.CPUs {
			predicted[c.CPU] = c.Predicted
		}
	}
	of := func(s Sample, cpu int) float64 {
		if r.Basis == interrupts {
			return s.Interrupts[cpu]
		}
		return s.CPUs[cpu].Softirq
	}
	for _, cpu := range slices.Sorted(maps.Keys(j.after[0].CPUs)) {
		l := Load{CPU: cpu}
		if p, ok := predicted[cpu]; ok {
			l.Predicted = &p
		}
		l.Before = thousandths(each(j.before, func(s Sample) float64 { return of(s, cpu) }).median())
		l.After = thousandths(each(j.after, func(s Sample) float64 { return of(s, cpu) }).median())
		if l.Predicted != nil || l.Before > 0 || l.After > 0 {
			r.Loads = append(r.Loads, l)
		}
	}
}
