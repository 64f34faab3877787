package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink" //nolint:depguard // makes devices in a namespace of its own

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// namespaceEnv marks a test binary that runs itself again in namespaces of its own.
const namespaceEnv = "NAPITUNE_CMD_CHILD"

// needs skips a test that this machine cannot do, and fails it under CI, which can.
func needs(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have %s", what)
	default:
		t.Skipf("skipped: needs %s", what)
	}
}

// inNamespace runs the test as root in fresh network and mount namespaces with
// a veth pair, where /sys shows only that and journals and history are empty
// and in memory. Nothing of it outlives the child, and no device of this
// machine is there to be touched.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != t.Name() {
		needs(t, os.Getuid() == 0, "root")
		cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			needs(t, false, "the right to make namespaces")
		}
		t.Logf("in the child:\n%s", out)
		if err != nil {
			t.Errorf("child: %v", err)
		}
		if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) && !bytes.Contains(out, []byte("--- FAIL")) {
			t.Error("the child did not run the test")
		}
		return false
	}
	mount := func(kind, at string, flags uintptr) {
		t.Helper()
		if err := syscall.Mount(kind, at, kind, flags, ""); err != nil {
			t.Fatalf("mount %s on %s: %v", kind, at, err)
		}
	}
	mount("", "/", syscall.MS_REC|syscall.MS_PRIVATE)
	mount("sysfs", "/sys", 0)
	mount("tmpfs", "/run", 0)
	mount("tmpfs", "/var/lib", 0)
	if _, err := os.Stat("/sys/class/net/eth0"); err == nil {
		t.Fatal("the namespace is not fresh")
	}
	addVeth(t)
	return true
}

// addVeth makes a pair v0/v1 with 4 queues each way and brings it up.
func addVeth(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "v0", 4, 4
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNumRxQueues, veth.PeerNumTxQueues = "v1", 4, 4
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "v0", "v1"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
}

// settings dumps every setting that there is in the namespace.
func settings(t *testing.T) map[string]knob.State {
	t.Helper()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := detect.Collect(m.last())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]knob.State{}
	for ref, state := range s.Knobs {
		out[ref.String()] = state
	}
	return out
}

// writePlan makes a plan file from the values that settings are to have.
func writePlan(t *testing.T, want [][2]string) string {
	t.Helper()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := detect.Collect(m.last())
	if err != nil {
		t.Fatal(err)
	}
	made := origin(s)
	p := plan.Plan{Fingerprint: made.Fingerprint(), Origin: &made, Profile: "test", Complete: true, Applyable: true}
	for i, w := range want {
		ref, err := knob.ParseRef(w[0])
		if err != nil {
			t.Fatal(err)
		}
		state, there := s.Knobs[ref]
		if !there || state.Status != knob.Known {
			t.Fatalf("%s: %s: %s", ref, state.Status, state.Reason)
		}
		if state.Value == w[1] {
			t.Fatalf("%s is %s already: that is no change", ref, w[1])
		}
		p.Changes = append(p.Changes, plan.Change{Seq: i + 1, Ref: ref, Before: state.Value, After: w[1], Why: "the test asks for it"})
	}
	path := filepath.Join(t.TempDir(), "plan.json")
	if err := savePlan(path, p); err != nil {
		t.Fatal(err)
	}
	return path
}

// vethChanges are of every kind of setting that a veth has. That a packet may
// change its CPU under RPS is the worst they do to traffic.
func vethChanges() [][2]string {
	return [][2]string{
		{"v0/rx-0/rps.cpus", "0-1"}, {"v0/rx-1/rps.cpus", "1"},
		{"v0/rx-0/rps.flow_cnt", "1024"}, {"v0/gro_flush_timeout", "20000"},
		{"v0/feature.rx-gro", "on"}, {"v0/feature.rx-udp-gro-forwarding", "on"},
		{"v0/napi_defer_hard_irqs", "2"}, {"v0/threaded", "on"},
		{"v1/rx-3/rps.cpus", "0"}, {"v1/gro_flush_timeout", "50000"},
	}
}

// command runs napitune as a process, so that it can be killed.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"napitune"}, args...)
	return cmd
}

func mustEnd(t *testing.T, code int, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s ended with %d, want %d\n%s%s", strings.Join(cmd.Args, " "), got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var out T
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return out
}

func same(t *testing.T, what string, want map[string]knob.State) {
	t.Helper()
	if diff := cmp.Diff(want, settings(t)); diff != "" {
		t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}

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

	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
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

// killings is how often TestKillLive kills an apply.
const killings = 20

// However an apply dies, the next command tells of it and a rollback makes
// every setting what it was.
func TestKillLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	before := settings(t)
	file := writePlan(t, vethChanges())
	args := []string{"apply", "--yes", file}
	start := time.Now()
	mustEnd(t, 0, command(args...))
	took := time.Since(start)
	mustEnd(t, 0, command("rollback"))
	ends := map[apply.State]int{}
	for i := range killings {
		steps := -1
		if i%2 == 1 {
			steps = rng.IntN(len(vethChanges()))
		}
		killed(t, command(args...), steps, time.Duration(rng.Int64N(int64(took))))
		ends[rescue(t)]++
		same(t, fmt.Sprintf("kill %d of %d", i+1, killings), before)
	}
	t.Logf("an apply takes %s; states after %d kills: %v", took.Round(time.Millisecond), killings, ends)
	if ends[apply.Applying] == 0 {
		t.Error("no kill hit an apply in the middle")
	}
}

// killed starts a command and kills it: after a time, or a moment after it has
// told of so many steps.
func killed(t *testing.T, cmd *exec.Cmd, steps int, after time.Duration) {
	t.Helper()
	told, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if steps < 0 {
		time.Sleep(after)
	} else {
		for lines := bufio.NewScanner(told); steps > 0 && lines.Scan(); steps-- {
			continue
		}
		const moment = 200 // a step takes about a 200th of an apply
		time.Sleep(after / moment)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// rescue does what a person would after a crash and tells what there was.
func rescue(t *testing.T) apply.State {
	t.Helper()
	out, _ := mustEnd(t, 0, command("status", "--format", "json"))
	list := decode[report.Status](t, out).Transactions
	if len(list) == 0 {
		return ""
	}
	last := list[len(list)-1]
	_, errs := mustEnd(t, 0, command("explain", "irq-stacked"))
	if told := strings.Contains(errs, last.ID); told != last.Unfinished {
		t.Errorf("%s is %s; told by the next command: %v\n%s", last.ID, last.State, told, errs)
	}
	if last.State != apply.Planned {
		mustEnd(t, 0, command("rollback"))
	}
	return last.State
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
		code, _, errs := invoke(context.Background(), t, e, "apply", file)
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
