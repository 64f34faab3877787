package lab_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/lab"
)

// labEnv lets tests boot guests. They take minutes and need what "lab build"
// made:
//
//	NAPITUNE_LAB=1 go test -run 'TestBootProfile|TestGuardUnit' -timeout 40m -v ./lab
const labEnv = "NAPITUNE_LAB"

// guardLong makes TestGuardUnit hold ten minutes beside irqbalance.
var guardLong = flag.Bool("guard-long", false, "hold ten minutes beside irqbalance instead of a quarter of one")

// reboots is one guest that is booted again and again, as a disk.
type reboots struct {
	t         *testing.T
	lab, disk string
}

// built is the lab command, made once and beside the package that is to be
// installed.
var built = sync.OnceValues(func() (string, error) {
	program, err := filepath.Abs("../dist/lab")
	if err != nil {
		return "", err
	}
	commands := [][]string{
		{"make", "packages", "PACKAGE_ARCHS=amd64"}, // makes the directory, too
		{"go", "build", "-o", program, "./lab/cmd/lab"},
	}
	if os.Getenv("NAPITUNE_PACKAGES") != "" { // they are made, and others may be reading them
		commands = commands[1:]
	}
	for _, args := range commands {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", args, err, text)
		}
	}
	return program, nil
})

func newReboots(t *testing.T) reboots {
	t.Helper()
	if os.Getenv(labEnv) == "" {
		t.Skip(labEnv + " is not set: no guests are booted")
	}
	t.Parallel()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return reboots{t: t, lab: program, disk: filepath.Join(t.TempDir(), "disk.img")}
}

// guest boots the guest with a verb of the lab command that ends it.
func (r reboots) guest(verb string, patience time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Minute)
	defer cancel()
	cmd := lab.Child(ctx, r.lab, append([]string{
		verb, "--mode", "systemd", "--cpus", "4", "--nic", "virtio,queues=4", "--nic", "virtio,queues=4",
		"--disk", r.disk, "--timeout", patience.String(),
	}, args...)...)
	cmd.Dir = ".."
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := lab.RunChild(cmd)
	return text.String(), err
}

// boot boots Debian completely and runs a script in it. The answer is what
// the script printed, by the headings "== NAME" in it.
func (r reboots) boot(script string) map[string]string {
	r.t.Helper()
	text, err := r.guest("run", 10*time.Minute, "--", "sh", "-c", script)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, text)
	}
	r.t.Logf("the guest:\n%s", text)
	out := map[string]string{}
	heading := ""
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "== "); ok {
			heading = strings.TrimSpace(name)
			continue
		}
		out[heading] += line
	}
	for heading := range out {
		out[heading] = strings.TrimSpace(out[heading])
	}
	return out
}

// The settings of a guest, and of the files that the package does not own.
const dump = `knobs() { napitune=/usr/bin/napitune; $napitune knobs --format json | grep -v '"schema"'; }
`

// networkd has the NICs configured at boot, by the service that Debian has for it.
const networkd = `printf '[Match]\nName=eth*\n[Network]\nLinkLocalAddressing=no\n' >/etc/systemd/network/10-lab.network
systemctl -q enable systemd-networkd 2>/dev/null
`

// profile has a value of every stage that virtio-net in a guest takes, none of
// them its own, and CPUs that the kernel would not choose.
const profile = `boot-profile: 1
name: lab
host:
  net.core.netdev_budget: 600
  net.core.netdev_max_backlog: 2000
devices:
  - match: {driver: virtio_net, bus: "0000:*", queues: 4}
    settings:
      channels.combined: 3
      ring.rx: 128
      feature.rx-gro-list: on
      gro_flush_timeout: 20000
      napi_defer_hard_irqs: 2
      rx-*/rps.flow_cnt: 1024
      rx-0/rps.cpus: 1-2
      tx-1/xps.cpus: 0,3
      rx-0/irq.affinity: 3
      rx-1/irq.affinity: 2
      rx-2/irq.affinity: 1
`

