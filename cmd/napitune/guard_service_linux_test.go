package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	guarding "github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
)

// serviced is the guard that systemd runs, in a guest that booted with the
// package and a profile installed. TestGuardUnit of package lab makes it:
//
//	NAPITUNE_LAB=1 go test -run '^TestGuardUnit$' -timeout 40m -v ./lab
type serviced struct{ t *testing.T }

// property is one of what systemctl show tells of the unit.
func (s serviced) property(name string) string {
	s.t.Helper()
	return property(s.t, guardUnit, name)
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(shell(t, "systemctl show -p "+name+" --value "+unit))
}

// left are the settings that the guard does not touch any more.
func (s serviced) left() []guarding.Left {
	s.t.Helper()
	r := guardState(s.t)
	if r == nil {
		s.t.Fatalf("no %s", guardFile)
	}
	return r.Left
}

// entries are what the guard told the journal of one action since a time, each
// with its fields.
func (s serviced) entries(action string, since time.Time) []map[string]string {
	s.t.Helper()
	out := shell(s.t, fmt.Sprintf("journalctl -b -u %s -o json --no-pager --since @%d NAPITUNE_ACTION='%s'", guardUnit, since.Unix(), action))
	var all []map[string]string
	decoder := json.NewDecoder(strings.NewReader(out))
	for decoder.More() {
		var entry map[string]any
		if err := decoder.Decode(&entry); err != nil {
			s.t.Fatal(err)
		}
		fields := map[string]string{}
		for name, value := range entry {
			if text, ok := value.(string); ok && (strings.HasPrefix(name, "NAPITUNE_") || name == "MESSAGE" || name == "PRIORITY") {
				fields[name] = text
			}
		}
		all = append(all, fields)
	}
	return all
}

// hangup has the guard read its profile anew and take up what it left.
func (s serviced) hangup() {
	s.t.Helper()
	shell(s.t, "systemctl reload "+guardUnit)
	until(s.t, "what was left is taken up", 30*time.Second, func() bool { return len(s.left()) == 0 })
}

// wanted is what the installed profile asks of this machine, and how much of
// that does not stand.
func wanted(t *testing.T) (want [][2]string, missing int) {
	t.Helper()
	profile, mistakes, err := readProfile(installedProfile)
	if err != nil || len(mistakes) > 0 {
		t.Fatalf("%v %v", err, mistakes)
	}
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	p, problems, err := profilePlan(m, profile, boot.Scope{})
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, problems %v", err, problems)
	}
	for _, kept := range p.Kept {
		want = append(want, [2]string{kept.Ref.String(), kept.Value})
	}
	for _, c := range p.Changes {
		want = append(want, [2]string{c.Ref.String(), c.After})
	}
	return want, len(p.Changes)
}

// allStands is what the profile asks, all of which stands.
func allStands(t *testing.T) [][2]string {
	t.Helper()
	want, missing := wanted(t)
	if missing > 0 || len(want) == 0 {
		t.Fatalf("before anything was disturbed %d of %d settings do not stand", missing, len(want))
	}
	return want
}

// stands reports whether all is as wanted. It pauses where something is not:
// asking takes the processor from the guard.
func stands(t *testing.T, view knob.View, want [][2]string) func() bool {
	return func() bool {
		if len(stood(t, view, want)) == 0 {
			return true
		}
		time.Sleep(40 * time.Millisecond)
		return false
	}
}

// The guard as systemd runs it, from the package and under its sandbox, in a
// guest with two NICs.
func TestGuardServiceLive(t *testing.T) {
	onGuest(t)
	s := serviced{t}
	_, err := os.Stat(installedProfile)
	needs(t, err == nil && s.property("ActiveState") == "active", guardUnit+" at work")
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"begun", testServiceBegun},
		{"restores", testServiceRestores},
		{"hotplug", testServiceHotplug},
		{"rule", testServiceRule},
		{"boot beside irqbalance", testServiceBootBesideIrqbalance},
		{"leaves to others", testServiceLeaves},
		{"tells irqbalance", testServiceTellsIrqbalance},
		{"beside irqbalance that is told", testServiceBesideIrqbalance},
		{"watchdog", testServiceWatchdog},
		{"stop", testServiceStop},
	} {
		t.Run(part.name, part.test)
	}
}

