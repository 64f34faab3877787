package profiles

import "time"

// Acknowledgement is a finding that the site knows of and accepts for a time.
type Acknowledgement struct {
	Finding string // id
	Subject string // wildcard form: "eth0", "CPU *"
	Reason  string
	// Until is midnight UTC of the last day on which it holds.
	Until time.Time
	// Line is where the policy file says so, 0 if not read from one.
	Line int
}

// Standing is what a policy says of a finding.
type Standing uint8

// Standings.
const (
	Open         Standing = iota // nothing
	Acknowledged                 // known and accepted
	Expired                      // was accepted, for a time that is over
)

func (s Standing) String() string { return [...]string{"open", "acknowledged", "expired"}[s] }

// ExpiredOn reports whether the last day is over at a time.
func (a Acknowledgement) ExpiredOn(now time.Time) bool {
	return !now.Before(a.Until.AddDate(0, 0, 1))
}

func (a Acknowledgement) covers(finding, subject string) bool {
	return a.Finding == finding && matches(a.Subject, subject)
}

// Standing says whether the site has acknowledged a finding about a subject.
// Where several entries match, one that still holds counts, else the one that
// expired last. The time is the caller's: rules read no clock.
func (p Policy) Standing(finding, subject string, now time.Time) (Standing, Acknowledgement) {
	standing, best := Open, Acknowledgement{}
	for _, a := range p.Acknowledgements {
		if !a.covers(finding, subject) || (standing != Open && !a.Until.After(best.Until)) {
			continue
		}
		standing, best = Acknowledged, a
		if a.ExpiredOn(now) {
			standing = Expired
		}
	}
	return standing, best
}

// ExpiredAcknowledgements lists the entries whose time is over: they no longer
// hide anything and should be renewed or removed.
func (p Policy) ExpiredAcknowledgements(now time.Time) []Acknowledgement {
	var out []Acknowledgement
	for _, a := range p.Acknowledgements {
		if a.ExpiredOn(now) {
			out = append(out, a)
		}
	}
	return out
}
