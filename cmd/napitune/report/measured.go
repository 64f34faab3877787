package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/napitune/napitune/apply/measure"
)

// Measured writes what measuring before and after found.
func Measured(w io.Writer, r measure.Report, style Style) error {
	p := &page{w: w, style: style}
	p.measured(r)
	return p.err
}

var verdictColors = map[measure.Verdict]paint{
	measure.Better: green, measure.Worse: red, measure.Unclear: yellow, measure.Same: plain,
}

func (p *page) measured(r measure.Report) {
	p.blank()
	head := fmt.Sprintf("Measured (%d windows of %s s before, %d after", r.WindowsBefore, short(r.Seconds), r.WindowsAfter)
	if len(r.Devices) > 0 {
		head += "; " + strings.Join(r.Devices, ", ")
	}
	p.line(p.paint(bold, clean(head+")")))
	p.hang("  "+string(r.Verdict)+":", verdictColors[r.Verdict], columns(string(r.Verdict))+4, r.Reason)
	for _, c := range r.Changed {
		if strings.Contains(r.Reason, c) {
			continue
		}
		p.hang("  ?", cyan, 4, "also changed: "+c)
	}
	for _, name := range r.Settling.Pending {
		p.hang("  !", yellow, 4, fmt.Sprintf("not in effect after %s s: %s", short(r.Settling.Seconds), name))
	}
	p.figures(r.Figures)
	for _, u := range r.Unmeasured {
		p.hang("  ?", cyan, 4, "promised and not measured: "+u.Metric+" ("+u.Reason+")")
	}
	p.loads(r)
	p.blank()
}

// figures are folded to those that say something, unless all are asked for.
func (p *page) figures(figures []measure.Figure) {
	rows := table{heads: []string{"metric", "before", "after", "to count", "verdict"}, right: map[int]bool{1: true, 2: true, 3: true}, limit: 60}
	for _, f := range figures {
		if f.Verdict == measure.Same && f.Promised == "" && f.Reason == "" && !p.style.Verbose {
			continue
		}
		name := f.Title
		if f.Device != "" {
			name = f.Device + " " + name
		}
		after := measure.Amount(f.After, f.Unit)
		if f.Predicted != nil {
			after += " (predicted " + measure.Amount(*f.Predicted, f.Unit) + ")"
		}
		said := string(f.Verdict)
		if f.Reason != "" {
			said += ": " + f.Reason
		}
		rows.add(clean(name+", "+f.Unit), measure.Amount(f.Before, f.Unit), after, "± "+measure.Amount(f.Needed, f.Unit), clean(said))
	}
	rows.render(p, 2)
}

// loads puts predicted beside measured.
func (p *page) loads(r measure.Report) {
	if len(r.Loads) == 0 {
		return
	}
	what := "softirq and interrupt time"
	if r.Basis != "of a CPU" {
		what = "load " + r.Basis
	}
	p.line("  " + clean(what) + " by CPU:")
	rows := table{heads: []string{"CPU", "before", "predicted", "after"}, limit: 20}
	for _, l := range r.Loads {
		predicted := "-"
		if l.Predicted != nil {
			predicted = share(*l.Predicted)
		}
		rows.add(strconv.Itoa(l.CPU), share(l.Before), predicted, share(l.After))
	}
	rows.render(p, 2)
}

func share(v float64) string { return measure.Amount(v, "of a CPU") }

func short(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
