package bench

import (
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
			Name: "rivals", Title: "Napitune beside others, on faults of balance", Slow: true,
			Text: "256 UDP flows to four queues of a virtio NIC on eight CPUs, all programs one after another in one guest.\n\n" +
				`- Busiest CPU: its share of the packets that went up the stack, before and after. The bound is the share of the busiest
  queue: without RPS no placement gets below it.
- Split: pairs whose two interrupts may go to different CPUs, before and after.
- Changed and left: settings (files of /proc and /sys, views of ethtool) that do not read as before the program acted, and
  those that still do not once it was undone, by napitune rollback or by stopping tuned. One pass of irqbalance,
  perftune.py and rss-ladder have no way back. None of the others says what is wrong.
- Kill -9: amid the work (irqbalance: as a daemon after 5 s), then undone as well as can be (tuned: started anew and stopped;
  it then takes what it had set itself for the host's own). Kills and link flaps are tried with the first fault only.
- Seconds are those of the slow guest, for acting alone; one pass of irqbalance waits for 10 of them.
- What a program does not treat is no fault of it: tuned's profiles place no interrupts. perftune.py takes three of four
  queues away and has RPS spread the packets of the one that is left, over as many CPUs as there are; one CPU still takes
  all interrupts and polls, which this share does not show.

LAB_FILES names a directory with perftune.py (scylladb/seastar) and python.zip (the modules of strizhechenko/netutils-linux,
and a distutils.util.strtobool, which perftune.py needs and Debian's Python lacks); without them these two are left out.`,
			Shell:   "go run ./lab/cmd/lab test --cpus 8 --nic virtio,queues=4 --timeout 40m --results $RESULTS ./lab/faults -- -test.v -test.run=TestRivals -test.timeout=0",
			Extract: func(_, results string) (string, error) { return rivalTable(results) },
		},
		{
			Name: "faults", Title: "Faults found, mended and undone", Slow: true,
			Text: `Every row of the lab's table: a fault is brought about on a healthy guest, advice looked at, applied, measured and
rolled back. Found: named as the table says. Silent before: nothing was wanted of the healthy guest. Undone: every setting
reads as before.`,
			Shell:   "go run ./lab/cmd/lab faults --all --results $RESULTS || true",
			Extract: func(_, results string) (string, error) { return faultTable(results) },
		},
		{
			Name: "prediction", Title: "Predicted against measured load", Derived: true,
			Text: `The largest share of one CPU that the plan foretold, and that which came: from the two tables above, where the plan
moves queues. The aim is 15 %.`,
			Shell:   "cat $(dirname $RESULTS)/rivals.json $(dirname $RESULTS)/faults.json >$RESULTS 2>/dev/null || true",
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
			Shell: "go test -count=1 -v -run TestRivalsOnCapturedHosts ./rules",
			Extract: func(out, _ string) (string, error) {
				return fenced(out, func(l string) bool { return !frame(l) && !strings.HasPrefix(strings.TrimSpace(l), "no usable load") })
			},
		},
		{
			Name: "advise", Title: "Advice, from 8 to 1,152 CPUs",
			Text: `Parsing two samples, rules and plan, in memory; ns/cell is the time for each CPU and queue, which must not grow with
the host. Captured1152 reads a recorded host from its archive as well.`,
			Shell:   "go test -run '^$' -bench 'Advise|Captured1152' -benchmem -benchtime 5x ./rules",
			Extract: benchmarks,
		},
		{
			Name: "apply", Title: "100 changes and their rollback",
			Text: `To queues of a veth pair in a network namespace of the running kernel, the journal on disk before each change, all read
back. Live: napitune's part of one process. The others are to a host in memory.`,
			Shell: "go test -count=1 -v -run TestHundredChangesLive ./cmd/napitune && go test -run '^$' -bench 100 -benchmem ./apply",
			Extract: func(out, _ string) (string, error) {
				return fenced(out, func(l string) bool { return strings.Contains(l, "100 changes") || strings.HasPrefix(l, "Benchmark") })
			},
		},
		{
			Name: "process", Title: "The whole process: start-up, size, the largest host",
			Text: `The binary of ` + "`make build`" + `. Times are of whole processes with loading, the median of some; memory is the largest
resident set.`,
			Shell:   "make -s build && go run ./lab/cmd/lab process bin/napitune",
			Extract: logged,
		},
		{
			Name: "probes", Title: "Cost of the probes", Slow: true,
			Text:    "Wants root and a machine that does nothing else: ns for each run of a program, and packets lost to it at full rate.",
			Shell:   "make probe-cost && cat probes/COST.md",
			Extract: func(out, _ string) (string, error) { _, table, _ := strings.Cut(out, "\n\n"); return table, nil },
		},
	}
}
