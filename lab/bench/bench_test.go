package bench

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What failed says so in its place, and what was measured is not measured again.
func TestDocument(t *testing.T) {
	plain := func(out, _ string) (string, error) { return out, nil }
	sections := []Section{
		{Name: "date", Title: "One", Shell: "date +%N", Extract: plain},
		{Name: "fails", Title: "Two", Shell: "echo broken; false", Extract: plain},
		{Name: "slow", Title: "Three", Shell: "echo ran", Slow: true, Extract: plain},
	}
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	first, err := b.Document(t.Context(), sections)
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("error %v, want one that tells what the command printed", err)
	}
	if n := strings.Count(first, "Not measured."); n != 2 {
		t.Errorf("%d sections not measured, want 2:\n%s", n, first)
	}
	again, _ := b.Document(t.Context(), sections)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
	b.Slow = true
	if slow, _ := b.Document(t.Context(), sections); !strings.Contains(slow, "\nran\n") {
		t.Errorf("the slow section did not run:\n%s", slow)
	}
}

func TestRivalTable(t *testing.T) {
	got, err := rivalTable(`{"fault":"stacked","tool":"napitune","found":["irq-stacked CPU 0"],"changed":["a","b"],"faulty":0.988,"treated":0.25,"bound":0.25,"splitbefore":4,"seconds":5.17,"stop":"napitune rollback","left":[],"flapped":["a"],"flapped_to":0.25,"killed":[]}
{"fault":"stacked","tool":"other","changed":["a"],"faulty":0.988,"treated":0.5,"bound":0.25,"split":4,"stop":"","left":["a"],"killed":[],"not_killed":true}
{"fault":"stacked","tool":"broken","error":"it said | so\nand more"}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := `| fault | program | found | settings changed | busiest CPU | bound | pairs split | seconds | left after undoing | taken by a link flap | left after kill -9 |
|---|---|---|---|---|---|---|---|---|---|---|
| stacked | napitune | irq-stacked CPU 0 | 2 | 98.8 % → 25.0 % | 25.0 % | 4 → 0 | 5.2 | 0 | 1 | 0 |
| stacked | other | – | 1 | 98.8 % → 50.0 % | 25.0 % | 0 → 4 | – | 1 (no way back) | – | – |
| stacked | broken | failed: it said \| so |  |  |  |  |  |  |  |  |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultTable(t *testing.T) {
	got, err := faultTable(`{"fault":"GRO off","machine":"m","expected":"gro-off","found":true,"metric":"merged","healthy":30,"faulty":1,"treated":29.5}
{"fault":"healthy","machine":"m","found":true,"metric":"share","healthy":0.3}
{"fault":"XPS","machine":"m","expected":"xps-mismatch","found":false,"false":["x"],"differs":["y"]}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| GRO off | m | gro-off: yes | yes | merged | 30.000 → 1.000 → 29.500 | yes |",
		"| healthy | m |  | yes |  |  |  |",
		"| XPS | m | xps-mismatch: no | no |  |  | no |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no row %s in\n%s", want, got)
		}
	}
}

// Both kinds of results foretell, and a plan without changes foretells nothing.
func TestPredictionTable(t *testing.T) {
	got, err := predictionTable(`{"fault":"a","machine":"m","tool":"napitune","changed":["x"],"predicted":0.28,"treated":0.3048}
{"fault":"b","machine":"m","tool":"napitune","changed":[],"predicted":0.28,"treated":0.3}
{"fault":"c","machine":"m","treatment":"napitune","predicted":0.25,"measured":0.25,"treated":0.1}
{"fault":"d","machine":"m","treatment":"napitune","treated":0.1}
`)
	want := `| fault | machine | predicted | measured | off by |
|---|---|---|---|---|
| a | m | 28.0 % | 30.5 % | 8.9 % |
| c | m | 25.0 % | 25.0 % | 0.0 % |
`
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := predictionTable(""); err == nil {
		t.Error("nothing is a table")
	}
}

// Of what go test prints the figures stay.
func TestFenced(t *testing.T) {
	got, err := fenced("=== RUN   TestX\n    x_test.go:12: \n         a  b\n    x_test.go:13: worst 1.2 %\n--- PASS: TestX (0.1s)\nPASS\nok  \tp\t0.1s\n", func(l string) bool { return !frame(l) })
	if diff := cmp.Diff("```\n         a  b\nworst 1.2 %\n```\n", got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := fenced("PASS\n", func(l string) bool { return !frame(l) }); errors.Is(err, nil) {
		t.Error("no figures are figures")
	}
}
