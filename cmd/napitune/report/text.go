package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Text writes the advice for people: what was measured, findings, the plan one
// line per change, what could not be read, and totals last.
func Text(w io.Writer, a Advice, style Style) error {
	p := &page{w: w, style: style}
	p.hostLine(a)
	p.findings(a.Findings)
	p.plan(a)
	p.probed(a.Probed)
	p.gaps(a.Gaps)
	p.verdict(a)
	return p.err
}

func (p *page) hostLine(a Advice) {
	parts := []string{}
	if a.Host.Release != "" {
		parts = append(parts, strings.TrimSpace("Linux "+a.Host.Release+" "+a.Host.Arch))
	} else {
		parts = append(parts, "Linux, release unknown")
	}
	if v := a.Host.Virtualization; v != "" && v != "none" {
		parts = append(parts, v+" guest")
	}
	if a.Host.CPUs > 0 {
		parts = append(parts, plural(a.Host.CPUs, "CPU"))
	}
	if a.Host.Nodes > 0 {
		parts = append(parts, plural(a.Host.Nodes, "NUMA node"))
	}
	parts = append(parts, basis(a.Window))
	p.hang("", plain, 0, strings.Join(parts, " · "))
	if name := a.Plan.Profile; a.PolicyFile != "" {
		p.hang("", plain, 0, "judged by the policy "+name+" of "+a.PolicyFile)
	} else if name != "" && name != "balanced" {
		p.hang("", plain, 0, "judged by the policy "+name)
	}
	if a.Probeless != "" && p.style.Verbose {
		p.hang("", plain, 0, a.Probeless)
	}
	for _, g := range a.Gaps {
		if g.Source == GapProbes {
			p.hang("", plain, 0, g.Reason)
		}
	}
	for _, q := range a.Window.ControlQueues {
		p.hang("", plain, 0, fmt.Sprintf("control queue of %s: %s µs, by timing our own read (median of %d)",
			q.Device, number(q.Microseconds), q.Reads))
	}
}

// basis says how far the figures can be trusted.
func basis(w Window) string {
	switch w.Basis {
	case detect.BasisWindow.String():
		return fmt.Sprintf("measured for %s s (%s)", number(w.Seconds), plural(w.Samples, "sample"))
	case detect.BasisUntimed.String():
		return plural(w.Samples, "sample") + " of unknown distance: shares, no rates"
	default:
		return "counters since boot (one sample): low confidence"
	}
}

func (p *page) findings(findings []Finding) {
	for _, f := range findings {
		p.blank()
		p.finding(f)
	}
}

func (p *page) finding(f Finding) {
	color := map[string]paint{plan.Problem.String(): red, plan.Advice.String(): yellow}[f.Severity]
	head := p.paint(color, strings.ToUpper(f.Severity)) + "  " + p.paint(bold, clean(f.ID)) + "  " + clean(f.Subject)
	if f.Low {
		head += p.paint(dim, "  (low confidence)")
	}
	p.line(head)
	p.hang("", plain, 2, f.Claim)
	const indent = 13
	p.evidence(f.Evidence, indent)
	label := "  missing"
	for _, m := range f.Missing {
		p.hang(label, dim, indent, m)
		label = ""
	}
	if f.Because != "" {
		p.hang("  because of", dim, indent, f.Because)
	}
	if f.Operator != "" {
		p.hang("  operator", dim, indent, f.Operator)
	}
}

// foldedEvidence is how many values are shown for a finding without -v: enough
// to check the claim by hand, few enough that the plan stays in view.
const foldedEvidence = 4

func (p *page) evidence(list []plan.Evidence, indent int) {
	label := "  evidence"
	for i, e := range list {
		if i == foldedEvidence && !p.style.Verbose && len(list) > foldedEvidence+1 {
			p.hang("", dim, indent, fmt.Sprintf("… and %d more (-v shows them)", len(list)-i))
			return
		}
		text := strings.ReplaceAll(e.Metric, "_", " ") + " " + quantity(e.Value, e.Unit)
		if e.Threshold != 0 {
			text += " (threshold " + number(e.Threshold) + ")"
		}
		if e.Source != "" {
			text += ", " + e.Source
		}
		p.hang(label, dim, indent, text)
		label = ""
	}
}

