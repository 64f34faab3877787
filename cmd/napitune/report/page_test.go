package report

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestElide(t *testing.T) {
	for _, test := range []struct {
		text  string
		width int
		want  string
	}{
		{"0-7", 10, "0-7"},
		{"0,1,2,3,4,5,6,7", 9, "0,1,…,6,7"},
		{"abcdef", 5, "ab…ef"},
		{"abcdef", 1, "…"},
		{"→→→→→→", 3, "→…→"},
	} {
		if got := elide(test.text, test.width); got != test.want {
			t.Errorf("elide(%q, %d) = %q, want %q", test.text, test.width, got, test.want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"eth0":                 "eth0",
		"a\x1b[2Jb":            `a\x1b[2Jb`,
		"a\nb\tc":              "a b c",
		"\xff":                 `\xff`,
		"\u202eevil":           `\u202eevil`,
		"61% → 26%":            "61% → 26%",
		"replaced \ufffd here": `replaced \ufffd here`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[float64]string{
		0: "0", 1: "1", -3: "-3", 61: "61", 0.5: "0.5", 4.876: "4.88", 12.34: "12.3", 123.4: "123",
		1234.5: "1,235", 1e6: "1,000,000", 0.000123456: "0.000123",
	} {
		if got := number(in); got != want {
			t.Errorf("number(%v) = %q, want %q", in, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	if got, want := numbers([]int{3, 0, 1, 2, 6, 8, 9, 6}), "0-3,6,8-9"; got != want {
		t.Errorf("numbers = %q, want %q", got, want)
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("some words and a veryverylongword → more", 10)
	f.Add("", 0)
	f.Add("\xff\xfe", 1)
	f.Fuzz(func(t *testing.T, text string, width int) {
		width = max(1, min(width, 300))
		text = clean(text)
		lines := wrap(text, width)
		for _, l := range lines {
			if columns(l) > width || !utf8.ValidString(l) {
				t.Errorf("line %q of width %d", l, width)
			}
		}
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if diff := cmp.Diff(squeeze(text), squeeze(strings.Join(lines, " "))); diff != "" {
			t.Errorf("text lost:\n%s", diff)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\xff\u202e\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got := clean(text); strings.ContainsFunc(got, unsafeRune) {
			t.Errorf("clean(%q) = %q", text, got)
		}
	})
}
