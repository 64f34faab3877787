package knob

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/host"
)

// faulty is a tree in which some files fail.
type faulty struct {
	fstest.MapFS
	errs map[string]error
}

func (f faulty) Open(name string) (fs.File, error) {
	if err, ok := f.errs[name]; ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f.MapFS.Open(name)
}

func (f faulty) ReadFile(name string) ([]byte, error) {
	if err, ok := f.errs[name]; ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f.MapFS.ReadFile(name)
}

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n"), Mode: 0o644} }

// view is a machine with a two-queue NIC eth0, a one-queue virtio NIC eth1
// without any optional feature, and a bond.
func view() View {
	yes := true
	const q = "sys/class/net/eth0/queues/"
	tree := faulty{
		MapFS: fstest.MapFS{
			"proc/sys/net/core/netdev_budget":         text("300"),
			"proc/sys/net/core/dev_weight":            text("many"),
			"proc/sys/net/core/flow_limit_cpu_bitmap": text("00000000,0000000f"),
			"proc/irq/default_smp_affinity":           text("f"),
			"proc/irq/30/smp_affinity":                text("1"),
			"proc/irq/30/smp_affinity_list":           text("0"),
			"proc/irq/31/smp_affinity":                {Data: []byte("2\n"), Mode: 0o444},
			"proc/irq/31/smp_affinity_list":           {Data: []byte("1\n"), Mode: 0o444},
			"proc/irq/32/smp_affinity":                text("c"),
			"proc/irq/33/smp_affinity_list":           text(""),
			q + "rx-0/rps_cpus":                       text("e"),
			q + "rx-0/rps_flow_cnt":                   text("4096"),
			q + "tx-0/xps_cpus":                       text("3"),
			q + "tx-0/xps_rxqs":                       text("2"),
			"sys/class/net/eth0/gro_flush_timeout":    text("20000"),
			"sys/class/net/eth0/ifindex":              text("2"),
			"sys/class/net/bond0/threaded":            text("0"),
		},
		errs: map[string]error{
			"proc/sys/net/core/gro_normal_batch":      host.ErrNotCaptured,
			"proc/sys/net/core/netdev_max_backlog":    fs.ErrPermission,
			"sys/class/net/eth1/queues/tx-0/xps_cpus": fs.ErrNotExist,
			"sys/class/net/eth1/queues/tx-0/xps_rxqs": host.ErrNotCaptured,
			q + "tx-1/xps_rxqs":                       syscall.EINVAL,
			"sys/class/net/eth0/queues/rx-1/rps_cpus": errors.New("input/output error"),
		},
	}
	pick := func(dev string) error {
		switch dev {
		case "eth0", "eth1":
			return nil
		case "bond0":
			return fmt.Errorf("ethtool %s: %w", dev, host.ErrUnsupported)
		}
		return fmt.Errorf("ethtool %s: %w", dev, fs.ErrNotExist)
	}
	h := &host.Host{FS: tree}
	h.Ethtool.Channels = func(dev string) (host.Channels, error) {
		if dev == "eth1" {
			return host.Channels{MaxCombined: 1, Combined: 1}, nil
		}
		return host.Channels{MaxCombined: 8, Combined: 2}, pick(dev)
	}
	h.Ethtool.Rings = func(dev string) (host.Rings, error) {
		if dev == "eth1" {
			return host.Rings{MaxRx: 256, Rx: 256, MaxTx: 256, Tx: 256}, nil
		}
		return host.Rings{MaxRx: 4096, Rx: 512}, pick(dev)
	}
	h.Ethtool.Coalesce = func(dev string) (host.Coalesce, error) {
		if dev == "eth1" {
			return host.Coalesce{Values: map[string]int{"rx-usecs": 0, "rx-frames": 1, "tx-frames": 1}}, nil
		}
		return host.Coalesce{AdaptiveRx: &yes, Values: map[string]int{"rx-usecs": 50}}, pick(dev)
	}
	h.Ethtool.Features = func(dev string) (host.Features, error) {
		return host.Features{
			"rx-gro": {On: true}, "rx-gro-hw": {On: true, Fixed: true}, "rx-lro": {Requested: true},
		}, nil
	}
	h.Ethtool.RSS = func(dev string) (host.RSS, error) {
		if dev == "eth1" {
			return host.RSS{}, fmt.Errorf("rss of eth1: %w", host.ErrInconclusive)
		}
		return host.RSS{Table: []uint32{0, 1, 0, 1}, RxRings: 2}, pick(dev)
	}
	h.Ethtool.HashFields = func(dev, flow string) (string, error) {
		if flow == "udp6" {
			return "", fmt.Errorf("hash of %s: %w", dev, fs.ErrPermission)
		}
		return "ds", nil
	}
	return View{
		Host: h, HZ: 250, OnlineCPUs: "0-3", HousekeepingCPUs: "0-2",
		Devices: []Dev{
			{Name: "eth0", RxQueues: 2, TxQueues: 2, Tunable: true, Driver: "ixgbe"},
			{Name: "eth1", RxQueues: 1, TxQueues: 1, Tunable: true, Driver: "virtio_net", VirtioFeatures: strings.Repeat("0", 128)},
			{Name: "bond0", RxQueues: 1, TxQueues: 16},
		},
		IRQ: func(dev string, tx bool, queue int) (int, error) {
			switch {
			case dev == "eth1" && tx:
				return 0, errors.New("two interrupts claim the queue")
			case dev == "eth1":
				return 32, nil
			case tx:
				return 33 + queue, nil
			}
			return 30 + queue, nil
		},
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		ref    string
		status Status
		value  string
		reason string // part of it
		bounds Bounds
	}{
		{"net.core.netdev_budget", Known, "300", "", Bounds{Min: 1, Max: 1<<31 - 1}},
		{"net.core.dev_weight", Unknown, "", `"many" is not a whole number`, Bounds{}},
		{"net.core.netdev_budget_usecs", Unsupported, "", "initial network namespace", Bounds{}},
		{"net.core.gro_normal_batch", Unknown, "", "not captured", Bounds{}},
		{"net.core.netdev_max_backlog", Denied, "", "CAP_NET_ADMIN", Bounds{}},
		{"net.core.flow_limit_cpu_bitmap", Known, "0-3", "", Bounds{CPUs: "0-3"}},
		{"eth0/rx-0/irq.affinity", Known, "0", "", Bounds{Min: 1, CPUs: "0-3"}},
		{"eth0/rx-1/irq.affinity", Locked, "1", "IRQ 31 is managed", Bounds{Min: 1, CPUs: "0-3"}},
		{"eth0/tx-0/irq.affinity", Unknown, "", "an empty mask", Bounds{}},
		{"eth0/tx-1/irq.affinity", Unsupported, "", "IRQ 34 has no affinity", Bounds{}},
		{"eth1/rx-0/irq.affinity", Known, "2-3", "", Bounds{Min: 1, CPUs: "0-3"}},
		{"eth1/tx-0/irq.affinity", Unknown, "", "two interrupts claim", Bounds{}},
		{"eth0/rx-0/rps.cpus", Known, "1-3", "", Bounds{CPUs: "0-2"}},
		{"eth0/rx-1/rps.cpus", Unknown, "", "input/output error", Bounds{}},
		{"eth0/rx-0/rps.flow_cnt", Known, "4096", "", Bounds{Max: 1 << 30, PowerOfTwo: true}},
		{"eth0/tx-0/xps.cpus", Known, "0-1", "", Bounds{CPUs: "0-3"}},
		{"eth1/tx-0/xps.cpus", Unsupported, "", "one transmit queue", Bounds{}},
		{"eth0/tx-0/xps.rxqs", Known, "1", "", Bounds{Max: 1}},
		{"eth0/tx-1/xps.rxqs", Unsupported, "", "no traffic class", Bounds{}},
		{"eth1/tx-0/xps.rxqs", Unsupported, "", "one transmit queue", Bounds{}},
		{"eth0/channels.combined", Known, "2", "", Bounds{Min: 1, Max: 8}},
		{"eth0/channels.rx", Unsupported, "", "no rx channels", Bounds{}},
		{"eth1/channels.combined", Locked, "1", "the device offers one queue", Bounds{Min: 1, Max: 1}},
		{"bond0/channels.combined", Unsupported, "", "cannot change its number", Bounds{}},
		{"eth0/ring.rx", Known, "512", "", Bounds{Min: 1, Max: 4096}},
		{"eth0/ring.tx", Unsupported, "", "no such ring", Bounds{}},
		{"eth1/ring.tx", Locked, "256", "VIRTIO_F_RING_RESET", Bounds{Min: 20, Max: 256}},
		{"eth0/coalesce.adaptive-rx", Known, "on", "", Bounds{Of: []string{"off", "on"}}},
		{"eth0/coalesce.adaptive-tx", Unsupported, "", "no adaptive-tx", Bounds{}},
		{"eth0/coalesce.rx-usecs", Known, "50", "", Bounds{Max: 1<<32 - 1}},
		{"eth1/coalesce.rx-usecs", Locked, "0", "VIRTIO_NET_F_NOTF_COAL", Bounds{Max: 1<<32 - 1}},
		{"eth1/coalesce.tx-frames", Locked, "1", "never touched", Bounds{Max: 1<<32 - 1}},
		{"eth0/feature.rx-gro", Known, "on", "", Bounds{Of: []string{"off", "on"}}},
		{"eth0/feature.rx-gro-hw", Locked, "on", "fixed on", Bounds{Of: []string{"off", "on"}}},
		{"eth0/feature.rx-lro", Locked, "off", "another setting forbids", Bounds{Of: []string{"off", "on"}}},
		{"eth0/feature.rx-gro-list", Unsupported, "", "no feature rx-gro-list", Bounds{}},
		{"eth0/rss.table", Known, "0-1*2", "", Bounds{Max: 1, Slots: 4}},
		{"eth1/rss.table", Unknown, "", "inconclusive", Bounds{}},
		{"eth0/rss.hash.udp4", Known, "sd", "", Bounds{}},
		{"eth0/rss.hash.udp6", Denied, "", "root", Bounds{}},
		{"eth0/gro_flush_timeout", Known, "20000", "", Bounds{Max: 1<<63 - 1}},
		{"eth0/napi_defer_hard_irqs", Unsupported, "", "no such attribute", Bounds{}},
		{"bond0/threaded", Known, "off", "", Bounds{Of: []string{"off", "on"}}},
	}
	v := view()
	for _, tt := range tests {
		ref, err := ParseRef(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		k, _ := Lookup(ref.Kind)
		got := k.Read(v, ref)
		if !strings.Contains(got.Reason, tt.reason) || (got.Reason == "") != (tt.reason == "") {
			t.Errorf("%s: reason %q, want %q in it", tt.ref, got.Reason, tt.reason)
		}
		got.Reason = ""
		if diff := cmp.Diff(State{Status: tt.status, Value: tt.value, Bounds: tt.bounds}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.ref, diff)
		}
	}
}

