package boot

import (
	"errors"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/strict"
)

// marker is the key that makes a file a boot profile; its value is the schema.
const marker = "boot-profile"

// Sizes from which a file is refused. A profile that fixes every queue of 16
// devices with 128 queues has 300 KB; the longest value is an RSS table of 2048
// entries without any order, 12 KB.
const (
	MaxFileBytes = 1 << 20
	maxLineBytes = 32 << 10
)

// IsProfile reports whether the text is meant to be a boot profile, and not a
// policy.
func IsProfile(data []byte) bool { return markerLine.Match(data) }

var markerLine = regexp.MustCompile(`(?m)^["']?` + marker + `["']?\s*:`)

// Parse reads a boot profile. name is what errors call the file. The error joins
// every mistake, each a *strict.Error with line and column; then the profile is
// the zero one.
func Parse(name string, data []byte) (Profile, error) {
	p, mistakes := ParseRest(name, data)
	if len(mistakes) == 0 {
		return p, nil
	}
	errs := make([]error, 0, len(mistakes))
	for _, m := range mistakes {
		errs = append(errs, m)
	}
	return Profile{}, errors.Join(errs...)
}

// ParseRest reads what is right of a boot profile and names what is wrong, for
// the boot, where one misspelt key must not cost all other settings. Nothing is
// guessed: a setting that cannot be read is left out, and so is a whole entry
// whose match cannot be.
func ParseRest(name string, data []byte) (Profile, []*strict.Error) {
	r := &reader{Decoder: strict.Decoder{File: name, Noun: "boot profile", MaxBytes: MaxFileBytes, MaxLineBytes: maxLineBytes}}
	r.profile.Name = strings.TrimSuffix(path.Base(name), path.Ext(name))
	if root := r.Root(data); root != nil {
		r.read(root)
	}
	return r.profile, r.Mistakes()
}

type reader struct {
	strict.Decoder
	profile Profile
}

func (r *reader) read(root ast.Node) {
	if !r.readable(root) {
		return
	}
	r.Mapping(root, "the profile", map[string]strict.Field{
		marker:        func(ast.Node) {},
		"name":        r.name,
		"description": func(n ast.Node) { r.profile.Description = r.Text(n, "description") },
		"host":        func(n ast.Node) { r.profile.Host = r.settings(n, "host", r.hostSetting) },
		"devices":     func(n ast.Node) { r.List(n, "devices", r.entry) },
	})
}

// readable refuses what another version wrote, or for something else, before
// anything of it is believed.
func (r *reader) readable(root ast.Node) bool {
	m, ok := root.(*ast.MappingNode)
	if !ok {
		r.Fail(root, "the profile is %s; a group of keys is needed", r.KindOf(root))
		return false
	}
	for _, pair := range m.Values {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok || key.Value != marker {
			continue
		}
		text, _ := strict.Plain(pair.Value)
		if schema, err := strconv.Atoi(text); err != nil || schema < 1 {
			r.Fail(pair.Value, "%s is %s; it is the number of the form, %d", marker, r.KindOf(pair.Value), Schema)
			return false
		} else if schema > Schema {
			r.Fail(pair.Value, "%s is %d, and this version of napitune reads up to %d: a newer one wrote the file", marker, schema, Schema)
			return false
		}
		return true
	}
	r.Fail(root, "this is no boot profile: the key %s: %d is missing", marker, Schema)
	return false
}

// name is part of file names.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// ValidName reports whether a profile can be called so: letters, digits, dot,
// dash and underscore, at most 64.
func ValidName(name string) bool {
	return nameForm.MatchString(name) && !strings.HasSuffix(name, ".yaml")
}

func (r *reader) name(n ast.Node) {
	name := r.Text(n, "name")
	if name != "" && !ValidName(name) {
		r.Fail(n, "name %q: a name has letters, digits, dots, dashes and underscores, and does not end in .yaml", strict.Clip(name))
		return
	}
	r.profile.Name = name
}

