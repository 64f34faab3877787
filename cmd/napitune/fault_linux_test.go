package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // takes devices away in a namespace of its own

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/host/live"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// inProcess is the command's own transaction machinery over the running kernel,
// with a gate before every write.
func inProcess(t testing.TB, gate func(what string, do func() error) error) *apply.Applier {
	t.Helper()
	e := process()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	e.Writer = func() (*host.Writer, error) {
		w, err := live.OpenWriter(live.Options{})
		if err != nil {
			return nil, err
		}
		gated := hosttest.Gate(*w, gate)
		return &gated, nil
	}
	a, err := applier(e, m, options{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func plain(_ string, do func() error) error { return do() }

// planned reads a plan of these changes.
func planned(t testing.TB, changes [][2]string) plan.Plan {
	t.Helper()
	p, err := readPlan(env{}, writePlan(t, changes))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every error at every write to the real kernel, before or after it has
// happened, ends with the host as it was.
func TestFaultsLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	furnish(t)
	before, rng := settings(t), chance(t)
	p := planned(t, vethChanges())
	errnos := []syscall.Errno{syscall.EPERM, syscall.EIO, syscall.EINVAL, syscall.ENOSPC, syscall.EBUSY, syscall.ENODEV}
	faults := 0
	for _, errno := range errnos {
		for at := 1; at <= len(p.Changes); at++ {
			n, happens := 0, rng.IntN(2) == 0
			a := inProcess(t, func(what string, do func() error) error {
				if n++; n != at {
					return do()
				}
				faults++
				if happens {
					if err := do(); err != nil {
						return err
					}
				}
				return fmt.Errorf("%s: %w", what, errno)
			})
			result, err := a.Apply(context.Background(), p, anything)
			if !errors.Is(err, errno) || result.State != apply.RolledBack {
				t.Fatalf("%v at write %d: %s, %v", errno, at, result.State, err)
			}
			same(t, fmt.Sprintf("%v at write %d, happened: %v", errno, at, happens), before)
		}
	}
	if faults != len(errnos)*len(p.Changes) {
		t.Errorf("%d faults", faults)
	}
}

// The device goes away in the middle: what is left is restored, what is gone is
// named, and the next command tells of it.
func TestDeviceRemovedLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for at := 1; at <= 5; at++ {
		addPair(t, "w0", "w1")
		p := planned(t, [][2]string{
			{"v0/rx-0/rps.cpus", "1"}, {"w0/rx-0/rps.cpus", "1"}, {"v0/gro_flush_timeout", "20000"},
			{"w0/gro_flush_timeout", "20000"}, {"v0/rx-1/rps.cpus", "0"}, {"w0/rx-1/rps.cpus", "0"},
		})
		before, n := settings(t), 0
		result, err := inProcess(t, func(_ string, do func() error) error {
			if n++; n == at {
				remove(t, "w0")
			}
			return do()
		}).Apply(context.Background(), p, anything)
		if err == nil || errors.Is(err, apply.ErrRefused) {
			t.Fatalf("removed at write %d: %s, %v", at, result.State, err)
		}
		for _, one := range result.Restored {
			if gone := one.Ref.Dev == "w0"; gone != (one.Fate == apply.FateGone) {
				t.Errorf("removed at write %d: %s is %s", at, one.Ref, one.Fate)
			}
		}
		want := map[string]knob.State{}
		for name, state := range before {
			if strings.Contains(name, "v0") || strings.Contains(name, "v1") {
				want[name] = state
			}
		}
		now := settings(t)
		for name, state := range want {
			if got := now[name]; got.Value != state.Value {
				t.Errorf("removed at write %d: %s is %q, want %q", at, name, got.Value, state.Value)
			}
		}
		if result.State == apply.Dirty {
			_, errs := mustEnd(t, 0, command("version"))
			if !strings.Contains(errs, result.ID) {
				t.Errorf("the next command says %q", errs)
			}
			mustEnd(t, 0, command("forget", "--yes", result.ID))
		}
	}
}

// The device gets another name, in the middle or between apply and rollback: it
// is found again and has its old settings.
func TestDeviceRenamedLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	furnish(t)
	before := settings(t)
	changes := vethChanges()
	p := planned(t, changes)
	for at := 2; at <= len(changes); at += 3 {
		n := 0
		result, err := inProcess(t, func(_ string, do func() error) error {
			if n++; n == at {
				rename(t, "v0", "lan0")
			}
			return do()
		}).Apply(context.Background(), p, anything)
		// A write to the other device goes on; the next one to this does not.
		if err == nil || result.State != apply.RolledBack {
			t.Fatalf("renamed at write %d: %s, %v: %+v", at, result.State, err, result.Restored)
		}
		rename(t, "lan0", "v0")
		same(t, fmt.Sprintf("renamed at write %d", at), before)
	}
	mustEnd(t, 0, command("apply", "--yes", writePlan(t, changes)))
	rename(t, "v0", "lan0")
	out, _ := mustEnd(t, 0, command("rollback"))
	if !strings.Contains(out, "rolled back: the host is as it was") {
		t.Errorf("%s", out)
	}
	rename(t, "lan0", "v0")
	same(t, "renamed before the rollback", before)
}

func remove(t testing.TB, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rename takes the device down, since only Linux 6.3 and later rename it while it is
// up, and that changes no setting of a veth.
func rename(t testing.TB, from, to string) {
	t.Helper()
	link, err := netlink.LinkByName(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.LinkSetDown(link), netlink.LinkSetName(link, to), netlink.LinkSetUp(link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What somebody else changed between plan and apply stops the apply before the
// first write, with both values.
func TestChangedSinceThePlanLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	file := writePlan(t, vethChanges())
	put(t, "v0", "gro_flush_timeout", "12345")
	before := settings(t)
	_, errs := mustEnd(t, exitError, command("apply", "--yes", file))
	if want := `v0/gro_flush_timeout: it is "12345" now and was "0" when the plan was made`; !strings.Contains(errs, want) {
		t.Errorf("%s, want %s", errs, want)
	}
	same(t, "after the refusal", before)
}

// A file system that fills up at any moment of a transaction: nothing is
// written to the kernel whose record is not on disk, what was written is undone,
// and once there is room a rollback finds nothing left to do.
func TestFullDiskLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addQueues(t, "q0", "q1", 16)
	before := settings(t)
	p := planned(t, queueChanges("q0", 16))
	codes := map[apply.State]int{}
	const page = 4096
	for pages := 1; pages <= 8; pages++ {
		size := fmt.Sprintf("size=%d", pages*page)
		if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, size); err != nil {
			t.Fatal(err)
		}
		writes, full := 0, false
		a := inProcess(t, func(_ string, do func() error) error {
			// The rollback goes on without a journal: the host comes first.
			if writes++; !full && strings.Count(journals(t), `"type":"intent"`) < writes {
				t.Errorf("%s: write %d is not in the journal", size, writes)
			}
			return do()
		})
		onDisk := a.Files.Append
		a.Files.Append = func(name string, data []byte) error {
			err := onDisk(name, data)
			full = full || err != nil
			return err
		}
		result, err := a.Apply(context.Background(), p, anything)
		switch {
		case err == nil: // it all fits
			mustEnd(t, 0, command("rollback"))
		case !errors.Is(err, syscall.ENOSPC):
			t.Errorf("%s: %s, %v", size, result.State, err)
		case result.ID == "" && writes > 0:
			t.Errorf("%s: nothing was begun and %d writes were made", size, writes)
		case result.ID != "" && result.State != apply.RolledBack:
			t.Errorf("%s: %s, %v", size, result.State, err)
		}
		codes[result.State]++
		same(t, size, before)
		if err := syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_REMOUNT, "size=1048576"); err != nil {
			t.Fatal(err)
		}
		if out, _ := mustEnd(t, 0, command("status", "--format", "json")); len(decode[report.Status](t, out).Transactions) > 0 {
			mustEnd(t, 0, command("rollback"))
		}
		same(t, size+", after a rollback with room", before)
		if err := syscall.Unmount("/run", 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("states: %v", codes)
	if codes[""] == 0 || codes[apply.RolledBack] < 3 || codes[apply.Confirmed] == 0 {
		t.Error("the disk was not full at the beginning, in the middle, and never")
	}
}

// journals is the text of all journals.
func journals(t testing.TB) string {
	t.Helper()
	names, err := filepath.Glob("/run/napitune/*/*")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// Two processes at once: while one is held between two writes, apply, rollback,
// confirm and forget of another are refused and name it. The one that is held is
// this process: a command that runs by itself is at times done before anybody
// could stop it.
func TestTwoAtOnceLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges())
	writes := 0
	result, err := inProcess(t, func(_ string, do func() error) error {
		if writes++; writes != 3 {
			return do()
		}
		held := settings(t)
		if reflect.DeepEqual(held, before) {
			t.Error("the first two writes changed nothing")
		}
		out, _ := mustEnd(t, 0, command("status", "--format", "json"))
		id := decode[report.Status](t, out).Transactions[0].ID
		for _, args := range [][]string{{"apply", "--yes", file}, {"rollback"}, {"confirm"}, {"forget", "--yes", id}} {
			_, errs := mustEnd(t, exitError, command(args...))
			if !strings.Contains(errs, fmt.Sprintf("process %d", os.Getpid())) && !strings.Contains(errs, id+" is unfinished") {
				t.Errorf("%v: %s", args, errs)
			}
		}
		same(t, "while the first is held", held)
		return do()
	}).Apply(context.Background(), planned(t, vethChanges()), anything)
	if err != nil || result.State != apply.Confirmed {
		t.Errorf("%s, %v", result.State, err)
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// Many processes at the very same time: one applies, the others are refused.
func TestCrowdLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges())
	crowd := make([]*exec.Cmd, 6)
	for i := range crowd {
		crowd[i] = command("apply", "--yes", file)
		if err := crowd[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	var codes []int
	for _, cmd := range crowd {
		_ = cmd.Wait()
		codes = append(codes, cmd.ProcessState.ExitCode())
	}
	slices.Sort(codes)
	if want := []int{0, 1, 1, 1, 1, 1}; !slices.Equal(codes, want) {
		t.Errorf("they ended with %v, want %v", codes, want)
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// Plans of elsewhere and plans that somebody edited are refused with the
// differences, and nothing is written.
func TestEditedPlansLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	text, err := os.ReadFile(writePlan(t, [][2]string{{"v0/rx-0/rps.cpus", "1"}, {"v0/napi_defer_hard_irqs", "2"}}))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		edit func(p *plan.Plan)
		want []string
	}{
		"another boot": {func(p *plan.Plan) { p.Origin.BootID = "00000000-0000-4000-8000-000000000000" }, []string{"the boot is", "00000000-0000-4000-8000-000000000000"}},
		"another host": {
			func(p *plan.Plan) {
				p.Origin.Release, p.Origin.Devices[0].Name, p.Origin.Devices[1].Queues = "5.14.0", "eth7", 9
			}, []string{"the kernel is", "device eth7 of the plan is not there", "queues, the plan was made with 9"},
		},
		"out of range":         {func(p *plan.Plan) { p.Changes[1].After = "2147483648" }, []string{"2147483648 is outside 0 to 2147483647"}},
		"no CPU":               {func(p *plan.Plan) { p.Changes[0].After = "4095" }, []string{"CPUs 4095 are not among the allowed"}},
		"no number":            {func(p *plan.Plan) { p.Changes[1].After = "0x2; reboot" }, []string{"is not a whole number"}},
		"no such queue":        {func(p *plan.Plan) { p.Changes[0].Ref.Queue = 77 }, []string{"v0/rx-77/rps.cpus: this host has no such setting"}},
		"no such device":       {func(p *plan.Plan) { p.Changes[0].Ref.Dev = "eth0" }, []string{"eth0/rx-0/rps.cpus: this host has no such setting"}},
		"another value before": {func(p *plan.Plan) { p.Changes[0].Before = "0-1" }, []string{`it is "" now and was "0-1"`}},
		"twice":                {func(p *plan.Plan) { p.Changes = append(p.Changes, p.Changes[0]) }, []string{"the plan changes it twice"}},
		"a path":               {func(p *plan.Plan) { p.Changes[0].Ref.Dev = "../../../tmp" }, []string{"more parts than"}},
		"a path of one part":   {func(p *plan.Plan) { p.Changes[0].Ref.Dev = ".." }, []string{`".." is not a device name`}},
		"an unknown setting":   {func(p *plan.Plan) { p.Changes[0].Ref.Kind = "rps.everything" }, []string{`no such setting "rps.everything"`}},
	} {
		p, err := parsePlan(text)
		if err != nil {
			t.Fatal(err)
		}
		test.edit(&p)
		if p.Origin.BootID[0] == '0' || p.Origin.Release == "5.14.0" {
			p.Fingerprint = p.Origin.Fingerprint()
		}
		edited, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(file, edited, 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs := mustEnd(t, exitError, command("apply", "--yes", file))
		for _, want := range test.want {
			if !strings.Contains(errs, want) {
				t.Errorf("%s: no %q in %s", name, want, errs)
			}
		}
		same(t, name, before)
	}
}

// A signal in the middle of an apply rolls back, whenever it comes: between two
// writes, in one, and a second one while it rolls back.
func TestSignalsLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	furnish(t)
	rng, before := chance(t), settings(t)
	file := writePlan(t, vethChanges())
	start := time.Now()
	mustEnd(t, 0, command("apply", "--yes", file))
	took := time.Since(start)
	mustEnd(t, 0, command("rollback"))
	const crashed = 2 // what the runtime of Go does on SIGQUIT where nobody asks for it
	codes, late := map[int]int{}, 0
	signals := count(t, "NAPITUNE_SIGNALS", 18)
	// On a busy machine most signals come too early or too late: some more, until
	// one has come in the middle.
	for i := 0; i < signals || codes[apply.ExitRolledBack] == 0 && i < 10*signals; i++ {
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP}[i/4%4]
		cmd := command("apply", "--yes", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			for want := strings.Repeat("x", 1+rng.IntN(len(vethChanges()))); strings.Count(journals(t), `"type":"intent"`) < len(want) && !gone(cmd); {
				continue
			}
		} else {
			time.Sleep(time.Duration(rng.Int64N(int64(took))))
		}
		_ = cmd.Process.Signal(signal)
		time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Millisecond))))
		if i%4 < 2 {
			_ = cmd.Process.Signal(signal) // impatience
		}
		_ = cmd.Wait()
		code := cmd.ProcessState.ExitCode()
		codes[code]++
		out, _ := mustEnd(t, 0, command("status", "--format", "json"))
		for _, left := range decode[report.Status](t, out).Transactions {
			// It came too late: the apply had ended, and a second signal may have
			// hit the process on its way out.
			onItsWayOut := code == -1 || code == crashed && signal == syscall.SIGQUIT
			if left.State != apply.Confirmed || code != 0 && !onItsWayOut {
				t.Errorf("%s: %s is %s, and the apply ended with %d", signal, left.ID, left.State, code)
			}
			late++
			mustEnd(t, 0, command("rollback"))
		}
		same(t, fmt.Sprintf("%s, the apply ended with %d", signal, code), before)
		_, errs := mustEnd(t, 0, command("version"))
		if errs != "" {
			t.Errorf("%s left %s", signal, errs)
		}
	}
	t.Logf("exit statuses: %v; %d came too late", codes, late)
	if codes[apply.ExitRolledBack] == 0 {
		t.Error("no signal hit an apply in the middle")
	}
}