func TestVirtioLocks(t *testing.T) {
	t.Parallel()
	v := view()
	set := func(features string) { v.Devices[1].VirtioFeatures = features }
	k, _ := Lookup("coalesce.rx-usecs")
	ref := Device("eth1", "coalesce.rx-usecs")
	set(strings.Repeat("0", virtioNotfCoal) + "1")
	if got := k.Read(v, ref); got.Status != Known {
		t.Errorf("with NOTF_COAL: %+v", got)
	}
	set(strings.Repeat("0", virtioNotfCoal)) // bit 53 would be the next character
	if got := k.Read(v, ref); got.Status != Locked {
		t.Errorf("with a short feature string: %+v", got)
	}
	set("")
	if got := k.Read(v, ref); got.Status != Locked || !strings.Contains(got.Reason, "not known") {
		t.Errorf("without feature string: %+v", got)
	}
	set(strings.Repeat("1", 128))
	k, _ = Lookup("coalesce.tx-frames")
	if got := k.Read(v, Device("eth1", "coalesce.tx-frames")); got.Status != Locked {
		t.Errorf("tx-frames with every feature: %+v", got)
	}
}

// An empty host must give an answer for every row, and never a value.
func TestReadOfNothing(t *testing.T) {
	t.Parallel()
	hosts := []*host.Host{nil, {}}
	for _, h := range hosts {
		for _, k := range All() {
			v := View{Host: h}
			for _, r := range anyRefs(k) {
				got := k.Read(v, r)
				if got.Has() || got.Status != Unknown || got.Reason == "" {
					t.Errorf("%s of an empty host: %+v", r, got)
				}
				k.Default(v, r)
				k.DisruptionFor(v, r)
				if err := k.Write(v, host.Writer{}, r, "0"); err == nil {
					t.Errorf("%s was written without a writer", r)
				}
			}
		}
	}
}

