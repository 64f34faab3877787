package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
)

// Applied, read back, rolled back: every setting is what it was.
func TestApplyLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	changes := vethChanges()
	file := writePlan(t, changes)

	_, errs := mustEnd(t, 1, command("apply", "--yes", "--max-disruption", "none", file))
	if !strings.Contains(errs, "v0/rx-0/rps.cpus: the change disturbs traffic (packets), allowed is none") || !strings.Contains(errs, "--max-disruption") {
		t.Errorf("more disruption than allowed: %s", errs)
	}
	_, errs = mustEnd(t, 1, command("apply", file))
	if !strings.Contains(errs, "--yes applies without asking") {
		t.Errorf("nobody to ask: %s", errs)
	}
	out, errs := mustEnd(t, 0, command("apply", "--dry-run", file))
	if !strings.Contains(out, "rx-0 rps.cpus") || !strings.Contains(errs, "nothing was written") {
		t.Errorf("dry run: %s%s", out, errs)
	}
	same(t, "refusals and the dry run write nothing", before)

	out, errs = mustEnd(t, 0, command("apply", "--yes", "--format", "json", file))
	applied := decode[report.Transaction](t, out)
	if applied.State != apply.Confirmed || len(applied.Changes) != len(changes) {
		t.Fatalf("%+v", applied)
	}
	for _, c := range applied.Changes {
		if c.Verdict != apply.VerdictApplied {
			t.Errorf("%+v", c)
		}
	}
	if n := strings.Count(errs, ", applied"); n != len(changes) {
		t.Errorf("%d steps were told, want %d:\n%s", n, len(changes), errs)
	}
	now := settings(t)
	for _, c := range changes {
		if got := now[c[0]].Value; got != c[1] {
			t.Errorf("%s is %q, want %q", c[0], got, c[1])
		}
	}
	out, _ = mustEnd(t, 0, command("status", "--format", "json"))
	if list := decode[report.Status](t, out).Transactions; len(list) != 1 || list[0].ID != applied.ID || len(list[0].Drift) != len(changes) {
		t.Errorf("status: %s", out)
	}
	out, errs = mustEnd(t, 0, command("rollback"))
	if !strings.Contains(out, applied.ID+" rolled back: the host is as it was.") || errs != "" {
		t.Errorf("rollback: %s%s", out, errs)
	}
	same(t, "after the rollback", before)
	mustEnd(t, 0, command("rollback", applied.ID)) // again does nothing more
	_, errs = mustEnd(t, 1, command("rollback"))
	if !strings.Contains(errs, "nothing was applied since the last boot") {
		t.Errorf("nothing left to roll back: %s", errs)
	}
	out, _ = mustEnd(t, 0, command("history", "--format", "json"))
	if events := decode[report.History](t, out).Events; len(events) != 2 || events[0].Event != apply.EventApplied || events[1].Event != apply.EventRolledBack {
		t.Errorf("history: %s", out)
	}
}

