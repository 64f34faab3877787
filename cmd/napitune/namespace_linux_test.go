package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
	"github.com/vishvananda/netlink" //nolint:depguard // makes devices in a namespace of its own
)

// namespaceEnv marks a test binary that runs itself again in namespaces of its own.
const namespaceEnv = "NAPITUNE_CMD_CHILD"

// needs skips a test that this machine cannot do, and fails it under CI, which can.
func needs(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true", os.Getenv(guestEnv) != "":
		t.Fatalf("CI and guests of the lab must have %s", what)
	default:
		t.Skipf("skipped: needs %s", what)
	}
}

// inNamespace runs the test as root in fresh network and mount namespaces with
// a veth pair, where /sys shows only that and journals and history are empty
// and in memory. Nothing of it outlives the child, and no device of this
// machine is there to be touched.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if !inNamespaces(t, ownNetwork|ownMounts) {
		return false
	}
	if _, err := os.Stat("/sys/class/net/eth0"); err == nil {
		t.Fatal("the namespace is not fresh")
	}
	addVeth(t)
	return true
}

const (
	ownNetwork = syscall.CLONE_NEWNET
	ownMounts  = syscall.CLONE_NEWNS
)

// inNamespaces runs the test as root in fresh namespaces and reports whether
// this is the child. Journals and history are empty there and in memory.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != t.Name() {
		needs(t, os.Getuid() == 0, "root")
		cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			needs(t, false, "the right to make namespaces")
		}
		t.Logf("in the child:\n%s", out)
		if err != nil {
			t.Errorf("child: %v", err)
		}
		if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) && !bytes.Contains(out, []byte("--- FAIL")) {
			t.Error("the child did not run the test")
		}
		return false
	}
	mount := func(kind, at string, flags uintptr) {
		t.Helper()
		if err := syscall.Mount(kind, at, kind, flags, ""); err != nil {
			t.Fatalf("mount %s on %s: %v", kind, at, err)
		}
	}
	mount("", "/", syscall.MS_REC|syscall.MS_PRIVATE)
	if flags&ownNetwork != 0 {
		mount("sysfs", "/sys", 0)
	}
	mount("tmpfs", "/run", 0)
	mount("tmpfs", "/var/lib", 0)
	return true
}

// lockMachine waits for other tests, of this and of other checkouts, that change
// what all of the machine shares.
func lockMachine(t *testing.T) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(os.TempDir(), "napitune-test-machine.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// keepSysctls restores the sysctls of the machine when the test ends, and when
// a signal ends it.
func keepSysctls(t *testing.T) {
	t.Helper()
	before := map[string][]byte{}
	for _, kind := range knob.All() {
		if kind.Stage != knob.StageSysctl {
			continue
		}
		if text, err := os.ReadFile(sysctlPath(kind.Name)); err == nil {
			before[kind.Name] = text
		}
	}
	restore := func() error {
		var errs []error
		for name, text := range before {
			now, err := os.ReadFile(sysctlPath(name))
			if err == nil && bytes.Equal(now, text) {
				continue
			}
			errs = append(errs, fmt.Errorf("%s was left at %q", name, now), err, os.WriteFile(sysctlPath(name), text, 0))
		}
		return errors.Join(errs...)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			_ = restore()
			os.Exit(1)
		case <-done:
		}
	}()
	t.Cleanup(func() {
		signal.Stop(signals)
		close(done)
		if err := restore(); err != nil {
			t.Error(err)
		}
	})
}

// addVeth makes a pair v0/v1 and brings it up.
func addVeth(t testing.TB) {
	t.Helper()
	addPair(t, "v0", "v1")
	up(t, "lo")
}

// addPair makes a veth pair with 4 queues each way and brings it up.
func addPair(t testing.TB, name, peer string) {
	t.Helper()
	addQueues(t, name, peer, 4)
}

func addQueues(t testing.TB, name, peer string, queues int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = name, queues, queues
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNumRxQueues, veth.PeerNumTxQueues = peer, uint32(queues), uint32(queues)
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	up(t, name)
	up(t, peer)
}

