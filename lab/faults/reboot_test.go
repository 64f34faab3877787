package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// firstBoot keeps the settings of the first boot on the guest's disk.
const firstBoot = "/root/first-boot.json"

// A file that the first boot leaves, and the setting that must differ by it after
// the second: what napitune might leave in such files would be seen as well.
const (
	plantedFile    = "/etc/sysctl.d/99-lab.conf"
	plantedText    = "net.core.somaxconn = 1234\n"
	plantedSetting = "/proc/sys/net/core/somaxconn"
)

// TestReboot leaves the faults of this guest applied, or killed while they were,
// and finds the guest after a reboot as it was after the first boot: nothing is
// kept without a profile. It runs in guests only, twice on one disk:
// go run ./lab/cmd/lab faults --reboot boots two for each machine of the table.
func TestReboot(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: run go run ./lab/cmd/lab faults --reboot")
	}
	if err := lookupNapitune(); err != nil {
		t.Fatal(err)
	}
	// The keys by which the kernel hashes are random at each boot.
	_ = exec.Command("ethtool", "-X", device, "hkey", hashKey).Run()
	now, err := ReadSettings(device)
	if err != nil {
		t.Fatal(err)
	}
	now = lasting(now)
	text, err := os.ReadFile(firstBoot)
	if err != nil {
		leaveApplied(t, now)
		return
	}
	var first Settings
	if err := json.Unmarshal(text, &first); err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(now[plantedSetting]) != "1234" || first[plantedSetting] == now[plantedSetting] {
		t.Errorf("%s was not read at the reboot, %s is %q: what else a boot reads would not be seen", plantedFile, plantedSetting, now[plantedSetting])
	}
	delete(first, plantedSetting)
	delete(now, plantedSetting)
	common(first, now)
	for _, line := range first.Diff(now) {
		t.Errorf("after the reboot: %s", line)
	}
	said, err := exec.Command("napitune", "status").CombinedOutput()
	if err != nil || strings.Contains(string(said), "unfinished") {
		t.Errorf("napitune status: %v: %s", err, said)
	}
	history, err := exec.Command("napitune", "history").Output()
	if err != nil || !strings.Contains(string(history), "applied") {
		t.Errorf("napitune history, after %d settings were compared: %v: %s", len(first), err, history)
	}
	t.Logf("%d settings are those of the first boot; %s", len(first), strings.TrimSpace(string(said)))
}

// leaveApplied brings about each fault on top of the one before and applies what
// is advised against it, where it does not hide behind those. The first one comes
// back at the end, and that apply is killed.
func leaveApplied(t *testing.T, now Settings) {
	text, err := json.Marshal(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(firstBoot, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plantedFile, []byte(plantedText), 0o600); err != nil {
		t.Fatal(err)
	}
	names := strings.Split(os.Getenv("LAB_FAULTS"), "\n")
	var rows []Fault
	for _, f := range Table() {
		if f.Machine.String() == os.Getenv("LAB_MACHINE") && slices.Contains(names, f.Name) && f.Finding != "" && !f.Contested {
			rows = append(rows, f)
		}
	}
	if len(rows) == 0 {
		t.Log("nothing is wrong with this machine: it is rebooted as it is")
		return
	}
	g := openGuest(t, rows[0].Prepare)
	n := &Napitune{Scratch: t.TempDir(), Window: 4 * time.Second}
	changed := 0
	rows = append(rows, rows[0])
	for i, f := range rows {
		f.Load, err = g.bearable(f.Load)
		if err != nil {
			t.Fatal(err)
		}
		g.shell(f.Inject)
		var a Advice
		if err := g.during(f.Load, func() (err error) { a, err = n.Look(f); return err }); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		changed += len(a.Changes)
		switch last := i == len(rows)-1; {
		case len(a.Changes) == 0 && (i == 0 || last):
			t.Errorf("%s: nothing to apply: %q", f.Name, a.alarms())
		case len(a.Changes) == 0:
			g.shell(f.Undo)
		case !last:
			_, err = n.Apply(f)
		default:
			_, err = n.Kill(f, 20*time.Millisecond) // left as far as it came
		}
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		t.Logf("%s: %d changes, %q", f.Name, len(a.Changes), a.alarms())
	}
	differs := func() int {
		left, err := ReadSettings(device)
		if err != nil {
			t.Fatal(err)
		}
		return len(now.Diff(lasting(left)))
	}
	differ := differs()
	if differ == 0 { // the remedies were the driver's defaults
		g.shell(rows[0].Inject)
		differ = differs()
	}
	if differ == 0 {
		t.Error("nothing differs from the first boot: a reboot would show nothing")
	}
	t.Logf("%d settings, %d changes of %d faults, %d differ at the reboot", len(now), changed, len(rows)-1, differ)
}

// common leaves out interrupts that only one of two boots has: some are there
// while a program has their device open, such as that of the console.
func common(first, now Settings) {
	for _, pair := range [][2]Settings{{first, now}, {now, first}} {
		maps.DeleteFunc(pair[0], func(name, _ string) bool {
			_, both := pair[1][name]
			return strings.HasPrefix(name, "interrupt ") && !both
		})
	}
}

func TestCommon(t *testing.T) {
	first, now := Settings{"interrupt a": "1", "interrupt b": "1", "x": "1"}, Settings{"interrupt b": "2", "interrupt c": "1", "y": "1"}
	common(first, now)
	if diff := cmp.Diff([]string{"interrupt b: 1 → 2", "x: 1 → ", "y:  → 1"}, first.Diff(now)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// lasting names interrupts by what they serve, since numbers change from boot to
// boot, and leaves out a key that is random.
func lasting(s Settings) Settings {
	out := Settings{}
	for name, value := range s {
		rest, interrupt := strings.CutPrefix(name, "/proc/irq/")
		switch {
		case interrupt:
			number, file, _ := strings.Cut(rest, "/")
			for _, action := range actions(number) {
				out[fmt.Sprintf("interrupt %s %s", action, file)] = value
			}
		case filepath.Base(name) != "netdev_rss_key":
			out[name] = value
		}
	}
	return out
}

// actions are what an interrupt serves: its folders in /proc/irq.
func actions(number string) []string {
	entries, err := os.ReadDir("/proc/irq/" + number)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}
