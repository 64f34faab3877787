// Package packaging holds what the deb and rpm packages are made of, and tests
// it; there is no code to import.
package packaging

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

const top = "../../.."

type manifest struct {
	Contents []struct {
		Src, Dst, Type string
	}
	Scripts map[string]string
}

// Every file that the packages name is there or is built, and every unit is
// packaged.
func TestManifest(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, c := range m.Contents {
		sources = append(sources, c.Src)
		if strings.HasPrefix(c.Dst, "/etc/") != strings.HasPrefix(c.Type, "config") {
			t.Errorf("%s: only configuration goes to /etc, as such", c.Dst)
		}
	}
	for _, script := range m.Scripts {
		sources = append(sources, script)
		if out, err := exec.Command("sh", "-n", filepath.Join(top, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, out)
		}
	}
	for _, src := range sources {
		if _, err := os.Stat(filepath.Join(top, src)); src != "" && !strings.HasPrefix(src, "${DIST}/") && err != nil {
			t.Error(err)
		}
	}
	units, err := filepath.Glob("../units/*")
	if err != nil || len(units) == 0 {
		t.Fatalf("units: %v, %v", units, err)
	}
	for _, unit := range units {
		if src := "cmd/napitune/units/" + filepath.Base(unit); !slices.Contains(sources, src) {
			t.Errorf("%s is not packaged", src)
		}
	}
}

// lack skips a test that this machine cannot do, and fails it under CI, which can.
func lack(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must have %s", what)
	}
	t.Skipf("skipped: needs %s", what)
}

// built is where the packages are:
//
//	make packages && NAPITUNE_PACKAGES=$PWD/dist go test ./cmd/napitune/packaging
func built(t *testing.T, pattern string) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_PACKAGES")
	if dir == "" {
		lack(t, "NAPITUNE_PACKAGES, which names the directory with built packages")
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s in %s (%v)", pattern, dir, err)
	}
	return found[len(found)-1]
}

