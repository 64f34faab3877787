package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
)

// A host whose /run has become read-only can be rolled back: the journal is
// there to be read, and that is what it is for. What needs the journal written
// says so.
func TestReadOnlyRunLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", "/run", "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	file := writePlan(t, vethChanges()[:4])
	remount(syscall.MS_RDONLY)
	_, errs := mustEnd(t, exitError, command("rollback"))
	if !strings.Contains(errs, "read-only file system") {
		t.Errorf("nothing was applied: %s", errs)
	}
	remount(0)
	out, _ := mustEnd(t, 0, command("apply", "--yes", "--format", "json", file))
	id := decode[report.Transaction](t, out).ID
	applied := settings(t)
	remount(syscall.MS_RDONLY)
	_, errs = mustEnd(t, exitError, command("forget", "--yes", id))
	if !strings.Contains(errs, "read-only file system") {
		t.Errorf("forget: %s", errs)
	}
	same(t, "after what could not be written", applied)
	out, errs = mustEnd(t, 0, command("rollback", "--format", "json"))
	result := decode[report.Transaction](t, out)
	if result.ID != id || result.State != apply.RolledBack || !strings.Contains(strings.Join(result.Warnings, "\n"), "read-only file system") {
		t.Errorf("%s%s", out, errs)
	}
	same(t, "rolled back", before)
}
