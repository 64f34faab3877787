package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/host/live"
	"github.com/napitune/napitune/detect/knob"
)

// put writes a file below a device as somebody else would.
func put(t *testing.T, dev, file, value string) {
	t.Helper()
	if err := os.WriteFile("/sys/class/net/"+dev+"/"+file, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// furnish gives every queue of v0 settings of its own, so that a change of the
// number of queues has something to destroy.
func furnish(t *testing.T) {
	t.Helper()
	for q := range 4 {
		mask, flows := []string{"2", "1", "3", "2"}[q], []string{"256", "512", "1024", "2048"}[q]
		put(t, "v0", fmt.Sprintf("queues/rx-%d/rps_cpus", q), mask)
		put(t, "v0", fmt.Sprintf("queues/rx-%d/rps_flow_cnt", q), flows)
		put(t, "v0", fmt.Sprintf("queues/tx-%d/xps_cpus", q), mask)
		put(t, "v0", fmt.Sprintf("queues/tx-%d/xps_rxqs", q), []string{"8", "5", "f", "2"}[q])
	}
}

// ownNAPIs switches NAPI on in v0 and gives the NAPI of each queue a value of
// its own; false where the kernel has no such values.
func ownNAPIs(t *testing.T) {
	t.Helper()
	w, err := live.OpenWriter(live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetFeatures("v0", map[string]bool{"rx-gro": true}); err != nil {
		t.Fatal(err)
	}
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	all := napis(t, m.last())
	if len(all) == 0 {
		return
	}
	for at, n := range all {
		n.GROFlushTimeout = 10_000 + uint64(len(at)+int(at[len("NAPI of rx-")]))
		if err := w.SetNAPI(n); err != nil {
			t.Fatal(err)
		}
	}
}

// Fewer queues, more queues and other settings in the same plan: the kernel
// takes away what the removed queues had, and the rollback gives it back to the
// byte: masks, flow tables, XPS and the values of single NAPIs.
func TestChannelsLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	furnish(t)
	ownNAPIs(t)
	for name, changes := range map[string][][2]string{
		"fewer to receive":  {{"v0/channels.rx", "2"}, {"v0/rx-0/rps.cpus", "0"}},
		"fewer to transmit": {{"v0/channels.tx", "1"}, {"v0/tx-0/xps.cpus", "0-1"}, {"v0/tx-0/xps.rxqs", "1-2"}, {"v0/gro_flush_timeout", "30000"}},
		"fewer both ways":   {{"v0/channels.rx", "1"}, {"v0/channels.tx", "2"}, {"v0/tx-1/xps.cpus", "1"}, {"v0/napi_defer_hard_irqs", "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := settings(t)
			out, _ := mustEnd(t, 0, command("apply", "--yes", "--format", "json", writePlan(t, changes)))
			applied := decode[report.Transaction](t, out)
			if applied.State != apply.Confirmed || len(applied.Changes) != len(changes) {
				t.Errorf("%s", out)
			}
			now := settings(t)
			for _, c := range changes {
				if got := now[c[0]]; got.Value != c[1] {
					t.Errorf("%s is %+v, want %q", c[0], got, c[1])
				}
			}
			if len(now) >= len(before) {
				t.Errorf("%d settings before and %d after: no queue went away", len(before), len(now))
			}
			mustEnd(t, 0, command("rollback"))
			same(t, "after the rollback", before)
		})
	}
	// The other way round: the queues that a plan adds are gone again.
	out, _ := mustEnd(t, 0, command("apply", "--yes", "--format", "json", writePlan(t, [][2]string{{"v0/channels.rx", "2"}, {"v0/channels.tx", "1"}})))
	first := decode[report.Transaction](t, out).ID
	before := settings(t)
	mustEnd(t, 0, command("apply", "--yes", writePlan(t, [][2]string{{"v0/channels.rx", "4"}, {"v0/channels.tx", "3"}, {"v0/rx-1/rps.cpus", "1"}})))
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback of more queues", before)
	mustEnd(t, 0, command("rollback", first))
}

// What somebody set on a queue while the plan was in force stays, although the
// rollback creates queues again.
func TestChannelsForeignLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	furnish(t)
	mustEnd(t, 0, command("apply", "--yes", writePlan(t, [][2]string{{"v0/channels.tx", "2"}, {"v0/rx-2/rps.cpus", "0"}})))
	put(t, "v0", "queues/tx-1/xps_cpus", "3") // was 1
	out, _ := mustEnd(t, 0, command("rollback"))
	now := settings(t)
	if got := now["v0/tx-1/xps.cpus"].Value; got != "0-1" {
		t.Errorf("somebody else's xps.cpus became %q\n%s", got, out)
	}
	for ref, want := range map[string]string{
		"v0/tx-0/xps.cpus": "1", "v0/tx-2/xps.cpus": "0-1", "v0/tx-3/xps.cpus": "1", "v0/rx-2/rps.cpus": "0-1", "v0/channels.tx": "4",
	} {
		if got := now[ref].Value; got != want {
			t.Errorf("%s is %q, want %q", ref, got, want)
		}
	}
}

// sysctlChanges are harmless values near the kernel's own.
func sysctlChanges(t *testing.T) [][2]string {
	t.Helper()
	var out [][2]string
	for _, kind := range knob.All() {
		if kind.Stage != knob.StageSysctl {
			continue
		}
		text, err := os.ReadFile(sysctlPath(kind.Name))
		if err != nil {
			t.Logf("%s: %v", kind.Name, err) // older kernels
			continue
		}
		was := strings.TrimSpace(string(text))
		want, err := neighbour(kind.Name, was)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, [2]string{kind.Name, want})
	}
	return out
}

