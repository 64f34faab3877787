package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // makes devices in a namespace of its own
)

// longEnv makes the tests of the guard as long as its promises are: 20
// repetitions, a minute of idleness, 10,000 events (three minutes in all):
//
//	NAPITUNE_GUARD_LONG=1 go test ./cmd/napitune -run TestGuard -v
const longEnv = "NAPITUNE_GUARD_LONG"

// guardLong is the same for guests of the lab, which get flags and no environment.
var guardLong = flag.Bool("guard-long", false, "repeat the tests of the guard 20 times and hold ten minutes")

func isLong() bool { return os.Getenv(longEnv) != "" || *guardLong }

// long is a number for the long test or one for every day.
func long[T any](yes, no T) T {
	if isLong() {
		return yes
	}
	return no
}

// ticks is the processor time of a process, in hundredths of a second
// (Documentation/filesystems/proc.rst, stat: utime and stime).
func (g *guarded) ticks() int {
	fields := strings.Fields(content(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid)))
	sum := 0
	for _, f := range fields[13:15] {
		n, err := strconv.Atoi(f)
		if err != nil {
			g.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// memory is what status says of the memory of a process, in KiB.
func (g *guarded) memory(key string) int {
	for line := range strings.SplitSeq(content(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid)), "\n") {
		name, value, _ := strings.Cut(line, ":")
		if name == key {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				g.t.Fatal(err)
			}
			return n
		}
	}
	g.t.Fatalf("no %s", key)
	return 0
}

// memoryLimitKiB is what the guard promises.
const memoryLimitKiB = 30 << 10

// While nothing happens the guard takes no time and little memory.
func TestGuardIdles(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := startGuard(t, vethChanges())
	if isLong() {
		const mask = "/sys/class/net/v0/queues/rx-1/rps_cpus"
		want := content(mask)
		g.undoQueues()
		g.until("the mask is back", 10*time.Second, func() bool { return content(mask) == want })
		time.Sleep(17 * time.Second) // the last look that follows a restoration is after 15 s
	}
	time.Sleep(1500 * time.Millisecond)
	window := long(time.Minute, 2*time.Second)
	looks, before := g.report().Looks, g.ticks()
	time.Sleep(window)
	spent := g.ticks() - before
	t.Logf("idle for %s: %d ticks of 10 ms; VmRSS %d KiB (RssAnon %d, RssFile %d), VmHWM %d KiB", window, spent,
		g.memory("VmRSS"), g.memory("RssAnon"), g.memory("RssFile"), g.memory("VmHWM"))
	if spent != 0 {
		t.Errorf("%d ticks were spent on nothing", spent)
	}
	if got := g.report().Looks; got != looks {
		t.Errorf("the host was looked at %d times though nothing happened", got-looks)
	}
	if rss := g.memory("VmRSS"); rss > memoryLimitKiB {
		t.Errorf("VmRSS is %d KiB, promised are less than %d", rss, memoryLimitKiB)
	}
	g.stop()
}

// undoQueues does what a driver does: it writes through no file that is watched.
func (g *guarded) undoQueues() {
	g.t.Helper()
	w := writer(g.t)
	for _, n := range []int{1, 4} {
		if err := w.SetChannels("v0", channels(n)); err != nil {
			g.t.Fatal(err)
		}
	}
}

// A storm of link events neither loses the last state nor takes a core.
func TestGuardStorm(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	storm(t, startGuard(t, vethChanges()))
}

// So it is for the guard that its own writes are not told apart from others':
// none of them is held against somebody.
func TestGuardStormUntold(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	mustEnd(t, exitDone, command("apply", "--yes", writePlan(t, vethChanges())))
	storm(t, runUntold(t))
}

func storm(t *testing.T, g *guarded) {
	t.Helper()
	const mask = "/sys/class/net/v0/queues/rx-1/rps_cpus"
	want := content(mask)
	link := linkNamed(t, "v0")
	events := long(10000, 1000)
	start, before := time.Now(), g.ticks()
	for i := range events / 2 {
		if i%(events/20) == 0 {
			g.undoQueues()
		}
		if err := netlink.LinkSetDown(link); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	g.undoQueues() // the last state
	stormed := time.Since(start)
	took := g.until("the mask is back", 15*time.Second, func() bool { return content(mask) == want })
	spent := time.Duration(g.ticks()-before) * 10 * time.Millisecond
	whole := time.Since(start)
	t.Logf("%d link events in %s: %s of processor time, %.0f%% of a core; restored %d ms after the last, VmHWM %d KiB, %d looks",
		events, stormed.Round(time.Millisecond), spent, 100*spent.Seconds()/whole.Seconds(), took.Milliseconds(), g.memory("VmHWM"), g.report().Looks)
	if spent > whole {
		t.Errorf("%s of processor time in %s: more than a core", spent, whole)
	}
	if took > 3*time.Second+time.Second {
		t.Errorf("the last state was restored only after %s", took)
	}
	if left := g.report().Left; len(left) > 0 {
		t.Errorf("left alone: %+v", left)
	}
	g.stop()
	onlyOneJournal(t)
}
