package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// unexpressed is a change that a kind of file cannot hold, and why.
type unexpressed struct {
	change plan.Change
	why    string
}

// unexpressed writes the changes that are not in a file, by reason; those that
// differ in the queue only share a line.
func (p *page) unexpressed(heading string, list []unexpressed) {
	if len(list) == 0 {
		return
	}
	p.blank()
	p.line("# " + heading)
	reasons := map[string][]plan.Change{}
	var order []string
	for _, u := range list {
		if reasons[u.why] == nil {
			order = append(order, u.why)
		}
		reasons[u.why] = append(reasons[u.why], u.change)
	}
	key := func(c plan.Change) (knob.Ref, string) { return c.Ref, beforeOf(c) + "\x00" + c.After }
	for _, why := range order {
		p.line("# - " + comment(why) + ":")
		for _, f := range fold(reasons[why], key) {
			name := strings.ReplaceAll(f.name, " ", "/")
			if dev := f.first.Ref.Dev; dev != "" {
				name = dev + "/" + name
			}
			p.line("#     " + comment(fmt.Sprintf("%s: %s → %s", name, shown(beforeOf(f.first)), shown(f.first.After))))
		}
	}
}

// shown makes the empty value of a CPU set visible and an RSS table short.
func shown(value string) string {
	const width = 48
	if value == "" {
		return "(none)"
	}
	return elide(value, width)
}

// changeComment is the line above a setting: what changes and why.
func changeComment(c plan.Change) string {
	text := fmt.Sprintf("%s: %s → %s — %s", c.Ref, shown(beforeOf(c)), shown(c.After), reasonOf(c.Why, c.Findings))
	if c.Disruption != "" && c.Disruption != knob.DisruptsNothing.String() {
		text += "; disrupts: " + c.Disruption
	}
	return "# " + comment(text)
}

// planComment heads a file that holds what of a plan.
func (p *page) planComment(a Advice, what string) {
	p.line("# Plan of napitune, profile " + comment(a.Plan.Profile) + ", for Linux " + comment(a.Host.Release) + ": " + comment(what) + ".")
}

// leftOver notes what the plan itself leaves open, which no file form can hold.
func (p *page) leftOver(pl plan.Plan) {
	if len(pl.Deferred)+len(pl.Blocked) == 0 {
		return
	}
	p.blank()
	var refs []string
	for _, d := range pl.Deferred {
		refs = append(refs, d.Ref.String())
	}
	if len(refs) > 0 {
		slices.Sort(refs)
		p.line("# " + comment("To be planned again once these changes are made: "+listed(refs)))
	}
	for _, b := range pl.Blocked {
		p.line("# " + comment(fmt.Sprintf("blocked: %s to %s: %s", b.Ref, shown(b.Want), b.Reason)))
	}
}

// listed names the first few of a list.
func listed(names []string) string {
	const few = 4
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
