package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// settled asks the running irqbalance, when it has done a round and listens.
func settled(t *testing.T, m *machine) host.Irqbalance {
	t.Helper()
	var setup host.Irqbalance
	within(t, time.Minute, "irqbalance answers", func() bool {
		var err error
		setup, err = m.last().Irqbalance()
		return err == nil
	})
	return setup
}

// rounds makes irqbalance place every interrupt anew and waits until it has: a
// hangup does that (irqbalance.c, force_rescan), once the first round is over.
func rounds(t *testing.T, m *machine) {
	t.Helper()
	time.Sleep(5 * time.Second)
	if out, err := exec.Command("pkill", "-HUP", "-x", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	time.Sleep(8 * time.Second)
	settled(t, m)
}

// irqbalance undoes what it was not told about, leaves alone what it was, and has
// its list back after a rollback. In a guest that runs systemd, with irqbalance
// installed and a NIC eth0 of several queues, two CPUs at least:
//
//	go run ./lab/cmd/lab test --mode systemd --nic virtio,queues=4 ./cmd/napitune -- -test.run=TestIrqbalanceLive -test.v
func TestIrqbalanceLive(t *testing.T) {
	onGuest(t)
	_, err := exec.LookPath("irqbalance")
	needs(t, err == nil, "irqbalance")
	napitune := installed(t)
	// One interrupt is banned by its owner, who is to have it back like that.
	if err := os.WriteFile("/etc/default/irqbalance", []byte("IRQBALANCE_ARGS=\"-t 2 --banirq=9\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemctl", "start", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	was := settled(t, m)
	t.Logf("irqbalance at first: %+v", was)
	if !slices.Equal(was.Banned, []int{9}) || was.Interval != 2 {
		t.Fatalf("irqbalance was told %+v", was)
	}
	masks := func() map[string]string {
		t.Helper()
		s, err := detect.Collect(m.last())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for ref, state := range s.Knobs {
			if ref.Dev == "eth0" && ref.Kind == "irq.affinity" && !ref.Tx && state.Has() {
				out[ref.String()] = state.Value
			}
		}
		return out
	}
	// All on the last CPU: no balancer would leave that so.
	var moving []string
	stacked := func() string {
		t.Helper()
		var changes [][2]string
		moving = moving[:0]
		for ref, value := range masks() {
			if value != "3" {
				changes, moving = append(changes, [2]string{ref, "3"}), append(moving, ref)
			}
		}
		slices.SortFunc(changes, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		return writePlan(t, changes)
	}
	// off3 counts the interrupts of the last plan that are not there.
	off3 := func() int {
		n, now := 0, masks()
		for _, ref := range moving {
			if now[ref] != "3" {
				n++
			}
		}
		return n
	}
	// applied retries: irqbalance may move an interrupt after the plan was made.
	applying := func(args ...string) (string, string) {
		t.Helper()
		var cmd *exec.Cmd
		for range 5 {
			cmd = napitune(append(append([]string{"apply", "--yes"}, args...), stacked())...)
			var out, errs strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errs
			if cmd.Run() == nil {
				return out.String(), errs.String()
			}
			t.Logf("again: %s", &errs)
		}
		t.Fatal("no plan could be applied")
		return "", ""
	}
	rounds(t, m)
	t.Logf("placed by irqbalance: %v", masks())
	if len(masks()) < 2 {
		t.Fatal("eth0 has not several queues")
	}

	_, errs := mustEnd(t, exitError, napitune("apply", "--yes", stacked()))
	t.Logf("without a word:\n%s", errs)
	if !strings.Contains(errs, "irqbalance: it writes eth0/rx-0/irq.affinity") || !strings.Contains(errs, "--owner ban tells it to leave them alone") {
		t.Errorf("not refused: %s", errs)
	}

	// Taken, the interrupts do not stay where they were put.
	applying("--owner", "take")
	rounds(t, m)
	t.Logf("taken, after a round: %v", masks())
	if off3() == 0 {
		t.Error("irqbalance left them alone untold: the rest proves nothing")
	}

	// Banned, they stay.
	out, errs := applying("--owner", "irqbalance=ban", "--format", "json")
	applied := decode[report.Transaction](t, out)
	t.Logf("banned: %+v\n%s", applied.Changes[0], errs)
	if applied.Changes[0].Ref != knob.Global("irqbalance.banned") || applied.Changes[0].Verdict != apply.VerdictApplied {
		t.Errorf("the first change is %+v", applied.Changes[0])
	}
	if !strings.Contains(errs, "--policyscript=") || !strings.Contains(errs, "ban=true") {
		t.Errorf("nothing lasting is named:\n%s", errs)
	}
	rounds(t, m)
	rounds(t, m)
	t.Logf("banned, after two rounds: %v, %+v", masks(), settled(t, m))
	if off3() != 0 {
		t.Errorf("irqbalance moved what it was told to leave: %v", masks())
	}
	out, _ = mustEnd(t, 0, napitune("rollback"))
	t.Logf("rollback:\n%s", out)
	if !strings.Contains(out, "the host is as it was") || strings.Count(out, "restored to") != len(applied.Changes) {
		t.Errorf("not all of %d changes are undone", len(applied.Changes))
	}
	if got := settled(t, m); !slices.Equal(got.Banned, was.Banned) {
		t.Errorf("irqbalance is left with %+v", got)
	}

	// Ended meanwhile, it has forgotten, and that is no obstacle.
	rounds(t, m)
	applying("--owner", "ban")
	if out, err := exec.Command("systemctl", "stop", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, _ = mustEnd(t, 0, napitune("rollback"))
	if !strings.Contains(out, "irqbalance is not running") {
		t.Errorf("after it stopped:\n%s", out)
	}
}
