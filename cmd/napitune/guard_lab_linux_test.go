package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
)

func mustView(t *testing.T) knob.View {
	t.Helper()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	view, err := currentView(m)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func shell(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// labChanges places the queues of eth0 where the driver does not, on a machine
// with four CPUs and four queues.
func labChanges() [][2]string {
	var out [][2]string
	for q := range 4 {
		cpu := fmt.Sprint((q + 1) % 4)
		out = append(out, [2]string{fmt.Sprintf("eth0/rx-%d/irq.affinity", q), cpu},
			[2]string{fmt.Sprintf("eth0/rx-%d/rps.cpus", q), "0-3"}, [2]string{fmt.Sprintf("eth0/tx-%d/xps.cpus", q), cpu})
	}
	return append(out, [2]string{"eth0/gro_flush_timeout", "20000"})
}

// stood names the settings that are not as wanted. It asks for them and for
// nothing else: a whole look would take the time, which is one for all CPUs in a
// guest, from the guard. The vectors of virtio keep their numbers.
func stood(t *testing.T, view knob.View, want [][2]string) (missing []string) {
	t.Helper()
	for _, w := range want {
		ref, err := knob.ParseRef(w[0])
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := knob.Lookup(ref.Kind)
		if state := kind.Read(view, ref); state.Value != w[1] {
			missing = append(missing, w[0]+"="+state.Value)
		}
	}
	return missing
}

// The guard in a guest with four CPUs and a NIC of four queues. These take four
// minutes; with -guard-long, a quarter of an hour and more:
//
//	go run ./lab/cmd/lab test --nic virtio,queues=4 --timeout 40m ./cmd/napitune -- -test.run TestLabGuard -test.v

// Twenty times each: what drivers and hotplug undo on a virtio NIC stands again.
func TestLabGuardRestores(t *testing.T) {
	onGuest(t)
	want := labChanges()
	g := startGuard(t, want)
	start := time.Now()
	view := mustView(t)
	look := time.Since(start)
	t.Logf("one look at this machine takes %s", look.Round(time.Millisecond))
	for _, c := range []struct{ what, command string }{
		{"link down and up", "ip link set eth0 down; ip link set eth0 up"},
		{"ethtool -L", "ethtool -L eth0 combined 2; ethtool -L eth0 combined 4"},
		{"ethtool -G", "ethtool -G eth0 rx 128; ethtool -G eth0 rx 256"},
		{"CPU offline and online", "echo 0 >/sys/devices/system/cpu/cpu2/online; echo 1 >/sys/devices/system/cpu/cpu2/online"},
	} {
		if out, err := exec.Command("sh", "-c", c.command).CombinedOutput(); err != nil {
			t.Logf("%s: not possible here: %v %s", c.what, err, out)
			continue
		}
		time.Sleep(3 * time.Second)
		var all []time.Duration
		undone := 0
		for range long(20, 3) {
			before := g.report().Restorations
			shell(t, c.command)
			start := time.Now()
			var missing []string
			for missing = stood(t, view, want); len(missing) > 0 && time.Since(start) < 20*time.Second; missing = stood(t, view, want) {
				time.Sleep(50 * time.Millisecond)
			}
			if len(missing) > 0 {
				t.Fatalf("%s: not as wanted after %s: %s", c.what, time.Since(start), strings.Join(missing, ", "))
			}
			all = append(all, time.Since(start))
			time.Sleep(2 * time.Second)
			undone += g.report().Restorations - before
		}
		t.Logf("%s: %d settings were restored", c.what, undone)
		// A real machine looks in some 10 ms and restores within a second; emulation
		// takes as many looks longer, and the host's other work comes on top.
		tellWithin(t, c.what, all, time.Second+20*look)
	}
	if left := g.report().Left; len(left) > 0 {
		t.Errorf("left alone: %+v", left)
	}
	g.stop()
	if missing := stood(t, view, want); len(missing) > 0 {
		t.Errorf("after the guard ended: %s", strings.Join(missing, ", "))
	}
	mustEnd(t, exitDone, command("rollback"))
}

// irqbalance starts the daemon with rounds of a second.
func irqbalance(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("irqbalance", "--foreground", "-t", "1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	time.Sleep(3 * time.Second)
	return cmd
}

func affinities() [][2]string {
	var out [][2]string
	for _, c := range labChanges() {
		if strings.HasSuffix(c[0], "irq.affinity") {
			out = append(out, c)
		}
	}
	return out
}

// With irqbalance running and not told, the guard leaves the interrupts to it
// and says so.
func TestLabGuardLeavesToIrqbalance(t *testing.T) {
	onGuest(t)
	g := startGuard(t, affinities())
	daemon := irqbalance(t)
	start := time.Now()
	for len(g.report().Left) == 0 && time.Since(start) < 3*time.Minute {
		// It scans and places all interrupts anew.
		if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
	}
	left := g.report().Left
	t.Logf("after %s left alone: %+v", time.Since(start).Round(time.Second), left)
	if len(left) == 0 || !left[0].Contested || !strings.HasPrefix(left[0].By, "irqbalance") {
		t.Errorf("left alone: %+v", left)
	}
	text, _ := mustEnd(t, exitDone, command("status"))
	t.Logf("status:\n%s", text)
	g.stop()
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	_ = command("rollback").Run() // ends with 4: some are irqbalance's
	s := decode[struct{ Transactions []apply.Summary }](t, first(mustEnd(t, exitDone, command("status", "--format", "json"))))
	for _, one := range s.Transactions {
		mustEnd(t, exitDone, command("forget", "--yes", one.ID))
	}
}

// Told to leave them alone, irqbalance does, and the interrupts stand for ten
// minutes under load.
func TestLabGuardBesideBannedIrqbalance(t *testing.T) {
	onGuest(t)
	daemon := irqbalance(t)
	want := affinities()
	view := mustView(t)
	var differing [][2]string
	for _, w := range want {
		if len(stood(t, view, [][2]string{w})) > 0 {
			differing = append(differing, w)
		}
	}
	if len(differing) == 0 {
		t.Fatal("the interrupts are where they should be before anything was done")
	}
	mustEnd(t, exitDone, command("apply", "--yes", "--owner", "ban", writePlan(t, differing)))
	g := runGuard(t)
	window := long(10*time.Minute, 30*time.Second)
	start := time.Now()
	for time.Since(start) < window {
		_ = exec.Command("lab", "send", "--seconds", "5").Run()
		if missing := stood(t, view, differing); len(missing) > 0 {
			t.Logf("after %s: %s", time.Since(start).Round(time.Second), strings.Join(missing, ", "))
		}
		time.Sleep(time.Second)
	}
	r := g.report()
	t.Logf("%s beside irqbalance: %d restorations, left alone %d", window, r.Restorations, len(r.Left))
	if len(r.Left) > 0 {
		t.Errorf("left alone: %+v", r.Left)
	}
	if missing := stood(t, view, differing); len(missing) > 0 {
		t.Errorf("in the end: %s", strings.Join(missing, ", "))
	}
	g.stop()
	_ = command("rollback").Run()
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
}