// systemd knows that it is ready, what it does, and how long it may be silent.
func testServiceBegun(t *testing.T) {
	s := serviced{t}
	want := allStands(t)
	for name, wants := range map[string]string{
		"SubState": "running", "Type": "notify", "NotifyAccess": "main", "WatchdogUSec": "30s", "NRestarts": "0",
		"StatusText": fmt.Sprintf("keeping %d settings; restored 0", len(want)),
	} {
		if got := s.property(name); got != wants {
			t.Errorf("%s is %q, want %q", name, got, wants)
		}
	}
	// In its sandbox a device can be written and a CPU cannot be taken away.
	inside := fmt.Sprintf("nsenter -t %s -m -- sh -c ", s.property("MainPID"))
	shell(t, inside+"'read old </sys/class/net/eth1/gro_flush_timeout; echo $old >/sys/class/net/eth1/gro_flush_timeout'")
	if out := shell(t, inside+"'echo 1 >/sys/devices/system/cpu/cpu2/online; true' 2>&1"); !strings.Contains(out, "Read-only file system") {
		t.Errorf("the guard may take CPUs away: %s", out)
	}
	if failed := shell(t, "systemctl --failed --no-legend"); failed != "" {
		t.Errorf("failed units:\n%s", failed)
	}
	t.Logf("status: %s; memory %s; processor time %s ns", s.property("StatusText"), s.property("MemoryCurrent"), s.property("CPUUsageNSec"))
	t.Logf("the journal so far:\n%s", shell(t, "journalctl -b -o cat --no-pager -u "+guardUnit))
}

// What a link flap, other queues and CPU hotplug undo stands again within a
// second, each time, and the journal has every restoration with its fields. The
// second is one of 1,000 million instructions: the guest's clock counts those.
func testServiceRestores(t *testing.T) {
	s := serviced{t}
	want := allStands(t)
	start := time.Now()
	view := mustView(t)
	look := time.Since(start)
	t.Logf("%d settings are kept; one look at this machine takes %s", len(want), look.Round(time.Millisecond))
	for _, c := range []struct{ what, command string }{
		// virtio_net keeps everything over a link flap: other queues while the link is
		// down lose what other drivers do.
		{"link down and up", "ip link set eth0 down; ethtool -L eth0 combined 2; ethtool -L eth0 combined 4; ip link set eth0 up"},
		{"ethtool -L", "ethtool -L eth0 combined 2; ethtool -L eth0 combined 4"},
		{"CPU offline and online", "echo 0 >/sys/devices/system/cpu/cpu2/online; echo 1 >/sys/devices/system/cpu/cpu2/online"},
	} {
		began := time.Now().Add(-time.Second)
		var all []time.Duration
		// It begins anew, with all the restorations that may follow each other at once.
		s.hangup()
		for range 20 {
			time.Sleep(1200 * time.Millisecond)
			shell(t, c.command)
			all = append(all, until(t, c.what, 20*time.Second, stands(t, view, want)))
		}
		tellWithin(t, c.what, all, time.Second)
		if n := s.held(c.what, began); n < 20 {
			t.Errorf("%s: %d settings were restored in 20 repetitions", c.what, n)
		}
	}
	if left := s.left(); len(left) > 0 {
		t.Errorf("left alone: %+v", left)
	}
}

