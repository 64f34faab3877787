package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/knob"
)

// fewKillings is how often TestKillLive kills where nothing else is asked for.
const fewKillings = 20

// However an apply or a rollback dies, the next command tells of it and a
// rollback makes every setting what it was. The long form:
//
//	NAPITUNE_KILLS=500 go test ./cmd/napitune -run TestKillLive -v
func TestKillLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	rng, killings := chance(t), count(t, "NAPITUNE_KILLS", fewKillings)
	furnish(t)
	k := killer{t: t, rng: rng, file: writePlan(t, vethChanges()), before: settings(t), ends: map[string]int{}}
	k.rehearse()
	ways := []struct {
		name string
		kill func() bool
	}{
		{"apply at a random time", k.applyAtTime},
		{"apply at a length of the journal", k.applyAtJournal},
		{"apply after a step", k.applyAfterStep},
		{"rollback at a random time", k.rollbackAtTime},
		{"rollback at a length of the journal", k.rollbackAtJournal},
	}
	middle := map[string]bool{}
	// On a busy machine few kills hit what they are meant to: some more, until both
	// an apply and a rollback were hit in the middle.
	for i := 0; i < killings || len(middle) < 2 && i < 10*killings; i++ {
		way := ways[i%len(ways)]
		hit := "missed"
		if way.kill() {
			hit = "hit"
		}
		state := k.rescue()
		k.ends[way.name+": "+hit+", "+state]++
		if state == string(apply.Applying) {
			middle[strings.Fields(way.name)[0]] = true
		}
		same(t, fmt.Sprintf("kill %d, %s", i+1, way.name), k.before)
		if t.Failed() {
			break
		}
	}
	t.Logf("an apply takes %s, a rollback %s; kills:", k.apply.Round(time.Millisecond), k.rollback.Round(time.Millisecond))
	for end, n := range k.ends {
		t.Logf("%4d  %s", n, end)
	}
	if !t.Failed() && len(middle) < 2 {
		t.Error("no kill hit an apply, or none a rollback, in the middle")
	}
}

// killer kills applies and rollbacks of one plan.
type killer struct {
	t               *testing.T
	rng             *rand.Rand
	file            string
	before          map[string]knob.State
	apply, rollback time.Duration
	// applied and rolled are the lengths of a journal after an apply, and after
	// its rollback.
	applied, rolled int64
	ends            map[string]int
}

func (k *killer) applyCommand() *exec.Cmd { return command("apply", "--yes", k.file) }

// rehearse measures an apply and a rollback that nobody kills.
func (k *killer) rehearse() {
	start := time.Now()
	mustEnd(k.t, 0, k.applyCommand())
	k.apply, k.applied = time.Since(start), journalBytes()
	start = time.Now()
	mustEnd(k.t, 0, command("rollback"))
	k.rollback = time.Since(start)
	done, err := filepath.Glob("/run/napitune/*/*.undone")
	if err != nil || len(done) != 1 {
		k.t.Fatal(done, err)
	}
	info, err := os.Stat(done[0])
	if err != nil {
		k.t.Fatal(err)
	}
	k.rolled = info.Size()
}

// journalBytes is the length of the journal that is not archived; 0 for none.
func journalBytes() int64 {
	names, _ := filepath.Glob("/run/napitune/*/*.journal")
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			return info.Size()
		}
	}
	return 0
}

// end kills a process that was started and reports whether it was there to be killed.
func end(cmd *exec.Cmd) bool {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

func (k *killer) start(cmd *exec.Cmd) {
	k.t.Helper()
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
}

func (k *killer) atTime(cmd *exec.Cmd, took time.Duration) bool {
	k.start(cmd)
	time.Sleep(time.Duration(k.rng.Int64N(int64(took))))
	return end(cmd)
}

// atJournal kills when the journal has reached a length: between a record and
// the write that it announces, or just after.
func (k *killer) atJournal(cmd *exec.Cmd, least, most int64) bool {
	want := least + k.rng.Int64N(most-least)
	k.start(cmd)
	for deadline := time.Now().Add(5 * time.Second); journalBytes() < want && time.Now().Before(deadline); {
		if gone(cmd) {
			break
		}
	}
	time.Sleep(time.Duration(k.rng.Int64N(int64(100 * time.Microsecond))))
	return end(cmd)
}

// gone reports whether a child is a zombie, without waiting for it.
func gone(cmd *exec.Cmd) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	return err != nil || bytes.Contains(text, []byte(") Z "))
}

func (k *killer) applyAtTime() bool { return k.atTime(k.applyCommand(), k.apply) }

func (k *killer) applyAtJournal() bool { return k.atJournal(k.applyCommand(), 1, k.applied) }

// applyAfterStep kills a moment after the process has told of so many steps.
func (k *killer) applyAfterStep() bool {
	cmd := k.applyCommand()
	told, err := cmd.StderrPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	k.start(cmd)
	lines := bufio.NewScanner(told)
	for steps := k.rng.IntN(len(vethChanges())); steps > 0 && lines.Scan(); steps-- {
		continue
	}
	const moment = 50 // a step takes about a 50th of an apply
	time.Sleep(time.Duration(k.rng.Int64N(int64(k.apply / moment))))
	return end(cmd)
}

func (k *killer) rollbackAtTime() bool {
	mustEnd(k.t, 0, k.applyCommand())
	return k.atTime(command("rollback"), k.rollback)
}

func (k *killer) rollbackAtJournal() bool {
	mustEnd(k.t, 0, k.applyCommand())
	return k.atJournal(command("rollback"), k.applied+1, k.rolled)
}

// rescue does what a person would after a crash and tells what there was.
func (k *killer) rescue() string {
	k.t.Helper()
	out, _ := mustEnd(k.t, 0, command("status", "--format", "json"))
	list := decode[report.Status](k.t, out).Transactions
	if len(list) == 0 {
		return "nothing begun, or rolled back"
	}
	last := list[len(list)-1]
	k.nextCommand(last)
	// One that was rolled back and not yet archived when it was killed is over.
	if last.State != apply.Planned && last.State != apply.RolledBack {
		mustEnd(k.t, 0, command("rollback"))
	}
	return string(last.State)
}

// nextCommand runs any verb, which must tell of an unfinished transaction and
// of no other.
func (k *killer) nextCommand(last apply.Summary) {
	k.t.Helper()
	verbs := [][]string{
		{"explain", "irq-stacked"}, {"knobs", "--dev", "v0"}, {"map"}, {"doctor"}, {"version"}, {"completion", "bash"},
		{"profile", "list"}, {"history"}, {"advise", "--no-bpf", "--for", "0"}, {"apply", "--dry-run", k.file},
	}
	verb := verbs[k.rng.IntN(len(verbs))]
	cmd := command(verb...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	_ = cmd.Run()
	if told := strings.Contains(errs.String(), last.ID); told != last.Unfinished {
		k.t.Errorf("%s is %s; told by %s: %v\n%s", last.ID, last.State, verb, told, &errs)
	}
}
