package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
)

func unitText(t *testing.T, name string) string {
	t.Helper()
	text, err := unitFiles.ReadFile("units/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unitNames(t *testing.T) []string {
	t.Helper()
	entries, err := unitFiles.ReadDir("units")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".service") {
			out = append(out, e.Name())
		}
	}
	if len(out) != 4 {
		t.Fatalf("units: %v", out)
	}
	return out
}

// directives are the lines of a unit that say something.
func directives(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// No unit changes anything when it stops or is reloaded, all are confined alike, and each
// runs a verb that there is, with options that it has.
func TestUnits(t *testing.T) {
	var confined string
	for _, name := range unitNames(t) {
		text := unitText(t, name)
		_, block, found := strings.Cut(text, "# Least privilege.")
		block, _, _ = strings.Cut(block, "\n\n")
		block = strings.TrimSpace(block)
		if confined == "" {
			confined = block
		}
		if diff := cmp.Diff(confined, block); !found || diff != "" {
			t.Errorf("%s is confined in another way:\n%s", name, diff)
		}
		if !strings.Contains(text, "\nConditionPathExists="+installedProfile+"\n") {
			t.Errorf("%s starts without a profile", name)
		}
		for _, line := range directives(text) {
			key, value, _ := strings.Cut(line, "=")
			if strings.HasPrefix(key, "ExecStop") || key == "ExecStartPost" || key == "ExecReload" && line != "ExecReload=/bin/kill -HUP $MAINPID" {
				t.Errorf("%s: %s", name, line)
			}
			if key == "ExecStart" && name != guardUnit {
				args, err := order(append([]string{"napitune"}, strings.Fields(value)[1:]...), newApp(env{}))
				if err != nil || args[1] != "boot" {
					t.Errorf("%s: %s: %v", name, line, err)
				}
			}
		}
	}
}

// README promises systemctl reload for the guard, and what its exit code says.
func TestGuardUnitDirectives(t *testing.T) {
	lines := directives(unitText(t, guardUnit))
	if !slices.Contains(lines, "ExecReload=/bin/kill -HUP $MAINPID") {
		t.Error("systemctl reload does nothing: the unit has no ExecReload=")
	}
	if !slices.Contains(lines, fmt.Sprintf("RestartPreventExitStatus=%d", exitConfig)) {
		t.Error("a guard whose profile cannot be read is started again and again")
	}
}

// systemd finds nothing to say about the units and rates each below 3.0, "OK"
// being what it calls everything below 5 (systemd-analyze(1), security).
func TestUnitsBySystemd(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	needs(t, err == nil, "systemd-analyze")
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "bin", "etc/systemd/system", "usr/lib/systemd"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{packagedProgram, "/bin/kill"} {
		if err := os.WriteFile(filepath.Join(root, program), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The targets that the units order themselves by are systemd's own.
	theirs := "/usr/lib/systemd/system"
	if _, err := os.Stat(theirs); err != nil {
		theirs = "/lib/systemd/system"
	}
	if err := os.CopyFS(filepath.Join(root, "usr/lib/systemd/system"), os.DirFS(theirs)); err != nil {
		t.Logf("copy %s: %v", theirs, err) // links that lead nowhere here
	}
	rating := regexp.MustCompile(`(?m)exposure level for \S+: ([0-9.]+)`)
	for _, name := range unitNames(t) {
		path := "/etc/systemd/system/" + name
		if err := os.WriteFile(filepath.Join(root, path), []byte(unitText(t, name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range unitNames(t) {
		out, err := exec.Command(tool, "verify", "--root="+root, "--man=no", "/etc/systemd/system/"+name).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("verify %s: %v\n%s", name, err, out)
		}
		out, err = exec.Command(tool, "security", "--offline=yes", "--root="+root, name).CombinedOutput()
		found := rating.FindSubmatch(out)
		if found == nil {
			t.Errorf("security %s: %v\n%s", name, err, out)
			continue
		}
		exposure, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil || exposure >= 3 {
			t.Errorf("%s: exposure %s", name, found[1])
		}
		t.Logf("%s: exposure %s", name, found[1])
	}
}

// Installing tells systemd what it must know, in order; a package's units are
// used where they are.
func TestInstallAsks(t *testing.T) {
	file := bootFile(t, "host: {net.core.netdev_budget: 600}\n")
	for _, packaged := range []bool{false, true} {
		root := t.TempDir()
		if packaged {
			path := filepath.Join(root, packagedUnits, bootUnits[0])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var ran []string
		e := env{Command: func(_ context.Context, name string, args ...string) ([]byte, error) {
			ran = append(ran, name+" "+strings.Join(args, " "))
			return nil, nil
		}}
		for _, args := range [][]string{{"install", file, "--guard"}, {"remove"}} {
			if code, _, stderr := invoke(context.Background(), t, e, append([]string{"profile", "--root", root}, args...)...); code != exitDone {
				t.Fatalf("%v: %s", args, stderr)
			}
			_, err := os.Stat(filepath.Join(root, ownUnits, guardUnit))
			if own := err == nil; own != (args[0] == "install" && !packaged) {
				t.Errorf("%v, packaged %v: own units %v", args, packaged, own)
			}
		}
		disabled := "napitune-boot.service napitune-settle.service napitune-guard.service"
		if packaged {
			disabled = "napitune-boot.service"
		}
		want := []string{
			"systemctl --root=" + root + " enable napitune-boot.service napitune-settle.service napitune-guard.service",
			"systemctl --root=" + root + " disable " + disabled,
		}
		if diff := cmp.Diff(want, ran); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.Contains(path, packagedUnits) {
				t.Errorf("%s is left", path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Who installs a profile is told what only the guard can do for it.
func TestInstallAdvisesGuard(t *testing.T) {
	const warned = "many drivers have irq.affinity, channels.combined only while a device is up"
	devices := "devices:\n  - match: {name: eth0}\n    settings: {gro_flush_timeout: 1, rx-*/irq.affinity: solve, tx-*/irq.affinity: solve, channels.combined: solve}\n"
	for _, test := range []struct {
		profile string
		args    []string
		enabled bool
		want    bool
	}{
		{devices, nil, false, true},
		{devices, []string{"--guard"}, false, false},
		{devices, []string{"--no-units"}, false, false},
		{devices, nil, true, false},
		{"devices: [{match: {name: eth0}, settings: {gro_flush_timeout: 1}}]\n", nil, false, false},
	} {
		root := t.TempDir()
		if test.enabled {
			link := filepath.Join(root, guardEnabled)
			if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(filepath.Join(packagedUnits, guardUnit), link)); err != nil {
				t.Fatal(err)
			}
		}
		e := env{Command: func(context.Context, string, ...string) ([]byte, error) { return nil, nil }}
		args := append([]string{"profile", "install", bootFile(t, test.profile), "--root", root}, test.args...)
		code, _, stderr := invoke(context.Background(), t, e, args...)
		if code != exitDone || strings.Contains(stderr, warned) != test.want || !test.want && stderr != "" {
			t.Errorf("%+v: code %d, %s", test, code, stderr)
		}
	}
}

// The rule asks for a unit that there is, for devices of an enabled profile only.
// That udev takes it, testServiceRule sees in a guest.
func TestRule(t *testing.T) {
	text := unitText(t, ruleFile)
	lines := directives(text)
	if len(lines) != 1 {
		t.Fatalf("rules: %q", lines)
	}
	for _, part := range []string{`SUBSYSTEM=="net"`, `TAG+="systemd"`, `TEST=="/etc/systemd/system/multi-user.target.wants/` + bootUnits[0] + `"`, `ENV{SYSTEMD_WANTS}+="napitune-device@$name.service"`} {
		if !strings.Contains(lines[0], part) {
			t.Errorf("the rule lacks %s", part)
		}
	}
	if _, err := unitFiles.ReadFile("units/napitune-device@.service"); err != nil {
		t.Error(err)
	}
}

// Devices are writable for the units, and the CPUs among them are not: no setting
// is written there.
func TestUnitsCannotUnplugCPUs(t *testing.T) {
	const system = "/sys/devices/system"
	samples, err := hosttest.Generate(hosttest.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	memory, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, kind := range knob.All() {
		for _, ref := range kind.Refs(memory.View()) {
			for _, name := range kind.Files(memory.View(), ref) {
				if files++; strings.HasPrefix("/"+name, system) {
					t.Errorf("%s is written through %s", ref, name)
				}
			}
		}
	}
	if files == 0 {
		t.Error("no setting is written through a file: nothing was tested")
	}
	for _, name := range unitNames(t) {
		lines := directives(unitText(t, name))
		if i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ReadOnlyPaths=") }); i < 0 || !slices.Contains(strings.Fields(lines[i]), system) {
			t.Errorf("%s may write below %s", name, system)
		}
	}
}

// What writes over a setting at its start starts before, and who logs in finds
// the settings made.
func TestUnitsInOrder(t *testing.T) {
	for _, name := range []string{"napitune-device@.service", "napitune-settle.service"} {
		lines := directives(unitText(t, name))
		if !slices.Contains(lines, "Before=systemd-user-sessions.service") {
			t.Errorf("nobody waits for %s", name)
		}
		var after []string
		for _, line := range lines {
			if list, ok := strings.CutPrefix(line, "After="); ok {
				after = append(after, strings.Fields(list)...)
			}
		}
		for _, unit := range []string{"irqbalance.service", "tuned.service"} {
			if !slices.Contains(after, unit) {
				t.Errorf("%s is ordered after %v and not after %s", name, after, unit)
			}
		}
	}
}