// settings reads a mapping from what is set to its value.
func (r *reader) settings(n ast.Node, what string, read func(key ast.Node, text string, s *Setting) bool) []Setting {
	var out []Setting
	r.Names(n, what, func(key ast.Node, text string, value ast.Node) {
		s := Setting{}
		s.Line, _ = strict.Position(key)
		if !read(key, text, &s) || !r.value(value, &s) {
			return
		}
		if slices.ContainsFunc(out, func(o Setting) bool { return o.key() == s.key() }) {
			r.Fail(key, "%s is set twice", s.key())
			return
		}
		out = append(out, s)
	})
	return out
}

func (r *reader) hostSetting(key ast.Node, text string, s *Setting) bool {
	kind, ok := knob.Lookup(text)
	switch {
	case !ok:
		r.Fail(key, "there is no setting %q of the host%s", strict.Clip(text), strict.Choices(text, kindNames(true)))
		return false
	case kind.Scope != knob.ScopeHost:
		r.Fail(key, "%s is a setting of %s and belongs under devices", text, kind.Scope)
		return false
	case !lasts(kind):
		r.Fail(key, "%s cannot be in a profile: a program keeps it, and the next boot gives its numbers anew; each boot tells the program itself", text)
		return false
	}
	s.Kind = text
	return true
}

// lasts reports whether a value of the kind means the same at the next boot. What
// a program keeps does not: it is numbers of this boot, and forgotten with it.
func lasts(kind *knob.Kind) bool { return !kind.Asked }

// deviceSetting reads "KIND" and "QUEUE/KIND".
func (r *reader) deviceSetting(key ast.Node, text string, s *Setting) bool {
	queue, name, ofQueue := strings.Cut(text, "/")
	if !ofQueue {
		queue, name = "", text
	}
	kind, ok := knob.Lookup(name)
	if !ok {
		r.Fail(key, "there is no setting %q of a device%s", strict.Clip(name), strict.Choices(name, kindNames(false)))
		return false
	}
	s.Kind = name
	if ofQueue && !s.takeQueue(queue) {
		r.Fail(key, "%q is no queue: it is rx-N, tx-N, rx-* or tx-*", strict.Clip(queue))
		return false
	}
	if !fits(kind.Scope, s.Side) {
		r.Fail(key, "%s cannot be set there: %s", strict.Clip(text), whose(kind))
		return false
	}
	return true
}

var queueForm = regexp.MustCompile(`^(rx|tx)-(\*|0|[1-9][0-9]{0,4})$`)

func (s *Setting) takeQueue(text string) bool {
	parts := queueForm.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	s.Side, s.Queue = parts[1], AllQueues
	if parts[2] == "*" {
		return true
	}
	n, err := strconv.Atoi(parts[2])
	s.Queue = n
	return err == nil
}

// fits says whether a kind is set at a place.
func fits(scope knob.Scope, side string) bool {
	switch scope {
	case knob.ScopeHost:
		return false
	case knob.ScopeDevice:
		return side == ""
	case knob.ScopeRx:
		return side == "rx"
	case knob.ScopeTx:
		return side == "tx"
	default:
		return side != ""
	}
}

// whose says where a kind is set.
func whose(kind *knob.Kind) string {
	switch kind.Scope {
	case knob.ScopeHost:
		return kind.Name + " is a setting of the whole host and belongs under host"
	case knob.ScopeDevice:
		return kind.Name + " is a setting of the whole device and has no queue before it"
	case knob.ScopeRx:
		return "write rx-N/" + kind.Name + " or rx-*/" + kind.Name
	case knob.ScopeTx:
		return "write tx-N/" + kind.Name + " or tx-*/" + kind.Name
	default:
		return "write rx-N/" + kind.Name + ", tx-N/" + kind.Name + ", or * for N"
	}
}

