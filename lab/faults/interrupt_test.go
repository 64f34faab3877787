package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What is appended to a journal further down is a new state, and the lock is none.
func TestWritten(t *testing.T) {
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	if err := os.Mkdir(boot, 0o700); err != nil {
		t.Fatal(err)
	}
	states := []string{written(filepath.Join(dir, "missing")), written(dir)}
	if states[0] != "" || states[1] != "" {
		t.Fatalf("no journal: %q", states)
	}
	for _, step := range []struct {
		file, text string
		tells      bool
	}{
		{"lock", "1", false}, {"1.journal", "begin", true}, {"1.journal", "begin, undo", true}, {"1.journal", "begin, undo", false},
	} {
		before := written(dir)
		if err := os.WriteFile(filepath.Join(boot, step.file), []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if told := written(dir) != before; told != step.tells {
			t.Errorf("%s of %q: told %v", step.file, step.text, told)
		}
	}
}

func TestKilled(t *testing.T) {
	command := exec.Command("sleep", "60")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); !Killed(err) {
		t.Errorf("killed: %v", err)
	}
	if err := exec.Command("false").Run(); Killed(err) {
		t.Errorf("ended by itself: %v", err)
	}
}

// A command that writes no journal is not met at work.
func TestInterruptNothing(t *testing.T) {
	amid, err := Interrupt(exec.Command("true"), time.Millisecond, func(*os.Process) { t.Error("met at work") })
	if amid || err != nil {
		t.Errorf("amid %v, %v", amid, err)
	}
}