// quantity prints a value with its unit: "61%", "412/s", "1,024 packets".
func quantity(v float64, unit string) string {
	switch {
	case unit == "":
		return number(v)
	case unit == "%" || strings.HasPrefix(unit, "/"):
		return number(v) + unit
	default:
		return number(v) + " " + unit
	}
}

// planLine is one line of the plan before it is aligned.
type planLine struct {
	mark          string // "~" change, "x" blocked, "=" kept, "?" deferred or in conflict
	color         paint
	name          string
	before, after string
	reason        string
}

// valueWidth is the widest value shown in a plan line: 25 columns of 100, so
// that name, both values and a reason fit. Masks of many CPUs and RSS tables
// are longer; they are elided here and complete in the JSON form.
func (s Style) valueWidth() int { return (s.width() - 24) / 3 }

func (p *page) plan(a Advice) {
	groups := planGroups(a.Plan)
	if len(groups) == 0 {
		return
	}
	p.blank()
	p.line(p.paint(bold, "Plan") + " (profile " + clean(cmp.Or(a.Plan.Profile, "balanced")) + ")")
	for _, dev := range slices.Sorted(maps.Keys(groups)) {
		p.line(p.paint(bold, deviceHead(a.Host, dev)))
		p.planLines(groups[dev])
	}
	if slices.ContainsFunc(a.Plan.Changes, func(c plan.Change) bool { return c.BeforeSeen }) {
		p.hang("  !", yellow, 4, `"seen": the setting itself could not be read; shown are the CPUs on which the interrupt fired`)
	}
	p.owners(a.Plan)
}

// owners names once each of those who write settings of the plan as well.
func (p *page) owners(pl plan.Plan) {
	type key struct{ name, when, remedy string }
	held := map[key][]plan.Change{}
	var order []key
	for _, c := range pl.Changes {
		for _, o := range c.Owners {
			k := key{o.Name, o.When, o.Remedy}
			if held[k] == nil {
				order = append(order, k)
			}
			held[k] = append(held[k], c)
		}
	}
	for _, k := range order {
		first := held[k][0]
		o := first.Owners[slices.IndexFunc(first.Owners, func(o plan.Owner) bool { return key{o.Name, o.When, o.Remedy} == k })]
		p.hang("  !", yellow, 4, ownerText(o, first.Ref.String(), len(held[k])-1))
	}
}

func ownerText(o plan.Owner, first string, more int) string {
	text := o.Name + " writes " + first
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	text += " as well, " + o.When
	if o.Value != "" && more == 0 {
		text += " (to " + o.Value + ", " + o.Source + ")"
	}
	switch {
	case o.Tellable:
		text += ": apply with --owner ban, which tells it to leave them alone, or --owner leave or take"
	case o.Undoes:
		text += ": apply with --owner leave or take"
	}
	return text + "; lasting: " + o.Remedy
}

// deviceHead is the heading of a device: "eth0  virtio_net  8 queues  node 0".
func deviceHead(h Host, dev string) string {
	if dev == "" {
		return "host"
	}
	for _, d := range h.Devices {
		if d.Name == dev {
			return headOf(d)
		}
	}
	return clean(dev)
}

func headOf(d HostDevice) string {
	parts := []string{clean(d.Name)}
	if name := cmp.Or(d.Driver, d.Kind); name != "" {
		parts = append(parts, clean(name))
	}
	if d.Queues > 0 {
		parts = append(parts, plural(d.Queues, "queue"))
	}
	if d.Node >= 0 {
		parts = append(parts, "node "+strconv.Itoa(d.Node))
	}
	return strings.Join(parts, "  ")
}

