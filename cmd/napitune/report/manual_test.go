package report

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules"
)

func TestParseGlossary(t *testing.T) {
	got, err := ParseGlossary("# Title\nprose\n\n## One\n\n- **a** / **b c** — First line\n  second line.\n- **d** — Text.\nprose\n  not text\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []Term{
		{Names: []string{"a", "b c"}, Text: "First line second line.", Section: "One"},
		{Names: []string{"d"}, Text: "Text.", Section: "One"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"- **a**", "- **a** — ", "- **** — x", "- **a** / b — x"} {
		if terms, err := ParseGlossary(bad); err == nil || terms != nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("ParseGlossary(%q) = %v, %v", bad, terms, err)
		}
	}
}

// The real glossary parses whole: every entry, no name twice.
func TestGlossaryIsWhole(t *testing.T) {
	terms, err := ParseGlossary(napitune.Glossary())
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Count(napitune.Glossary(), "\n- "); len(terms) != want {
		t.Errorf("%d terms from %d entries", len(terms), want)
	}
	seen := map[string]bool{}
	for _, term := range terms {
		for _, name := range term.Names {
			if seen[strings.ToLower(name)] {
				t.Errorf("%q is defined twice", name)
			}
			seen[strings.ToLower(name)] = true
		}
	}
}

func testManual() Manual {
	return Manual{
		Rules: []rules.Rule{{ID: "irq-stacked", Title: "several busy interrupts on one CPU", Page: rules.Page{
			Meaning: "Interrupts of several queues fire on one CPU.", Evidence: "/proc/interrupts", Cause: "Nobody spread them.",
			Remedy: "Spread them.", SideEffects: "None.", NotWhen: "The host is idle.", Source: "kernel/irq/manage.c", Thresholds: []string{"share ≥ 40 %, no squeezes"},
		}}},
		Knobs: []*knob.Kind{{Name: "ring.rx", Title: "receive descriptors", Doc: "How many packets the NIC can hand over.", Unit: "descriptors",
			Codec: knob.Codec{Name: "integer"}, Disruption: knob.DisruptsLink, Clobbers: []string{"irq.affinity"}, Source: "net/ethtool/rings.c", Scope: knob.ScopeDevice}},
		Terms: []Term{{Names: []string{"squeeze", "time_squeeze"}, Text: "A run that **ended** early."}, {Names: []string{"ring"}, Text: "Descriptors."}},
	}
}

func TestExplain(t *testing.T) {
	for _, name := range []string{"irq-stacked", "eth0/ring.rx", "TIME_SQUEEZE"} {
		var out bytes.Buffer
		if err := testManual().Explain(&out, name, Style{}); err != nil {
			t.Fatal(err)
		}
		golden(t, "explain-"+strings.ReplaceAll(strings.ToLower(name), "/", "-")+".txt", out.String())
	}
	var all, list bytes.Buffer
	if err := testManual().All(&all, Style{}); err != nil {
		t.Fatal(err)
	}
	if err := testManual().List(&list, Style{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"irq-stacked", "ring.rx", "squeeze"} {
		if !strings.Contains(all.String(), name) || !strings.Contains(list.String(), name) {
			t.Errorf("%s is missing in the manual or its list", name)
		}
	}
}

// Settings, and the words that the pages about them use, are found by the names
// that people know them by.
func TestExplainShortNames(t *testing.T) {
	terms, err := ParseGlossary(napitune.Glossary())
	if err != nil {
		t.Fatal(err)
	}
	m := Manual{Rules: rules.All(), Knobs: knob.All(), Terms: terms}
	for name, want := range map[string]string{
		"netdev_budget":                    "net.core.netdev_budget — ",
		"/proc/sys/net/core/netdev_budget": "net.core.netdev_budget — ",
		"NETDEV_BUDGET_USECS":              "net.core.netdev_budget_usecs — ",
		"netdev_max_backlog":               "net.core.netdev_max_backlog — ",
		"tick":                             "tick, jiffy, ",
		"jiffies":                          "tick, jiffy, ",
		"HZ":                               "tick, jiffy, ",
		"net.core.netdev_budget_usecs":     "net.core.netdev_budget_usecs — ",
		"/proc/sys/net/core/rps_sock_flow_entries": "net.core.rps_sock_flow_entries — ",
	} {
		var out bytes.Buffer
		if err := m.Explain(&out, name, Style{}); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("explain %s: %v, %.60q, want %q", name, err, out.String(), want)
		}
	}
}

// What the thresholds of a page say in words of the kernel is explained on it.
func TestExplainWords(t *testing.T) {
	terms, err := ParseGlossary(napitune.Glossary())
	if err != nil {
		t.Fatal(err)
	}
	m := Manual{Rules: rules.All(), Terms: terms}
	for id, want := range map[string]string{"budget-packets": "NAPI, poll, weight, squeeze, full poll", "cpu-steal": "steal", "rss-udp-hash": ""} {
		r, _ := rules.Lookup(id)
		var got []string
		for _, term := range m.words(r) {
			got = append(got, term.Names[0])
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s explains %q, want %s", id, got, want)
		}
	}
}

func TestMentions(t *testing.T) {
	for _, tt := range []struct {
		text, word string
		want       bool
	}{
		{"a squeeze", "squeeze", true}, {"two squeezes, no more", "squeeze", true}, {"squeezed", "squeeze", false}, {"squeeze-rate", "squeeze", false},
		{"time_squeeze", "squeeze", false}, {"squeeze-rate of squeezes", "squeeze", true}, {"", "squeeze", false}, {"jiffiesé", "jiffies", false}, {"(gro)", "gro", true},
	} {
		if got := mentions(tt.text, tt.word); got != tt.want {
			t.Errorf("mentions(%q, %q) = %v", tt.text, tt.word, got)
		}
	}
}

func TestExplainUnknown(t *testing.T) {
	for name, want := range map[string]string{
		"irq-stakced": `nothing is called "irq-stakced"; did you mean irq-stacked?`,
		"squeez":      `nothing is called "squeez"; did you mean squeeze, time_squeeze?`,
		"zzzzzzzz":    `nothing is called "zzzzzzzz" (napitune explain lists what there is)`,
	} {
		var out bytes.Buffer
		err := testManual().Explain(&out, name, Style{})
		if err == nil || err.Error() != want || out.Len() > 0 {
			t.Errorf("explain %s: %v, %q; want %s", name, err, out.String(), want)
		}
	}
}

func FuzzParseGlossary(f *testing.F) {
	f.Add(napitune.Glossary())
	f.Add("- **a** / **b** — x\n  y")
	f.Fuzz(func(t *testing.T, text string) {
		terms, err := ParseGlossary(text)
		if err != nil && terms != nil {
			t.Errorf("error %v with %d terms", err, len(terms))
		}
		if slices.ContainsFunc(terms, func(t Term) bool { return len(t.Names) == 0 || t.Text == "" }) {
			t.Error("an entry without name or text")
		}
	})
}
