package report

import (
	"fmt"
	"time"

	"github.com/napitune/napitune/apply/guard"
)

// GuardLine is what a guard did, in one line.
func GuardLine(a guard.Action) string {
	subject := clean(a.Ref.String())
	because := ""
	if a.Cause != "" {
		because = ": " + clean(a.Cause)
	}
	switch a.Kind {
	case guard.Restored, guard.Set:
		text := fmt.Sprintf("%s %s: %s → %s", a.Kind, subject, told(a.Before), told(a.After))
		if a.Took > 0 {
			text += fmt.Sprintf(" in %s", a.Took.Round(time.Millisecond))
		}
		return text + because
	case guard.LeftIt:
		by := ""
		if a.By != "" {
			by = ", by " + clean(a.By)
		}
		return fmt.Sprintf("%s is left alone, it is %s and was to be %s: %s%s", subject, told(a.Before), told(a.After), clean(a.Reason), by)
	case guard.TookUp:
		return fmt.Sprintf("%s is kept again at %s: %s", subject, told(a.After), clean(a.Reason))
	case guard.Refused:
		return fmt.Sprintf("%s was not set to %s: %s", subject, told(a.After), clean(a.Reason))
	default:
		return fmt.Sprintf("%s: %s", a.Kind, clean(a.Reason))
	}
}

// guard writes the state of the guard: one line, and one for each setting that
// it leaves alone.
func (p *page) guard(g *guard.Report) {
	if g == nil {
		return
	}
	state := fmt.Sprintf("guard  keeps %s of %s, restored %d since %s",
		plural(g.Keeps, "setting"), clean(g.Profile), g.Restorations, g.Since.Local().Format(time.DateTime))
	if g.Ended {
		state += ", has ended"
	}
	p.line(state)
	if g.Mistakes > 0 {
		p.hang("  !", yellow, 4, Mistakes(g.Mistakes)+": what they are about is not kept (napitune boot --dry-run names them)")
	}
	if g.Waiting != "" && !g.Ended {
		p.hang("  !", yellow, 4, "waiting: "+g.Waiting)
	}
	if g.Last != nil {
		p.hang("  ~", green, 4, g.Last.At.Local().Format(time.DateTime)+"  "+GuardLine(*g.Last))
	}
	for _, l := range g.Left {
		by := ""
		if l.By != "" {
			by = " by " + l.By
		}
		p.hang("  x", red, 4, fmt.Sprintf("%s is left alone: %s%s; it was %s and should be %s", l.Ref, l.Reason, by, told(l.Present), told(l.Want)))
	}
}

// Mistakes says how many the profile has.
func Mistakes(n int) string { return "profile has " + plural(n, "mistake") }

// contestedLines is how many settings are named one by one.
const contestedLines = 3

// Contested are lines about settings that the guard has left to somebody else.
func Contested(g guard.Report) []string {
	var out []string
	more := 0
	for _, l := range g.Left {
		switch {
		case !l.Contested:
		case len(out) == contestedLines:
			more++
		default:
			by := ""
			if l.By != "" {
				by = " by " + clean(l.By)
			}
			out = append(out, fmt.Sprintf("%s does not stay at %s: it was %s%s, and the guard leaves it alone; end that first, or take it out of the profile",
				clean(l.Ref.String()), told(l.Want), clean(l.Reason), by))
		}
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more settings are written by others (napitune status)", more))
	}
	return out
}