func sysctlPath(name string) string {
	return "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
}

// neighbour is another value that the kernel takes and nobody notices.
func neighbour(name, was string) (string, error) {
	switch name {
	case "net.core.flow_limit_cpu_bitmap":
		return map[bool]string{true: "0", false: ""}[strings.Trim(was, "0,") == ""], nil
	case "net.core.flow_limit_table_len", "net.core.rps_sock_flow_entries":
		return map[bool]string{true: "8192", false: "4096"}[was != "8192"], nil
	}
	var n int
	if _, err := fmt.Sscan(was, &n); err != nil {
		return "", fmt.Errorf("%s: %q: %w", name, was, err)
	}
	return fmt.Sprint(n + 1), nil
}

// The sysctls are the whole machine's: this test runs in the machine's own
// network namespace, changes nothing else, waits for others that do the same,
// and restores whatever the child left, however the child ended.
func TestSysctlsLive(t *testing.T) {
	if os.Getenv(namespaceEnv) == "" && os.Getuid() == 0 {
		lockMachine(t)
		keepSysctls(t)
	}
	if !inNamespaces(t, ownMounts) {
		return
	}
	raw := func() map[string]string {
		out := map[string]string{}
		files, err := filepath.Glob("/proc/sys/net/core/*")
		if err != nil || len(files) == 0 {
			t.Fatal(len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil {
				out[file] = string(text)
			}
		}
		return out
	}
	before, changes := raw(), sysctlChanges(t)
	if len(changes) < 8 {
		t.Errorf("only %d sysctls: %v", len(changes), changes)
	}
	out, _ := mustEnd(t, 0, command("apply", "--yes", "--max-disruption", "none", "--format", "json", writePlan(t, changes)))
	applied := decode[report.Transaction](t, out)
	for _, c := range applied.Changes {
		if c.Verdict != apply.VerdictApplied || c.Observed != c.After {
			t.Errorf("%+v", c)
		}
	}
	if now := raw(); len(differing(before, now)) != len(changes) {
		t.Errorf("changed: %v, want %d of them", differing(before, now), len(changes))
	}
	mustEnd(t, 0, command("rollback"))
	if left := differing(before, raw()); len(left) > 0 {
		t.Errorf("after the rollback these differ: %v", left)
	}
}

func differing(before, after map[string]string) []string {
	var out []string
	for name, text := range before {
		if after[name] != text {
			out = append(out, fmt.Sprintf("%s: %q → %q", name, text, after[name]))
		}
	}
	slices.Sort(out)
	return out
}
