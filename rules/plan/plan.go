// Package plan holds what rules conclude (Finding, Want) and what follows from
// it (Change, Plan), with the builder that turns the one into the other and the
// JSON form. It knows knobs and nothing else of the host.
package plan

import (
	"github.com/napitune/napitune/detect/knob"
)

// Severity is how much a finding hurts, by measured harm.
type Severity uint8

// Severities.
const (
	Note    Severity = iota // worth knowing; nothing need be done
	Advice                  // costs something now or soon; a change would help
	Problem                 // measured harm: loss, or a CPU that cannot keep up
)

func (s Severity) String() string { return [...]string{"note", "advice", "problem"}[s] }

// MarshalText is the word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one conclusion of one rule about one subject.
type Finding struct {
	ID       string     `json:"id"`
	Severity Severity   `json:"severity"`
	Subject  string     `json:"subject"` // device, queue, CPU or "host"
	Claim    string     `json:"claim"`   // one sentence with numbers
	Evidence []Evidence `json:"evidence"`
	// Missing names evidence the rule would have liked, and how to get it.
	Missing []string `json:"missing,omitempty"`
	// Because is the id/subject of the finding that causes this one, so
	// that a cause is told once.
	Because string `json:"because,omitempty"`
	// Operator is advice to whoever owns what napitune cannot set: the
	// hypervisor, the firmware, another tool.
	Operator string `json:"operator,omitempty"`
	// Low says that the evidence is weak (totals since boot, one sample).
	Low   bool   `json:"low_confidence,omitempty"`
	Wants []Want `json:"-"`
}

// Evidence is one measured value behind a finding.
type Evidence struct {
	Metric    string  `json:"metric"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Threshold float64 `json:"threshold,omitempty"`
	Source    string  `json:"source"`
}

// Mode is how a want treats the present value.
type Mode uint8

// Modes.
const (
	Set   Mode = iota
	Raise      // only if the present value is lower
	Lower      // only if it is higher
)

// Want is a value that a rule would like a knob to have. It is a wish: the
// builder decides whether it is a change, already true, or blocked.
type Want struct {
	Ref    knob.Ref
	Value  string
	Mode   Mode
	Why    string // a few words with numbers
	Expect Expect
	// Seen is what the counters show to be in force, for captured hosts
	// that did not record the setting itself ("0": fires on CPU 0).
	Seen string
}

// Expect is the measurable effect a change should have.
type Expect struct {
	Metric    string   `json:"metric,omitempty"`
	Direction string   `json:"direction,omitempty"` // "down", "up"
	Predicted *float64 `json:"predicted,omitempty"`
	Unit      string   `json:"unit,omitempty"`
}

// Change is one write: what, from, to.
type Change struct {
	Seq    int      `json:"seq"`
	Ref    knob.Ref `json:"ref"`
	Before string   `json:"before"`
	After  string   `json:"after"`
	// BeforeSeen says that Before is not the setting, which was not told,
	// but what the counters showed.
	BeforeSeen bool     `json:"before_seen,omitempty"`
	Stage      string   `json:"stage"`
	Disruption string   `json:"disruption"`
	Findings   []string `json:"findings"`
	Why        string   `json:"why"`
	Shell      string   `json:"shell,omitempty"`
	Expect     Expect   `json:"expect"`
	// Owners are those who write the setting as well.
	Owners []Owner `json:"owners,omitempty"`
}

// Owner is a program or file that writes a setting besides napitune.
type Owner struct {
	Name string `json:"name"`
	// Undoes says that it runs and changes the setting back by itself; others
	// write at boot or on an event.
	Undoes bool   `json:"undoes"`
	When   string `json:"when"`            // "every 10 s"
	Value  string `json:"value,omitempty"` // what it writes, if that is known
	Source string `json:"source"`          // the file or process that says so
	// Tellable says that it can be told to leave the setting alone (apply --owner ban).
	Tellable bool   `json:"tellable"`
	Remedy   string `json:"remedy"` // what takes the setting away from it
}

// Placement says what a proposed interrupt placement does to the CPUs.
type Placement struct {
	Device string `json:"device"` // devices whose queues move, separated by commas
	// Basis is what load means: "of a CPU" (time spent polling) or "of NIC
	// interrupts" (where no time is known).
	Basis        string    `json:"basis"`
	BeforeMax    float64   `json:"before_max"`
	PredictedMax float64   `json:"predicted_max"`
	LowerBound   float64   `json:"lower_bound"`
	CPUs         []CPULoad `json:"cpus"`
}

// CPULoad is one CPU's load now and as predicted, in the unit of Placement.Basis.
type CPULoad struct {
	CPU       int     `json:"cpu"`
	Before    float64 `json:"before"`
	Predicted float64 `json:"predicted"`
}

// Kept is a want that is already true.
type Kept struct {
	Ref      knob.Ref `json:"ref"`
	Value    string   `json:"value"`
	Findings []string `json:"findings"`
}

// Blocked is a want that this host cannot take.
type Blocked struct {
	Ref      knob.Ref `json:"ref"`
	Want     string   `json:"want"`
	Reason   string   `json:"reason"`
	Findings []string `json:"findings"`
}

// Conflict is two rules that want different values for one knob. Nothing is
// changed there.
type Conflict struct {
	Ref    knob.Ref `json:"ref"`
	Values []string `json:"values"`
	Rules  []string `json:"rules"`
}

// Deferred is a want that can only be decided after earlier changes, such as
// the affinity of queues that a channel change will create.
type Deferred struct {
	Ref    knob.Ref `json:"ref"`
	Reason string   `json:"reason"`
}

// Plan is the ordered list of changes for one host.
type Plan struct {
	Fingerprint string `json:"fingerprint"` // of the host it was made on
	// Origin is what the fingerprint stands for, so that a refusal can name
	// the differences; nil in plans that do not carry it.
	Origin    *Origin    `json:"origin,omitempty"`
	Profile   string     `json:"profile"`
	Changes   []Change   `json:"changes"`
	Kept      []Kept     `json:"kept"`
	Blocked   []Blocked  `json:"blocked"`
	Deferred  []Deferred `json:"deferred"`
	Conflicts []Conflict `json:"conflicts"`
	// Complete: nothing will be left to plan after these changes.
	Complete bool `json:"complete"`
	// Applyable: there is something to do and nothing forbids it.
	Applyable bool `json:"applyable"`
	// Errored: the plan must not be applied.
	Errored bool `json:"errored"`
	// Placement is what moving interrupts should do to the CPUs, for comparing
	// it with what it did. Only plans kept in files have it: a report has its own.
	Placement []Placement `json:"placement,omitempty"`
}

// NameOwners notes with each change who else writes the setting.
func (p *Plan) NameOwners(of func(Change) []Owner) {
	for i := range p.Changes {
		p.Changes[i].Owners = of(p.Changes[i])
	}
}
