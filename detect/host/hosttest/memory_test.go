package hosttest

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// virtio4 is a virtual machine with four CPUs and a NIC of four queues.
func virtio4() Spec { return Spec{CPUs: 4, QueuesPerNIC: 4, IRQStacked: true} }

// i40e2 is a server with two nodes of eight threads and two NICs.
func i40e2() Spec {
	return Spec{CPUs: 16, Nodes: 2, SMT: 2, NICs: 2, QueuesPerNIC: 8, MaxQueues: 16, Driver: "i40e", IRQStacked: true}
}

func newMemory(t *testing.T, spec Spec) *Memory {
	t.Helper()
	hosts, err := Generate(spec)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(hosts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func read(t *testing.T, m *Memory, name string) string {
	t.Helper()
	text, err := m.Host(m.Samples() - 1).ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func write(t *testing.T, m *Memory, name, text string) {
	t.Helper()
	if err := m.Writer().WriteFile(name, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// refused wants a write to fail with a certain error and to change nothing.
func refused(t *testing.T, m *Memory, name, text string, want error) {
	t.Helper()
	before := m.Dump()
	err := m.Writer().WriteFile(name, []byte(text))
	if !errors.Is(err, want) {
		t.Errorf("write %q to %s: %v, want %v", text, name, err, want)
	}
	if diff := cmp.Diff(before, m.Dump()); diff != "" {
		t.Errorf("the refused write of %q to %s changed (-was +is):\n%s", text, name, diff)
	}
}

func TestReadsThrough(t *testing.T) {
	t.Parallel()
	hosts, err := Generate(i40e2())
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(hosts)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range hosts {
		got := m.Host(i)
		for _, name := range []string{interruptsFile, softirqsFile, softnetFile, statFile, "sys/class/net/eth1/device/numa_node"} {
			want, err := h.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text, err := got.ReadFile(name)
			if err != nil || !slices.Equal(want, text) {
				t.Errorf("sample %d: %s differs (%v)", i, name, err)
			}
		}
		if !got.Now().Equal(h.Now()) {
			t.Errorf("sample %d: time differs", i)
		}
		rss, err := got.Ethtool.RSS("eth0")
		if err != nil || len(rss.Table) != 512 {
			t.Errorf("RSS: %d entries, %v", len(rss.Table), err)
		}
		rss.Table[0] = 99
		if again, _ := got.Ethtool.RSS("eth0"); again.Table[0] == 99 {
			t.Error("a caller can change the table")
		}
		if _, err := got.Ethtool.Rings("eth9"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("rings of no device: %v", err)
		}
	}
}

// A machine that is only flushed must have byte-identical counter files.
func TestFlushKeepsText(t *testing.T) {
	t.Parallel()
	for _, spec := range []Spec{virtio4(), i40e2(), {CPUs: 1, QueuesPerNIC: 1}} {
		m := newMemory(t, spec)
		files := []string{interruptsFile, softirqsFile, softnetFile, statFile}
		var before []string
		for _, f := range files {
			before = append(before, read(t, m, f))
		}
		c, err := m.parsed()
		if err != nil {
			t.Fatal(err)
		}
		c.dirty = true
		for _, t := range slices.Concat(c.interrupts, c.softirqs) {
			for _, r := range t.rows {
				if r.counts != nil {
					r.text = ""
				}
			}
		}
		for i, f := range files {
			if diff := cmp.Diff(before[i], read(t, m, f)); diff != "" {
				t.Errorf("%s (-before +after):\n%s", f, diff)
			}
		}
	}
}

func TestWritesDoNotReachTheSample(t *testing.T) {
	t.Parallel()
	hosts, err := Generate(virtio4())
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMemory(hosts)
	if err != nil {
		t.Fatal(err)
	}
	write(t, m, "proc/sys/net/core/netdev_budget", "600")
	write(t, m, "proc/irq/41/smp_affinity", "8")
	if got := read(t, m, "proc/sys/net/core/netdev_budget"); got != "600" {
		t.Errorf("budget %s", got)
	}
	if text, _ := m.Host(0).ReadFile("proc/sys/net/core/netdev_budget"); string(text) != "600\n" {
		t.Errorf("budget of the first sample %q: settings are shared", text)
	}
	if text, _ := hosts[1].ReadFile("proc/sys/net/core/netdev_budget"); string(text) != "300\n" {
		t.Errorf("the host that was handed in has budget %q", text)
	}
	if text, _ := hosts[1].ReadFile("proc/irq/41/smp_affinity_list"); string(text) != "0\n" {
		t.Errorf("the host that was handed in has affinity %q", text)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	m := newMemory(t, virtio4())
	for _, name := range []string{
		"proc/sys/net/core/nonsense", "proc/sys/net/core/somaxconn", "etc/passwd", "proc/irq/41/node", "proc/irq/999/smp_affinity",
		"proc/irq/default_smp_affinity", "sys/class/net/eth9/threaded", "sys/class/net/eth0/mtu",
		"sys/class/net/eth0/queues/rx-9/rps_cpus", "sys/class/net/eth0/queues/tx-0/tx_timeout", "../etc/passwd", "",
	} {
		if err := m.Writer().WriteFile(name, []byte("1")); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	w := m.Writer()
	for name, err := range map[string]error{
		"channels": w.SetChannels("eth9", host.Channels{Combined: 1}),
		"rings":    w.SetRings("eth9", host.Rings{}),
		"coalesce": w.SetCoalesce("eth9", host.Coalesce{}),
		"features": w.SetFeatures("eth9", map[string]bool{"rx-gro": true}),
		"feature":  w.SetFeatures("eth0", map[string]bool{"rx-nonsense": true}),
		"rss":      w.SetRSS("eth0", []uint32{0}),
		"hash":     w.SetHashFields("eth0", "udp4", "sdfn"),
		"napi":     w.SetNAPI(host.NAPI{ID: 1}),
	} {
		if err == nil {
			t.Errorf("%s was set", name)
		}
	}
}

func TestNewMemoryRefuses(t *testing.T) {
	t.Parallel()
	for _, samples := range [][]*host.Host{nil, {}, {nil}, {{}}} {
		if m, err := NewMemory(samples); err == nil || m != nil {
			t.Errorf("NewMemory(%v) = %v, %v", samples, m, err)
		}
	}
}

// unseen answers "not captured" for what it does not have.
type unseen struct{ fstest.MapFS }

func (u unseen) Stat(name string) (fs.FileInfo, error) {
	info, err := u.MapFS.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: host.ErrNotCaptured}
	}
	return info, err
}

func TestForeignTreesAreCopied(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{
		"proc/sys/net/core/netdev_budget": {Data: []byte("300\n"), Mode: 0o644},
		"proc/irq/30/smp_affinity":        {Data: []byte("1\n"), Mode: 0o444},
		"sys/devices/pci/eth0/threaded":   {Data: []byte("0\n"), Mode: 0o644},
		"sys/class/net/eth0":              {Data: []byte("../../devices/pci/eth0"), Mode: fs.ModeSymlink},
	}
	m, err := NewMemory([]*host.Host{{FS: unseen{files}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, m, "sys/class/net/eth0/threaded", "1")
	if got := read(t, m, "sys/devices/pci/eth0/threaded"); got != "1" {
		t.Errorf("the write behind the link did not arrive: %q", got)
	}
	refused(t, m, "proc/irq/30/smp_affinity", "1", syscall.EPERM)
	if _, err := m.Host(0).ReadFile("proc/softirqs"); !errors.Is(err, host.ErrNotCaptured) {
		t.Errorf("what was not captured gives %v", err)
	}
	if string(files["sys/devices/pci/eth0/threaded"].Data) != "0\n" {
		t.Error("the write reached the files that were handed in")
	}
}

// Writing every setting to another value and back must leave the machine as it
// was: the law of identity on which rollback rests.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, spec := range []Spec{virtio4(), i40e2(), {CPUs: 8, SMT: 2, QueuesPerNIC: 4, MaxQueues: 8, Driver: "ixgbe", Isolated: "6-7"}} {
		m := newMemory(t, spec)
		before := m.Dump()
		changed := 0
		for _, k := range knob.All() {
			if k.Stage == knob.StageChannels || k.Name == "rss.table" || k.Stage == knob.StageFeatures && len(k.Clobbers) > 0 {
				continue // their side effects are tested on their own
			}
			v := m.View()
			for _, r := range k.Refs(v) {
				was := k.Read(v, r)
				other, ok := another(k, was)
				if !ok {
					continue
				}
				if err := k.Write(v, m.Writer(), r, other); err != nil {
					t.Errorf("%s: %v", spec.Driver, err)
					continue
				}
				if now := k.Read(m.View(), r); now.Value == was.Value {
					t.Errorf("%s: %s is still %q after writing %q", spec.Driver, r, now.Value, other)
				}
				changed++
				if err := k.Write(m.View(), m.Writer(), r, was.Value); err != nil {
					t.Errorf("%s: back: %v", spec.Driver, err)
				}
			}
		}
		if diff := cmp.Diff(before, m.Dump()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", spec.Driver, diff)
		}
		if changed < 15 {
			t.Errorf("%s: only %d settings could be changed", spec.Driver, changed)
		}
	}
}

// another is a value that differs from the present one and is within bounds.
func another(k *knob.Kind, was knob.State) (string, bool) {
	if was.Status != knob.Known {
		return "", false
	}
	for _, value := range []string{"on", "off", "sd", "sdfn", "1", "2", "1024", "20000", "3", "0-1"} {
		canonical, err := k.Codec.Canonical(value)
		if err == nil && canonical != was.Value && k.Check(was.Bounds, canonical) == nil {
			return canonical, true
		}
	}
	return "", false
}

func TestDumpIsDeterministic(t *testing.T) {
	t.Parallel()
	first := newMemory(t, i40e2()).Dump()
	if diff := cmp.Diff(first, newMemory(t, i40e2()).Dump()); diff != "" {
		t.Errorf("two machines of one spec (-first +second):\n%s", diff)
	}
	for _, want := range []string{
		"eth1/rx-7/irq.affinity = 0\n", "eth0/rss.table = 0-7*64\n", "net.core.netdev_budget_usecs = 8000\n",
		"/proc/irq/40/smp_affinity = 0\n", "napi 8193 of 2: ", "eth0/channels.rx: unsupported, ",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in the dump:\n%s", want, first)
		}
	}
}
