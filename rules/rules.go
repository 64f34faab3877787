// Package rules judges: a catalogue of pure functions from what was observed
// and what the site wants to findings. It does no I/O, reads no clock and uses
// no randomness; the same observation always gives the same findings.
package rules

import (
	"cmp"
	"slices"

	"github.com/napitune/napitune/rules/plan"
)

// Rule is one entry of the catalogue.
type Rule struct {
	ID    string
	Title string // half a line for lists
	Page  Page
	Eval  func(c *Case) []plan.Finding
}

// Page is the manual page of a rule, shown by "napitune explain".
type Page struct {
	Meaning     string // what is claimed, for a reader without kernel knowledge
	Evidence    string // what is measured and where it comes from
	Cause       string
	Remedy      string
	SideEffects string
	NotWhen     string // when not to follow the advice
	Source      string // kernel file or document
	Thresholds  []string
}

var catalogue []Rule

// register adds a rule to the catalogue at start-up.
func register(r Rule) Rule {
	catalogue = append(catalogue, r)
	return r
}

// All returns the catalogue, sorted by id.
func All() []Rule {
	out := slices.Clone(catalogue)
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Lookup finds a rule by id.
func Lookup(id string) (Rule, bool) {
	for _, r := range catalogue {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}
