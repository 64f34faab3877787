package counters

import (
	"reflect"
	"strings"
)

// subtraction subtracts rows and remembers the first counter that went
// backwards: totals of one session only grow, so that is never a zero.
//
// It goes by the type of a field: 64-bit unsigned numbers are counters, all
// other numbers and texts say which row it is. A number that is no counter
// carries the tag keep, so that a field that is added cannot be forgotten here.
type subtraction struct{ backwards string }

// keep is the struct tag of numbers that do not add up: maxima and limits.
const keep = "keep"

func rows[R any, K comparable](s *subtraction, later, earlier []R, key func(R) K) []R {
	if len(later) == 0 {
		return nil
	}
	before := make(map[K]R, len(earlier))
	for _, r := range earlier {
		before[key(r)] = r
	}
	out := make([]R, 0, len(later))
	for _, r := range later {
		out = append(out, difference(s, r, before[key(r)]))
	}
	return out
}

// difference is later minus earlier; it shares no memory with either.
func difference[R any](s *subtraction, later, earlier R) R {
	var out R
	s.value(reflect.TypeOf(out).Name(), reflect.ValueOf(&out).Elem(), reflect.ValueOf(later), reflect.ValueOf(earlier))
	return out
}

func (s *subtraction) value(what string, out, a, b reflect.Value) {
	switch a.Kind() {
	case reflect.Uint64:
		out.SetUint(s.n(what, a.Uint(), b.Uint()))
	case reflect.Struct:
		s.fields(out, a, b)
	case reflect.Map:
		s.entries(out, a, b)
	case reflect.Slice:
		s.list(what, out, a, b)
	case reflect.Pointer:
		s.known(what, out, a, b)
	default:
		out.Set(a)
	}
}

func (s *subtraction) fields(out, a, b reflect.Value) {
	for i := range a.NumField() {
		f := a.Type().Field(i)
		if f.Tag.Get("sub") == keep {
			out.Field(i).Set(a.Field(i))
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		s.value(name, out.Field(i), a.Field(i), b.Field(i))
	}
	if h, ok := out.Addr().Interface().(*Hist); ok {
		*h = NewHist(h.Buckets, h.Sum)
	}
}

func (s *subtraction) entries(out, a, b reflect.Value) {
	if a.IsNil() {
		return
	}
	out.Set(reflect.MakeMapWithSize(a.Type(), a.Len()))
	for each := a.MapRange(); each.Next(); {
		earlier := b.MapIndex(each.Key())
		if !earlier.IsValid() {
			earlier = reflect.Zero(a.Type().Elem())
		}
		entry := reflect.New(a.Type().Elem()).Elem()
		s.value(each.Key().String(), entry, each.Value(), earlier)
		out.SetMapIndex(each.Key(), entry)
	}
}

func (s *subtraction) list(what string, out, a, b reflect.Value) {
	if a.Len() < b.Len() {
		s.n(what, 0, 1)
		return
	}
	if a.IsNil() {
		return
	}
	out.Set(reflect.MakeSlice(a.Type(), a.Len(), a.Len()))
	reflect.Copy(out, a)
	for i := range b.Len() {
		s.value(what, out.Index(i), a.Index(i), b.Index(i))
	}
}

// known subtracts a counter that is nil where nobody counts it.
func (s *subtraction) known(what string, out, a, b reflect.Value) {
	if a.IsNil() {
		return
	}
	earlier := reflect.Zero(a.Type().Elem())
	if !b.IsNil() {
		earlier = b.Elem()
	}
	out.Set(reflect.New(a.Type().Elem()))
	s.value(what, out.Elem(), a.Elem(), earlier)
}

func (s *subtraction) n(what string, a, b uint64) uint64 {
	if a < b {
		if s.backwards == "" {
			s.backwards = what
		}
		return 0
	}
	return a - b
}