const broken = `boot-profile: 1
name: broken
host:
  net.core.netdev_budget: 600
  net.core.netdev_bugdet: 700
devices:
  - match: {driver: virtio_net}
    settings:
      gro_flush_timeout: 20000
      ring.rx: 99999
  - match: {driver: mlx5_core}
    settings:
      ring.rx: 1024
`

// The package is installed, a profile stands after the reboot and before
// anybody can log in, stopping the units changes nothing, and without the
// profile the machine boots as it was; a profile with what cannot be fails one
// unit, with a line for each, and all the rest stands.
func TestBootProfile(t *testing.T) {
	r := newReboots(t)

	got := r.boot(dump + networkd + `
sysctl net.core >/root/sysctl 2>/dev/null
dpkg -i /src/dist/napitune_*_amd64.deb >/dev/null
echo "== changed by installing"; sysctl net.core 2>/dev/null | diff /root/sysctl -
echo "== enabled by installing"; systemctl list-unit-files --no-legend --state=enabled 'napitune*'
knobs >/root/knobs
cat >/root/lab.yaml <<'X'
` + profile + `X
echo "== installed"; napitune=/usr/bin/napitune; $napitune profile install /root/lab.yaml; echo $?
echo "== changed by profile install"; knobs | diff /root/knobs -
`)
	for _, name := range []string{"changed by installing", "enabled by installing", "changed by profile install"} {
		if got[name] != "" {
			t.Errorf("%s: %s", name, got[name])
		}
	}
	if !strings.HasSuffix(got["installed"], "\n0") {
		t.Errorf("profile install: %s", got["installed"])
	}

	got = r.boot(dump + `
echo "== failed"; systemctl --failed --no-legend
echo "== standing"; /usr/bin/napitune boot --dry-run
echo "== before the login"; systemctl show -p Before --value napitune-settle.service | tr ' ' '\n' | grep systemd-user-sessions
echo "== settled"; systemctl show -p ActiveState --value napitune-settle.service napitune-boot.service
echo "== order"; s=$(systemctl show -p ExecMainStartTimestampMonotonic --value napitune-boot.service); n=$(systemctl show -p ExecMainStartTimestampMonotonic --value systemd-networkd.service); c=$(systemctl show -p ExecMainExitTimestampMonotonic --value systemd-sysctl.service); [ $c -lt $s ] && [ $s -lt $n ] && echo sysctl, boot, network
echo "== journal"; journalctl -b -u 'napitune*' -o cat --no-pager
knobs >/root/standing
systemctl stop napitune-boot.service napitune-settle.service napitune-guard.service 'napitune-device@*'
echo "== changed by stopping"; knobs | diff /root/standing -
echo "== removed"; /usr/bin/napitune profile remove; echo $?
echo "== changed by removing"; knobs | diff /root/standing -
`)
	for name, want := range map[string]string{
		"failed": "", "before the login": "systemd-user-sessions.service", "settled": "active\n\nactive", "order": "sysctl, boot, network",
		"changed by stopping": "", "changed by removing": "",
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if !strings.HasPrefix(got["standing"], "boot profile lab: ") || !strings.HasSuffix(got["standing"], " 0 to be set") {
		t.Errorf("after the boot there is something to do:\n%s\n%s", got["standing"], got["journal"])
	}
	if !strings.HasSuffix(got["removed"], "\n0") {
		t.Errorf("profile remove: %s", got["removed"])
	}

	got = r.boot(dump + `
echo "== as before"; knobs | diff /root/knobs -
echo "== units"; systemctl list-units --no-legend 'napitune*'
cat >/etc/napitune/profile.yaml <<'X'
` + broken + `X
systemctl -q enable napitune-boot napitune-settle
`)
	for _, name := range []string{"as before", "units"} {
		if got[name] != "" {
			t.Errorf("%s, after the profile was removed:\n%s", name, got[name])
		}
	}

	got = r.boot(`
echo "== failed"; systemctl --failed --no-legend --plain | cut -d' ' -f1
echo "== lines"; journalctl -b -u napitune-settle -o cat --no-pager | grep profile.yaml: | sort
echo "== budget"; cat /proc/sys/net/core/netdev_budget
echo "== flush"; cat /sys/class/net/eth0/gro_flush_timeout /sys/class/net/eth1/gro_flush_timeout
echo "== reached"; systemctl is-active multi-user.target
echo "== journal"; journalctl -b -u 'napitune*' -o cat --no-pager
`)
	for name, want := range map[string]string{
		"failed": "napitune-device@eth0.service\nnapitune-device@eth1.service\nnapitune-settle.service",
		"lines": `napitune: /etc/napitune/profile.yaml:10: eth0/ring.rx: cannot be 99999: 99999 is outside 1 to 256
napitune: /etc/napitune/profile.yaml:10: eth1/ring.rx: cannot be 99999: 99999 is outside 1 to 256
napitune: /etc/napitune/profile.yaml:11: driver mlx5_core: this host has no such network device
napitune: /etc/napitune/profile.yaml:5:3: there is no setting "net.core.netdev_bugdet" of the host; did you mean net.core.netdev_budget?`,
		"budget": "600", "flush": "20000\n20000", "reached": "active",
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// guarded leaves the number of channels alone: who changes it with ethtool twice
// has it left to him, which another test is about.
const guarded = `boot-profile: 1
name: guarded
host:
  net.core.netdev_budget: 600
devices:
  - match: {driver: virtio_net}
    settings:
      ring.rx: 128
      feature.rx-gro-list: on
      gro_flush_timeout: 20000
      napi_defer_hard_irqs: 2
      rx-*/rps.flow_cnt: 1024
      rx-0/rps.cpus: 1-2
      rx-1/rps.cpus: 0,3
      tx-1/xps.cpus: 0,3
      tx-2/xps.cpus: 1
      rx-0/irq.affinity: 3
      rx-1/irq.affinity: 2
      rx-2/irq.affinity: 1
      rx-3/irq.affinity: 0
`

// The guard works as the package installs it: TestGuardServiceLive of
// cmd/napitune runs in the guest that this one makes, and when the profile was
// removed the next boot is as if there had been none.
func TestGuardUnit(t *testing.T) {
	r := newReboots(t)
	got := r.boot(dump + networkd + `
dpkg -i /src/dist/napitune_*_amd64.deb >/dev/null
knobs >/root/knobs
cat >/root/guarded.yaml <<'X'
` + guarded + `X
echo "== installed"; /usr/bin/napitune profile install --guard /root/guarded.yaml; echo $?
`)
	if !strings.HasSuffix(got["installed"], "\n0") || !strings.Contains(got["installed"], "napitune-guard.service") {
		t.Errorf("profile install: %s", got["installed"])
	}

	// Only here is anything timed; a clock of instructions makes a boot slower.
	args := []string{"--steady", "./cmd/napitune", "--", "-test.v", "-test.run=^TestGuardServiceLive$", "-test.timeout=0"}
	if *guardLong {
		args = append(args, "-guard-long")
	}
	patience := 35 * time.Minute
	if *guardLong {
		patience = 100 * time.Minute
	}
	text, err := r.guest("test", patience, args...)
	t.Logf("the guest:\n%s", text)
	if err != nil || !strings.Contains(text, "\n--- PASS: TestGuardServiceLive") {
		t.Errorf("in the guest: %v", err)
	}

	r.boot(`echo "== removed"; /usr/bin/napitune profile remove`)
	got = r.boot(dump + `
echo "== as before"; knobs | diff /root/knobs -
echo "== units"; systemctl list-units --no-legend 'napitune*'
`)
	for _, name := range []string{"as before", "units"} {
		if got[name] != "" {
			t.Errorf("%s, after the profile was removed:\n%s", name, got[name])
		}
	}
}
