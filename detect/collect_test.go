package detect

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

func TestCollectNothing(t *testing.T) {
	for name, h := range map[string]*host.Host{"no host": nil, "empty host": {}, "empty tree": {FS: tree.New()}} {
		if s, err := Collect(h); err == nil || s != nil {
			t.Errorf("%s: %v, %v, want an error and no snapshot", name, s, err)
		}
	}
}

// TestNoFiles: netlink and ethtool alone are worth something.
func TestNoFiles(t *testing.T) {
	s, err := Collect(&host.Host{Links: func() ([]host.Link, error) { return []host.Link{{Name: "eth0", Index: 2, Up: true}}, nil }})
	if err != nil || len(s.Devices) != 1 || s.Devices[0].Kind != "physical" || len(Between(s).Device) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestGapReasons: a person must be told what to do, and "not there" must not
// be taken for "not captured".
func TestGapReasons(t *testing.T) {
	fsys := tree.New()
	for name, err := range map[string]error{
		"proc/interrupts":       fs.ErrPermission,
		"proc/softirqs":         host.ErrNotCaptured,
		"proc/net/softnet_stat": errors.New("input/output error"),
	} {
		if err := fsys.Fail(name, err); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.WriteFile("proc/stat", []byte("cpu0 1 2 3 4\ncpu1 x\n")); err != nil {
		t.Fatal(err)
	}
	h := &host.Host{FS: fsys, Links: func() ([]host.Link, error) {
		return []host.Link{{Name: "eth0", Index: 2, Up: true, Kind: "dummy"}, {Name: "eth1", Index: 3}}, nil
	}}
	h.Ethtool.Channels = func(string) (host.Channels, error) { return host.Channels{}, host.ErrUnsupported }
	h.Ethtool.Rings = func(dev string) (host.Rings, error) { return host.Rings{}, fmt.Errorf("rings: %w", fs.ErrPermission) }
	s, err := Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, g := range s.Gaps {
		got[g.Source] = g.Reason
	}
	for source, want := range map[string]string{
		"proc/interrupts":       "permission denied (run as root)",
		"proc/softirqs":         "not captured",
		"proc/net/softnet_stat": "read proc/net/softnet_stat: input/output error",
		"proc/net/dev":          "not there",
		"proc/stat":             `line 2: cpu1: "x" is not a number`,
		"ethtool -g eth1":       "permission denied (run as root)",
		"ethtool -c eth1":       "not captured",
	} {
		if reason := got[source]; reason != want && !strings.HasSuffix(reason, strings.TrimPrefix(want, "read proc/net/softnet_stat: ")) {
			t.Errorf("gap %s: %q, want %q", source, reason, want)
		}
	}
	d := s.Device("eth1")
	if !d.ChannelsUnsupported || d.Channels != nil || got["ethtool -l eth1"] != "" {
		t.Errorf("a certain no is a gap: %+v, %q", d, got["ethtool -l eth1"])
	}
	if s.Device("eth0").Kind != "virtual" || got["ethtool -g eth0"] != "" {
		t.Errorf("a dummy device was asked for its rings")
	}
	if s.Topo.Online != cpuset.Of(0) {
		t.Errorf("online %s, want the CPUs of /proc/stat", s.Topo.Online)
	}
}

func TestMaskedInterrupts(t *testing.T) {
	sc := scene{files: map[string]string{"proc/interrupts": "", "proc/stat": "cpu0 1 2 3 4\n"}, netlink: []host.Link{{Name: "eth0", Index: 2, Up: true, RxQueues: 1}}}
	sc.queues("eth0", 1, 1)
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	if q := s.Device("eth0").Queues; !s.IRQs.Masked || len(q) != 1 || q[0].RxIRQ != -1 || q[0].Why != "/proc/interrupts is hidden by a container runtime" {
		t.Errorf("masked %v, queues %+v", s.IRQs.Masked, q)
	}
}

// TestAsksOnce: drivers must not be asked twice within one collection.
func TestAsksOnce(t *testing.T) {
	asked := map[string]int{}
	sc := scene{netlink: []host.Link{{Name: "eth0", Index: 2, Up: true}}}
	sc.ethtool.Stats = func(dev string) (host.Stats, error) { asked["stats"]++; return nil, errors.New("busy") }
	sc.ethtool.Channels = func(dev string) (host.Channels, error) {
		asked["channels"]++
		return host.Channels{MaxCombined: 4, Combined: 2}, nil
	}
	sc.ethtool.HashFields = func(dev, flow string) (string, error) { asked[flow]++; return "sd", nil }
	h := sc.host(t)
	s, err := Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"stats": 1, "channels": 1, "tcp4": 1, "udp4": 1, "tcp6": 1, "udp6": 1}, asked); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	if d := s.Device("eth0"); len(d.Queues) != 2 || !d.QueuesKnown || d.HashFields["udp4"] != "sd" {
		t.Errorf("device %+v", d)
	}
	if _, err := Collect(h); err != nil || asked["stats"] != 2 {
		t.Errorf("a second collection asked %d times in all, want fresh answers", asked["stats"])
	}
}

