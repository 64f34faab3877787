package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// settled asks the running irqbalance, when it has done a round and listens.
func settled(t *testing.T, m *machine) host.Irqbalance {
	t.Helper()
	var setup host.Irqbalance
	within(t, time.Minute, "irqbalance answers", func() bool {
		var err error
		setup, err = m.last().Irqbalance()
		return err == nil
	})
	return setup
}

// rounds makes irqbalance place every interrupt anew and waits until it has: a
// hangup does that (irqbalance.c, force_rescan), once the first round is over.
func rounds(t *testing.T, m *machine) {
	t.Helper()
	time.Sleep(5 * time.Second)
	if out, err := exec.Command("pkill", "-HUP", "-x", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	time.Sleep(8 * time.Second)
	settled(t, m)
}

// irqbalance undoes what it was not told about, leaves alone what it was, and has
// its list back after a rollback. In a guest that runs systemd, with irqbalance
// installed and a NIC eth0 of several queues, two CPUs at least:
//
//	go run ./lab/cmd/lab test --mode systemd --nic virtio,queues=4 ./cmd/napitune -- -test.run=TestIrqbalanceLive -test.v
func TestIrqbalanceLive(t *testing.T) {
	onGuest(t)
	_, err := exec.LookPath("irqbalance")
	needs(t, err == nil, "irqbalance")
	napitune := installed(t)
	// One interrupt is banned by its owner, who is to have it back like that.
	if err := os.WriteFile("/etc/default/irqbalance", []byte("IRQBALANCE_ARGS=\"-t 2 --banirq=9\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemctl", "start", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	was := settled(t, m)
	t.Logf("irqbalance at first: %+v", was)
	if !slices.Equal(was.Banned, []int{9}) || was.Interval != 2 {
		t.Fatalf("irqbalance was told %+v", was)
	}
	masks := func() map[string]string {
		t.Helper()
		s, err := detect.Collect(m.last())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for ref, state := range s.Knobs {
			if ref.Dev == "eth0" && ref.Kind == "irq.affinity" && !ref.Tx && state.Has() {
				out[ref.String()] = state.Value
			}
		}
		return out
	}
	// All on the last CPU: no balancer would leave that so.
	var moving []string
	stacked := func() string {
		t.Helper()
		var changes [][2]string
		moving = moving[:0]
		for ref, value := range masks() {
			if value != "3" {
				changes, moving = append(changes, [2]string{ref, "3"}), append(moving, ref)
			}
		}
		slices.SortFunc(changes, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		return writePlan(t, changes)
	}
	// off3 counts the interrupts of the last plan that are not there.
	off3 := func() int {
		n, now := 0, masks()
		for _, ref := range moving {
			if now[ref] != "3" {
				n++
			}
		}
		return n
	}
	// applied retries: irqbalance may move an interrupt after the plan was made.
	applying := func(args ...string) (string, string) {
		t.Helper()
		var cmd *exec.Cmd
		for range 5 {
			cmd = napitune(append(append([]string{"apply", "--yes"}, args...), stacked())...)
			var out, errs strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errs
			if cmd.Run() == nil {
				return out.String(), errs.String()
			}
			t.Logf("again: %s", &errs)
		}
		t.Fatal("no plan could be applied")
		return "", ""
	}
	rounds(t, m)
	t.Logf("placed by irqbalance: %v", masks())
	if len(masks()) < 2 {
		t.Fatal("eth0 has not several queues")
	}

	_, errs := mustEnd(t, exitError, napitune("apply", "--yes", stacked()))
	t.Logf("without a word:\n%s", errs)
	if !strings.Contains(errs, "irqbalance: it writes eth0/rx-0/irq.affinity") || !strings.Contains(errs, "--owner ban tells it to leave them alone") {
		t.Errorf("not refused: %s", errs)
	}

	// Taken, the interrupts do not stay where they were put.
	applying("--owner", "take")
	rounds(t, m)
	t.Logf("taken, after a round: %v", masks())
	if off3() == 0 {
		t.Error("irqbalance left them alone untold: the rest proves nothing")
	}

	// Banned, they stay.
	out, errs := applying("--owner", "irqbalance=ban", "--format", "json")
	applied := decode[report.Transaction](t, out)
	t.Logf("banned: %+v\n%s", applied.Changes[0], errs)
	if applied.Changes[0].Ref != knob.Global("irqbalance.banned") || applied.Changes[0].Verdict != apply.VerdictApplied {
		t.Errorf("the first change is %+v", applied.Changes[0])
	}
	if !strings.Contains(errs, "--policyscript=") || !strings.Contains(errs, "ban=true") {
		t.Errorf("nothing lasting is named:\n%s", errs)
	}
	rounds(t, m)
	rounds(t, m)
	t.Logf("banned, after two rounds: %v, %+v", masks(), settled(t, m))
	if off3() != 0 {
		t.Errorf("irqbalance moved what it was told to leave: %v", masks())
	}
	out, _ = mustEnd(t, 0, napitune("rollback"))
	t.Logf("rollback:\n%s", out)
	if !strings.Contains(out, "the host is as it was") || strings.Count(out, "restored to") != len(applied.Changes) {
		t.Errorf("not all of %d changes are undone", len(applied.Changes))
	}
	if got := settled(t, m); !slices.Equal(got.Banned, was.Banned) {
		t.Errorf("irqbalance is left with %+v", got)
	}

	// Ended meanwhile, it has forgotten, and that is no obstacle.
	rounds(t, m)
	applying("--owner", "ban")
	if out, err := exec.Command("systemctl", "stop", "irqbalance").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, _ = mustEnd(t, 0, napitune("rollback"))
	if !strings.Contains(out, "irqbalance is not running") {
		t.Errorf("after it stopped:\n%s", out)
	}
}

// What a site has besides napitune: a profile of tuned, with one that tuned comes
// with below it, and a .link file.
const (
	siteTuned = "[main]\ninclude=network-throughput\n\n[sysctl]\nnet.core.netdev_budget=500\n\n[site_net]\ntype=net\ndevices=eth0\nfeatures=gro off\n"
	siteLink  = "[Match]\nOriginalName=eth0\n\n[Link]\nCombinedChannels=2\nRxBufferSize=128\n"
)

// tuned and systemd-udevd themselves set what a plan changes: each is named for
// its settings, is given what --owner says, and finds the host as it left it
// after a rollback. In a guest that runs systemd, with tuned installed and a NIC
// eth0 of four queues:
//
//	go run ./lab/cmd/lab test --mode systemd --nic virtio,queues=4 --timeout 20m ./cmd/napitune -- -test.run=TestTunedAndLinkLive -test.v
func TestTunedAndLinkLive(t *testing.T) {
	onGuest(t)
	_, err := exec.LookPath("tuned-adm")
	needs(t, err == nil, "tuned")
	napitune := installed(t)
	command := func(words ...string) {
		t.Helper()
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
	}
	put := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	present := func(refs ...string) []string {
		t.Helper()
		now, out := settings(t), make([]string, len(refs))
		for i, ref := range refs {
			out[i] = now[ref].Value
		}
		return out
	}
	const budget, gro, channels, ring = "net.core.netdev_budget", "eth0/feature.rx-gro", "eth0/channels.combined", "eth0/ring.rx"
	holds := func(want ...string) func() bool {
		return func() bool { return slices.Equal(present(budget, gro, channels, ring), want) }
	}
	appears := func() { command("udevadm", "trigger", "--action=add", "--settle", "/sys/class/net/eth0") }

	put("/etc/systemd/network/10-site.link", siteLink)
	command("udevadm", "control", "--reload")
	appears()
	put("/etc/tuned/site/tuned.conf", siteTuned)
	put("/etc/tuned/active_profile", "site\n")
	put("/etc/tuned/profile_mode", "manual\n")
	command("systemctl", "start", "tuned")
	within(t, 3*time.Minute, "tuned and the .link file have set what they are to", holds("500", "off", "2", "128"))
	before := settings(t)

	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	owners, err := findOwners(m)
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[knob.Ref]string{
		knob.Global(budget): "tuned 500 /etc/tuned/site/tuned.conf", knob.Device("eth0", "feature.rx-gro"): "tuned off /etc/tuned/site/tuned.conf",
		knob.Device("eth0", "channels.combined"): "systemd-udevd 2 /etc/systemd/network/10-site.link",
		knob.Device("eth0", "ring.rx"):           "systemd-udevd 128 /etc/systemd/network/10-site.link",
	} {
		var got []string
		for _, o := range owners {
			if c, ok := o.Claim(ref); ok {
				got = append(got, strings.Join([]string{o.Name, c.Value, c.Source}, " "))
			}
		}
		if !slices.Contains(got, want) {
			t.Errorf("%s is claimed by %q, not by %q", ref, got, want)
		}
	}

	changes := [][2]string{{budget, "600"}, {gro, "on"}, {channels, "4"}, {ring, "256"}}
	applying := func(code int, owners ...string) string {
		t.Helper()
		args := []string{"apply", "--yes", "--measure", "off", "--max-disruption", "link"}
		for _, o := range owners {
			args = append(args, "--owner", o)
		}
		out, errs := mustEnd(t, code, napitune(append(args, writePlan(t, changes))...))
		t.Logf("--owner %v: %s%s", owners, out, errs)
		return out + errs
	}
	undone := func(what string) {
		t.Helper()
		out, _ := mustEnd(t, 0, napitune("rollback"))
		if diff := cmp.Diff(before, settings(t)); diff != "" || !strings.Contains(out, "the host is as it was") {
			t.Errorf("%s, after the rollback (-before +after):\n%s\n%s", what, diff, out)
		}
	}
	named := func(text string) {
		t.Helper()
		for _, want := range []string{"tuned writes " + budget + ", " + gro + " as well", "systemd-udevd writes " + channels + ", " + ring + " as well"} {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
				t.Errorf("nothing says %q", want)
			}
		}
	}

	named(applying(0))
	if !holds("600", "on", "4", "256")() {
		t.Errorf("applied: %q", present(budget, gro, channels, ring))
	}
	undone("without a word")

	applying(0, "leave")
	if !holds("500", "off", "4", "256")() {
		t.Errorf("left: %q", present(budget, gro, channels, ring))
	}
	undone("leave")

	applying(0, "systemd-udevd=leave")
	if !holds("600", "on", "2", "128")() {
		t.Errorf("the file's left: %q", present(budget, gro, channels, ring))
	}
	undone("leave the file's")

	if text := applying(exitError, "tuned=ban"); !strings.Contains(text, "cannot be told to leave them") {
		t.Error("a ban that cannot be is not refused")
	}
	if diff := cmp.Diff(before, settings(t)); diff != "" {
		t.Errorf("refused, and yet (-before +after):\n%s", diff)
	}

	// Taken, the settings are theirs again when they come by.
	named(applying(0, "take"))
	command("systemctl", "restart", "tuned")
	appears()
	within(t, 3*time.Minute, "tuned and udev have set theirs again", holds("500", "off", "2", "128"))
	undone("taken, and taken back by its owners")

	// Ended meanwhile, tuned puts back what it found: a value that is neither ours
	// nor the old one stays, and one that is like ours is taken back.
	applying(0, "take")
	command("systemctl", "stop", "tuned")
	within(t, time.Minute, "tuned has put back what it found", func() bool { return present(budget)[0] == "300" })
	out, _ := mustEnd(t, apply.ExitDirty, napitune("rollback"))
	t.Logf("after tuned ended: %s", out)
	if !holds("300", "off", "2", "128")() {
		t.Errorf("after tuned ended: %q", present(budget, gro, channels, ring))
	}
}