// planGroups sorts the plan into lines by device, changes in their order.
func planGroups(pl plan.Plan) map[string][]planLine {
	groups := map[string][]planLine{}
	for _, c := range pl.Changes {
		groups[c.Ref.Dev] = append(groups[c.Ref.Dev], planLine{
			mark: "~", color: yellow, name: nameInDevice(c.Ref), before: beforeOf(c), after: c.After, reason: reasonOf(c.Why, c.Findings),
		})
	}
	for _, d := range pl.Deferred {
		groups[d.Ref.Dev] = append(groups[d.Ref.Dev], planLine{
			mark: "?", color: cyan, name: nameInDevice(d.Ref), after: "later", reason: d.Reason,
		})
	}
	for _, c := range pl.Conflicts {
		groups[c.Ref.Dev] = append(groups[c.Ref.Dev], planLine{
			mark: "?", color: red, name: nameInDevice(c.Ref), after: "conflict",
			reason: strings.Join(c.Rules, ", ") + " want " + strings.Join(c.Values, " and ") + "; left as it is",
		})
	}
	blocked := fold(pl.Blocked, func(b plan.Blocked) (knob.Ref, string) { return b.Ref, b.Want + "\x00" + b.Reason })
	for _, f := range blocked {
		groups[f.first.Ref.Dev] = append(groups[f.first.Ref.Dev], planLine{
			mark: "x", color: red, name: f.name, after: f.first.Want, reason: "blocked: " + f.first.Reason + findingsOf(f.first.Findings),
		})
	}
	kept := fold(pl.Kept, func(k plan.Kept) (knob.Ref, string) { return k.Ref, k.Value })
	for _, f := range kept {
		groups[f.first.Ref.Dev] = append(groups[f.first.Ref.Dev], planLine{
			mark: "=", color: green, name: f.name, after: f.first.Value, reason: "already as wanted" + findingsOf(f.first.Findings),
		})
	}
	return groups
}

// beforeOf is what a change starts from. Where the setting was not told, what
// the counters showed must not pass for it.
func beforeOf(c plan.Change) string {
	if c.BeforeSeen {
		return "seen " + c.Before
	}
	return c.Before
}

// nameInDevice is the address without the device: the heading names that.
func nameInDevice(r knob.Ref) string {
	text := r.String()
	if r.Dev != "" {
		text = strings.TrimPrefix(text, r.Dev+"/")
	}
	return strings.Replace(text, "/", " ", 1)
}

func reasonOf(why string, findings []string) string { return why + findingsOf(findings) }

func findingsOf(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return " [" + strings.Join(ids, ", ") + "]"
}

// folded is a run of entries that differ in the queue only.
type folded[T any] struct {
	first T
	name  string
}

// fold joins entries of one device and kind whose content is the same, so that
// a device with 94 queues takes one line and not 94.
func fold[T any](list []T, key func(T) (knob.Ref, string)) []folded[T] {
	type group struct {
		first  T
		ref    knob.Ref
		queues []int
	}
	var order []string
	groups := map[string]*group{}
	for _, item := range list {
		ref, content := key(item)
		k := ref.Dev + "\x00" + ref.Kind + "\x00" + strconv.FormatBool(ref.Tx) + "\x00" + content
		g := groups[k]
		if g == nil {
			g = &group{first: item, ref: ref}
			groups[k] = g
			order = append(order, k)
		}
		g.queues = append(g.queues, ref.Queue)
	}
	out := make([]folded[T], 0, len(order))
	for _, k := range order {
		g := groups[k]
		name := nameInDevice(g.ref)
		if len(g.queues) > 1 && g.ref.Queue >= 0 {
			side := "rx"
			if g.ref.Tx {
				side = "tx"
			}
			name = side + "-[" + numbers(g.queues) + "] " + g.ref.Kind
		}
		out = append(out, folded[T]{first: g.first, name: name})
	}
	return out
}