// Where /sys is read-only, as in a container, it is said before the first write,
// and by a dry run; so are the privileges that somebody lacks.
func TestChecksBeforeTheFirstWriteLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// The first change alone would be made: it is no file.
	file := writePlan(t, [][2]string{{"v0/feature.rx-gro", "on"}, {"v0/rx-0/rps.cpus", "1"}})
	before := settings(t)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", "/sys", "", syscall.MS_REMOUNT|syscall.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	for _, args := range [][]string{{"apply", "--dry-run", file}, {"apply", "--yes", file}} {
		_, errs := mustEnd(t, exitError, command(args...))
		if !strings.Contains(errs, "refused, nothing was written:") || !strings.Contains(errs, "/sys is mounted read-only here") || strings.Contains(errs, "every check") {
			t.Errorf("%v: %s", args, errs)
		}
	}
	remount(0)
	same(t, "after the refusals", before)

	// Everybody may read the plan and this program.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("/run", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/plan.json", text, 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/program", program, 0o755); err != nil {
		t.Fatal(err)
	}
	rehearsal := func() *exec.Cmd {
		cmd := exec.Command("/run/program")
		cmd.Args = []string{"napitune", "apply", "--dry-run", "/run/plan.json"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	_, errs := mustEnd(t, exitError, rehearsal())
	if !strings.Contains(errs, "v0/feature.rx-gro: writing it needs CAP_NET_ADMIN") || !strings.Contains(errs, "v0/rx-0/rps.cpus: writing it needs root") || strings.Contains(errs, "every check") {
		t.Errorf("nobody: %s", errs)
	}
	// There are journals, which are root's.
	mustEnd(t, 0, command("apply", "--yes", file))
	_, errs = mustEnd(t, exitError, rehearsal())
	if !strings.Contains(errs, "/run/napitune is root's: sudo napitune apply --dry-run") {
		t.Errorf("nobody, beside journals: %s", errs)
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// A reader of the messages that goes away does not end a transaction.
func TestBrokenPipeLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	changes := vethChanges()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := command("apply", "--yes", writePlan(t, changes))
	cmd.Stderr = writer
	if err := cmd.Run(); err != nil {
		t.Fatalf("apply into a broken pipe: %v", err)
	}
	now := settings(t)
	for _, c := range changes {
		if got := now[c[0]].Value; got != c[1] {
			t.Errorf("%s is %q, want %q", c[0], got, c[1])
		}
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// Where stdout takes nothing, the exit code and stderr are true of the host.
func TestFullOutputLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	file := writePlan(t, vethChanges()[:2])
	for _, test := range []struct {
		args []string
		code int
		told string
	}{
		{[]string{"apply", "--yes", file}, 0, "applied: 2 changes. napitune rollback"},
		{[]string{"confirm"}, 0, "confirmed: the changes stay"},
		{[]string{"rollback", "--format", "json"}, 0, "rolled back: the host is as it was"},
		{[]string{"apply", "--yes", "--confirm-within", "1s", file}, apply.ExitRolledBack, "rolled back: the host is as it was"},
	} {
		cmd := command(test.args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.code || !strings.Contains(errs.String(), "no space left on device") || !strings.Contains(errs.String(), test.told) {
			t.Errorf("%v ended with %d, want %d and %q\n%s", test.args, got, test.code, test.told, &errs)
		}
	}
	same(t, "after the deadline", before)
}

// An apply without a file measures first, and finds nothing on idle devices.
func TestApplyMeasuredLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	out, errs := mustEnd(t, 0, command("apply", "--yes", "--no-bpf", "--for", "50ms"))
	if !strings.Contains(out, "0 changes, ") {
		t.Errorf("%s%s", out, errs)
	}
	same(t, "nothing to change", before)
}

// A value that somebody else set is left alone, named, and ends with 4.
func TestForeignChangeLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	file := writePlan(t, vethChanges()[:4])
	mustEnd(t, 0, command("apply", "--yes", file))
	if err := os.WriteFile("/sys/class/net/v0/queues/rx-1/rps_cpus", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	out, _ := mustEnd(t, 0, command("status"))
	if !strings.Contains(out, "v0/rx-1/rps.cpus: is 0-1 and was set to 1: changed by somebody else") {
		t.Errorf("status: %s", out)
	}
	out, _ = mustEnd(t, apply.ExitDirty, command("rollback"))
	if !strings.Contains(out, "v0/rx-1/rps.cpus: LEFT ALONE") {
		t.Errorf("rollback: %s", out)
	}
	if got := settings(t)["v0/rx-1/rps.cpus"].Value; got != "0-1" {
		t.Errorf("somebody else's value became %q", got)
	}
	// A plan is of its time.
	_, errs := mustEnd(t, 1, command("apply", "--yes", file))
	if !strings.Contains(errs, "refused, nothing was written") || !strings.Contains(errs, "is unfinished (dirty)") {
		t.Errorf("after a dirty rollback: %s", errs)
	}
	_, errs = mustEnd(t, 0, command("knobs", "--dev", "v0"))
	if !strings.Contains(errs, "is unfinished (dirty") {
		t.Errorf("knobs does not tell of it: %s", errs)
	}
	forgetLive(t)
}

// The deadline rolls back, a confirmation from another process does not let
// it, and a signal does not wait for it.
func TestConfirmWithinLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges()[:4])
	args := []string{"apply", "--yes", "--confirm-within"}
	_, errs := mustEnd(t, apply.ExitRolledBack, command(append(args, "1s", file)...))
	if !strings.Contains(errs, "not confirmed in time") {
		t.Errorf("the deadline: %s", errs)
	}
	same(t, "after the deadline", before)

	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		cmd := begin(t, append(args, "1m", file)...)
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != apply.ExitRolledBack {
			t.Errorf("after %s it ended with %d\n%s", signal, got, cmd.Stderr)
		}
		same(t, "after a signal", before)
	}

	cmd := begin(t, append(args, "1m", file)...)
	mustEnd(t, 0, command("confirm"))
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 0 {
		t.Errorf("after the confirmation it ended with %d\n%s", got, cmd.Stderr)
	}
	if got := settings(t)["v0/rx-1/rps.cpus"].Value; got != "1" {
		t.Errorf("rps.cpus is %q after the confirmation", got)
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// A terminal that stops the process, by Ctrl-Z or because it is in the background,
// does not keep it from rolling back at the deadline.
func TestTerminalStopsLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges()[:4])
	for _, signal := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		cmd := command("apply", "--yes", "--confirm-within", "1s", file)
		// The kernel stops nobody whose process group has no parent to wake it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		told := started(t, cmd)
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		// Whoever is stopped for ever goes on here.
		goOn := time.AfterFunc(10*time.Second, func() {
			t.Errorf("%s stopped it", signal)
			_ = cmd.Process.Kill()
		})
		_ = cmd.Wait()
		goOn.Stop()
		if got := cmd.ProcessState.ExitCode(); got != apply.ExitRolledBack {
			t.Errorf("after %s it ended with %d\n%s", signal, got, told)
		}
		same(t, "after "+signal.String(), before)
	}
}