func TestStacking(t *testing.T) {
	s, err := Collect(scene{netlink: []host.Link{
		{Name: "eth0", Index: 2, Master: 5}, {Name: "eth1", Index: 3, Master: 5}, {Name: "bond0", Index: 5, Kind: "bond"},
		{Name: "bond0.7", Index: 6, Kind: "vlan", Parent: 5}, {Name: "veth0", Index: 7, Kind: "veth", Parent: 8},
		{Name: "veth1", Index: 8, Kind: "veth", Parent: 7, Master: 9}, {Name: "br0", Index: 9, Kind: "bridge"},
		{Name: "mv0", Index: 10, Kind: "macvlan", Parent: 2, Foreign: true}, {Name: "lo", Index: 1, Loopback: true},
	}}.host(t))
	if err != nil {
		t.Fatal(err)
	}
	type stack struct {
		Kind         string
		Lower, Upper []string
	}
	got := map[string]stack{}
	for _, d := range s.Devices {
		got[d.Name] = stack{d.Kind, d.Lower, d.Upper}
	}
	want := map[string]stack{
		"eth0": {"physical", nil, []string{"bond0"}}, "eth1": {"physical", nil, []string{"bond0"}},
		"bond0": {"bond", []string{"eth0", "eth1"}, []string{"bond0.7"}}, "bond0.7": {"vlan", []string{"bond0"}, nil},
		"veth0": {"veth", nil, nil}, "veth1": {"veth", nil, []string{"br0"}}, "br0": {"bridge", []string{"veth1"}, nil},
		"mv0": {"macvlan", nil, nil}, "lo": {"loopback", nil, nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stacking (-want +got):\n%s", diff)
	}
}

func TestStackingFromSysfs(t *testing.T) {
	s, err := Collect(scene{files: map[string]string{
		"sys/class/net/bond0/bonding/mode": "active-backup 1\n", "sys/class/net/bond0/lower_eth0/ifindex": "2\n",
		"sys/class/net/eth0/upper_bond0/ifindex": "5\n", "sys/class/net/eth0/flags": "0x1103\n", "sys/class/net/eth0/carrier": "1\n", "sys/class/net/eth0/speed": "10000\n",
		"sys/class/net/bond0.7/uevent": "DEVTYPE=vlan\nINTERFACE=bond0.7\n", "sys/class/net/lan1/uevent": "DEVTYPE=dsa\nINTERFACE=lan1\n", "sys/class/net/br0/bridge/bridge_id": "8000\n",
		"sys/class/net/tap0/tun_flags": "0x1002\n", "sys/class/net/bonding_masters": "bond0\n", "sys/class/net/lo/ifindex": "1\n",
	}}.host(t))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, d := range s.Devices {
		kinds[d.Name] = d.Kind
	}
	if diff := cmp.Diff(map[string]string{"bond0": "bond", "eth0": "physical", "bond0.7": "vlan", "br0": "bridge", "tap0": "tap", "lo": "loopback", "lan1": "virtual"}, kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if d := s.Device("eth0"); d.Up != Yes || d.Promiscuous != Yes || d.Carrier != Yes || d.SpeedMbps != 10000 || !cmp.Equal(d.Upper, []string{"bond0"}) {
		t.Errorf("eth0 %+v", d)
	}
	if d := s.Device("bond0"); !cmp.Equal(d.Lower, []string{"eth0"}) || d.Up != Unknown || d.Promiscuous != Unknown {
		t.Errorf("bond0 %+v", d)
	}
}

func TestIRQDetails(t *testing.T) {
	sc := scene{actions: []string{"eth0-TxRx-0", "ahci", "eth0-TxRx-1"}, netlink: []host.Link{{Name: "eth0", Index: 2, Up: true}}, files: map[string]string{
		"proc/irq/30/smp_affinity": "3\n", "proc/irq/30/effective_affinity": "2\n", "proc/irq/30/affinity_hint": "00000001\n", "proc/irq/30/node": "-1\n",
		"proc/irq/31/smp_affinity_list": "0\n", "proc/irq/32/smp_affinity_list": "1\n", "proc/irq/32/node": "0\n",
	}}
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	r := s.IRQs.Row(30)
	if r.Affinity != cpuset.Of(0, 1) || r.Effective != cpuset.Of(1) || r.Hint != cpuset.Of(0) || r.Node != -1 || !r.HasSMP || r.Device != "eth0" {
		t.Errorf("interrupt 30: %+v", r)
	}
	if r := s.IRQs.Row(31); r.HasSMP || r.Device != "" {
		t.Errorf("interrupt 31 is no NIC's and was read: %+v", r)
	}
	if r := s.IRQs.Row(32); r.Affinity != cpuset.Of(1) || !r.Effective.IsEmpty() || r.Node != 0 {
		t.Errorf("interrupt 32: %+v", r)
	}
}

func TestIsolationFromCmdline(t *testing.T) {
	for cmdline, want := range map[string]string{
		"ro isolcpus=1":                   "0",
		"isolcpus=managed_irq,domain,0-1": "",
		"isolcpus=managed_irq,1":          "0-1",
		"nohz_full=1":                     "0",
		"isolcpus=x":                      "0-1",
	} {
		s, err := Collect(scene{actions: []string{"timer"}, files: map[string]string{"proc/cmdline": cmdline}}.host(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.AllowedCPUs().String(); got != want || !s.Topo.Known.Isolation {
			t.Errorf("%s: allowed %q, want %q", cmdline, got, want)
		}
	}
}

func TestInterruptCPUs(t *testing.T) {
	for cmdline, want := range map[string]string{
		"ro":                       "0-1",
		"irqaffinity=1":            "1",
		"irqaffinity=0 isolcpus=0": "1", // none of those is left
		"irqaffinity=x":            "0-1",
	} {
		s, err := Collect(scene{actions: []string{"timer"}, files: map[string]string{"proc/cmdline": cmdline}}.host(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.InterruptCPUs().String(); got != want {
			t.Errorf("%s: interrupts go to %q, want %q", cmdline, got, want)
		}
	}
}

// TestGarbage puts bytes that are no text into one file after another: no
// panic, and a gap or nothing.
func TestGarbage(t *testing.T) {
	garbage := []string{"\x00\x01\xff\xfe\n\n", strings.Repeat("9", 5000) + "\n", "\n\n\n", "CPU0 CPU1\n\xff: 1 2\n", "-1\n", "cpu99999999999 1 2 3 4\n"}
	base := func() *scene {
		sc := scene{actions: []string{"eth0-TxRx-0"}}
		sc.nic("eth0", "0000:04:00.0", 30).queues("eth0", 1, 1)
		sc.files["proc/irq/30/smp_affinity_list"] = "0\n"
		return &sc
	}
	names := []string{"proc/softirqs", "proc/net/softnet_stat", "proc/stat", "proc/net/dev", "proc/net/snmp", "proc/net/netstat", "proc/net/snmp6", "proc/cmdline", "proc/uptime",
		"proc/interrupts", "proc/irq/30/smp_affinity_list", "proc/irq/30/affinity_hint", "proc/irq/30/node", "sys/devices/system/cpu/online", "sys/devices/system/cpu/isolated",
		"sys/devices/system/node/node0/cpumap", "sys/devices/pci0000:00/0000:04:00.0/numa_node", "sys/devices/pci0000:00/0000:04:00.0/net/eth0/speed", "sys/devices/pci0000:00/0000:04:00.0/net/eth0/statistics/rx_packets"}
	for _, name := range names {
		for _, text := range append(garbage, "") {
			sc := base()
			sc.files[name] = text
			if name == "proc/interrupts" {
				sc.actions = nil
			}
			s, err := Collect(sc.host(t))
			if err != nil {
				t.Fatalf("%s = %.20q: %v", name, text, err)
			}
			if Between(s) == nil || Between(s, s) == nil {
				t.Errorf("%s = %.20q: no observation", name, text)
			}
			if d := s.Device("eth0"); d == nil || len(d.Queues) != 1 {
				t.Errorf("%s = %.20q: device lost", name, text)
			}
		}
	}
}
