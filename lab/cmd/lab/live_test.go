package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A test that fails, skips or is not there has not passed.
func TestNotPassed(t *testing.T) {
	t.Parallel()
	const output = `=== RUN   TestGood
    x_test.go:1: --- PASS: TestQuoted (0.00s)
--- PASS: TestGood (1.00s)
    --- PASS: TestGood/part (1.00s)
--- SKIP: TestSkipped (0.00s)
--- FAIL: TestBad (0.00s)
--- PASS: TestGoodToo (0.00s)
PASS
`
	for name, want := range map[string]bool{"TestGood": true, "TestGoodToo": true, "TestGoo": false, "TestSkipped": false, "TestBad": false, "TestQuoted": false, "TestAbsent": false} {
		if errs := notPassed([]string{name}, output); (len(errs) == 0) != want {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

// The tests of the table are there, under these names.
func TestLiveTable(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, dir := range []string{"../..", "../../../cmd/napitune"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), "_test.go") {
				text, err := os.ReadFile(dir + "/" + e.Name())
				if err != nil {
					t.Fatal(err)
				}
				sources.Write(text)
			}
		}
	}
	for _, tests := range liveTable() {
		for _, name := range tests.names {
			if !strings.Contains(sources.String(), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("there is no %s", name)
			}
		}
		cmd := tests.command(t.Context(), "lab", 2)
		if !slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.HasSuffix(arg, "run="+tests.pattern()) }) {
			t.Errorf("%v does not run %s", cmd.Args, tests.pattern())
		}
	}
}