func anyRefs(k *Kind) []Ref {
	all := []Ref{
		Global(k.Name), Device("eth0", k.Name), Rx("eth0", 0, k.Name), Tx("eth0", 0, k.Name),
	}
	return slices.DeleteFunc(all, func(r Ref) bool { return !k.Scope.fits(r) })
}

func TestForeignRefsAreRefused(t *testing.T) {
	t.Parallel()
	v := view()
	wrote := host.Writer{WriteFile: func(name string, _ []byte) error {
		t.Errorf("wrote %s", name)
		return nil
	}}
	for _, k := range All() {
		for _, r := range []Ref{
			{Kind: "other", Queue: -1}, {Kind: k.Name, Dev: "../../etc", Queue: 0}, {Kind: k.Name, Dev: "..", Queue: -1},
			{Kind: k.Name, Dev: "a/b", Queue: 0, Tx: true},
		} {
			if got := k.Read(v, r); got.Status != Unknown {
				t.Errorf("%s reads %q: %+v", k.Name, r, got)
			}
			if err := k.Write(v, wrote, r, "1"); err == nil {
				t.Errorf("%s writes %q", k.Name, r)
			}
			if got := k.Shell(v, r, "1"); got != "" {
				t.Errorf("%s: shell command %q for %q", k.Name, got, r)
			}
		}
	}
}

