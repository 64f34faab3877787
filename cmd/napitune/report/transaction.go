package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/apply/measure"
	"github.com/napitune/napitune/rules/plan"
)

// Schemas of the answers about transactions.
const (
	SchemaTransaction = "napitune/transaction/v1"
	SchemaStatus      = "napitune/status/v1"
	SchemaHistory     = "napitune/history/v1"
)

// Clean makes text from a host or a file safe to print on a terminal, on one line.
func Clean(text string) string { return clean(text) }

// Plan writes a plan without the findings behind it, for a plan from a file.
func Plan(w io.Writer, pl plan.Plan, style Style) error {
	p := &page{w: w, style: style}
	p.plan(Advice{Plan: pl})
	p.blank()
	p.hang("", plain, 0, totals(pl))
	return p.err
}

// Step is the line that tells of one change when it is made: "2/5
// eth0/rx-1/rps.cpus 0 → 3 applied". Later rounds go beyond the total.
func Step(done, total int, o apply.Outcome) string {
	head := fmt.Sprintf("%d/%d", done, max(done, total))
	return head + "  " + clean(o.Ref.String()) + "  " + stepText(o)
}

// stepWidth is where long values such as RSS tables are elided.
const stepWidth = 40

// told is a value in a sentence: an empty set of CPUs is a value, too.
func told(value string) string {
	if value == "" {
		return "(none)"
	}
	return elide(value, stepWidth)
}

func stepText(o apply.Outcome) string {
	text := told(o.Before) + " → " + told(o.After) + ", " + string(o.Verdict)
	if o.Observed != o.After {
		text += ", it is " + told(o.Observed)
	}
	if o.Reason != "" {
		text += " (" + clean(o.Reason) + ")"
	}
	return text
}

// Transaction is the answer of apply, confirm and rollback.
type Transaction struct {
	Schema string `json:"schema"`
	Verb   string `json:"verb"`
	apply.Result
	// Measured is what measuring before and after found; nil if nobody measured.
	Measured *measure.Report `json:"measured,omitempty"`
}

// NewTransaction makes the document of a result.
func NewTransaction(verb string, r apply.Result) Transaction {
	r.Deadline = r.Deadline.UTC()
	return Transaction{Schema: SchemaTransaction, Verb: verb, Result: r}
}

// Text writes what did not go as planned, and last the state with the next step.
// The changes one by one were told while they were made; -v repeats them.
func (t Transaction) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	for _, o := range t.Changes {
		if style.Verbose || o.Verdict != apply.VerdictApplied && t.State != apply.RolledBack {
			p.hang("  ~", yellow, 4, o.Ref.String()+": "+stepText(o))
		}
	}
	for _, s := range t.Skipped {
		why := "it disturbs traffic (" + s.Disruption + ")"
		if s.Owner != "" {
			why = s.Owner + " writes it as well"
		}
		p.hang("  ?", cyan, 4, s.Ref.String()+": left out: "+why)
	}
	for _, r := range t.Restored {
		if style.Verbose || t.Verb == "rollback" || r.Fate != apply.FateRestored && r.Fate != apply.FateAlready {
			p.restoration(r)
		}
	}
	for _, warning := range t.Warnings {
		p.hang("  !", yellow, 4, warning)
	}
	if t.Measured != nil {
		p.measured(*t.Measured)
	}
	p.hang("", plain, 0, t.Summary())
	return p.err
}

var fates = map[apply.Fate]string{
	apply.FateRestored: "restored to %s",
	apply.FateAlready:  "has its old value %s",
	apply.FateForeign:  "LEFT ALONE: somebody else changed it since; it was %s",
	apply.FateGone:     "GONE: there is no such setting any more; it was %s",
	apply.FateFailed:   "NOT RESTORED: it was %s",
}

func (p *page) restoration(r apply.Restoration) {
	mark, color := "  <", green
	if r.Fate != apply.FateRestored && r.Fate != apply.FateAlready {
		mark, color = "  x", red
	}
	text := r.Subject() + ": " + fmt.Sprintf(fates[r.Fate], told(r.Want))
	if r.Present != r.Want && r.Present != "" {
		text += " and is " + told(r.Present)
	}
	if r.By != "" {
		text += ", by transaction " + r.By
	}
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	p.hang(mark, color, 4, text)
}

// Summary says in a sentence or two what state the host is in.
func (t Transaction) Summary() string {
	if t.Undone {
		return fmt.Sprintf("%s %s: all that its damaged journal still tells is as it was, and what the lost records say is not known: another rollback has nothing to do; look at the host, then napitune forget %s.", t.ID, t.State, t.ID)
	}
	switch t.State {
	case apply.Confirmed:
		text := t.ID + " confirmed: the changes stay until the next boot"
		if n := len(t.Changes); n > 0 {
			text = fmt.Sprintf("%s applied: %s", t.ID, plural(n, "change"))
			if !t.Complete {
				text += "; part of the plan had to wait for them: napitune apply plans it"
			}
		}
		return text + ". napitune rollback " + t.ID + " undoes it."
	case apply.Unconfirmed:
		return t.ID + " applied and not confirmed."
	case apply.RolledBack:
		return t.ID + " rolled back: the host is as it was."
	case apply.Forgotten:
		return t.ID + " forgotten: nothing was written, and the host stays as it is."
	default:
		return fmt.Sprintf("%s %s: the host is neither as wanted nor as it was; the journal is kept, and napitune rollback %s tries again, napitune forget %s leaves it as it is.", t.ID, t.State, t.ID, t.ID)
	}
}