// numbers prints queue numbers as a list with ranges: "0-3,6".
func numbers(list []int) string {
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	var parts []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, strconv.Itoa(list[i]))
		} else {
			parts = append(parts, strconv.Itoa(list[i])+"-"+strconv.Itoa(list[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// alignedValue is the widest value that others are aligned with. A longer one
// stands out on its own line instead of pushing every reason off the right edge.
const alignedValue = 14

// planLines writes the lines of one device: names, values and reasons aligned.
func (p *page) planLines(lines []planLine) {
	nameWidth, beforeWidth, afterWidth := 0, 0, 0
	limit := p.style.valueWidth()
	for i := range lines {
		l := &lines[i]
		l.name = elide(l.name, max(limit, 20))
		l.before, l.after = elide(quoteEmpty(l.before, l.mark), limit), elide(quoteEmpty(l.after, l.mark), limit)
		nameWidth = max(nameWidth, columns(l.name))
		if columns(l.before) <= alignedValue && columns(l.after) <= alignedValue {
			beforeWidth = max(beforeWidth, columns(l.before))
			afterWidth = max(afterWidth, columns(l.after))
		}
	}
	for _, l := range lines {
		arrow := "   "
		if l.before != "" {
			arrow = " → "
		}
		head := "  " + l.mark + " " + pad(l.name, nameWidth) + "  " +
			strings.Repeat(" ", max(0, beforeWidth-columns(l.before))) + l.before + arrow + pad(l.after, afterWidth)
		p.reason(head, l)
	}
}

// quoteEmpty makes an empty value visible in a change.
func quoteEmpty(value, mark string) string {
	if value == "" && mark == "~" {
		return "(none)"
	}
	return value
}

// reasonRoom is the least room for reasons beside the values; with less they go below.
const reasonRoom = 34

func (p *page) reason(head string, l planLine) {
	indent := columns(head + " — ")
	if p.style.width()-indent >= reasonRoom {
		p.hangMark(head+" — ", l.color, indent, l.reason)
		return
	}
	p.hangMark(strings.TrimRight(head, " "), l.color, columns(head), "")
	p.hang("", plain, 6, "— "+l.reason)
}

// hangMark is hang with only the mark coloured.
func (p *page) hangMark(head string, c paint, indent int, text string) {
	lines := wrap(clean(text), p.style.width()-indent)
	first := ""
	if len(lines) > 0 {
		first = lines[0]
	}
	mark := head[2:3]
	p.line("  " + p.paint(c, mark) + head[3:] + first)
	for _, rest := range lines[min(1, len(lines)):] {
		p.line(strings.Repeat(" ", indent) + rest)
	}
}

// foldedGaps is how many sources are named per reason without -v.
const foldedGaps = 3

// gaps sums up what could not be read, by reason. What the probes do not tell
// stands at the head, with what else the figures rest on.
func (p *page) gaps(list []detect.Gap) {
	list = slices.DeleteFunc(slices.Clone(list), func(g detect.Gap) bool { return g.Source == GapProbes })
	if len(list) == 0 {
		return
	}
	var order []string
	sources := map[string][]string{}
	contradictions := 0
	for _, g := range list {
		if g.Source == "consistency" {
			contradictions++
		}
		if len(sources[g.Reason]) == 0 {
			order = append(order, g.Reason)
		}
		sources[g.Reason] = append(sources[g.Reason], g.Source)
	}
	p.blank()
	if unread := len(list) - contradictions; unread > 0 {
		p.line(plural(unread, "source") + " could not be read:")
	} else {
		p.line("the sources contradict each other:")
	}
	shown := 0
	for _, reason := range order {
		if shown == foldedReasons && !p.style.Verbose && len(order) > foldedReasons+1 {
			p.hang("", plain, 2, fmt.Sprintf("… and %s (-v shows them)", plural(len(order)-shown, "more reason")))
			break
		}
		shown++
		p.gapReason(reason, sources[reason])
	}
	if denied(list) {
		p.hang("", plain, 2, "Run as root to read what was refused (napitune doctor says which capability is enough).")
	}
}

// foldedReasons is how many reasons for gaps are shown without -v.
const foldedReasons = 6

func (p *page) gapReason(reason string, sources []string) {
	more := ""
	if n := len(sources) - foldedGaps; n > 1 && !p.style.Verbose {
		more = fmt.Sprintf(" and %d more", n)
		sources = sources[:foldedGaps]
	}
	if sources[0] == "consistency" {
		p.hang("  -", plain, 4, reason)
		return
	}
	p.hang("  -", plain, 4, strings.Join(sources, ", ")+more+": "+reason)
}

// denied reports whether a gap is for want of privilege. Gaps carry the text of
// the error, and these are the texts of EACCES and EPERM (errno.h).
func denied(list []detect.Gap) bool {
	return slices.ContainsFunc(list, func(g detect.Gap) bool { return isDenied(g.Reason) })
}

func isDenied(reason string) bool {
	return strings.Contains(reason, "permission denied") || strings.Contains(reason, "operation not permitted")
}

func (p *page) verdict(a Advice) {
	p.blank()
	if a.Verdict == Healthy {
		p.healthy(a)
	}
	for _, placed := range a.Placement {
		if len(a.Plan.Changes) == 0 || math.Round(100*placed.BeforeMax) <= math.Round(100*placed.PredictedMax) {
			continue // nothing is moved, or for locality or pairing and not for balance
		}
		p.hang("", plain, 0, fmt.Sprintf("predicted: the busiest CPU goes from %.0f %% to %.0f %% %s", 100*placed.BeforeMax, 100*placed.PredictedMax, placed.Basis))
	}
	p.hang("", plain, 0, totals(a.Plan))
	for _, text := range []string{overhead(a.Overhead), probesCost(a.Overhead)} {
		for _, l := range wrap(clean(text), p.style.width()) {
			p.line(p.paint(dim, l))
		}
	}
}

func (p *page) healthy(a Advice) {
	if len(a.Evidence) == 0 {
		p.hang("", plain, 0, "Nothing to change was found, but no counter of CPUs or interfaces could be read: this is no clean bill of health.")
		return
	}
	p.line(p.paint(green, "Healthy: nothing to change."))
	for _, e := range a.Evidence {
		p.hang("  -", plain, 4, e)
	}
}

// totals is the last line of a plan: how many of what, and the worst that
// applying would do to traffic.
func totals(pl plan.Plan) string {
	parts := []string{
		plural(len(pl.Changes), "change"),
		count(uint64(len(pl.Kept))) + " already right",
		count(uint64(len(pl.Blocked))) + " blocked",
	}
	if n := len(pl.Deferred); n > 0 {
		parts = append(parts, count(uint64(n))+" deferred")
	}
	if n := len(pl.Conflicts); n > 0 {
		parts = append(parts, plural(n, "conflict"))
	}
	text := strings.Join(parts, ", ") + "."
	if len(pl.Changes) > 0 {
		text += "  " + disruption(pl.Changes)
	}
	return text
}

func disruption(changes []plan.Change) string {
	worst := ""
	for _, c := range changes {
		switch c.Disruption {
		case knob.DisruptsLink.String():
			return "Some changes reset the link: seconds without traffic."
		case knob.DisruptsPackets.String():
			worst = c.Disruption
		}
	}
	if worst != "" {
		return "No link reset; some packets may be lost or reordered for a moment."
	}
	return "No link reset, no packet loss."
}

func overhead(o Overhead) string {
	if o.CPUSeconds == 0 && o.MaxRSSBytes == 0 {
		return ""
	}
	text := fmt.Sprintf("cost: %.0f ms of CPU time, %.0f MB of memory", 1000*o.CPUSeconds, float64(o.MaxRSSBytes)/1e6)
	return text
}

// probesCost is "" where no probe took part.
func probesCost(o Overhead) string {
	figures := fmt.Sprintf("cost of the probes: %s, %.1f ms", plural(int(o.ProbeRuns), "run"), 1000*o.ProbeSeconds)
	switch {
	case o.ProbesUnknown != "":
		return "cost of the probes: unknown (" + o.ProbesUnknown + ")"
	case o.ProbeRuns == 0:
		return ""
	case o.ProbesEstimated != "":
		return figures + " (estimated: " + o.ProbesEstimated + ")"
	}
	return figures
}
