// Package boot holds boot profiles: the settings that a class of hosts is to
// have from every boot on, matched to devices by driver, bus and queues and not
// by names that change. It reads and writes their YAML form and works out, for a
// host as it is now, what differs from the profile. It does no I/O.
package boot

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/knob"
)

// Schema is the form of the files that this version reads and writes.
const Schema = 1

// Values that stand for what fits the host at hand.
const (
	// Solve is a choice of CPUs, or a number of queues, that is worked out anew
	// on every host from its topology.
	Solve = "solve"
	// Even is the RSS table that spreads over all receive queues in turn.
	Even = "even"
)

// AllQueues as the queue of a Setting means every queue of its side.
const AllQueues = -1

// Profile is what hosts of one class are to be set to.
type Profile struct {
	// Name is how messages and transactions call the profile.
	Name string
	// Description says in one paragraph what it is for.
	Description string
	// Host are the settings of the whole host.
	Host []Setting
	// Entries are the settings of devices. Where two entries set the same of one
	// device, the later one holds.
	Entries []Entry
}

// Entry is what the devices that match are to be set to.
type Entry struct {
	Match    Match
	Settings []Setting
	// Optional: a host without such a device is as good, and one on which it is down.
	Optional bool
	// Line is where the file says so, 0 if the profile was not read from one.
	Line int
}

// Setting is one desired value.
type Setting struct {
	// Kind is the name of a row of the table of settings (knob.Kind).
	Kind string
	// Side is "rx" or "tx" for a setting of queues, else "".
	Side string
	// Queue is the number of the queue, or AllQueues; 0 where there is no Side.
	Queue int
	// Value is in the canonical form of the kind, or Solve, or Even.
	Value string
	Line  int
}

// key is how the file writes what is set: "ring.rx", "rx-3/irq.affinity",
// "rx-*/rps.cpus".
func (s Setting) key() string {
	if s.Side == "" {
		return s.Kind
	}
	queue := "*"
	if s.Queue != AllQueues {
		queue = strconv.Itoa(s.Queue)
	}
	return s.Side + "-" + queue + "/" + s.Kind
}

// ref is the address of the setting on a device, "" for the host.
func (s Setting) ref(dev string) knob.Ref {
	switch s.Side {
	case "rx":
		return knob.Rx(dev, s.Queue, s.Kind)
	case "tx":
		return knob.Tx(dev, s.Queue, s.Kind)
	}
	if dev == "" {
		return knob.Global(s.Kind)
	}
	return knob.Device(dev, s.Kind)
}

// Solves reports whether some value is worked out on the host.
func (p Profile) Solves() bool {
	solved := func(s Setting) bool { return s.Value == Solve || s.Value == Even }
	return slices.ContainsFunc(p.Host, solved) ||
		slices.ContainsFunc(p.Entries, func(e Entry) bool { return slices.ContainsFunc(e.Settings, solved) })
}

// OnlyUp are the kinds of settings in the profile that many drivers have only while
// a device is up, or choose anew when it is brought up (request_irq and
// netif_set_xps_queue in ndo_open), in the order of the file.
func (p Profile) OnlyUp() []string {
	var out []string
	for _, e := range p.Entries {
		for _, s := range e.Settings {
			if kind, ok := knob.Lookup(s.Kind); ok && onlyUp(kind) && !slices.Contains(out, s.Kind) {
				out = append(out, s.Kind)
			}
		}
	}
	return out
}

func onlyUp(kind *knob.Kind) bool {
	switch kind.Stage {
	case knob.StageChannels, knob.StageCoalesce, knob.StageAffinity:
		return true
	default:
		return kind.Name == xpsKind
	}
}

// Format writes a profile as Parse reads it. Lines are not kept.
func (p Profile) Format() []byte {
	var b strings.Builder
	b.WriteString("# Boot profile of napitune. \"napitune profile check FILE\" reads it as strictly as the boot does,\n")
	b.WriteString("# \"napitune explain SETTING\" tells what each setting is, \"napitune boot --dry-run\" what would change.\n")
	b.WriteString(marker + ": " + strconv.Itoa(Schema) + "\n")
	b.WriteString("name: " + strconv.Quote(p.Name) + "\n")
	if p.Description != "" {
		b.WriteString("description: " + strconv.Quote(p.Description) + "\n")
	}
	if len(p.Host) > 0 {
		b.WriteString("host:\n")
		writeSettings(&b, "  ", p.Host)
	}
	if len(p.Entries) > 0 {
		b.WriteString("devices:\n")
	}
	for _, e := range p.Entries {
		b.WriteString("  - match:\n")
		e.Match.write(&b, "      ")
		if e.Optional {
			b.WriteString("    optional: true\n")
		}
		if len(e.Settings) == 0 {
			continue
		}
		b.WriteString("    settings:\n")
		writeSettings(&b, "      ", e.Settings)
	}
	return []byte(b.String())
}

func writeSettings(b *strings.Builder, indent string, list []Setting) {
	for _, s := range list {
		b.WriteString(indent + s.key() + ": " + scalar(s.Value) + "\n")
	}
}

// scalar quotes what YAML could take for something else than these words.
func scalar(value string) string {
	plain := value != "" && !strings.ContainsFunc(value, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-' && r != ','
	})
	if !plain || value[0] == '-' || value[0] == ',' {
		return strconv.Quote(value)
	}
	return value
}

// compareSettings is the order of the file: stage first, as they are written,
// then kind, side and queue.
func compareSettings(a, b Setting) int {
	stage := func(s Setting) knob.Stage {
		if kind, ok := knob.Lookup(s.Kind); ok {
			return kind.Stage
		}
		return knob.StageAffinity
	}
	return cmp.Or(cmp.Compare(stage(a), stage(b)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Side, b.Side), cmp.Compare(a.Queue, b.Queue))
}