func files(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		if err == nil && !d.IsDir() && !strings.HasPrefix(rel, "var/lib/dpkg/") && !strings.HasPrefix(rel, "var/log/") {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What people saved survives the removal of an rpm; a directory that is left empty
// does not, and neither does anything of a purge.
func TestPostrm(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("postrm")
	if err != nil {
		t.Fatal(err)
	}
	const history, profile, inForce = "var/lib/napitune/history.jsonl", "var/lib/napitune/profiles/quiet.yaml", "etc/napitune/profile.yaml"
	for name, test := range map[string]struct {
		asked      string
		has, stays []string
	}{
		"rpm upgraded":           {"1", []string{inForce, history, profile}, []string{inForce, history, profile}},
		"rpm removed":            {"0", []string{inForce, history, profile}, []string{inForce, profile}},
		"rpm removed, unused":    {"0", nil, nil},
		"rpm removed, none left": {"0", []string{history, filepath.Dir(profile) + "/"}, nil},
		"deb removed":            {"remove", []string{inForce, history, profile}, []string{inForce, history, profile}},
		"deb purged":             {"purge", []string{inForce, history, profile}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, file := range test.has {
				full := filepath.Join(root, file)
				err := os.MkdirAll(filepath.Dir(full), 0o755)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(file, "/") {
					err = os.MkdirAll(full, 0o755)
				} else {
					err = os.WriteFile(full, nil, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			// rpm runs it below another root, which only root may do.
			text := strings.ReplaceAll(string(script), " /var/", " "+root+"/var/")
			cmd := exec.Command("sh", "-c", text, "postrm", test.asked)
			cmd.Env = append(os.Environ(), "DPKG_ROOT="+root)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(test.stays, files(t, root)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(root, "var/lib/napitune")); err == nil != slices.ContainsFunc(test.stays, func(s string) bool { return strings.HasPrefix(s, "var/") }) {
				t.Errorf("its directory: %v", err)
			}
		})
	}
}

// Installed, removed and purged below a directory: nothing is enabled, a
// removal disables what was enabled and keeps configuration, a purge leaves
// nothing.
func TestDeb(t *testing.T) {
	deb := built(t, "*_amd64.deb")
	if os.Geteuid() != 0 {
		lack(t, "root, for dpkg --root")
	}
	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"var/lib/dpkg/status", "etc/other.conf"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, root)
	dpkg := func(args ...string) {
		t.Helper()
		out, err := exec.Command("dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-depends"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg %v: %v\n%s", args, err, out)
		}
	}
	dpkg("-i", deb)
	installed := files(t, root)
	for _, want := range []string{
		"usr/bin/napitune", "usr/lib/systemd/system/napitune-boot.service", "usr/lib/udev/rules.d/99-napitune.rules",
		"usr/share/man/man8/napitune.8.gz", "usr/share/bash-completion/completions/napitune", "etc/napitune/policy.yaml",
	} {
		if !slices.Contains(installed, want) {
			t.Errorf("%s is not installed", want)
		}
	}
	for _, path := range installed {
		if strings.HasPrefix(path, "etc/systemd/") || strings.Contains(path, ".wants/") {
			t.Errorf("installing enabled %s", path)
		}
	}
	out, err := exec.Command(filepath.Join(root, "usr/bin/napitune"), "version").Output()
	if version := strings.Split(filepath.Base(deb), "_")[1]; err != nil || !strings.Contains(string(out), " "+version+" ") {
		t.Errorf("the program says %q, the package is %s (%v)", out, version, err)
	}
	enabled := "etc/systemd/system/multi-user.target.wants/napitune-boot.service"
	if err := os.MkdirAll(filepath.Dir(filepath.Join(root, enabled)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/lib/systemd/system/napitune-boot.service", filepath.Join(root, enabled)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/napitune/profile.yaml"), []byte("boot-profile: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg("-r", "napitune")
	want := append(slices.Clone(before), "etc/napitune/policy.yaml", "etc/napitune/profile.yaml")
	slices.Sort(want)
	if diff := cmp.Diff(want, files(t, root)); diff != "" {
		t.Errorf("after the removal (-want +got)\n%s", diff)
	}
	dpkg("-P", "napitune")
	if diff := cmp.Diff(before, files(t, root)); diff != "" {
		t.Errorf("after the purge (-before +after)\n%s", diff)
	}
}

// The rpm has the same files as the deb, but for the places that differ between
// the distributions.
func TestRPM(t *testing.T) {
	path := built(t, "*.x86_64.rpm")
	rpm, err := exec.LookPath("rpm")
	if err != nil {
		lack(t, "rpm, to look into the package")
	}
	out, err := exec.Command(rpm, "-qpl", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"/usr/bin/napitune", "/usr/lib/systemd/system/napitune-device@.service", "/usr/lib/udev/rules.d/99-napitune.rules",
		"/usr/share/zsh/site-functions/_napitune", "/etc/napitune/policy.yaml", "/usr/share/licenses/napitune/LICENSE",
	} {
		if !slices.Contains(strings.Fields(string(out)), want) {
			t.Errorf("%s is not in the package", want)
		}
	}
	config, err := exec.Command(rpm, "-qpc", path).Output()
	if err != nil || strings.TrimSpace(string(config)) != "/etc/napitune/policy.yaml" {
		t.Errorf("configuration: %q, %v", config, err)
	}
}

// systemctlLog stands for systemctl below a directory and writes down what it is
// asked for.
const systemctlLog = "#!/bin/sh\necho \"systemctl $*\" >>/asked\n"

// Installed, upgraded and removed below a directory, with the scripts run there:
// an upgrade disables nothing, a removal everything, and neither sets anything.
func TestRPMScripts(t *testing.T) {
	path := built(t, "*.x86_64.rpm")
	rpm, err := exec.LookPath("rpm")
	if err != nil {
		lack(t, "rpm, to install the package")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil || os.Geteuid() != 0 {
		lack(t, "root and busybox, for the scripts of the package below a directory")
	}
	root := t.TempDir()
	shell, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"bin/sh": shell, "usr/bin/systemctl": []byte(systemctlLog), "usr/bin/udevadm": []byte("#!/bin/sh\n")} {
		full := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, data, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"run/systemd/system", "var/lib/rpm", "tmp", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	asked := func() string {
		log := filepath.Join(root, "asked")
		text, _ := os.ReadFile(log)
		_ = os.Remove(log)
		return strings.TrimSpace(string(text))
	}
	run := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(rpm, append([]string{"--root", root, "--nodeps", "--nosignature"}, args...)...).CombinedOutput()
		if err != nil || strings.Contains(string(out), "scriptlet failed") {
			t.Fatalf("rpm %v: %v\n%s", args, err, out)
		}
		if diff := cmp.Diff(want, asked()); diff != "" {
			t.Errorf("rpm %v (-want +got)\n%s", args, diff)
		}
	}
	const units = "napitune-boot.service napitune-settle.service napitune-guard.service"
	profile := filepath.Join(root, "etc/napitune/profile.yaml")
	const told = "systemctl daemon-reload\nsystemctl try-restart napitune-guard.service"
	run(told, "-i", path)
	saved := filepath.Join(root, "var/lib/napitune/profiles/quiet.yaml")
	for name, text := range map[string]string{profile: "boot-profile: 1\n", saved: "boot-profile: 1\n", filepath.Join(root, "var/lib/napitune/history.jsonl"): "{}\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	run(told+"\nsystemctl daemon-reload", "-U", "--replacepkgs", path)
	run("systemctl disable "+units+"\nsystemctl stop "+units+"\nsystemctl daemon-reload", "-e", "napitune")
	var left []string
	for _, file := range files(t, root) {
		if strings.Contains(file, "napitune") {
			left = append(left, file)
		}
	}
	if diff := cmp.Diff([]string{"etc/napitune/profile.yaml", "var/lib/napitune/profiles/quiet.yaml"}, left); diff != "" {
		t.Errorf("after the removal (-want +got)\n%s", diff)
	}
}
