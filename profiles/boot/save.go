package boot

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
)

// By is how a saved profile knows a device again.
type By string

// Ways to know a device again. Where a device has no bus address, ByBus falls
// back to its name.
const (
	ByBus    By = "bus"    // driver, bus address and number of queues: this host
	ByDriver By = "driver" // driver: every host of a fleet
	ByName   By = "name"
	ByMAC    By = "mac" // driver and hardware address
)

// Ways lists the ways, the usual one first.
func Ways() []By { return []By{ByBus, ByDriver, ByName, ByMAC} }

// Saving says what a saved profile is like.
type Saving struct {
	Name, Description string
	By                By
	// Solve has choices of CPUs and numbers of queues worked out anew on every
	// host instead of fixing them.
	Solve bool
}

// Save makes a profile of values that settings of a host have, or are to have.
// What a profile cannot hold is left out: each boot makes it anew.
func Save(values map[knob.Ref]string, s *detect.Snapshot, o Saving) (Profile, error) {
	out := Profile{Name: o.Name, Description: o.Description}
	devices := map[string][]Setting{}
	for _, ref := range slices.SortedFunc(maps.Keys(values), compareRefs) {
		if kind, ok := knob.Lookup(ref.Kind); ok && !lasts(kind) {
			continue
		}
		set, err := setting(ref, values[ref])
		if err != nil {
			return Profile{}, err
		}
		if ref.Dev == "" {
			out.Host = append(out.Host, o.host(set, s))
			continue
		}
		devices[ref.Dev] = append(devices[ref.Dev], set)
	}
	slices.SortFunc(out.Host, compareSettings)
	for _, dev := range slices.Sorted(maps.Keys(devices)) {
		e, err := o.entry(dev, devices[dev], s)
		if err != nil {
			return Profile{}, err
		}
		if err := out.add(e, dev); err != nil {
			return Profile{}, err
		}
	}
	if len(out.Host)+len(out.Entries) == 0 {
		return Profile{}, errors.New("there is no setting to save")
	}
	return out, nil
}

func setting(ref knob.Ref, value string) (Setting, error) {
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		return Setting{}, fmt.Errorf("%s: napitune has no such setting", ref)
	}
	text, err := kind.Codec.Canonical(value)
	if err != nil {
		return Setting{}, fmt.Errorf("%s: %w", ref, err)
	}
	out := Setting{Kind: ref.Kind, Value: text}
	switch {
	case ref.Queue < 0:
	case ref.Tx:
		out.Side, out.Queue = "tx", ref.Queue
	default:
		out.Side, out.Queue = "rx", ref.Queue
	}
	return out, nil
}

func (o Saving) host(set Setting, s *detect.Snapshot) Setting {
	if o.Solve && set.Value != "" && set.Value == s.AllowedCPUs().String() && isCPUs(set.Kind) {
		set.Value = Solve
	}
	return set
}

func isCPUs(kind string) bool {
	k, ok := knob.Lookup(kind)
	return ok && k.Codec.Name == "cpus"
}

func (o Saving) entry(dev string, list []Setting, s *detect.Snapshot) (Entry, error) {
	d := s.Device(dev)
	if d == nil {
		return Entry{}, fmt.Errorf("%s is not there any more, so that nothing is known to tell it by", dev)
	}
	m, err := o.match(d)
	if err != nil {
		return Entry{}, err
	}
	if o.Solve {
		list = general(list)
	}
	slices.SortFunc(list, compareSettings)
	return Entry{Match: m, Settings: list}, nil
}

// match is what tells the device from others. Without a fixed CPU the number of
// queues does not matter.
func (o Saving) match(d *detect.Device) (Match, error) {
	queues := 0
	if !o.Solve {
		queues = QueueCount(d)
	}
	switch o.By {
	case ByDriver:
		if d.Driver == "" {
			return Match{}, fmt.Errorf("the driver of %s is not known: match it by %s", d.Name, ByName)
		}
		return Match{Driver: literal(d.Driver), Queues: queues}, nil
	case ByMAC:
		if d.MAC == "" {
			return Match{}, fmt.Errorf("the hardware address of %s is not known: match it by %s", d.Name, ByName)
		}
		return Match{Driver: literal(d.Driver), MAC: d.MAC, Queues: queues}, nil
	case ByBus:
		if d.Bus != "" {
			return Match{Driver: literal(d.Driver), Bus: literal(d.Bus), Queues: queues}, nil
		}
	}
	return Match{Driver: literal(d.Driver), Name: literal(d.Name), Queues: queues}, nil
}

// literal is the wildcard that matches just this text.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(text)
}

// general turns the values of one device into what fits devices of other sizes:
// CPUs and numbers of queues are left to each host, and what is alike on all
// queues is said of all.
func general(list []Setting) []Setting {
	var out []Setting
	perQueue := map[Setting][]Setting{} // by side and kind
	for _, set := range list {
		switch {
		case set.Side != "":
			all := Setting{Kind: set.Kind, Side: set.Side, Queue: AllQueues}
			perQueue[all] = append(perQueue[all], set)
		case isChannels(set.Kind):
			set.Value = Solve
			out = append(out, set)
		case set.Kind == tableKind && isEven(set.Value):
			set.Value = Even
			out = append(out, set)
		default:
			out = append(out, set)
		}
	}
	for all, members := range perQueue {
		alike := !slices.ContainsFunc(members, func(m Setting) bool { return m.Value != members[0].Value })
		none := alike && members[0].Value == ""
		switch {
		case isCPUs(all.Kind) && !none:
			all.Value = Solve
			out = append(out, all)
		case alike:
			all.Value = members[0].Value
			out = append(out, all)
		default:
			out = append(out, members...)
		}
	}
	return out
}

// isEven: which queues a table is even over is the device's to say, and before
// a change of channels it has others.
func isEven(value string) bool {
	slots, err := knob.ParseTable(value)
	if err != nil || len(slots) == 0 {
		return false
	}
	return value == knob.EvenTable(len(slots), int(slices.Max(slots))+1)
}

// add joins entries for the same devices, which must agree.
func (p *Profile) add(e Entry, dev string) error {
	for i := range p.Entries {
		other := &p.Entries[i]
		if other.Match != e.Match {
			continue
		}
		if !slices.Equal(other.Settings, e.Settings) {
			return fmt.Errorf("the settings of %s differ from those of another device with the same match (%s): match by %s or %s", dev, e.Match, ByBus, ByName)
		}
		return nil
	}
	p.Entries = append(p.Entries, e)
	return nil
}
