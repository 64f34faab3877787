// Package knob is the table of everything napitune can read and set: one row
// per tunable with its address, form, range, side effects and the way to read
// and write it. Everything else (diff, journal, verification, rollback, shell
// rendering, profiles, documentation) is written once over these rows.
package knob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// Ref is the address of one tunable as people say it:
//
//	net.core.netdev_budget      a host-wide sysctl
//	eth0/ring.rx                a setting of a device
//	eth0/rx-3/irq.affinity      a setting of one queue of a device
//
// IRQs are addressed by queue and never by number: numbers change at every
// boot and channel change.
type Ref struct {
	Kind  string // name of the row, e.g. "rps.cpus"
	Dev   string // "" for host-wide settings
	Tx    bool   // with Queue >= 0: transmit side
	Queue int    // -1 for a setting of the whole device or host
}

// Global addresses a host-wide setting.
func Global(kind string) Ref { return Ref{Kind: kind, Queue: -1} }

// Device addresses a setting of a device.
func Device(dev, kind string) Ref { return Ref{Kind: kind, Dev: dev, Queue: -1} }

// Rx addresses a setting of a receive queue.
func Rx(dev string, queue int, kind string) Ref { return Ref{Kind: kind, Dev: dev, Queue: queue} }

// Tx addresses a setting of a transmit queue.
func Tx(dev string, queue int, kind string) Ref {
	return Ref{Kind: kind, Dev: dev, Queue: queue, Tx: true}
}

// String is the textual address.
func (r Ref) String() string {
	switch {
	case r.Dev == "":
		return r.Kind
	case r.Queue < 0:
		return r.Dev + "/" + r.Kind
	case r.Tx:
		return r.Dev + "/tx-" + strconv.Itoa(r.Queue) + "/" + r.Kind
	default:
		return r.Dev + "/rx-" + strconv.Itoa(r.Queue) + "/" + r.Kind
	}
}

// ParseRef reads the textual address and checks that the kind exists and is
// used at the right place. Device names are checked like dev_valid_name
// (net/core/dev.c): no slash, no white space, not "." or "..", at most 15 bytes.
func ParseRef(text string) (Ref, error) {
	ref, err := ParseAddress(text)
	if err != nil {
		return Ref{}, err
	}
	if _, ok := Lookup(ref.Kind); !ok {
		return Ref{}, fmt.Errorf("setting %q: no such setting %q (napitune knobs lists them)", text, ref.Kind)
	}
	return ref, nil
}

// ParseAddress is ParseRef for what another version may have written: it takes
// kinds that this version does not know.
func ParseAddress(text string) (Ref, error) {
	parts := strings.Split(text, "/")
	ref := Ref{Queue: -1, Kind: parts[len(parts)-1]}
	switch len(parts) {
	case 1:
	case 2:
		ref.Dev = parts[0]
	case 3:
		ref.Dev = parts[0]
		side, number, ok := strings.Cut(parts[1], "-")
		queue, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil || (side != "rx" && side != "tx") || strconv.Itoa(int(queue)) != number {
			return Ref{}, fmt.Errorf("setting %q: %q is not a queue (rx-N or tx-N)", text, parts[1])
		}
		ref.Tx, ref.Queue = side == "tx", int(queue)
	default:
		return Ref{}, fmt.Errorf("setting %q: more parts than DEVICE/QUEUE/NAME", text)
	}
	if ref.Kind == "" {
		return Ref{}, fmt.Errorf("setting %q: it names no setting", text)
	}
	if len(parts) > 1 && !validDevice(ref.Dev) {
		return Ref{}, fmt.Errorf("setting %q: %q is not a device name", text, ref.Dev)
	}
	if kind, ok := Lookup(ref.Kind); ok && !kind.Scope.fits(ref) {
		return Ref{}, fmt.Errorf("setting %q: %s is a setting of %s", text, ref.Kind, kind.Scope)
	}
	return ref, nil
}

func validDevice(name string) bool {
	if driver, address, ok := strings.Cut(name, "@"); ok && pciAddress(address) {
		// "mlx5@0000:04:00.0": a function whose interrupts a capture shows
		// without naming its device.
		name = driver
	}
	if name == "" || name == "." || name == ".." || len(name) > 15 {
		return false
	}
	for _, c := range []byte(name) {
		if c == '/' || c == ':' || c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// pciAddress reports whether text has the form domain:bus:device.function.
func pciAddress(text string) bool {
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '.' })
	if len(parts) != 4 || strings.Join(parts[:3], ":")+"."+parts[3] != text {
		return false
	}
	return !slices.ContainsFunc(parts, func(part string) bool {
		_, err := strconv.ParseUint(part, 16, 32)
		return err != nil
	})
}