func TestRefs(t *testing.T) {
	t.Parallel()
	v := view()
	var bond []string
	total := 0
	for _, k := range All() {
		for _, r := range k.Refs(v) {
			total++
			if r.Kind != k.Name {
				t.Errorf("%s lists %s", k.Name, r)
			}
			if parsed, err := ParseRef(r.String()); err != nil || parsed != r {
				t.Errorf("%s: ParseRef(String) = %v, %v", r, parsed, err)
			}
			if r.Dev == "bond0" {
				bond = append(bond, r.String())
			}
		}
	}
	want := []string{
		"bond0/feature.rx-gro", "bond0/feature.rx-gro-list", "bond0/feature.rx-udp-gro-forwarding",
		"bond0/threaded", "bond0/rx-0/rps.cpus", "bond0/rx-0/rps.flow_cnt",
	}
	if diff := cmp.Diff(want, bond); diff != "" {
		t.Errorf("settings of a bond (-want +got):\n%s", diff)
	}
	// 10 sysctls; per NIC 26 device settings; 2+2 and 1+1 queues with affinity,
	// 2 RPS rows per receive queue and 2 XPS rows per transmit queue.
	if want := 10 + 2*26 + 6 + 6 + 6 + len(bond); total != want {
		t.Errorf("%d settings, want %d", total, want)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ref  string
		hz   int
		want string
		ok   bool
	}{
		{"net.core.netdev_budget", 0, "300", true},
		{"net.core.netdev_budget_usecs", 250, "8000", true},
		{"net.core.netdev_budget_usecs", 300, "6666", true},
		{"net.core.netdev_budget_usecs", 1000, "2000", true},
		{"net.core.netdev_budget_usecs", 0, "", false},
		{"eth0/feature.rx-gro", 250, "on", true},
		{"eth0/gro_flush_timeout", 250, "0", true},
		{"eth0/rx-0/rps.cpus", 250, "", true},
		{"eth0/ring.rx", 250, "", false},
	} {
		ref, err := ParseRef(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		k, _ := Lookup(ref.Kind)
		v := view()
		v.HZ = tt.hz
		if got, ok := k.Default(v, ref); got != tt.want || ok != tt.ok {
			t.Errorf("default of %s at HZ=%d: %q, %v, want %q, %v", tt.ref, tt.hz, got, ok, tt.want, tt.ok)
		}
	}
}