// Status is the answer of "napitune status".
type Status struct {
	Schema       string          `json:"schema"`
	Transactions []apply.Summary `json:"transactions"`
	// Guard is the state of the guard of this boot, if there was one.
	Guard *guard.Report `json:"guard,omitempty"`
}

// NewStatus makes the document of the transactions of this boot.
func NewStatus(list []apply.Summary) Status {
	return Status{Schema: SchemaStatus, Transactions: present(list)}
}

// Text writes a paragraph per transaction: its state, then settings that are
// not as it left them; -v shows the others, too.
func (s Status) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	if len(s.Transactions) == 0 {
		p.line("Nothing that was applied since the boot is in force.")
	}
	for _, t := range s.Transactions {
		p.transaction(t)
	}
	p.guard(s.Guard)
	return p.err
}

func (p *page) transaction(t apply.Summary) {
	head := p.paint(bold, clean(t.ID)) + "  " + string(t.State) + "  " + plural(t.Changes, "change")
	if t.Profile != "" {
		head += "  profile " + clean(t.Profile)
	}
	p.line(head)
	switch {
	case t.Newer:
		p.hang("  !", red, 4, "this version cannot undo it ("+t.Damage+"): the newer one rolls it back, napitune forget "+t.ID+" leaves the host as it is")
	case t.Damage != "":
		p.hang("  !", red, 4, "its journal is damaged: "+t.Damage)
	case t.State == apply.Unconfirmed && !t.Deadline.IsZero():
		p.hang("  !", yellow, 4, "to be confirmed until "+t.Deadline.Local().Format(time.DateTime)+": napitune confirm "+t.ID)
	}
	if t.NetNS != "" {
		p.hang("  !", yellow, 4, "made in another network namespace ("+t.NetNS+"): its settings are seen there only")
		return
	}
	switch {
	case !t.Unfinished || t.Newer:
	case t.Undone:
		p.hang("  !", yellow, 4, "nothing that its journal still tells is left to undo: look at the host, then napitune forget "+t.ID)
	case t.State == apply.Dirty:
		p.hang("  !", yellow, 4, "unfinished: a rollback could not restore everything: napitune rollback "+t.ID+" tries again, napitune forget "+t.ID+" leaves the host as it is")
	default:
		p.hang("  !", yellow, 4, "unfinished: napitune rollback "+t.ID+" puts the host back")
	}
	for _, d := range t.Drift {
		p.drift(d)
	}
}

func (p *page) drift(d apply.Drift) {
	switch {
	case d.Drifted && d.Reason != "":
		p.hang("  x", red, 4, d.Ref.String()+": not readable ("+d.Reason+"), was set to "+told(d.Wrote)+suspicion(d))
	case d.Drifted:
		by := "somebody else"
		if d.By != "" {
			by = "transaction " + d.By
		}
		p.hang("  x", red, 4, d.Ref.String()+": is "+told(d.Present)+" and was set to "+told(d.Wrote)+": changed by "+by+suspicion(d))
	case p.style.Verbose:
		p.hang("  =", green, 4, d.Ref.String()+": "+told(d.Before)+" → "+told(d.Wrote))
	}
}

func suspicion(d apply.Drift) string {
	if len(d.Suspects) == 0 {
		return ""
	}
	return "; " + strings.Join(d.Suspects, "; ")
}

// History is the answer of "napitune history".
type History struct {
	Schema string        `json:"schema"`
	Events []apply.Event `json:"events"`
	// Damaged counts lines of the file that could not be read.
	Damaged int `json:"damaged"`
}

// NewHistory makes the document of a history.
func NewHistory(events []apply.Event, damaged int) History {
	return History{Schema: SchemaHistory, Events: present(events), Damaged: damaged}
}

// Text writes one line per event and, below it, what was changed and why.
func (h History) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	if len(h.Events) == 0 {
		p.line("Nothing was ever applied here.")
	}
	for _, e := range h.Events {
		parts := []string{e.At.Local().Format(time.DateTime), p.paint(bold, clean(e.ID)), clean(e.Event)}
		if n := len(e.Changes); n > 0 {
			parts = append(parts, plural(n, "change"))
		}
		if n := len(e.Restored); n > 0 {
			parts = append(parts, plural(n, "setting"))
		}
		p.line(strings.Join(parts, "  "))
		for _, o := range e.Changes {
			text := o.Ref.String() + ": " + stepText(o)
			if o.Why != "" {
				text += " — " + o.Why
			}
			p.hang("  ~", yellow, 4, text)
		}
		if e.Brought != "" {
			p.hang("", plain, 2, e.Brought)
		}
	}
	if h.Damaged > 0 {
		p.hang("  !", yellow, 4, plural(h.Damaged, "line")+" of the history could not be read")
	}
	return p.err
}
