package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sections are the chapters of BENCHMARKS.md. Those over captured hosts need
// NAPITUNE_HOSTS, those that apply need root.
func Sections() []Section {
	logged := func(out, _ string) (string, error) { return fenced(out, func(l string) bool { return !frame(l) }) }
	benchmarks := func(out, _ string) (string, error) {
		return fenced(out, func(l string) bool { return strings.HasPrefix(l, "Benchmark") })
	}
	return []Section{
		{
			Name: "rivals", Title: "Napitune beside others", Slow: true, Resumes: true,
			Text: `One fault after another, a guest for each; in it all programs one after another treat the same fault under the same load,
most of them that of 256 UDP flows on four queues of a virtio NIC.

- Found: the finding that names the fault; of bpftune, which says in its log why it changes what it changes, the settings
  that the fault is about; the others act and say nothing. False alarms: other findings (a finding that is true and not the
  fault is among them); where nothing is wrong, all of them, and the changes of what only acts.
- Refused: lines of a program's own output about what it could not do. napitune leaves what is impossible out of its plan.
- Changed and left: settings (files of /proc and /sys, views of ethtool) that do not read as before the program acted, and
  those that still do not once it was undone: by napitune rollback, by stopping tuned, by ending bpftune that was started
  with --rollback. One pass of irqbalance, perftune.py and rss-ladder have no way back.
- The busiest queue's share is the bound of the busiest CPU's: without RPS no placement gets below it.
- Split: pairs whose two interrupts may go to different CPUs, before and after.
- Throughput: what part of the load goes up the stack (bytes of TCP in a second where GRO is the fault), with the fault and
  treated, as shares of the healthy guest's a moment before; the median of 3 rounds, in each of which the states of all
  programs are brought back in turn by writing their settings. It shows losses, and no gain from spreading: the CPUs of a
  guest take turns on one thread, so that a CPU with all the work is slowed by nobody. A dash: not measured.
- Kill -9: amid the work (irqbalance: as a daemon after 5 s; bpftune after 30 s), then undone as well as can be (tuned: started
  anew and stopped; it then takes what it had set itself for the host's own).
- Seconds are those of the slow guest, for acting alone; irqbalance waits for 10 of them before its pass, and bpftune, which
  goes on for ever, is given 30.
- Beside an irqbalance that fights, what a program made is given two more of its rounds under load and then measured; irqbalance's
  own moves are among the settings changed, and nothing is flapped, killed or brought back for throughput.
- What a program does not treat is no fault of it: only the faults that it knows say something about it. tuned's own
  profiles place no interrupts and are tried on two faults; by hand is the profile of somebody who knows what is wrong,
  with a script where tuned 2.20 has no plugin, which also ends an irqbalance that would undo it. perftune.py takes three of
  four queues away and has RPS spread the packets of the one that is left; one CPU still takes all interrupts and polls, which
  the share does not show.

LAB_FILES names a directory with perftune.py, rss-ladder and bpftune, which Debian does not package; lab/faults/others.sh
fills it. Without it these are left out.`,
			Shell: "go run ./lab/cmd/lab rivals --results $RESULTS",
			Extract: func(_, results string) (string, error) {
				table, err := rivalTable(results)
				if err != nil {
					return "", err
				}
				missing, err := untried(results)
				return table + missing, err
			},
		},
		{
			Name: "faults", Title: "Faults found, mended and undone", Slow: true, Judges: true,
			Text: `Every row of the lab's table: a fault is brought about on a healthy guest, advice looked at, applied, measured and
rolled back. Found: named as the table says, by the default policy; where a threshold is named, it was judged with that, because
the default is a time or rate of CPUs that are not emulated. Silent before: nothing was wanted of the healthy guest, which the
rows without a fault look at as often as they say. Undone: every setting reads as before; after kill -9: the same, when applies were killed at work
and recovered from, which is not tried where another program writes the same settings. apply --measure is napitune's own
verdict on its change. Holds: all is as the table demands, or the first thing that is not. Where several commits are named below, rows that failed were run again alone after something was
mended, and each row is that of its last run.`,
			Shell:   "go run ./lab/cmd/lab faults --all --results $RESULTS",
			Extract: func(_, results string) (string, error) { return faultTable(results) },
		},
		{
			Name: "prediction", Title: "Predicted against measured load", Derived: true,
			Text: `The largest share of one CPU that the plan foretold, and that which came: from the two tables above, where the plan
moves queues. The aim is 15 %. irqbalance, where it goes on moving interrupts meanwhile, takes part in what is measured.`,
			Shell:   "cat $KEPT/rivals.json $KEPT/faults.json >$RESULTS 2>/dev/null || true",
			Extract: func(_, results string) (string, error) { return predictionTable(results) },
		},
		{
			Name: "solver", Title: "How good the placement is",
			Text: `Small random machines against exhaustive search, larger ones against what other tools do with the same loads (their
algorithms, written anew for the test).`,
			Shell:   "go test -count=1 -v -run 'TestNearOptimum|TestAgainstPeers' ./rules/place",
			Extract: logged,
		},
		{
			Name: "captured", Title: "Placement on captured hosts",
			Text: `The same on hosts as they were recorded in production and in laboratories; NAPITUNE_HOSTS names their directory. Hosts
without a load to place are left out.`,
			Shell: "CI=true go test -count=1 -v -run TestRivalsOnCapturedHosts ./rules",
			Extract: func(out, _ string) (string, error) {
				return fenced(out, func(l string) bool { return !frame(l) && !strings.HasPrefix(strings.TrimSpace(l), "no usable load") })
			},
		},
		{
			Name: "advise", Title: "Advice, from 8 to 1,152 CPUs",
			Text: `Parsing two samples, rules and plan, in memory; ns/cell is the time for each CPU and queue, which must not grow with
the host: the section fails if it does. Captured1152 reads a recorded host from its archive as well.`,
			Shell: "CI=true go test -run '^$' -bench 'Advise|Captured1152' -benchmem -benchtime 5x ./rules",
			Extract: func(out, results string) (string, error) {
				if err := notGrowing(out, "ns/cell"); err != nil {
					return "", err
				}
				return benchmarks(out, results)
			},
		},
		{
			Name: "apply", Title: "100 changes and their rollback, and a boot profile",
			Text: `To queues of a veth pair in a network namespace of the running kernel, the journal on disk before each change, all read
back. Live: napitune's part of one process. 60 settings: a boot profile, as a whole process. The others are to a host in memory.`,
			Shell: "go test -count=1 -v -run 'TestHundredChangesLive|TestBootIsFast' ./cmd/napitune && go test -run '^$' -bench 100 -benchmem ./apply",
			Extract: func(out, _ string) (string, error) {
				return fenced(out, func(l string) bool {
					return strings.Contains(l, "100 changes") || strings.HasPrefix(l, "60 settings") || strings.HasPrefix(l, "Benchmark")
				})
			},
		},
		{
			Name: "times", Title: "The same settings by napitune, tuned and perftune.py", Slow: true,
			Text: `Whole processes in a guest, in pairs that take turns, 5 of each after one for the page cache. The 60 settings are 4 of the
host, 40 of the queues of one NIC and 16 of another's; both programs must leave the same. napitune reads each back and keeps a
journal. tuned runs with daemon = 0 and ends when it has applied its profile. perftune.py sets three limits of TCP besides,
which napitune has none of, and works out what to set; napitune reads it from a profile. perftune.py comes from LAB_FILES.`,
			Shell:   "go run ./lab/cmd/lab test --cpus 8 --nic virtio,queues=8 --nic virtio,queues=8 --timeout 30m --results $RESULTS ./lab/bench -- -test.v -test.run=TestTimes$",
			Extract: func(_, results string) (string, error) { return timesTable(results) },
		},
		{
			Name: "guard", Title: "The guard: idle, in a storm, and its units",
			Text: `On veth pairs in a network namespace of the running kernel: 20 changes of channels and how long until the masks of the
queues stood again, a minute in which nothing happens, and 10,000 link events with 20 changes of channels among them. Exposure is
what systemd-analyze security --offline=yes says of the units, from 0 to 10; below 5 it calls them OK.`,
			Shell:   "NAPITUNE_GUARD_LONG=1 go test -count=1 -v -run '^(TestGuardAfterChannels|TestGuardIdles|TestGuardStorm|TestUnitsBySystemd)$' ./cmd/napitune",
			Extract: func(out, _ string) (string, error) { return fenced(out, guards) },
		},
		{
			Name: "service", Title: "The guard under its unit", Slow: true,
			Text: `In a guest with systemd and two virtio NICs, installed from the package, 20 repetitions each. The guest's clock counts
instructions, 1,000 million a second for all four CPUs together, so these are times of a slow machine. Beside irqbalance that is
told by its policy script to leave NICs alone, everything must stand for ten minutes while it places interrupts anew.`,
			Shell:   "NAPITUNE_LAB=1 go test -count=1 -v -timeout 120m -run '^TestGuardUnit$' ./lab -guard-long >$RESULTS",
			Extract: func(_, results string) (string, error) { return fenced(results, guards) },
		},
		{
			Name: "process", Title: "The whole process: start-up, size, hosts from 8 to 1,152 CPUs",
			Text: `The binary of ` + "`make build`" + `. Times are of whole processes with loading, the median of some; memory is the largest
resident set. Hosts are captured ones of NAPITUNE_HOSTS, from 8 to 1,152 CPUs.`,
			Shell:   "make -s build && go run ./lab/cmd/lab process bin/napitune",
			Extract: logged,
		},
		{
			Name: "probes", Title: "Cost of the probes", Derived: true,
			Text:    `From probes/COST.md. make probe-cost measures it, on a machine that does nothing else, and writes there on what and when.`,
			Shell:   "cat probes/COST.md",
			Extract: func(out, _ string) (string, error) { return below(out) },
		},
	}
}

