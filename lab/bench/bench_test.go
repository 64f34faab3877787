package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/lab/faults"
)

func plain(out, _ string) (string, error) { return out, nil }

// What failed says so in its place, and what was measured is not measured again.
func TestDocument(t *testing.T) {
	sections := []Section{
		{Name: "date", Title: "One", Shell: "date +%N", Extract: plain},
		{Name: "fails", Title: "Two", Shell: "echo broken; false", Extract: plain},
		{Name: "slow", Title: "Three", Shell: "echo ran", Slow: true, Extract: plain},
		{Name: "derived", Title: "Four", Shell: "cat $KEPT/date.out", Derived: true, Extract: plain},
	}
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	first, err := b.Document(t.Context(), sections)
	if err == nil || !strings.Contains(err.Error(), "fails: exit status 1: broken") {
		t.Errorf("error %v, want one that names the section and tells what its command printed", err)
	}
	if n := strings.Count(first, "Not measured."); n != 2 {
		t.Errorf("%d sections not measured, want 2:\n%s", n, first)
	}
	if _, four, _ := strings.Cut(first, "## Four"); strings.Count(four, "Measured ") != 1 {
		t.Errorf("what is derived has an origin of its own:\n%s", four)
	}
	again, _ := b.Document(t.Context(), sections)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
	b.Slow = true
	if slow, _ := b.Document(t.Context(), sections); !strings.Contains(slow, "\nran\n") {
		t.Errorf("the slow section did not run:\n%s", slow)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if text, err := b.Document(ended, sections); text != "" || err == nil {
		t.Errorf("a run that was ended wrote %q, %v", text, err)
	}
}

// A section that fails when it is measured again keeps its figures, one whose
// figures cannot be read is not kept, and only what was asked for is measured.
func TestMeasureAgain(t *testing.T) {
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	one := func(shell string) []Section {
		return []Section{{Name: "one", Title: "One", Shell: shell, Extract: func(out, _ string) (string, error) {
			if !strings.HasPrefix(out, "good") {
				return "", errors.New("no figures")
			}
			return out, nil
		}}}
	}
	if text, err := b.Document(t.Context(), one("echo bad")); err == nil || !strings.Contains(text, "Not measured.") {
		t.Errorf("what cannot be read: %v\n%s", err, text)
	}
	if text, err := b.Document(t.Context(), one("echo good 1")); err != nil || !strings.Contains(text, "good 1") {
		t.Errorf("what could not be read was kept: %v\n%s", err, text)
	}
	b.Fresh = true
	if text, err := b.Document(t.Context(), one("echo good 2; false")); err == nil || !strings.Contains(text, "\ngood 1\n") {
		t.Errorf("the earlier figures are gone: %v\n%s", err, text)
	}
	b.Only = "other"
	if text, err := b.Document(t.Context(), one("echo good 3")); err != nil || !strings.Contains(text, "\ngood 1\n") {
		t.Errorf("measured though not asked for: %v\n%s", err, text)
	}
	b.Only = "one"
	if text, err := b.Document(t.Context(), one("echo good 4")); err != nil || !strings.Contains(text, "\ngood 4\n") {
		t.Errorf("not measured again: %v\n%s", err, text)
	}
}

// A section that judges its figures shows those that fail, and is an error still.
func TestJudges(t *testing.T) {
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	s := Section{Name: "one", Shell: "echo bad; false", Judges: true, Extract: plain}
	if text, err := b.Document(t.Context(), []Section{s}); err == nil || !strings.Contains(text, "\nbad\n") {
		t.Errorf("%v\n%s", err, text)
	}
}

// What is interrupted goes on where it was, under the origins of all its runs.
func TestResume(t *testing.T) {
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	s := Section{Name: "long", Shell: "echo 1 >>$RESULTS; false", Resumes: true, Extract: func(_, results string) (string, error) { return results, nil }}
	if _, err := b.Document(t.Context(), []Section{s}); err == nil {
		t.Fatal("no error")
	}
	began := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	unfinished := filepath.Join(b.Dir, "unfinished", "long.json")
	for _, o := range []Origin{{Began: began, Ended: began, Machine: "M", Commit: "a", LoadLow: 2, LoadHigh: 3},
		{Began: began, Ended: began.Add(time.Minute), Machine: "M", Commit: "b", LoadLow: 1, LoadHigh: 2}} {
		if err := Sign(unfinished, o); err != nil {
			t.Fatal(err)
		}
	}
	s.Shell = "echo 2 >>$RESULTS"
	text, err := b.Document(t.Context(), []Section{s})
	if want := "1\n2\n\nMeasured 2020-01-02 at commit a, b on M, under a load of 1.0 to 3.0, in 2 runs within 1m0s.\n"; err != nil || !strings.HasSuffix(text, want) {
		t.Errorf("%v, want the end %q:\n%s", err, want, text)
	}
}

// Results of an earlier run are shown with their origin, and without one that
// is said.
func TestTake(t *testing.T) {
	b := Bench{Root: t.TempDir(), Dir: t.TempDir(), Log: t.Logf}
	s := Section{Name: "faults", Slow: true, Shell: "false", Extract: func(_, results string) (string, error) {
		if results == "" {
			return "", errors.New("no results")
		}
		return results, nil
	}}
	file := filepath.Join(t.TempDir(), "r.json")
	if err := b.Take(s, file); err == nil {
		t.Error("took a file that is not there")
	}
	if err := os.WriteFile(file, []byte("line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Take(s, file); err != nil {
		t.Fatal(err)
	}
	if text, err := b.Document(t.Context(), []Section{s}); err != nil || !strings.Contains(text, "line\n\nMeasured 2") || !strings.Contains(text, "not recorded") {
		t.Errorf("%v\n%s", err, text)
	}
	if err := Sign(file, Watch(b.Root)()); err != nil {
		t.Fatal(err)
	}
	if err := b.Take(s, file); err != nil {
		t.Fatal(err)
	}
	if text, err := b.Document(t.Context(), []Section{s}); err != nil || !strings.Contains(text, " at commit unknown on ") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestRivalTable(t *testing.T) {
	got, err := rivalTable(`{"fault":"stacked","machine":"m","metric":"share of x","tool":"napitune","expected":"irq-stacked","found":["irq-stacked CPU 0"],"changed":["a","b"],"healthy":0.25,"faulty":0.988,"treated":0.25,"bound":0.25,"splitbefore":4,"seconds":5.17,"stop":"napitune rollback","left":[],"flapped":["a"],"killed":[],"faulty_rate":0.5,"treated_rate":0.98,"low_rate":0.9,"high_rate":1.1}
{"fault":"stacked","tool":"other","metric":"share of x","expected":"irq-stacked","refused":["c"],"changed":["a"],"faulty":0.988,"treated":0.5,"bound":0.25,"split":4,"stop":"","left":["a"],"not_flapped":true,"not_killed":true}
{"fault":"stacked","tool":"talker","metric":"share of x","expected":"irq-stacked","found":["net.core.x"],"stop":"s","not_flapped":true,"not_killed":true}
{"fault":"stacked","tool":"broken","expected":"irq-stacked","error":"it said | so\nand more"}
{"fault":"backlog too short for RPS","machine":"m","metric":"drops","tool":"talker","expected":"backlog-drops","found":["netdev_max_backlog","net.core.netdev_budget"],"stop":"s","not_flapped":true,"not_killed":true}
{"fault":"healthy","machine":"m","metric":"drops","tool":"napitune","found":["x y"],"not_flapped":true,"not_killed":true}
{"fault":"healthy","tool":"other","metric":"drops","changed":["a"],"stop":"s","treated":1,"not_flapped":true,"not_killed":true}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := `### stacked

On m. Figure: share of x; healthy 25.0 %, the busiest queue's share 25.0 %; healthy throughput against itself 0.90 to 1.10.

| program | found | false alarms | refused | settings changed | figure | pairs split | throughput | seconds | left after undoing | taken by a link flap | left after kill -9 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| napitune | irq-stacked CPU 0 | 0 | 0 | 2 | 98.8 % → 25.0 % | 4 → 0 | 0.50 → 0.98 | 5.2 | 0 | 1 | 0 |
| other | says nothing | – | 1 | 1 | 98.8 % → 50.0 % | 0 → 4 | – | – | 1 (no way back) | – | – |
| talker | no | net.core.x | 0 | 0 | 0.0 % → 0.0 % | 0 → 0 | – | – | nothing to undo | – | – |
| broken | failed: it said \| so |  |  |  |  |  |  |  |  |  |  |

### backlog too short for RPS

On m. Figure: drops; healthy 0.00.

| program | found | false alarms | refused | settings changed | figure | pairs split | throughput | seconds | left after undoing | taken by a link flap | left after kill -9 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| talker | netdev_max_backlog | net.core.netdev_budget | 0 | 0 | 0.00 → 0.00 | 0 → 0 | – | – | nothing to undo | – | – |

### healthy

On m. Figure: drops; healthy 0.00.

| program | found | false alarms | refused | settings changed | figure | pairs split | throughput | seconds | left after undoing | taken by a link flap | left after kill -9 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| napitune | – | x y | 0 | 0 | 0.00 → 0.00 | 0 → 0 | – | – | nothing to undo | – | – |
| other | – | acts | 0 | 1 | 0.00 → 1.00 | 0 → 0 | – | – | 0 | – | – |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultTable(t *testing.T) {
	got, err := faultTable(`{"fault":"GRO off","machine":"m","expected":"gro-off","error":"an earlier run of the row"}
{"fault":"GRO off","machine":"m","expected":"gro-off","found":true,"metric":"merged","healthy":30,"faulty":1,"treated":29.5,"thresholds":["gro-packet-rate 1000: slow"],"verdict":"better"}
{"fault":"healthy","machine":"m","found":true,"metric":"share","healthy":0.3,"looks":10}
{"fault":"XPS","machine":"m","expected":"xps-mismatch","found":false,"false":["x"],"differs":["y"],"killed":["z"],"complaints":["first\nmore","second"]}
{"fault":"held","machine":"m","expected":"x","found":true,"killed":[],"verdict":"better","complaints":[]}
{"fault":"died","machine":"m","error":"gone","complaints":["gone"]}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| GRO off | m | gro-off: yes, with gro-packet-rate 1000 | yes | merged | 30.000 → 1.000 → 29.500 | yes | not killed | better | not recorded |",
		"| healthy | m |  | yes, 10 times |  |  |  |  |  | not recorded |",
		"| XPS | m | xps-mismatch: no | no |  |  | no | differs: z |  | no: first |",
		"| held | m | x: yes | yes |  |  | yes | as before | better | yes |",
		"| died | m | failed: gone |  |  |  |  |  |  | no |",
		"1 of 5 rows hold.\n\n| fault |",
		"\nNot in this run, ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no row %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "an earlier run") {
		t.Errorf("a row that was run again is shown twice in\n%s", got)
	}
}

// Both kinds of results foretell, and a plan without changes foretells nothing.
func TestPredictionTable(t *testing.T) {
	got, err := predictionTable(`{"fault":"a","machine":"m","tool":"napitune","changed":["x"],"predicted":0.28,"treated":0,"busiest":0.3048}
{"fault":"b","machine":"m","tool":"napitune","changed":[],"predicted":0.28,"busiest":0.3}
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
	if _, err := fenced("    --- SKIP: TestX (0.00s)\na figure\nPASS\n", func(string) bool { return true }); err == nil {
		t.Error("a test that skipped is no error")
	}
	if _, err := fenced("PASS\n", func(l string) bool { return !frame(l) }); errors.Is(err, nil) {
		t.Error("no figures are figures")
	}
}

// A ratio is the median of the pairs, not of the medians.
func TestTimesTable(t *testing.T) {
	got, err := timesTable(`{"what":"w","program":"napitune","changed":60,"seconds":[1,2,4]}
{"what":"w","program":"other","changed":61,"seconds":[6,4,12]}
`)
	want := `| job | program | settings changed | median | least to most | times napitune's, median of the pairs |
|---|---|---|---|---|---|
| w | napitune | 60 | 2.00 s | 1.00 to 4.00 s | 1 |
| w | other | 61 | 6.00 s | 4.00 to 12.00 s | 3.0 |
`
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := timesTable(`{"what":"w","program":"a","seconds":[1]}` + "\n" + `{"what":"w","program":"b","seconds":[]}`); err == nil {
		t.Error("half a pair is a pair")
	}
}

func TestBelow(t *testing.T) {
	got, err := below("# Cost\n\nWhere and when.\n\n## Part\n")
	if diff := cmp.Diff("Where and when.\n\n### Part\n", got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := below("no title"); err == nil {
		t.Error("no title is a title")
	}
}

func TestNotGrowing(t *testing.T) {
	const first = "BenchmarkAdvise/8cpu 5 806991 ns/op 12609 ns/cell 471577 B/op\n"
	if err := notGrowing(first+"BenchmarkAdvise/1152cpu 5 43162445 ns/op 99.65 ns/cell\nBenchmarkCaptured 5 1 ns/op\n", "ns/cell"); err != nil {
		t.Error(err)
	}
	for name, out := range map[string]string{"grows": first + "BenchmarkAdvise/1152cpu 5 1 ns/op 12700 ns/cell\n", "no figure": "BenchmarkCaptured 5 1 ns/op\n", "no number": "B x ns/cell\n"} {
		if err := notGrowing(out, "ns/cell"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUntried(t *testing.T) {
	lines := ""
	for _, f := range faults.Contest() {
		lines += `{"fault":"` + f.Name + `"}` + "\n"
	}
	const never = "\nNot tried on other programs: all queue interrupts on one CPU, seen by probes; RPS mask"
	if got, err := untried(lines); err != nil || !strings.HasPrefix(got, never) || strings.Contains(got, "GRO off") {
		t.Errorf("all are there, but %q, %v", got, err)
	}
	// A machine, too, may be called healthy.
	without := strings.ReplaceAll(lines, `{"fault":"healthy"}`, `{"fault":"x","machine":"healthy","tool":"healthy"}`)
	if got, err := untried(without); err != nil || !strings.HasPrefix(got, "\nNot in this run: healthy.\n"+never) {
		t.Errorf("without one: %q, %v", got, err)
	}
	if _, err := untried("{"); err == nil {
		t.Error("half a line is a result")
	}
}
