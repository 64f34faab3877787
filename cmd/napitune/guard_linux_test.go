package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // makes devices in a namespace of its own
	"github.com/vishvananda/netns"   //nolint:depguard // moves a device to another namespace and back

	"github.com/napitune/napitune/apply"
	guarding "github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/live"
)

// guarded is a running guard.
type guarded struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out.Write(b)
}

func (g *guarded) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out.String()
}

// startGuard applies settings and starts a guard, as a process, that keeps them.
func startGuard(t *testing.T, want [][2]string) *guarded {
	t.Helper()
	mustEnd(t, exitDone, command("apply", "--yes", writePlan(t, want)))
	return runGuard(t)
}

func runGuard(t *testing.T, args ...string) *guarded {
	t.Helper()
	return beginGuard(t, command(append([]string{"guard"}, args...)...))
}

// runUntold runs a guard with the capabilities that its unit gives it, to which
// the kernel does not say who wrote a file.
func runUntold(t *testing.T) *guarded {
	t.Helper()
	tool, err := exec.LookPath("setpriv")
	needs(t, err == nil, "setpriv")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "napitune")
	if err := os.Symlink(program, name); err != nil {
		t.Fatal(err)
	}
	return beginGuard(t, exec.Command(tool, "--bounding-set=-all,+net_admin", "--inh-caps=-all", name, "guard"))
}

func beginGuard(t *testing.T, cmd *exec.Cmd) *guarded {
	t.Helper()
	g := &guarded{t: t, cmd: cmd}
	g.cmd.Stderr = g
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.cmd.ProcessState == nil {
			_ = g.cmd.Process.Kill()
			_ = g.cmd.Wait()
		}
		t.Logf("the guard said:\n%s", g.said())
	})
	g.until("the guard has begun", 15*time.Second, func() bool { return g.report() != nil })
	time.Sleep(200 * time.Millisecond)
	return g
}

func (g *guarded) report() *guarding.Report { return guardState(g.t) }