// guards are the lines of its tests that have figures of the guard.
func guards(line string) bool {
	return slices.ContainsFunc([]string{" repetitions, median ", "idle for ", " link events in ", ": exposure ", " beside irqbalance: ", "status: "}, func(part string) bool {
		return strings.Contains(line, part)
	})
}

// below is a document without its title, its own headings one level down.
func below(text string) (string, error) {
	_, rest, ok := strings.Cut(text, "\n")
	if !ok || !strings.HasPrefix(text, "# ") {
		return "", fmt.Errorf("no title in %.40q", text)
	}
	return strings.ReplaceAll(strings.TrimLeft(rest, "\n"), "\n## ", "\n### "), nil
}

// notGrowing reports a benchmark whose figure of that unit is above that of the
// first, which is of the smallest host.
func notGrowing(out, unit string) error {
	first, seen := 0.0, false
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		at := slices.Index(words, unit)
		if at < 1 {
			continue
		}
		value, err := strconv.ParseFloat(words[at-1], 64)
		if err != nil {
			return fmt.Errorf("%q: %w", strings.TrimSpace(line), err)
		}
		if !seen {
			first, seen = value, true
		}
		if value > first {
			return fmt.Errorf("%s: %g %s, and %g for the smallest host: it grows faster than the host", words[0], value, unit, first)
		}
	}
	if !seen {
		return fmt.Errorf("no figures in %s", unit)
	}
	return nil
}