// held looks at what the journal has of the restorations since a time, and counts
// them.
func (s serviced) held(what string, since time.Time) int {
	s.t.Helper()
	entries := s.entries("restored", since)
	var took []time.Duration
	for _, fields := range entries {
		for _, name := range []string{"NAPITUNE_KNOB", "NAPITUNE_DEVICE", "NAPITUNE_BEFORE", "NAPITUNE_AFTER", "NAPITUNE_CAUSE", "NAPITUNE_TOOK_USEC", "MESSAGE"} {
			if _, ok := fields[name]; !ok {
				s.t.Fatalf("%s: the entry %v lacks %s", what, fields, name)
			}
		}
		micros, err := strconv.Atoi(fields["NAPITUNE_TOOK_USEC"])
		if err != nil || fields["PRIORITY"] != "5" {
			s.t.Errorf("%s: %v, %v", what, fields, err)
		}
		took = append(took, time.Duration(micros)*time.Microsecond)
	}
	if len(entries) == 0 {
		return 0
	}
	slices.Sort(took)
	s.t.Logf("%s: %d settings were restored, by the guard's clock median %d ms, longest %d ms after the first event; the last: %s",
		what, len(took), took[len(took)/2].Milliseconds(), took[len(took)-1].Milliseconds(), entries[len(entries)-1]["MESSAGE"])
	return len(entries)
}

