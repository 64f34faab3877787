// Package owner finds out who else writes the settings of a host: daemons that
// run, and files that systemd applies at boot or when a device appears. It
// reads through host.Host only and judges nothing.
package owner

import (
	"slices"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// Habit is when an owner writes again.
type Habit uint8

// Habits, mildest first.
const (
	AtBoot  Habit = iota // at boot or when the device appears; nothing that runs would do it
	OnEvent              // a running program, on an event such as a connection coming up
	Always               // a running program, by itself and again and again
)

// Owner is somebody besides napitune who writes settings.
type Owner struct {
	Name   string // "irqbalance"
	Habit  Habit
	When   string // "every 10 s": when it writes again, in words
	Claims []Claim
	// Remedy is what takes the settings away from it, for a person to do.
	Remedy string
	// Exceptions is the kind of the setting that keeps it off, "" if it
	// cannot be told.
	Exceptions string
}

// Claim is a setting, or a kind of settings, that an owner writes.
type Claim struct {
	Kind string
	Dev  string // "" for every device, and for settings of the host
	// Value is what it writes; "" if it finds that by itself.
	Value string
	// Source is the file or process that says so.
	Source string
}

// Claim finds what the owner does with a setting; false if it leaves it alone.
// What is claimed for a device by name goes before what is claimed for all.
func (o Owner) Claim(ref knob.Ref) (Claim, bool) {
	for _, dev := range []string{ref.Dev, ""} {
		at := slices.IndexFunc(o.Claims, func(c Claim) bool { return c.Kind == ref.Kind && c.Dev == dev })
		if at >= 0 {
			return o.Claims[at], true
		}
	}
	return Claim{}, false
}

// Fights finds what the owner writes where that differs from a wanted value.
func (o Owner) Fights(ref knob.Ref, want string) (Claim, bool) {
	c, ok := o.Claim(ref)
	if !ok || c.Value == "" {
		return c, ok
	}
	kind, known := knob.Lookup(ref.Kind)
	if !known {
		return c, true
	}
	value, err := kind.Codec.Canonical(c.Value)
	return c, err != nil || value != want
}

// source finds the owners of one sort.
type source func(f *finder) []Owner

// sources are all sorts of owners. A new one is a line here.
func sources() []source {
	return []source{daemons, tuned, networkManager, linkFiles, sysctlFiles}
}

// finder is what sources look at.
type finder struct {
	h         *host.Host
	processes []host.Process
	devices   []host.Link // nil until asked
}

// links lists the devices; none if they cannot be told.
func (f *finder) links() []host.Link {
	if f.devices == nil && f.h.Links != nil {
		f.devices, _ = f.h.Links()
	}
	return f.devices
}

// Find lists the owners on a host. What cannot be read claims nothing: files of
// NetworkManager, for one, are root's.
func Find(h *host.Host, processes []host.Process) []Owner {
	f := &finder{h: h, processes: processes}
	var out []Owner
	for _, find := range sources() {
		out = append(out, find(f)...)
	}
	return out
}

// runs finds a process by name.
func (f *finder) runs(comm string) bool {
	return slices.ContainsFunc(f.processes, func(p host.Process) bool { return p.Comm == comm })
}
