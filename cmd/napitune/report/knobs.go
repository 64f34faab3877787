package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
)

// Knobs is the answer of "napitune knobs": every setting of this host.
type Knobs struct {
	Schema string       `json:"schema"`
	Host   Host         `json:"host"`
	Knobs  []Knob       `json:"knobs"`
	Gaps   []detect.Gap `json:"gaps"`
}

// Knob is one setting of this host.
type Knob struct {
	Ref   knob.Ref `json:"ref"`
	Title string   `json:"title"`
	Unit  string   `json:"unit"`
	// Status is "known", "locked", "unsupported", "denied" or "unknown"; only
	// the first two come with a value, all but the first with a reason.
	Status     string   `json:"status"`
	Value      string   `json:"value"`
	Default    *string  `json:"default"` // null = the kernel has none, or it cannot be known
	Min        *int64   `json:"min"`     // null = not a bounded number
	Max        *int64   `json:"max"`
	Allowed    []string `json:"allowed"` // words of an enumeration
	CPUs       string   `json:"cpus"`    // CPUs that a CPU set may name
	Reason     string   `json:"reason"`
	Disruption string   `json:"disruption"`
}

// NewKnobs lists the settings of a snapshot, of the named devices or of all.
// Host-wide settings are always listed. defaults answers what the kernel's own
// value would be; it may be nil.
func NewKnobs(s *detect.Snapshot, only []string, defaults func(knob.Ref) (string, bool)) Knobs {
	out := Knobs{Schema: SchemaKnobs, Host: newHost(s), Knobs: []Knob{}, Gaps: present(slices.Clone(s.Gaps))}
	for _, ref := range slices.SortedFunc(maps.Keys(s.Knobs), compareRefs) {
		if ref.Dev != "" && len(only) > 0 && !slices.Contains(only, ref.Dev) {
			continue
		}
		out.Knobs = append(out.Knobs, newKnob(ref, s.Knobs[ref], defaults))
	}
	return out
}

// compareRefs orders by device (host first), then kind, side and queue.
func compareRefs(a, b knob.Ref) int {
	side := func(r knob.Ref) int {
		if r.Tx {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.Dev, b.Dev), cmp.Compare(min(a.Queue, 0), min(b.Queue, 0)), cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(side(a), side(b)), cmp.Compare(a.Queue, b.Queue),
	)
}

func newKnob(ref knob.Ref, s knob.State, defaults func(knob.Ref) (string, bool)) Knob {
	k := Knob{
		Ref: ref, Status: s.Status.String(), Value: s.Value, Reason: s.Reason,
		Allowed: present(s.Bounds.Of), CPUs: s.Bounds.CPUs,
	}
	if kind, ok := knob.Lookup(ref.Kind); ok {
		k.Title, k.Unit, k.Disruption = kind.Title, kind.Unit, kind.Disruption.String()
	}
	if s.Bounds.Min != 0 || s.Bounds.Max != 0 {
		k.Min, k.Max = &s.Bounds.Min, &s.Bounds.Max
	}
	if defaults != nil {
		if value, ok := defaults(ref); ok {
			k.Default = &value
		}
	}
	return k
}

// Text writes the settings as one table per device. Queues with the same
// reading share a line unless the style is verbose.
func (k Knobs) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	if len(k.Knobs) == 0 {
		p.line("No setting of this host could be found.")
	}
	first := true
	for rest := k.Knobs; len(rest) > 0; {
		dev := rest[0].Ref.Dev
		n := 0
		for n < len(rest) && rest[n].Ref.Dev == dev {
			n++
		}
		if !first {
			p.blank()
		}
		first = false
		p.line(p.paint(bold, deviceHead(k.Host, dev)))
		p.knobTable(rest[:n])
		rest = rest[n:]
	}
	p.gaps(k.Gaps)
	return p.err
}

func (p *page) knobTable(knobs []Knob) {
	t := table{heads: []string{"SETTING", "VALUE", "DEFAULT", "RANGE", "STATUS"}, limit: 30}
	key := func(k Knob) (knob.Ref, string) {
		if p.style.Verbose {
			return k.Ref, k.Ref.String()
		}
		return k.Ref, strings.Join([]string{k.Status, k.Value, k.Reason, rangeOf(k), defaultOf(k)}, "\x00")
	}
	for _, f := range fold(knobs, key) {
		k := f.first
		value := k.Value
		if value == "" && (k.Status == knob.Known.String() || k.Status == knob.Locked.String()) {
			value = "(none)"
		}
		t.add(f.name, cmp.Or(value, "-"), defaultOf(k), rangeOf(k), knobStatus(k))
	}
	t.render(p, 2)
}

func defaultOf(k Knob) string {
	switch {
	case k.Default == nil:
		return "-"
	case *k.Default == "":
		return "(none)"
	default:
		return *k.Default
	}
}

// unboundedAbove is the largest value of the kernel's int sysctls: a range up
// to it says nothing.
const unboundedAbove = 1<<31 - 1

func rangeOf(k Knob) string {
	switch {
	case len(k.Allowed) > 0:
		return strings.Join(k.Allowed, "|")
	case k.CPUs != "":
		return "CPUs " + k.CPUs
	case k.Max != nil && *k.Max >= unboundedAbove:
		return fmt.Sprintf("≥ %d", *k.Min)
	case k.Max != nil:
		return fmt.Sprintf("%d-%d", *k.Min, *k.Max)
	default:
		return "-"
	}
}

func knobStatus(k Knob) string {
	if k.Status == knob.Known.String() {
		return "ok"
	}
	if k.Reason == "" {
		return k.Status
	}
	return k.Status + ": " + k.Reason
}