// MarshalText is the textual address.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the textual address.
func (r *Ref) UnmarshalText(text []byte) error {
	parsed, err := ParseRef(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

// Scope is what a setting belongs to.
type Scope uint8

// Scopes.
const (
	ScopeHost Scope = iota
	ScopeDevice
	ScopeRx
	ScopeTx
	ScopeQueue // receive or transmit
)

func (s Scope) String() string {
	return [...]string{"the host", "a device", "a receive queue", "a transmit queue", "a queue"}[s]
}

func (s Scope) fits(r Ref) bool {
	switch s {
	case ScopeHost:
		return r.Dev == ""
	case ScopeDevice:
		return r.Dev != "" && r.Queue < 0
	case ScopeRx:
		return r.Queue >= 0 && !r.Tx
	case ScopeTx:
		return r.Queue >= 0 && r.Tx
	default:
		return r.Queue >= 0
	}
}

// Stage orders writes: effects overlap, and an earlier stage may overwrite
// what a later one sets (kernel-side reasons are on the rows).
type Stage uint8

// Stages in the order of writing.
const (
	StageOwners Stage = iota // what other programs are told, before they could undo a change
	StageChannels
	StageRings
	StageRSS
	StageFeatures
	StageCoalesce
	StageSysctl
	StageNAPI // device-wide NAPI settings, which overwrite per-NAPI ones
	StageSteering
	StageAffinity
)

func (s Stage) String() string {
	return [...]string{"owners", "channels", "rings", "rss", "features", "coalescing", "sysctl", "napi", "steering", "affinity"}[s]
}

// joint reports whether the settings of the stage on one device hang together:
// ethtool hands them to the driver as one structure, and those that were not
// asked for change with the others (features depend on one another,
// net/core/dev.c netdev_fix_features; mlx5_core sets delays anew when adaptive
// moderation is switched, mlx5e_ethtool_set_coalesce).
func (s Stage) joint() bool {
	switch s {
	case StageChannels, StageRings, StageRSS, StageFeatures, StageCoalesce:
		return true
	default:
		return false
	}
}

// Disruption is what a write does to traffic.
type Disruption uint8

// Disruptions, mildest first.
const (
	DisruptsNothing Disruption = iota
	DisruptsPackets            // packets may be lost or reordered for moments
	DisruptsLink               // many drivers reset the link: seconds without traffic
)

func (d Disruption) String() string { return [...]string{"none", "packets", "link"}[d] }

// Status says what is known of a setting.
type Status uint8

// Statuses. Only Known and Locked come with a value.
const (
	Known       Status = iota
	Locked             // readable, but this host refuses to change it; Reason says why
	Unsupported        // certainly not there
	Denied             // needs a capability or root
	Unknown            // could not tell: not captured, unreadable
)

func (s Status) String() string {
	return [...]string{"known", "locked", "unsupported", "denied", "unknown"}[s]
}

// State is the reading of one setting.
type State struct {
	Status Status
	Value  string // canonical form of the row's codec
	Reason string // for every status but Known
	Bounds Bounds
}

// Has reports whether the state carries a value.
func (s State) Has() bool { return s.Status == Known || s.Status == Locked }

// notCaptured is the reason of settings that a captured host cannot tell.
const notCaptured = "not captured"

// Withheld reports whether the setting may be there although this host, which is
// not a captured one, did not tell its value.
func (s State) Withheld() bool {
	return s.Status == Denied || s.Status == Unknown && s.Reason != notCaptured
}

// Bounds is the range that this host accepts.
type Bounds struct {
	Min, Max int64    // both 0: not bounded or not a number; of a set of queues their numbers
	Of       []string // the allowed words, for enumerations
	CPUs     string   // the CPUs a CPU set may name, list form
	// PowerOfTwo: the kernel refuses or rounds up anything else; 0 is
	// allowed where Min is 0.
	PowerOfTwo bool
	// Slots is the number of entries an RSS table must have; Min and Max then
	// bound the queue numbers in it. 0: not a table.
	Slots int
}

// View is what reading a setting needs to know of a host: the host itself and
// the questions that need the queue map.
type View struct {
	Host *host.Host
	// Devices lists the devices whose settings are wanted.
	Devices []Dev
	// IRQ resolves the interrupt that serves a queue; an error says why it
	// is not known. For a queue pair with one vector both sides give the same.
	IRQ func(dev string, tx bool, queue int) (int, error)
	// HZ is CONFIG_HZ, 0 if unknown. OnlineCPUs and HousekeepingCPUs are list forms.
	HZ                           int
	OnlineCPUs, HousekeepingCPUs string
}

// Dev is the little that the table needs to know of a device.
type Dev struct {
	Name               string
	RxQueues, TxQueues int
	Tunable            bool // has hardware queues of its own: neither a VLAN nor a bond
	// Driver is the kernel driver ("virtio_net"), "" if unknown.
	Driver string
	// VirtioFeatures is the negotiated feature string of a virtio device
	// (/sys/bus/virtio/devices/virtioN/features: character i is feature bit
	// i), "" if unknown or not virtio.
	VirtioFeatures string
}

// Kind is one row of the table.
type Kind struct {
	Name   string
	Scope  Scope
	Title  string // a few words: "packets per net_rx_action run"
	Doc    string // one paragraph: meaning, unit, when it helps, what it costs
	Source string // kernel file or document
	Unit   string // "packets", "µs", "ns", "CPUs", "descriptors", "entries", ""
	Codec  Codec
	Stage  Stage
	// Rank orders the writes of one stage where the kernel makes one depend on
	// another: lower ranks first. 0 for nearly all.
	Rank       int
	Disruption Disruption // the worst over all drivers; DisruptionFor knows better
	// DisruptionOn is what a write does on this very device; nil where that
	// does not depend on the driver.
	DisruptionOn func(v View, r Ref) Disruption
	Clobbers     []string // kinds this one overwrites as a side effect
	// Default is the kernel's own value on this host; false if it has none
	// or cannot be known.
	Default func(v View, r Ref) (string, bool)
	// Refs lists the addresses of this kind that exist on the host.
	Refs func(v View) []Ref
	Read func(v View, r Ref) State
	// Write puts a value in any spelling the codec accepts; it does not read
	// back. It checks the form and not the range: a rollback must be able to
	// restore what was there. Proposals are checked with Check.
	Write func(v View, w host.Writer, r Ref, value string) error
	// Asked: a program keeps the value and takes its time to tell it, so that
	// only what changes it reads it. What the program forgot when it ended needs
	// no undoing.
	Asked bool
	// Except gives the value that makes the program leave these settings alone
	// besides those of the present value; nil for all other kinds.
	Except func(v View, present string, refs []Ref) (string, error)
	// Shell is the command a person would type; "" if there is none.
	Shell func(v View, r Ref, value string) string
	// Files are the files through which other programs write the setting, some
	// of which may not be there; nil where it is set through a driver.
	Files func(v View, r Ref) []string
}

// Codec is the textual form of a kind's values.
type Codec struct {
	Name string // "integer", "switch", "cpus", "queues", "table", "fields"
	// Canonical parses any accepted spelling and prints the one form that
	// is used everywhere; equal values have equal canonical forms.
	Canonical func(text string) (string, error)
}

// DisruptionFor is what a write does to the traffic of this very device.
func (k *Kind) DisruptionFor(v View, r Ref) Disruption {
	if k.DisruptionOn == nil {
		return k.Disruption
	}
	return k.DisruptionOn(v, r)
}

// Exists reports whether the setting at an address has a value on this host.
// It reaches further than Refs, which lists what advice is about: channels and
// XPS of a veth, say, are there although no rule looks at them.
func (k *Kind) Exists(v View, r Ref) bool {
	known := slices.ContainsFunc(v.Devices, func(d Dev) bool { return d.Name == r.Dev })
	return (known || r.Dev == "") && k.Read(v, r).Has()
}

// MayChange reports whether a write of this kind may change a setting of the
// other kind on the same device. Of kinds that overwrite others all of the
// device is to be feared: drivers do more than the core demands of them.
func (k *Kind) MayChange(other *Kind) bool {
	if k == other || k.Scope == ScopeHost || other.Scope == ScopeHost {
		return false
	}
	return len(k.Clobbers) > 0 || k.Stage == other.Stage && k.Stage.joint()
}

// All returns the rows in the order of stages, then names. The slice is the
// caller's own.
func All() []*Kind { return slices.Clone(rows) }

// Lookup finds a row by name.
func Lookup(name string) (*Kind, bool) {
	k, ok := byName[name]
	return k, ok
}