// A NIC that is taken out and put in again has everything as soon as it is up.
func testServiceHotplug(t *testing.T) {
	want := allStands(t)
	path, err := filepath.EvalSymlinks("/sys/class/net/eth1/device")
	if err != nil {
		t.Fatal(err)
	}
	function := filepath.Dir(path) // virtio1 lies below its PCI function
	if err := os.WriteFile(filepath.Join(function, "remove"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	rescanned := uptime(t)
	if err := os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	until(t, "the NIC is back", 20*time.Second, func() bool { _, err := os.Stat("/sys/class/net/eth1"); return err == nil })
	shell(t, "ip link set eth1 up")
	var missing []string
	took := until(t, "the NIC is as the profile says", 60*time.Second, func() bool {
		missing = stood(t, mustView(t), want)
		return len(missing) == 0
	})
	// The guard would set it as well: udev has started the unit for it, too.
	const unit = "napitune-device@eth1"
	until(t, "the unit of the NIC has ended", 30*time.Second, func() bool {
		time.Sleep(200 * time.Millisecond)
		start, err := strconv.ParseInt(property(t, unit, "ExecMainStartTimestampMonotonic"), 10, 64)
		return err == nil && time.Duration(start)*time.Microsecond > rescanned && property(t, unit, "ActiveState") == "inactive"
	})
	if result := property(t, unit, "Result"); result != "success" {
		t.Errorf("%s ended with %s", unit, result)
	}
	t.Logf("%s after it was up; device unit: %s", took.Round(time.Millisecond),
		shell(t, "systemctl show -p Result,ExecMainStatus "+unit+" | tr '\\n' ' '; journalctl -b -o cat --no-pager -u "+unit+" | tail -n 3"))
}

// uptime is the clock of systemd's monotonic timestamps.
func uptime(t *testing.T) time.Duration {
	t.Helper()
	seconds, _, _ := strings.Cut(content("/proc/uptime"), " ")
	value, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(value * float64(time.Second))
}

// udev takes the rule, which asks for the unit of a NIC and for none of a device
// without hardware behind it.
func testServiceRule(t *testing.T) {
	shell(t, "ip link add rule0 type veth peer name rule1")
	t.Cleanup(func() { shell(t, "ip link del rule0") })
	for dev, want := range map[string]bool{"eth0": true, "rule0": false} {
		out := shell(t, "udevadm test --action=add /sys/class/net/"+dev+" 2>&1")
		if !strings.Contains(out, ruleFile) {
			t.Errorf("%s: udev does not read %s:\n%s", dev, ruleFile, out)
		}
		if said := regexp.MustCompile(`(?i).*` + ruleFile + `:\d+.*(invalid|unknown|ignor|fail|error).*`).FindString(out); said != "" {
			t.Errorf("%s: udev says %s", dev, said)
		}
		if wants := regexp.MustCompile("(?m)^\\s*SYSTEMD_WANTS=.*napitune-device@" + dev + "[.]service").MatchString(out); wants != want {
			t.Errorf("%s: starts its unit: %v, want %v\n%s", dev, wants, want, out)
		}
	}
}

// With irqbalance running, what the units do at boot sets everything, under their
// sandbox, and irqbalance leaves it alone.
func testServiceBootBesideIrqbalance(t *testing.T) {
	want := allStands(t)
	shell(t, "systemctl stop "+guardUnit)
	t.Cleanup(func() { shell(t, "systemctl start "+guardUnit) })
	irqbalanceUnit(t, "")
	shell(t, "echo 0-3 | tee /proc/irq/*/smp_affinity_list >/dev/null 2>&1 || true; echo 1 >/sys/class/net/eth0/queues/rx-0/rps_cpus")
	view := mustView(t)
	if len(stood(t, view, want)) == 0 {
		t.Fatal("nothing was undone")
	}
	shell(t, "systemctl restart "+bootUnits[1])
	t.Logf("the unit: %s", shell(t, "journalctl -b -o cat --no-pager -u "+bootUnits[1]+" | tail -n 30"))
	for range 3 {
		if missing := stood(t, view, want); len(missing) > 0 {
			t.Errorf("beside irqbalance: %s", strings.Join(missing, ", "))
		}
		shell(t, "systemctl kill -s HUP irqbalance")
		time.Sleep(4 * time.Second)
	}
}

// Who writes a mask twice means it. Who it was the unit may not know: telling
// takes CAP_SYS_ADMIN. That it was somebody is seen all the same.
func testServiceLeaves(t *testing.T) {
	s := serviced{t}
	const file, ref = "/sys/class/net/eth0/queues/rx-1/rps_cpus", "eth0/rx-1/rps.cpus"
	want := content(file)
	began := time.Now().Add(-time.Second)
	shell(t, "echo 4 >"+file)
	took := until(t, "the first write is undone", 10*time.Second, func() bool { return content(file) == want })
	t.Logf("the first write was undone in %d ms", took.Milliseconds())
	shell(t, "echo 4 >"+file)
	until(t, "the setting is left", 10*time.Second, func() bool { return len(s.left()) > 0 })
	time.Sleep(3 * time.Second)
	if got := content(file); got != "4" {
		t.Errorf("the mask of the other is %q, want 4", got)
	}
	left := s.left()
	if len(left) != 1 || left[0].Ref.String() != ref || !left[0].Contested || left[0].By != "" {
		t.Errorf("left: %+v", left)
	}
	entries := s.entries("left", began)
	t.Logf("left: %+v\nin the journal: %v\nstatus line: %s", left, entries, s.property("StatusText"))
	if len(entries) != 1 || entries[0]["NAPITUNE_KNOB"] != ref || entries[0]["PRIORITY"] != "4" {
		t.Errorf("in the journal: %v", entries)
	}
	if text := s.property("StatusText"); !strings.Contains(text, "left alone 1 ("+ref) {
		t.Errorf("status line: %s", text)
	}
	s.contested(ref)
	s.hangup()
	until(t, "the setting is kept again", 10*time.Second, func() bool { return content(file) == want })
}

// contested holds that advise raises a finding of a setting.
func (s serviced) contested(ref string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(packagedProgram, "advise", "--for", "2s", "--no-bpf", "--format", "json")
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // 0 or 2, by what else there is
	advice := decode[struct {
		Findings []struct{ ID, Severity, Subject, Claim, Operator string }
	}](s.t, out.String())
	for _, f := range advice.Findings {
		if f.ID == "contested-setting" && strings.Contains(f.Claim, ref) {
			s.t.Logf("%s %s %s: %s; %s", f.Severity, f.ID, f.Subject, f.Claim, f.Operator)
			return
		}
	}
	s.t.Errorf("advise does not tell of %s:\n%s%s", ref, &out, &errs)
}

// irqbalanceUnit starts the daemon as the distribution does, with these options
// besides rounds of two seconds.
func irqbalanceUnit(t *testing.T, options string) {
	t.Helper()
	if err := os.WriteFile("/etc/default/irqbalance", fmt.Appendf(nil, "IRQBALANCE_ARGS=\"-t 2 %s\"\n", options), 0o644); err != nil {
		t.Fatal(err)
	}
	shell(t, "systemctl start irqbalance")
	t.Cleanup(func() { shell(t, "systemctl stop irqbalance") })
	time.Sleep(5 * time.Second)
}

// irqbalance that begins beside the guard is told at its first write which
// interrupts are kept, under the sandbox of the unit, and leaves them alone.
func testServiceTellsIrqbalance(t *testing.T) {
	s := serviced{t}
	want := allStands(t)
	began := time.Now().Add(-time.Second)
	irqbalanceUnit(t, "")
	told := func() bool {
		for _, action := range []string{"set", "restored"} {
			for _, fields := range s.entries(action, began) {
				if fields["NAPITUNE_KNOB"] == "irqbalance.banned" {
					t.Logf("told: %v", fields)
					return true
				}
			}
		}
		return false
	}
	// It scans and places all interrupts anew at a hangup.
	again := func() {
		shell(t, "systemctl kill -s HUP irqbalance")
		time.Sleep(4 * time.Second)
	}
	took := until(t, "irqbalance is told", 3*time.Minute, func() bool { again(); return told() })
	t.Logf("after %s", took.Round(time.Second))
	view := mustView(t)
	for range 3 {
		again()
		if missing := stood(t, view, want); len(missing) > 0 {
			t.Errorf("beside irqbalance: %s", strings.Join(missing, ", "))
		}
	}
	if left := s.left(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// Told by its policy script to leave NICs alone, irqbalance does, and everything
// stands: with -guard-long, for ten minutes.
func testServiceBesideIrqbalance(t *testing.T) {
	s := serviced{t}
	want := allStands(t)
	script := filepath.Join(t.TempDir(), "policy")
	text := "#!/bin/sh\ncase $1 in */virtio*|*/pci*) echo ban=true ;; esac\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	irqbalanceUnit(t, "--policyscript="+script)
	view := mustView(t)
	window := long(10*time.Minute, 15*time.Second)
	start := time.Now()
	for n := 0; time.Since(start) < window; n++ {
		if n%10 == 0 {
			shell(t, "systemctl kill -s HUP irqbalance")
		}
		_ = exec.Command("lab", "send", "--seconds", "3").Run()
		if missing := stood(t, view, want); len(missing) > 0 {
			t.Errorf("after %s: %s", time.Since(start).Round(time.Second), strings.Join(missing, ", "))
		}
	}
	t.Logf("%s beside irqbalance: left %+v; %s", window, s.left(), s.property("StatusText"))
	if left := s.left(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// A guard that hangs is ended and started again by systemd, and keeps as before.
func testServiceWatchdog(t *testing.T) {
	s := serviced{t}
	want := allStands(t)
	pid, err := strconv.Atoi(s.property("MainPID"))
	if err != nil || pid <= 1 {
		t.Fatalf("process %d, %v", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	took := until(t, "systemd starts it again", 2*time.Minute, func() bool {
		time.Sleep(500 * time.Millisecond) // asking all the time would take minutes by a clock of instructions
		return s.property("NRestarts") == "1" && s.property("SubState") == "running"
	})
	t.Logf("stopped process %d; another runs after %s: %s", pid, took.Round(time.Second),
		shell(t, "journalctl -b -o cat --no-pager -t systemd -u "+guardUnit+" | tail -n 8"))
	if again := s.property("MainPID"); again == strconv.Itoa(pid) {
		t.Errorf("process %s is still there", again)
	}
	view := mustView(t)
	shell(t, "ip link set eth0 down; ip link set eth0 up")
	took = until(t, "the new one keeps the profile", 20*time.Second, stands(t, view, want))
	t.Logf("a link flap under the new one was mended in %d ms", took.Milliseconds())
}

// Stopping changes nothing and is no failure.
func testServiceStop(t *testing.T) {
	s := serviced{t}
	t.Logf("processor time: %s ns", s.property("CPUUsageNSec"))
	before := settings(t)
	shell(t, "systemctl stop "+guardUnit)
	same(t, "after systemctl stop", before)
	if state := s.property("ActiveState"); state != "inactive" {
		t.Errorf("it is %s", state)
	}
	if failed := shell(t, "systemctl --failed --no-legend"); failed != "" {
		t.Errorf("failed units:\n%s", failed)
	}
	shell(t, "ip link set eth0 down; ip link set eth0 up; sleep 2")
	if got := strings.TrimSpace(shell(t, "pidof napitune || true")); got != "" {
		t.Errorf("process %s still runs", got)
	}
}