// A terminal that takes no more output (Ctrl-S, a dead connection) does not keep
// it from rolling back at the deadline, nor the lock.
func TestStoppedOutputLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges()[:4])
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fill(t, writer)
	cmd := command("apply", "--yes", "--confirm-within", "1s", file)
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	within(t, 10*time.Second, "it rolls back", func() bool { return strings.Contains(journals(t), `"type":"end"`) })
	same(t, "after the deadline", before)
	mustEnd(t, 0, command("apply", "--yes", file))
	mustEnd(t, 0, command("rollback"))
	// Somebody reads on, and it ends as it would have.
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != apply.ExitRolledBack {
		t.Errorf("it ended with %d", got)
	}
}

// fill writes to a pipe until it takes no more.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	for size := 1 << 16; size > 0; size /= 2 {
		for {
			if err := pipe.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := pipe.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
}

// begin starts an apply and returns when it waits for its confirmation.
func begin(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(args...)
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		out, err := command("status", "--format", "json").Output()
		if err == nil && bytes.Contains(out, []byte(`"unconfirmed"`)) {
			return cmd
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Fatalf("it never waited for a confirmation:\n%s", cmd.Stderr)
	return nil
}

// A terminal is asked, and only yes is yes.
func TestAskLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges()[:3])
	for _, test := range []struct {
		answer string
		code   int
	}{{"n\n", exitError}, {"\n", exitError}, {"", exitError}, {"y\n", exitDone}} {
		e := process()
		e.Stdin, e.StdinTTY, e.StderrTTY = strings.NewReader(test.answer), true, true
		e.Open = openHost
		code, _, errs := invoke(context.Background(), t, e, "apply", "--measure", "off", file)
		if code != test.code || !strings.Contains(errs, "rx-0 rps.cpus") || !strings.Contains(errs, "Apply this plan? [y/N] ") {
			t.Errorf("answer %q ended with %d:\n%s", test.answer, code, errs)
		}
		if test.code != exitDone {
			same(t, "after no", before)
		}
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// forgetLive takes a dirty transaction out of the way: only yes does, nothing is
// written, and nobody hears of it again.
func forgetLive(t *testing.T) {
	t.Helper()
	before := settings(t)
	out, _ := mustEnd(t, 0, command("status", "--format", "json"))
	id := decode[report.Status](t, out).Transactions[0].ID
	for _, test := range []struct {
		answer string
		code   int
	}{{"n\n", exitError}, {"", exitError}, {"yes\n", exitDone}} {
		e := process()
		e.Stdin, e.StdinTTY, e.StderrTTY, e.Open = strings.NewReader(test.answer), true, true, openHost
		code, out, errs := invoke(context.Background(), t, e, "forget", id)
		if code != test.code || !strings.Contains(errs, "v0/rx-1/rps.cpus") || !strings.Contains(errs, "forget "+id+"? [y/N] ") {
			t.Errorf("answer %q ended with %d:\n%s%s", test.answer, code, out, errs)
		}
	}
	same(t, "after forgetting", before)
	if out, errs := mustEnd(t, 0, command("status")); !strings.Contains(out, "Nothing that was applied") || errs != "" {
		t.Errorf("status: %s%s", out, errs)
	}
	_, errs := mustEnd(t, 0, command("knobs", "--dev", "v0"))
	if errs != "" {
		t.Errorf("the next command: %s", errs)
	}
	if _, errs := mustEnd(t, exitError, command("forget", "--yes", "20200101-000000-001")); !strings.Contains(errs, "no such transaction") {
		t.Errorf("an unknown one: %s", errs)
	}
	out, _ = mustEnd(t, 0, command("history"))
	if !strings.Contains(out, id+"  forgotten") {
		t.Errorf("history: %s", out)
	}
}
