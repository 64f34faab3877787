package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
)

// guestEnv says that this machine is thrown away after the test, so that its own
// devices, interrupts and services may be changed. Guests of the lab set it
// (lab/README.md).
const guestEnv = "NAPITUNE_GUEST"

// onGuest skips a test on machines that somebody still needs.
func onGuest(t *testing.T) {
	t.Helper()
	if os.Getenv(guestEnv) == "" {
		t.Skipf("skipped: it changes the machine and runs in guests of the lab (lab/README.md), where %s is set", guestEnv)
	}
	needs(t, os.Getuid() == 0, "root")
}

// installed is this test binary as a program on disk under the command's name,
// which a timer can run without this process.
func installed(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	program := filepath.Join(t.TempDir(), "napitune")
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) *exec.Cmd { return exec.Command(program, args...) }
}

// timers lists the units of deadlines that systemd knows.
func timers(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "napitune-rollback-*").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// started begins an apply and returns when its changes are made.
func started(t *testing.T, cmd *exec.Cmd) *bytes.Buffer {
	t.Helper()
	var told bytes.Buffer
	reader, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 4096)
	for !strings.Contains(told.String(), "rolled back at") {
		n, err := reader.Read(chunk)
		told.Write(chunk[:n])
		if err != nil {
			_ = cmd.Wait()
			t.Fatalf("it never waited for a confirmation:\n%s", &told)
		}
	}
	return &told
}

// within polls until a condition holds.
func within(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// The question about a verdict that is unclear ends with the deadline: a terminal
// that answers nothing and does not hang up either keeps nothing.
func TestDeadlineEndsTheQuestionLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}})
	terminal, person := io.Pipe()
	defer func() { _ = person.Close() }()
	go func() { _, _ = person.Write([]byte("y\n")) }() // to the plan; nothing comes after it
	e := process()
	e.Stdin, e.StdinTTY, e.StderrTTY = terminal, true, true
	// Whoever waits for ever ends here.
	ctx, stop := context.WithTimeout(context.Background(), 40*time.Second)
	defer stop()
	const window = time.Second
	const within = window + settleLimit + answerTime // the least that is taken
	code, out, errs := invoke(ctx, t, e, "apply", "--measure", window.String(), "--confirm-within", within.String(), file)
	if code != apply.ExitRolledBack || !strings.Contains(errs, "Keep the changes? [y/N]") || !strings.Contains(errs, "not confirmed in time") {
		t.Errorf("ended with %d:\n%s%s", code, out, errs)
	}
	same(t, "after the deadline", before)
	if ctx.Err() != nil {
		t.Error("the deadline did not end it")
	}
}

// The timer of systemd outlives the process that armed it, does nothing after a
// confirmation, and leaves no unit behind. In a guest that runs systemd:
//
//	go run ./lab/cmd/lab test --mode systemd ./cmd/napitune -- -test.run=TestTimerLive -test.v
func TestTimerLive(t *testing.T) {
	onGuest(t)
	_, err := os.Stat("/run/systemd/system")
	needs(t, err == nil, "systemd as PID 1")
	addVeth(t)
	napitune := installed(t)
	before := settings(t)
	file := writePlan(t, vethChanges()[:4])
	applying := func(within string) *exec.Cmd {
		return napitune("apply", "--yes", "--confirm-within", within, file)
	}
	changed := func() bool { return !cmp.Equal(before, settings(t)) }

	// Killed: the timer rolls back, not before the deadline and soon after it.
	const deadline = 20 * time.Second
	began := time.Now()
	cmd := applying(deadline.String())
	told := started(t, cmd)
	if !strings.Contains(told.String(), "or if it dies by systemd") {
		t.Fatalf("no timer was promised:\n%s", told)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	t.Logf("killed %.1f s after the start; units: %s", time.Since(began).Seconds(), timers(t))
	if !changed() || !strings.Contains(timers(t), ".timer") {
		t.Fatal("nothing to roll back, or no timer, after the kill")
	}
	within(t, 2*deadline, "the timer rolls back", func() bool { return !changed() })
	t.Logf("rolled back %.1f s after the start, deadline %s", time.Since(began).Seconds(), deadline)
	if time.Since(began) < deadline {
		t.Error("that is before the deadline")
	}
	within(t, 30*time.Second, "units are gone", func() bool { return timers(t) == "" })
	if out, _ := mustEnd(t, 0, napitune("history")); !strings.Contains(out, string(apply.EventRolledBack)) {
		t.Errorf("the history does not tell of it:\n%s", out)
	}

	// Killed and confirmed: it stays, and the timer is gone at once.
	cmd = applying("15s")
	started(t, cmd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	out, _ := mustEnd(t, 0, napitune("confirm"))
	if units := timers(t); units != "" {
		t.Errorf("left after the confirmation: %s", units)
	}
	// What the timer would run does nothing any more.
	id, _, _ := strings.Cut(out, " ")
	mustEnd(t, 0, napitune("rollback", "--unconfirmed", id))
	if got := settings(t)["v0/rx-1/rps.cpus"]; got.Status != knob.Known || got.Value != "1" {
		t.Errorf("after confirmation and deadline rps.cpus is %+v", got)
	}
	mustEnd(t, 0, napitune("rollback"))
	same(t, "after the rollback", before)

	// Both guards alive: whichever rolls back, the process waits for its end and
	// tells that nobody confirmed.
	_, errs := mustEnd(t, apply.ExitRolledBack, applying("3s"))
	if !regexp.MustCompile(`(?m)^napitune: (\S+: )?not confirmed in time(: rolled back by another process)?$`).MatchString(errs) {
		t.Errorf("both guards: %s", errs)
	}
	same(t, "after both guards", before)
	within(t, 30*time.Second, "units are gone", func() bool { return timers(t) == "" })

	// Where systemd would not find the same files it is said before anything is written.
	cmd = applying("2s")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	_, errs = mustEnd(t, apply.ExitRolledBack, cmd)
	if !strings.Contains(errs, "another mount namespace") || !strings.Contains(errs, "by this process only") {
		t.Errorf("in another mount namespace: %s", errs)
	}
	same(t, "in another mount namespace", before)
}
