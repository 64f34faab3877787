package cpuset

import (
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	for _, tc := range []struct {
		list, canonical, mask string
		n                     int
	}{
		{"", "", "0", 0},
		{"(null)\n", "", "0", 0},
		{"0\n", "0", "1", 1},
		{"0-3,8", "0-3,8", "10f", 5},
		{"31", "31", "80000000", 1},
		{"32", "32", "1,00000000", 1},
		{"0,64-65", "0,64-65", "3,00000000,00000001", 3},
		{"0-31:1/4", "0,4,8,12,16,20,24,28", "11111111", 8},
		{"3,2,1,1", "1-3", "e", 3},
	} {
		s, err := ParseList(tc.list)
		if err != nil {
			t.Fatalf("ParseList(%q): %v", tc.list, err)
		}
		if s.String() != tc.canonical || s.Mask() != tc.mask || s.Len() != tc.n {
			t.Errorf("ParseList(%q) = %q mask %q len %d, want %q %q %d", tc.list, s, s.Mask(), s.Len(), tc.canonical, tc.mask, tc.n)
		}
		fromMask, err := ParseMask(tc.mask)
		if err != nil || fromMask != s {
			t.Errorf("ParseMask(%q) = %q, %v; want %q", tc.mask, fromMask, err, s)
		}
	}
}

func TestMaskAcceptsWhatToolsPrint(t *testing.T) {
	for text, want := range map[string]string{
		"00000000,0000000f\n":          "0-3",
		"0xff":                         "0-7",
		"ffffffffff":                   "0-39",
		"ff,ffffffff":                  "0-39",
		",3":                           "0-1",
		"00000001,00000000,00000000\n": "64",
	} {
		got, err := ParseMask(text)
		if err != nil || got.String() != want {
			t.Errorf("ParseMask(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, text := range []string{"a", "1-", "-1", "3-1", "0-31:5/4", "0-3:1", "1 2", "65536", "99999999999999999999", "0-3:1/0"} {
		if s, err := ParseList(text); err == nil {
			t.Errorf("ParseList(%q) = %q, want an error", text, s)
		}
	}
	for _, text := range []string{"", "g", "0x", "123456789,0", strings.Repeat("f", 20000), "1 1"} {
		if s, err := ParseMask(text); err == nil {
			t.Errorf("ParseMask(%q) = %q, want an error", clip(text), s)
		}
	}
}

func TestAlgebra(t *testing.T) {
	a, b := Range(0, 9), Of(8, 9, 10, 200)
	for name, tc := range map[string]struct {
		got  Set
		want string
	}{
		"union":     {a.Union(b), "0-10,200"},
		"intersect": {a.Intersect(b), "8-9"},
		"minus":     {a.Minus(b), "0-7"},
		"minus all": {a.Minus(a), ""},
		"collect":   {Collect(b.All()), "8-10,200"},
	} {
		if tc.got.String() != tc.want {
			t.Errorf("%s = %q, want %q", name, tc.got, tc.want)
		}
	}
	if a.Minus(a) != (Set{}) {
		t.Error("an emptied set must equal the zero value")
	}
	if !a.Contains(Of(3)) || a.Contains(b) || !a.Overlaps(b) || a.Overlaps(Of(11)) {
		t.Error("Contains or Overlaps is wrong")
	}
	if b.Min() != 8 || b.Max() != 200 || (Set{}).Min() != -1 || (Set{}).Max() != -1 {
		t.Error("Min or Max is wrong")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0-3,8", "0-31:2/4", "ff,00000000", "", "(null)", "0x3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := ParseList(text); err == nil {
			again, err := ParseList(s.String())
			if err != nil || again != s {
				t.Fatalf("list round trip of %q: %q, %v", text, again, err)
			}
		} else if s != (Set{}) {
			t.Fatalf("ParseList(%q) returned an error and a set", text)
		}
		if s, err := ParseMask(text); err == nil {
			again, err := ParseMask(s.Mask())
			if err != nil || again != s {
				t.Fatalf("mask round trip of %q: %q, %v", text, again, err)
			}
		} else if s != (Set{}) {
			t.Fatalf("ParseMask(%q) returned an error and a set", text)
		}
	})
}
