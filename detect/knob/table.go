package knob

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect/host"
)

// rows and byName are written once, while the package is initialised, and
// only read afterwards.
var (
	rows   = table()
	byName = index(rows)
)

func table() []*Kind {
	all := slices.Concat(
		sysctls(), affinities(), steering(), channels(), rings(),
		coalescing(), features(), hashing(), napi(), owners(),
	)
	for _, k := range all {
		guard(k)
	}
	slices.SortFunc(all, func(a, b *Kind) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func index(all []*Kind) map[string]*Kind {
	byName := make(map[string]*Kind, len(all))
	for _, k := range all {
		byName[k.Name] = k
	}
	return byName
}

// guard puts the checks that every row needs around its functions: an address
// that does not fit the row never reaches a path or a driver, since device
// names may come from a capture, a plan file or a profile.
func guard(k *Kind) {
	read, write, shell := k.Read, k.Write, k.Shell
	k.Read = func(v View, r Ref) State {
		if err := k.check(r); err != nil {
			return State{Status: Unknown, Reason: err.Error()}
		}
		return read(v, r)
	}
	k.Write = func(v View, w host.Writer, r Ref, value string) error {
		if err := k.check(r); err != nil {
			return err
		}
		canonical, err := k.Codec.Canonical(value)
		if err != nil {
			return fmt.Errorf("set %s: %w", r, err)
		}
		if err := write(v, w, r, canonical); err != nil {
			return fmt.Errorf("set %s to %q: %w", r, canonical, err)
		}
		return nil
	}
	files := k.Files
	k.Files = func(v View, r Ref) []string {
		if files == nil || k.check(r) != nil {
			return nil
		}
		return files(v, r)
	}
	k.Shell = func(v View, r Ref, value string) string {
		canonical, err := k.Codec.Canonical(value)
		if err != nil || k.check(r) != nil {
			return ""
		}
		return shell(v, r, canonical)
	}
}

func (k *Kind) check(r Ref) error {
	switch {
	case r.Kind != k.Name:
		return fmt.Errorf("setting %q is not %s", r.String(), k.Name)
	case r.Dev != "" && !validDevice(r.Dev):
		return fmt.Errorf("setting %q: %q is not a device name", r.String(), r.Dev)
	case !k.Scope.fits(r):
		return fmt.Errorf("setting %q: %s is a setting of %s", r.String(), k.Name, k.Scope)
	}
	return nil
}

// device finds what the view knows of a device; the zero Dev with only the name
// if it knows nothing.
func (v View) device(name string) Dev {
	for _, d := range v.Devices {
		if d.Name == name {
			return d
		}
	}
	return Dev{Name: name}
}

// everyDevice lists one address per device, tunableDevice only those with
// hardware queues of their own.
func everyDevice(kind string) func(View) []Ref {
	return func(v View) []Ref {
		out := make([]Ref, 0, len(v.Devices))
		for _, d := range v.Devices {
			out = append(out, Device(d.Name, kind))
		}
		return out
	}
}

func tunableDevice(kind string) func(View) []Ref {
	return func(v View) []Ref {
		var out []Ref
		for _, d := range v.Devices {
			if d.Tunable {
				out = append(out, Device(d.Name, kind))
			}
		}
		return out
	}
}

func fixed(value string) func(View, Ref) (string, bool) {
	return func(View, Ref) (string, bool) { return value, true }
}

func noDefault(View, Ref) (string, bool) { return "", false }
