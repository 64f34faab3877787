package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/napitune/napitune/cmd/napitune/report"
)

// nobody is a user that owns nothing (the overflow uid of the kernel).
const nobody = 65534

// Bits of include/uapi/linux/capability.h.
const capPerfmon, capBPF = 38, 39

// Who is not root gets every answer that his capabilities allow, and is told
// what he does not get.
func TestUnprivilegedLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir, err := os.MkdirTemp("", "napitune-nobody") // t.TempDir lets nobody in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name         string
		capabilities []uintptr
		advised, not string // of standard output of advise
		captured     string // of standard error of capture
	}{
		{
			name: "none", not: "in probes",
			advised:  "no in-kernel probes: not permitted; CAP_BPF and CAP_PERFMON would permit them",
			captured: "no in-kernel probes: not permitted; CAP_BPF and CAP_PERFMON would permit them",
		}, {
			name: "for probes", capabilities: []uintptr{capPerfmon, capBPF}, not: "no in-kernel probes",
			advised:  "ms (estimated: BPF statistics need CAP_SYS_ADMIN)",
			captured: "cost of the probes unknown: BPF statistics need CAP_SYS_ADMIN",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errs := answersAs(t, test.capabilities, "advise", "--for", "3s", "--no-color")
			if !strings.Contains(out, test.advised) || strings.Contains(out, test.not) {
				t.Errorf("advise prints\n%s\nwant %q and not %q\n%s", out, test.advised, test.not, errs)
			}
			out, _ = answersAs(t, test.capabilities, "doctor", "--format", "json")
			for _, p := range decode[report.Doctor](t, out).Probes {
				denied := p.State == report.ProbeDenied && strings.HasSuffix(p.Reason, "CAP_BPF and CAP_PERFMON would permit it") ||
					strings.Contains(p.Reason, "CAP_BPF and CAP_PERFMON would permit it; counts with")
				if denied == (len(test.capabilities) > 0) && p.Name != "virtio-control-read" {
					t.Errorf("doctor: %+v", p)
				}
			}
			file := filepath.Join(dir, strings.ReplaceAll(test.name, " ", "-")+".txtar")
			_, errs = answersAs(t, test.capabilities, "capture", "--for", "3s", "-o", file)
			if !strings.Contains(errs, test.captured) {
				t.Errorf("capture says %q, want %q", errs, test.captured)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if kept := strings.Contains(string(text), "napi_poll"); kept != (len(test.capabilities) > 0) {
				t.Errorf("counters of probes in the capture: %v", kept)
			}
		})
	}
}

// answersAs runs the command as nobody with these capabilities and no others;
// it must end with 0 or 2.
func answersAs(t *testing.T, capabilities []uintptr, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: capabilities,
	}
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, namespaceEnv) })
	return answered(t, cmd)
}

// answered is what a command prints that must end with 0 or 2.
func answered(t *testing.T, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != exitDone && code != exitChanges {
		t.Fatalf("%s ended with %d, want 0 or 2\n%s%s", strings.Join(cmd.Args, " "), code, &out, &errs)
	}
	return out.String(), errs.String()
}