func kindNames(ofHost bool) []string {
	var out []string
	for _, k := range knob.All() {
		if (k.Scope == knob.ScopeHost) == ofHost && lasts(k) {
			out = append(out, k.Name)
		}
	}
	return out
}

// value checks the form of a value; whether a host takes it is for the host to
// say.
func (r *reader) value(n ast.Node, s *Setting) bool {
	kind, ok := knob.Lookup(s.Kind)
	text, single := strict.Scalar(n)
	if !ok || !single {
		r.Fail(n, "the value of %s is %s; a single value is needed", s.key(), r.KindOf(n))
		return false
	}
	if _, isNull := n.(*ast.NullNode); isNull {
		r.Fail(n, `%s has no value (write "" for none)`, s.key())
		return false
	}
	switch {
	case text == Solve && solvable(kind), text == Even && kind.Name == tableKind:
		s.Value = text
		return true
	case text == Solve:
		r.Fail(n, "%s cannot be worked out on the host: %s is for CPUs and numbers of queues", s.key(), Solve)
		return false
	}
	value, err := kind.Codec.Canonical(text)
	if err != nil {
		r.Fail(n, "%s: %v", s.key(), err)
		return false
	}
	s.Value = value
	return true
}

const (
	tableKind    = "rss.table"
	affinityKind = "irq.affinity"
	rpsKind      = "rps.cpus"
	xpsKind      = "xps.cpus"
)

// solvable says for which kinds a value can be worked out.
func solvable(kind *knob.Kind) bool {
	return kind.Codec.Name == "cpus" || isChannels(kind.Name)
}

func isChannels(kind string) bool { return strings.HasPrefix(kind, "channels.") }

func (r *reader) entry(n ast.Node) {
	var e Entry
	e.Line, _ = strict.Position(n)
	matched, sound := false, true
	r.Mapping(n, "an entry of devices", map[string]strict.Field{
		"match": func(n ast.Node) {
			before := len(r.Mistakes())
			r.match(n, &e.Match)
			matched, sound = true, len(r.Mistakes()) == before
		},
		"optional": func(n ast.Node) { e.Optional = r.Boolean(n, "optional") },
		"settings": func(n ast.Node) { e.Settings = r.settings(n, "settings", r.deviceSetting) },
	})
	switch {
	case !matched:
		r.Fail(n, "the entry of devices has no match: it would be for every device (name: \"*\" means that)")
	case !sound:
		// Half a match would be for other devices than were meant.
	case e.Match == Match{}:
		r.Fail(n, "the match is empty: it would be for every device (name: \"*\" means that)")
	default:
		r.profile.Entries = append(r.profile.Entries, e)
	}
}

// mostQueues: the kernel numbers the queues of a device with 16 bits
// (queue_mapping in include/linux/skbuff.h).
const mostQueues = 1<<16 - 1

var macForm = regexp.MustCompile(`^([0-9a-f]{2}:){5,19}[0-9a-f]{2}$`)

func (r *reader) match(n ast.Node, m *Match) {
	pattern := func(what string, to *string) strict.Field {
		return func(n ast.Node) {
			*to = r.Text(n, what)
			if _, err := path.Match(*to, ""); err != nil {
				r.Fail(n, "%s %q is no wildcard: * stands for anything, ? for one letter, [ab] for a or b", what, strict.Clip(*to))
			}
		}
	}
	r.Mapping(n, "match", map[string]strict.Field{
		"driver": pattern("driver", &m.Driver),
		"bus":    pattern("bus", &m.Bus),
		"name":   pattern("name", &m.Name),
		"mac": func(n ast.Node) {
			m.MAC = strings.ToLower(r.Text(n, "mac"))
			if m.MAC != "" && !macForm.MatchString(m.MAC) {
				r.Fail(n, "mac is %q; an address such as 02:fc:00:00:00:01 is needed", strict.Clip(m.MAC))
			}
		},
		"queues": func(n ast.Node) { m.Queues = r.Limit(n, "queues", mostQueues) },
	})
}