func up(t testing.TB, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settings dumps the namespace: every setting of the table that has a value or
// a reason, whether or not advice is about it, the text of every file that a
// write or its side effect may change, and the values of single NAPIs. Equal
// dumps mean that the host is the same byte for byte.
func settings(t testing.TB) map[string]knob.State {
	t.Helper()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	v, err := currentView(m)
	if err != nil {
		t.Fatal(err)
	}
	for i := range v.Devices {
		v.Devices[i].Tunable = true
	}
	out := map[string]knob.State{}
	for _, kind := range knob.All() {
		for _, ref := range kind.Refs(v) {
			out[ref.String()] = kind.Read(v, ref)
		}
	}
	for _, pattern := range []string{
		"queues/*/rps_*", "queues/*/xps_*", "queues/*/tx_maxrate", "gro_flush_timeout", "napi_defer_hard_irqs", "threaded", "tx_queue_len",
	} {
		files, err := filepath.Glob("/sys/class/net/*/" + pattern)
		if err != nil || len(files) == 0 && pattern != "queues/*/xps_*" {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			out[file] = knob.State{Value: string(text)}
			if err != nil {
				out[file] = knob.State{Reason: err.Error()}
			}
		}
	}
	for _, d := range v.Devices {
		for name, read := range map[string]func() (any, error){
			"channels":   func() (any, error) { return v.Host.Ethtool.Channels(d.Name) },
			"features":   func() (any, error) { return v.Host.Ethtool.Features(d.Name) },
			"coalescing": func() (any, error) { return v.Host.Ethtool.Coalesce(d.Name) },
			"rss":        func() (any, error) { return v.Host.Ethtool.RSS(d.Name) },
		} {
			value, err := read()
			out[d.Name+" "+name] = knob.State{Value: fmt.Sprintf("%+v, %v", value, err)}
		}
	}
	for at, napi := range napis(t, v.Host) {
		out[at] = knob.State{Value: fmt.Sprintf("defer %d flush %d suspend %d threaded %d",
			napi.DeferHardIRQs, napi.GROFlushTimeout, napi.IRQSuspend, napi.Threaded)}
	}
	return out
}

// napis are the NAPIs by device index and receive queue, since their numbers
// change with the queues.
func napis(t testing.TB, h *host.Host) map[string]host.NAPI {
	t.Helper()
	queues, err := h.Netdev.Queues()
	if errors.Is(err, host.ErrUnsupported) {
		return nil // before Linux 6.8
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Netdev.NAPIs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]host.NAPI{}
	for _, q := range queues {
		for _, n := range list {
			if !q.Tx && q.NAPI > 0 && n.ID == q.NAPI {
				out[fmt.Sprintf("NAPI of rx-%d of interface %d", q.ID, q.IfIndex)] = n
			}
		}
	}
	return out
}

// writePlan makes a plan file from the values that settings are to have.
func writePlan(t testing.TB, want [][2]string) string {
	t.Helper()
	m, err := openHost("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := detect.Collect(m.last())
	if err != nil {
		t.Fatal(err)
	}
	made, present := origin(s), settings(t)
	p := plan.Plan{Fingerprint: made.Fingerprint(), Origin: &made, Profile: "test", Complete: true, Applyable: true}
	for i, w := range want {
		ref, err := knob.ParseRef(w[0])
		if err != nil {
			t.Fatal(err)
		}
		state, there := present[ref.String()]
		if !there || state.Status != knob.Known {
			t.Fatalf("%s: %s: %s", ref, state.Status, state.Reason)
		}
		if state.Value == w[1] {
			t.Fatalf("%s is %s already: that is no change", ref, w[1])
		}
		p.Changes = append(p.Changes, plan.Change{Seq: i + 1, Ref: ref, Before: state.Value, After: w[1], Why: "the test asks for it"})
	}
	path := filepath.Join(t.TempDir(), "plan.json")
	if err := savePlan(path, p); err != nil {
		t.Fatal(err)
	}
	return path
}

// vethChanges are of every kind of setting that a veth has. That a packet may
// change its CPU under RPS is the worst they do to traffic.
func vethChanges() [][2]string {
	return [][2]string{
		{"v0/rx-0/rps.cpus", "0-1"}, {"v0/rx-1/rps.cpus", "1"},
		{"v0/rx-0/rps.flow_cnt", "1024"}, {"v0/gro_flush_timeout", "20000"},
		{"v0/feature.rx-gro", "on"}, {"v0/feature.rx-udp-gro-forwarding", "on"},
		{"v0/napi_defer_hard_irqs", "2"}, {"v0/threaded", "on"},
		{"v1/rx-2/rps.cpus", "0"}, {"v1/gro_flush_timeout", "50000"},
		{"v0/tx-0/xps.cpus", "0"}, {"v0/tx-1/xps.cpus", "1"}, {"v1/channels.rx", "3"},
	}
}

// queueChanges are three settings of every queue of a device.
func queueChanges(dev string, queues int) [][2]string {
	var out [][2]string
	for q := range queues {
		out = append(out, [2]string{fmt.Sprintf("%s/rx-%d/rps.cpus", dev, q), fmt.Sprint(q % 2)},
			[2]string{fmt.Sprintf("%s/rx-%d/rps.flow_cnt", dev, q), "256"},
			[2]string{fmt.Sprintf("%s/tx-%d/xps.cpus", dev, q), fmt.Sprint(q % 2)})
	}
	return out
}

// command runs napitune as a process, so that it can be killed.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"napitune"}, args...)
	return cmd
}

func mustEnd(t testing.TB, code int, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s ended with %d, want %d\n%s%s", strings.Join(cmd.Args, " "), got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

func decode[T any](t testing.TB, text string) T {
	t.Helper()
	var out T
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return out
}

func same(t testing.TB, what string, want map[string]knob.State) {
	t.Helper()
	if diff := cmp.Diff(want, settings(t)); diff != "" {
		t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}
