package main

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix" //nolint:depguard // goes back to a namespace of its own

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
)

// Two network namespaces with the same /run and devices of the same names: what
// was applied in one is named in the other and not touched from there, and plans
// are not exchanged.
func TestOtherNamespaceLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, vethChanges()[:4])
	out, _ := mustEnd(t, 0, command("apply", "--yes", "--format", "json", file))
	id := decode[report.Transaction](t, out).ID
	applied := settings(t)

	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = home.Close() }()
	leave := func() {
		// Children start in the namespaces of the thread that makes them.
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	leave()
	addVeth(t)
	there := settings(t)
	out, _ = mustEnd(t, 0, command("status"))
	if !strings.Contains(out, id) || !strings.Contains(out, "made in another network namespace") {
		t.Errorf("status: %s", out)
	}
	_, errs := mustEnd(t, exitError, command("rollback"))
	if !strings.Contains(errs, "nothing was applied since the last boot") {
		t.Errorf("rollback: %s", errs)
	}
	_, errs = mustEnd(t, exitError, command("rollback", id))
	if !strings.Contains(errs, "it was made in network namespace") {
		t.Errorf("rollback by ID: %s", errs)
	}
	_, errs = mustEnd(t, exitError, command("apply", "--yes", file))
	if !strings.Contains(errs, "the network namespace is") {
		t.Errorf("a plan from there: %s", errs)
	}
	same(t, "in the other namespace", there)
	mustEnd(t, 0, command("apply", "--yes", writePlan(t, vethChanges()[:2])))
	mustEnd(t, 0, command("rollback"))
	same(t, "after an apply and rollback of its own", there)

	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Unmount("/sys", 0); err != nil {
		t.Fatal(err)
	}
	same(t, "at home meanwhile", applied)
	out, _ = mustEnd(t, 0, command("rollback", "--format", "json"))
	if back := decode[report.Transaction](t, out); back.ID != id || back.State != apply.RolledBack {
		t.Errorf("%s", out)
	}
	same(t, "after the rollback", before)
}
