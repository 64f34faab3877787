package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
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
	for _, dir := range []string{"../..", "../../../cmd/napitune", "../../../detect/host/live", "../../../probes"} {
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
		cmd := tests.command(t.Context(), "lab", tests.pattern(), 2)
		if !slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.HasSuffix(arg, "run="+tests.pattern()) }) {
			t.Errorf("%v does not run %s", cmd.Args, tests.pattern())
		}
	}
}

// What fails is tried again as often as was asked for and no more.
func TestAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ failures, more, want int }{{0, 1, 1}, {1, 0, 1}, {1, 1, 2}, {5, 2, 3}} {
		tries := 0
		app := &cli.App{Flags: []cli.Flag{againFlag()}, Action: func(c *cli.Context) error {
			return again(c, "a test", func() error {
				if tries++; tries <= test.failures {
					return errors.New("failed")
				}
				return nil
			})
		}}
		err := app.RunContext(t.Context(), []string{"lab", "--again", strconv.Itoa(test.more)})
		if tries != test.want || (err != nil) != (test.failures > test.more) {
			t.Errorf("%d failures, %d more tries: tried %d times, %v", test.failures, test.more, tries, err)
		}
	}
}

// onDemand are the tests for guests that no check of every change runs, with the
// command that does.
var onDemand = map[string]string{
	"TestFaults": "lab faults, which demands a result of every row", "TestReboot": "lab faults --reboot", "TestRivals": "lab rivals",
	"TestSoak": "half an hour", "TestTimes": "lab bench --only times",
	"TestGuardServiceLive": "TestGuardUnit, which demands that it passes",
	"TestLabGuardRestores": "minutes; TestGuardServiceLive does so under the unit", "TestLabGuardBesideBannedIrqbalance": "likewise",
}

// A test that skips everywhere but in guests is run in one by lab live, or is known
// to be run by other means: what only ever skips tests nothing.
func TestGuestTestsRun(t *testing.T) {
	t.Parallel()
	run := map[string]bool{}
	for _, tests := range liveTable() {
		for _, name := range tests.names {
			run[name] = true
		}
	}
	function := regexp.MustCompile(`(?ms)^func (Test\w+)\(t \*testing\.T\) \{\n.*?^\}`)
	found := map[string]bool{}
	err := filepath.WalkDir("../../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, test := range function.FindAllStringSubmatch(string(text), -1) {
			if name := test[1]; name != t.Name() && onlyInGuests.MatchString(test[0]) {
				if found[name] = true; !run[name] && onDemand[name] == "" {
					t.Errorf("%s: %s runs in guests only, and nothing runs it there", path, name)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range onDemand {
		if !found[name] {
			t.Errorf("%s is no test that runs in guests only", name)
		}
	}
	if len(found) < 2*len(onDemand) {
		t.Errorf("only %d tests were recognised: %v", len(found), found)
	}
}

// onlyInGuests is how tests skip on a machine that is no guest, or has no NIC of one.
var onlyInGuests = regexp.MustCompile(`onGuest\(t\)|guestSender\(t\)|no guest of the lab|virtioDevices\(t\)|virtioReceiveIRQs\(t\)|virtioDevice\(t\)|newReboots\(t\)`)
