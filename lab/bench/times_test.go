package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/lab/faults"
)

// job is one thing that programs do in turn, each as one whole process that
// ends when it is done.
type job struct {
	name     string
	programs []program
	same     bool   // they leave the same settings
	undo     string // shell text for what no file holds
}

type program struct{ name, command string }

// TestTimes takes the time that napitune and others need for the same
// settings. It runs in a guest:
//
//	go run ./lab/cmd/lab test --cpus 8 --nic virtio,queues=8 --nic virtio,queues=8 --results times.json ./lab/bench -- -test.v -test.run=TestTimes$
func TestTimes(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: the command is in the comment of this test")
	}
	// Files of the share are read from the host each time.
	run(t, "mkdir -p /run/times /etc/tuned/times && cp $(command -v napitune) /run/times/ && cp /lab/bin/perftune.py /run/times/ 2>/dev/null; cp /lab/bin/python.zip /run/times/ 2>/dev/null; "+
		"sed -i 's/^daemon = 1/daemon = 0/' /etc/tuned/tuned-main.conf")
	write(t, "/run/times/sixty.yaml", sixtyProfile())
	write(t, "/run/times/nic.yaml", nicProfile)
	write(t, "/etc/tuned/times/tuned.conf", sixtyTuned())
	write(t, "/etc/tuned/times/place.sh", placeScript)
	run(t, "chmod +x /etc/tuned/times/place.sh")
	jobs := []job{{name: "60 settings of two NICs and the host", same: true, programs: []program{
		{"napitune boot", "/run/times/napitune boot /run/times/sixty.yaml"},
		{"tuned, one shot", "tuned --no-dbus --log=/run/times/tuned.log --profile times"},
	}}}
	if _, err := os.Stat("/run/times/perftune.py"); err == nil {
		jobs = append(jobs, job{name: "what perftune.py sets for a NIC", undo: "ethtool -L eth0 combined 8", programs: []program{
			{"napitune boot", "/run/times/napitune boot /run/times/nic.yaml"},
			{"perftune.py", "PYTHONPATH=/run/times/python.zip python3 /run/times/perftune.py --tune net --nic eth0"},
		}})
	}
	for _, j := range jobs {
		j.measure(t)
	}
}

// measure has the programs act in turn, the first time for the page cache only.
func (j job) measure(t *testing.T) {
	t.Helper()
	before := read(t)
	const turns = 5
	times := make([]Timed, len(j.programs))
	for turn := range turns + 1 {
		var first faults.Settings
		for i, p := range j.programs {
			start := time.Now()
			run(t, p.command)
			took := time.Since(start)
			made := read(t)
			if i == 0 {
				first = made
			}
			if differs := first.Diff(made); j.same && len(differs) > 0 {
				t.Fatalf("%s: %s does not leave what %s does: %s", j.name, p.name, j.programs[0].name, strings.Join(differs, "; "))
			}
			changed := before.Diff(made)
			if len(changed) == 0 {
				t.Fatalf("%s: %s changed nothing", j.name, p.name)
			}
			times[i].What, times[i].Program, times[i].Changed = j.name, p.name, len(changed)
			if turn > 0 {
				times[i].Seconds = append(times[i].Seconds, took.Seconds())
			}
			t.Logf("%s: %s: %d changed in %s", j.name, p.name, len(changed), took)
			putBack(t, before, j.undo)
		}
	}
	out, err := os.OpenFile("/lab/results", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, line := range times {
		if err := json.NewEncoder(out).Encode(line); err != nil {
			t.Fatal(err)
		}
	}
}

func putBack(t *testing.T, before faults.Settings, undo string) {
	t.Helper()
	run(t, undo)
	if err := before.Restore(read(t)); err != nil {
		t.Fatal(err)
	}
	if differs := before.Diff(read(t)); len(differs) > 0 {
		t.Fatalf("not put back: %s", strings.Join(differs, "; "))
	}
	// What napitune would roll back is gone.
	if err := os.RemoveAll("/run/napitune"); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T) faults.Settings {
	t.Helper()
	s, err := faults.ReadSettings("eth0", "eth1")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/sys/net/ipv4/tcp_mem", "/proc/sys/net/ipv4/tcp_max_syn_backlog"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s[path] = string(text)
	}
	return s
}

func run(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Clean(path), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sixtyProfile has 4 settings of the host, 40 of the 8 queue pairs of eth0 and
// 16 of those of eth1, none of them what the kernel chooses.
func sixtyProfile() string {
	var b strings.Builder
	b.WriteString("boot-profile: 1\nname: sixty\nhost:\n")
	for _, s := range hostSettings() {
		fmt.Fprintf(&b, "  %s: %s\n", s[0], s[1])
	}
	b.WriteString("devices:\n  - match: {name: eth0}\n    settings:\n")
	for q := range 8 {
		fmt.Fprintf(&b, "      rx-%d/rps.cpus: %d\n      rx-%d/rps.flow_cnt: 1024\n      tx-%d/xps.cpus: %d\n", q, 7-q, q, q, 7-q)
		fmt.Fprintf(&b, "      rx-%d/irq.affinity: %d\n      tx-%d/irq.affinity: %d\n", q, (q+1)%8, q, (q+1)%8)
	}
	b.WriteString("  - match: {name: eth1}\n    settings:\n")
	for q := range 8 {
		fmt.Fprintf(&b, "      rx-%d/rps.cpus: %d\n      rx-%d/rps.flow_cnt: 1024\n", q, 7-q, q)
	}
	return b.String()
}

func hostSettings() [][2]string {
	return [][2]string{{"net.core.netdev_budget", "600"}, {"net.core.netdev_budget_usecs", "12000"},
		{"net.core.netdev_max_backlog", "2000"}, {"net.core.rps_sock_flow_entries", "32768"}}
}

// sixtyTuned is the same for tuned, which has no plugin for interrupts.
func sixtyTuned() string {
	var b strings.Builder
	b.WriteString("[main]\nsummary=sixty settings\n[sysctl]\n")
	for _, s := range hostSettings() {
		fmt.Fprintf(&b, "%s=%s\n", s[0], s[1])
	}
	b.WriteString("[sysfs]\n")
	for q := range 8 {
		fmt.Fprintf(&b, "/sys/class/net/eth0/queues/tx-%d/xps_cpus=%02x\n", q, 1<<(7-q))
		for _, dev := range []string{"eth0", "eth1"} {
			fmt.Fprintf(&b, "/sys/class/net/%s/queues/rx-%d/rps_cpus=%02x\n", dev, q, 1<<(7-q))
			fmt.Fprintf(&b, "/sys/class/net/%s/queues/rx-%d/rps_flow_cnt=1024\n", dev, q)
		}
	}
	b.WriteString("[script]\nscript=${i:PROFILE_DIR}/place.sh\n")
	return b.String()
}

const placeScript = `#!/bin/sh
[ $1 = start ] || exit 0
for f in /proc/irq/*/$(basename $(readlink -f /sys/class/net/eth0/device))-*put.*; do
	echo $(((${f##*.} + 1) % 8)) >${f%/*}/smp_affinity_list
done
`

// nicProfile is what perftune.py leaves of a NIC with 8 queue pairs on 8 CPUs,
// but for its settings of TCP, which napitune has none of.
const nicProfile = `boot-profile: 1
name: nic
host:
  net.core.rps_sock_flow_entries: 32768
devices:
  - match: {name: eth0}
    settings:
      channels.combined: 1
      rx-0/rps.cpus: 0-7
      rx-0/rps.flow_cnt: 32768
      rx-0/irq.affinity: 0
      tx-0/irq.affinity: 0
`