// guardState is what the guard of this boot has left for other verbs; nil if none
// has begun.
func guardState(t *testing.T) *guarding.Report {
	t.Helper()
	data, err := os.ReadFile("/" + guardFile)
	if err != nil {
		return nil
	}
	var r guarding.Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func (g *guarded) until(what string, limit time.Duration, is func() bool) time.Duration {
	g.t.Helper()
	return until(g.t, what, limit, is)
}

// until waits for something and says how long it took.
func until(t *testing.T, what string, limit time.Duration, is func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !is() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// stop ends the guard as systemd does.
func (g *guarded) stop() {
	g.t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		g.t.Errorf("the guard ended with %v", err)
	}
}

func content(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}

func writer(t *testing.T) *host.Writer {
	t.Helper()
	w, err := live.OpenWriter(live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// channels is so many each way, as veth counts them.
func channels(n int) host.Channels { return host.Channels{Rx: n, Tx: n} }

func linkNamed(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// latencies are sorted and told, with the longest.
func tell(t *testing.T, what string, all []time.Duration) {
	t.Helper()
	tellWithin(t, what, all, long(time.Second, 5*time.Second))
}

func tellWithin(t *testing.T, what string, all []time.Duration, limit time.Duration) {
	t.Helper()
	slices.Sort(all)
	var text []string
	for _, d := range all {
		text = append(text, strconv.FormatInt(d.Milliseconds(), 10))
	}
	t.Logf("%s: %d repetitions, median %d ms, longest %d ms; all: %s", what, len(all),
		all[len(all)/2].Milliseconds(), all[len(all)-1].Milliseconds(), strings.Join(text, " "))
	if longest := all[len(all)-1]; longest > limit {
		t.Errorf("%s: %s is too long", what, longest)
	}
}

// After queues are taken away and given back, their masks are as they were.
func TestGuardAfterChannels(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := startGuard(t, vethChanges())
	const mask = "/sys/class/net/v0/queues/rx-1/rps_cpus"
	want := content(mask)
	var all []time.Duration
	for range long(20, 3) {
		g.undoQueues()
		all = append(all, g.until("the mask is back", 15*time.Second, func() bool { return content(mask) == want }))
		time.Sleep(400 * time.Millisecond)
	}
	tell(t, "ethtool -L", all)
	if left := g.report().Left; len(left) > 0 {
		t.Errorf("left alone: %+v", left)
	}
	before := settings(t)
	g.stop()
	same(t, "after the guard ended", before)
	onlyOneJournal(t)
	mustEnd(t, exitDone, command("rollback"))
}

// onlyOneJournal: restorations leave nothing behind.
func onlyOneJournal(t *testing.T) {
	t.Helper()
	s := decode[struct{ Transactions []apply.Summary }](t, first(mustEnd(t, exitDone, command("status", "--format", "json"))))
	if len(s.Transactions) != 1 {
		t.Errorf("%d transactions, want the first alone: %+v", len(s.Transactions), s.Transactions)
	}
}

func first(a, _ string) string { return a }

// A device that goes down and up, is renamed and comes back, and moves to another
// namespace and back, has its settings again within a second.
func TestGuardAfterDeviceChanges(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := startGuard(t, vethChanges())
	const mask, flush = "/sys/class/net/v0/queues/rx-1/rps_cpus", "/sys/class/net/v0/gro_flush_timeout"
	wantMask, wantFlush := content(mask), content(flush)
	back := func() bool { return content(mask) == wantMask && content(flush) == wantFlush }
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	away, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(home); err != nil {
		t.Fatal(err)
	}
	there, err := netlink.NewHandleAt(away)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"down and up", func() error {
			g.undoQueues()
			if err := netlink.LinkSetDown(linkNamed(t, "v0")); err != nil {
				return err
			}
			return netlink.LinkSetUp(linkNamed(t, "v0"))
		}},
		{"rename and back", func() error {
			if err := netlink.LinkSetName(linkNamed(t, "v0"), "w0"); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
			if err := netlink.LinkSetName(linkNamed(t, "w0"), "v0"); err != nil {
				return err
			}
			g.undoQueues()
			return nil
		}},
		{"another namespace and back", func() error {
			if err := netlink.LinkSetNsFd(linkNamed(t, "v0"), int(away)); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
			link, err := there.LinkByName("v0")
			if err != nil {
				return err
			}
			if err := there.LinkSetNsFd(link, int(home)); err != nil {
				return err
			}
			g.undoQueues()
			return netlink.LinkSetUp(linkNamed(t, "v0"))
		}},
	} {
		var all []time.Duration
		for range long(20, 2) {
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			all = append(all, g.until(c.what, 5*time.Second, back))
			time.Sleep(600 * time.Millisecond)
		}
		tell(t, c.what, all)
	}
	if left := g.report().Left; len(left) > 0 {
		t.Errorf("left alone: %+v", left)
	}
	g.stop()
}

// Who writes a mask twice means it: the guard restores it once, leaves it then,
// says who, and keeps the rest.
func TestGuardLeavesToOthers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := startGuard(t, vethChanges())
	const mask, other = "/sys/class/net/v0/queues/rx-1/rps_cpus", "/sys/class/net/v0/queues/rx-0/rps_cpus"
	want := content(mask)
	overwrite := func(path string) {
		t.Helper()
		script := fmt.Sprintf("echo 1 > %s; sleep 0.3", path)
		if err := exec.Command("sh", "-c", script).Run(); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(mask)
	g.until("the first write is undone", 10*time.Second, func() bool { return content(mask) == want })
	overwrite(mask)
	g.until("the setting is left", 10*time.Second, func() bool { return len(g.report().Left) > 0 })
	time.Sleep(3 * time.Second)
	if got := content(mask); strings.TrimLeft(got, "0,") != "1" {
		t.Errorf("the mask of the other is %q, want 1", got)
	}
	left := g.report().Left
	if len(left) != 1 || left[0].Ref.String() != "v0/rx-1/rps.cpus" || left[0].By != "sh" || !left[0].Contested {
		t.Errorf("left: %+v", left)
	}
	text, _ := mustEnd(t, exitDone, command("status"))
	t.Logf("status:\n%s", text)
	if !strings.Contains(text, "v0/rx-1/rps.cpus is left alone: written 2 times by somebody else") || !strings.Contains(text, "by sh") {
		t.Error("status does not tell")
	}
	if _, warned := mustEnd(t, exitDone, command("doctor")); !strings.Contains(warned, "v0/rx-1/rps.cpus does not stay at 1: it was written 2 times by somebody else") {
		t.Errorf("doctor does not warn: %s", warned)
	}
	keep := content(other)
	overwrite(other)
	g.until("another setting is kept", 10*time.Second, func() bool { return content(other) == keep })
	// A hangup begins anew.
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.until("taken up again", 10*time.Second, func() bool { return content(mask) == want && len(g.report().Left) == 0 })
	g.stop()
}

// Without being told who writes, the guard sees that somebody does, though each
// time the link goes down and up a moment before.
func TestGuardLeavesToUntold(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	mustEnd(t, exitDone, command("apply", "--yes", writePlan(t, vethChanges())))
	g := runUntold(t)
	const flush, ref = "/sys/class/net/v0/gro_flush_timeout", "v0/gro_flush_timeout"
	want := content(flush)
	link := linkNamed(t, "v0")
	hook := func() {
		t.Helper()
		for _, set := range []func(netlink.Link) error{netlink.LinkSetDown, netlink.LinkSetUp} {
			if err := set(link); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(300 * time.Millisecond)
		put(t, "v0", "gro_flush_timeout", "7")
	}
	hook()
	g.until("the first write is undone", 10*time.Second, func() bool { return content(flush) == want })
	hook()
	g.until("the setting is left", 10*time.Second, func() bool { return len(g.report().Left) > 0 })
	if left := g.report().Left; content(flush) != "7" || left[0].Ref.String() != ref || !left[0].Contested || left[0].By != "" {
		t.Errorf("%s, left: %+v", content(flush), left)
	}
	g.stop()
}

// What people do with napitune itself is not undone.
func TestGuardYieldsToRollback(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	g := startGuard(t, vethChanges())
	mustEnd(t, exitDone, command("rollback"))
	time.Sleep(2 * time.Second)
	same(t, "rolled back under a guard", before)
	mustEnd(t, exitDone, command("apply", "--yes", writePlan(t, [][2]string{{"v0/rx-1/rps.cpus", "1"}})))
	const mask = "/sys/class/net/v0/queues/rx-1/rps_cpus"
	want := content(mask)
	time.Sleep(1500 * time.Millisecond)
	g.undoQueues()
	g.until("what was applied since is kept", 10*time.Second, func() bool { return content(mask) == want })
	g.stop()
}

// A profile is set, kept, read anew at SIGHUP, and in force until the next one
// that can be read.
func TestGuardOfProfile(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	file := filepath.Join(t.TempDir(), "edge.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	profile := func(flush int, more string) string {
		return fmt.Sprintf("boot-profile: 1\nname: edge\ndevices:\n  - match: {name: v0}\n    settings:\n      gro_flush_timeout: %d\n      rx-*/rps.cpus: 1\n%s", flush, more)
	}
	write(profile(20000, ""))
	before := settings(t)
	g := runGuard(t, file)
	const flush, mask = "/sys/class/net/v0/gro_flush_timeout", "/sys/class/net/v0/queues/rx-3/rps_cpus"
	want := content(mask)
	if content(flush) != "20000" || strings.TrimLeft(want, "0,") != "2" {
		t.Fatalf("set: %s %s", content(flush), want)
	}
	g.undoQueues()
	g.until("the masks are back", 10*time.Second, func() bool { return content(mask) == want })
	hangup := func() {
		t.Helper()
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write(profile(30000, ""))
	hangup()
	g.until("the new profile", 10*time.Second, func() bool { return content(flush) == "30000" })
	write("boot-profile: 7\n")
	hangup()
	g.until("the mistake is told", 10*time.Second, func() bool { return strings.Contains(g.said(), "edge.yaml") })
	g.undoQueues()
	g.until("the masks are back", 10*time.Second, func() bool { return content(mask) == want })
	now := settings(t)
	g.stop()
	same(t, "after the guard ended", now)
	for range 2 { // both values were set by transactions, which the host may be taken back from
		mustEnd(t, exitDone, command("rollback"))
	}
	same(t, "rolled back", before)
}

// Another edition of the profile under a running guard: the installation has it
// read anew, and where systemd is left alone, what a boot sets of it stays.
func TestReinstallUnderGuard(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, dir := range []string{"/etc", packagedUnits} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(packagedUnits, bootUnits[0]), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var g *guarded
	var ran []string
	e := bootEnv()
	e.Command = func(_ context.Context, name string, args ...string) ([]byte, error) {
		line := strings.Join(append([]string{name}, args...), " ")
		ran = append(ran, line)
		switch {
		case line == "systemctl is-active --quiet "+guardUnit && g == nil:
			return nil, errors.New("inactive")
		case line == "systemctl reload "+guardUnit: // as ExecReload= says
			return nil, g.cmd.Process.Signal(syscall.SIGHUP)
		}
		return nil, nil
	}
	install := func(flush int, args ...string) string {
		t.Helper()
		ran = nil
		file := bootFile(t, fmt.Sprintf("devices:\n  - match: {name: v0}\n    settings: {gro_flush_timeout: %d}\n", flush))
		code, stdout, stderr := invoke(context.Background(), t, e, append([]string{"profile", "install", file}, args...)...)
		if code != exitDone || stderr != "" {
			t.Fatalf("install: %d, %s%s", code, stdout, stderr)
		}
		return stdout
	}
	boot := func(want string) {
		t.Helper()
		if code, stdout, stderr := invoke(context.Background(), t, e, "boot"); code != exitDone || !strings.Contains(stdout, want) {
			t.Errorf("boot: %d, %s%s\nwant %s", code, stdout, stderr, want)
		}
	}
	const flush, ref = "/sys/class/net/v0/gro_flush_timeout", "v0/gro_flush_timeout"
	reloads := func() bool { return slices.Contains(ran, "systemctl reload "+guardUnit) }

	if text := install(20000); reloads() || !strings.Contains(text, "in force from the next boot on") {
		t.Errorf("without a guard: %q, %s", ran, text)
	}
	g = runGuard(t)
	g.until("the first edition", 5*time.Second, func() bool { return content(flush) == "20000" })

	if text := install(30000); !reloads() || !strings.Contains(text, guardUnit+" has read it") {
		t.Errorf("under a guard: %q, %s", ran, text)
	}
	g.until("the second edition", 5*time.Second, func() bool { return content(flush) == "30000" })
	boot("1 setting stood, 0 set")
	if install(30000); reloads() {
		t.Errorf("the same edition again: %q", ran)
	}

	if install(35000, "--no-units"); reloads() {
		t.Errorf("systemd was to be left alone: %q", ran)
	}
	if text := install(40000, "--no-reload"); reloads() || !strings.Contains(text, guardUnit+" goes on with what it has read") {
		t.Errorf("with --no-reload: %q, %s", ran, text)
	}
	for range 2 {
		boot("boot profile p: ")
		time.Sleep(1500 * time.Millisecond)
		if got := content(flush); got != "40000" {
			t.Errorf("the third edition was undone: %s", got)
		}
	}
	left := g.report().Left
	if len(left) != 1 || left[0].Ref.String() != ref || left[0].Contested || !strings.Contains(left[0].Reason, "for an edition of the profile that the guard has not read") {
		t.Errorf("left: %+v", left)
	}
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.until("the third edition is kept", 5*time.Second, func() bool { return len(g.report().Left) == 0 })
	g.stop()
}

// A guard of a profile of which nothing can be read ends; with a mistake it keeps
// the rest and says so, and after a reload, that there is one in the file.
func TestGuardOfMistakes(t *testing.T) {
	listening := errors.New("it would have begun")
	b := newBesides(t)
	b.e.Service.Events = func() (*host.Events, error) { return nil, listening }
	for text, want := range map[string]string{
		"boot-profile: 7\nname: edge\n": "nothing of the profile can be read",
		"\x00\x01":                      "nothing of the profile can be read",
		"boot-profile: 1\nname: edge\nhost: {net.core.netdev_budgett: 600}\n": "nothing of the profile can be read",
		"boot-profile: 1\nname: edge\nhost: {net.core.netdev_budget: 600}\n":  listening.Error(),
	} {
		file := filepath.Join(t.TempDir(), "edge.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// Only what reading it again will not mend keeps the unit from being started again.
		ends := exitConfig
		if want == listening.Error() {
			ends = exitError
		}
		if code, _, stderr := invoke(context.Background(), t, b.e, "guard", file); code != ends || !strings.Contains(stderr, want) {
			t.Errorf("%q: code %d, want %d, %s\nwant %s", text, code, ends, stderr, want)
		}
	}
	file := filepath.Join(t.TempDir(), "edge.yaml")
	if err := os.WriteFile(file, []byte("boot-profile: 1\nname: edge\nhost: {net.core.netdev_budget: 600, net.core.nothing: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var status []string
	b.e.Stderr, b.e.Service.Notify = io.Discard, func(state string) { status = append(status, state) }
	w := &watchman{e: b.e, file: file, bootID: "b"}
	for range 2 { // begun, and read anew
		_ = w.load()
		if err := w.show(guarding.Report{Keeps: 1, Left: []guarding.Left{}}); err != nil {
			t.Fatal(err)
		}
		r, err := guardReport(b.e, "b")
		if err != nil || r.Mistakes != 1 || !strings.Contains(status[len(status)-1], "profile has 1 mistake") {
			t.Errorf("%+v, %v, %q", r, err, status)
		}
	}
}
