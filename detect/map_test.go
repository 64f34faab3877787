package detect

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// scene is a small machine written down in a few lines.
type scene struct {
	homes map[string]string // device → its folder below sys/devices
	files map[string]string // path → content
	links map[string]string // path → target
	// actions become lines of /proc/interrupts, numbered from 30; "chip|a, b"
	// gives a line a chip.
	actions []string
	netlink []host.Link
	ethtool host.Ethtool
	netdev  host.Netdev
}

func (s scene) host(t testing.TB) *host.Host {
	t.Helper()
	fsys := tree.New()
	for name, text := range s.files {
		if err := fsys.WriteFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range s.links {
		if err := fsys.Symlink(name, target); err != nil {
			t.Fatal(err)
		}
	}
	if s.actions != nil {
		var sb strings.Builder
		sb.WriteString("           CPU0       CPU1\n")
		for i, a := range s.actions {
			chip, names, ok := strings.Cut(a, "|")
			if !ok {
				chip, names = "IR-PCI-MSI-edge", a
			}
			fmt.Fprintf(&sb, " %d:  %d  0  %s      %s\n", 30+i, i+1, chip, names)
		}
		if err := fsys.WriteFile("proc/interrupts", []byte(sb.String())); err != nil {
			t.Fatal(err)
		}
	}
	h := &host.Host{FS: fsys, Ethtool: s.ethtool, Netdev: s.netdev}
	if s.netlink != nil {
		h.Links = func() ([]host.Link, error) { return s.netlink, nil }
	}
	return h
}

// nic adds a device on a PCI function to a scene, with msi_irqs.
func (s *scene) nic(name, pci string, msi ...int) *scene {
	if s.files == nil {
		s.files, s.links, s.homes = map[string]string{}, map[string]string{}, map[string]string{}
	}
	s.homes[name] = "sys/devices/pci0000:00/" + pci + "/net/" + name
	function := "sys/devices/pci0000:00/" + pci
	s.files[function+"/numa_node"] = "1\n"
	s.files[function+"/local_cpulist"] = "0-1\n"
	for _, irq := range msi {
		s.files[fmt.Sprintf("%s/msi_irqs/%d", function, irq)] = "msix\n"
	}
	s.files[function+"/net/"+name+"/ifindex"] = "2\n"
	s.links[function+"/net/"+name+"/device"] = "../../../" + pci
	s.links["sys/class/net/"+name] = "../../devices/pci0000:00/" + pci + "/net/" + name
	return s
}

// queues adds queue directories of sysfs.
func (s *scene) queues(name string, rx, tx int) *scene {
	home := s.homes[name]
	if home == "" {
		home = "sys/class/net/" + name
	}
	for n := range rx {
		s.files[fmt.Sprintf("%s/queues/rx-%d/rps_cpus", home, n)] = "0\n"
	}
	for n := range tx {
		s.files[fmt.Sprintf("%s/queues/tx-%d/xps_cpus", home, n)] = "0\n"
	}
	return s
}

// show prints the map of a device: "0:rx30/tx31" per queue, "?" for an unknown
// interrupt, then the others.
func show(d *Device) string {
	if d == nil {
		return "no such device"
	}
	side := func(name string, has bool, irq int) string {
		switch {
		case !has:
			return ""
		case irq < 0:
			return name + "?"
		default:
			return fmt.Sprintf("%s%d", name, irq)
		}
	}
	var out []string
	for _, q := range d.Queues {
		out = append(out, fmt.Sprintf("%d:%s/%s", q.N, side("rx", q.Rx, q.RxIRQ), side("tx", q.Tx, q.TxIRQ)))
	}
	if len(d.OtherIRQs) > 0 {
		out = append(out, fmt.Sprintf("other%v", d.OtherIRQs))
	}
	return strings.Join(out, " ")
}

// TestDriverNames goes through the ways in which drivers name interrupts,
// known by a list of interfaces only (no sysfs).
func TestDriverNames(t *testing.T) {
	for _, tc := range []struct {
		driver  string
		dev     string
		actions []string
		want    string
	}{
		{"ixgbe", "eth0", []string{"eth0", "eth0-TxRx-0", "eth0-TxRx-1"}, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"igb with vectors per side", "eth0", []string{"eth0", "eth0-rx-0", "eth0-rx-1", "eth0-tx-0", "eth0-tx-1"}, "0:rx31/tx33 1:rx32/tx34 other[30]"},
		{"igb unused vector", "eth0", []string{"eth0-unused", "eth0-TxRx-0"}, "0:rx31/tx31 other[30]"},
		{"ten queues in any order", "eth0", []string{"eth0-TxRx-1", "eth0-TxRx-0"}, "0:rx31/tx31 1:rx30/tx30"},
		{"i40e", "eth0", []string{"i40e-0000:01:00.0:misc", "i40e-eth0-TxRx-0", "i40e-0000:01:00.0:fdir-TxRx-0"}, "0:rx31/tx31"},
		{"ice", "ens1f0", []string{"ice-0000:01:00.0:misc", "ice-ens1f0-TxRx-0", "ice-ens1f0-TxRx-1", "ice-0000:01:00.0:ctrl"}, "0:rx31/tx31 1:rx32/tx32"},
		{"iavf", "ens1f0v0", []string{"iavf-0000:01:00.0:mbx", "iavf-ens1f0v0-TxRx-0"}, "0:rx31/tx31"},
		{"idpf", "eth0", []string{"idpf-0000:01:00.0-Mailbox-0", "idpf-eth0-TxRx-1", "idpf-eth0-TxRx-2"}, "0:rx31/tx31 1:rx32/tx32"},
		{"e1000e", "eth2", []string{"eth2-rx-0", "eth2-tx-0", "eth2"}, "0:rx30/tx31 other[32]"},
		{"ena", "ens5", []string{"ena-mgmnt@pci:0000:00:05.0", "ens5-Tx-Rx-0", "ens5-Tx-Rx-1"}, "0:rx31/tx31 1:rx32/tx32"},
		{"bnx2x, qede", "eth0", []string{"eth0-fp-0", "eth0-fp-1"}, "0:rx30/tx30 1:rx31/tx31"},
		{"tg3 with RSS", "eth0", []string{"eth0-tx-0", "eth0-rx-1", "eth0-rx-2"}, "0:rx31/tx30 1:rx32/"},
		{"tg3 with RSS and TSS", "eth0", []string{"eth0-0", "eth0-txrx-1", "eth0-txrx-2"}, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"vmxnet3", "ens192", []string{"ens192-rxtx-0", "ens192-rxtx-1", "ens192-event-2"}, "0:rx30/tx30 1:rx31/tx31 other[32]"},
		{"be2net", "eth4", []string{"eth4-q0", "eth4-q1"}, "0:rx30/tx30 1:rx31/tx31"},
		{"nfp, otx2", "eth0", []string{"eth0-rxtx-0"}, "0:rx30/tx30"},
		{"enetc", "eth0", []string{"eth0-rxtx0", "eth0-rxtx1"}, "0:rx30/tx30 1:rx31/tx31"},
		{"stmmac", "end0", []string{"end0:mac", "end0:rx-0", "end0:rx-1", "end0:tx-0"}, "0:rx31/tx33 1:rx32/ other[30]"},
		{"stmmac with one line", "end0", []string{"end0:mac"}, "0:rx30/tx30"},
		{"sfc", "eth0", []string{"eth0-0", "eth0-1", "eth0-ptp", "eth0-mae"}, "0:rx30/tx30 1:rx31/tx31 other[32 33]"},
		{"r8125, atlantic", "eth2", []string{"eth2-0", "eth2-1"}, "0:rx30/tx30 1:rx31/tx31"},
		{"hinic", "eth0", []string{"hinic_aeq0@pci:0000:01:00.0", "eth0_rxq0", "eth0_txq0"}, "0:rx31/tx32"},
		{"gve up to 6.1", "ens4", []string{"ens4-ntfy-block.0", "ens4-ntfy-block.1"}, ""},
		{"single vector", "eth0", []string{"eth0"}, "0:rx30/tx30"},
		{"shared line", "eth1", []string{"IO-APIC 16-fasteoi|ehci_hcd:usb1, eth1"}, "0:rx30/tx30"},
		{"eth1 is not eth10", "eth1", []string{"eth10-TxRx-0", "eth10", "eth1-TxRx-0"}, "0:rx32/tx32"},
		{"two claim one queue", "eth0", []string{"eth0-TxRx-0", "eth0-TxRx-0"}, "0:rx?/tx?"},
		{"nobody's", "eth0", []string{"ahci", "nvme0q1", "xhci_hcd", "hpsa0-msix0", "i915", "eth"}, ""},
	} {
		t.Run(tc.driver, func(t *testing.T) {
			t.Parallel()
			s, err := Collect(scene{actions: tc.actions, netlink: []host.Link{{Name: tc.dev, Index: 2, Up: true}}}.host(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := show(s.Device(tc.dev)); got != tc.want {
				t.Errorf("map %q, want %q", got, tc.want)
			}
			if len(s.Devices) != 1 {
				t.Errorf("%d devices, want the listed one", len(s.Devices))
			}
		})
	}
}

// TestFunctionNames are names that carry a PCI address or the number of a
// virtio or xenbus device and not the interface.
func TestFunctionNames(t *testing.T) {
	const pci = "0000:04:00.0"
	for _, tc := range []struct {
		driver  string
		actions []string
		rx, tx  int
		want    string
	}{
		{"mlx5", []string{"mlx5_async0@pci:" + pci, "mlx5_comp0@pci:" + pci, "mlx5_comp1@pci:" + pci}, 2, 2, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"mlx5 with few vectors", []string{"mlx5_combined0@pci:" + pci}, 1, 1, "0:rx30/tx30"},
		{"mlx5 with more vectors than queues", []string{"mlx5_comp0@pci:" + pci, "mlx5_comp1@pci:" + pci}, 1, 1, "0:rx30/tx30 other[31]"},
		{"mlx4", []string{"mlx4-async@pci:" + pci, "mlx4-0@" + pci, "mlx4-1@" + pci}, 2, 2, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"mana", []string{"mana_hwc@pci:" + pci, "mana_q0@pci:" + pci, "mana_q1@pci:" + pci}, 2, 2, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"mana with numbers of vectors", []string{"mana_hwc@pci:" + pci, "mana_msi1@pci:" + pci, "mana_msi2@pci:" + pci}, 2, 2, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"macb: one line, requested for each queue", []string{"enp4s0, enp4s0"}, 2, 2, "0:rx30/tx30 1:rx30/tx30"},
		{"gve from 6.8", []string{"gve-mgmnt@pci:" + pci, "gve-ntfy-blk0@pci:" + pci, "gve-ntfy-blk1@pci:" + pci, "gve-ntfy-blk2@pci:" + pci}, 1, 2, "0:rx33/tx31 1:/tx32 other[30]"},
		{"hns3", []string{"hns3-" + pci + "-TxRx-0"}, 1, 1, "0:rx30/tx30"},
		{"renamed while up", []string{"eth0", "eth0-TxRx-0", "eth0-TxRx-1"}, 2, 2, "0:rx31/tx31 1:rx32/tx32 other[30]"},
		{"RDMA on the same function", []string{"i40e-enp4s0-TxRx-0", "irdma-" + pci + "-CEQ-0", "i40iw-ceq-0", "irdma"}, 1, 1, "0:rx30/tx30 other[31 32 33]"},
		{"freed vectors", []string{"enp4s0-Tx-Rx-0", "PCI-MSIX-0000:04:00.0   1-edge|", "PCI-MSIX-0000:04:00.0   2-edge|"}, 1, 1, "0:rx30/tx30"},
		{"all queues on one vector", []string{"enp4s0"}, 2, 2, "0:rx30/tx30 1:rx30/tx30"},
	} {
		t.Run(tc.driver, func(t *testing.T) {
			t.Parallel()
			var msi []int
			for i := range tc.actions {
				msi = append(msi, 30+i)
			}
			sc := scene{actions: tc.actions}
			sc.nic("enp4s0", pci, msi...).queues("enp4s0", tc.rx, tc.tx)
			s, err := Collect(sc.host(t))
			if err != nil {
				t.Fatal(err)
			}
			d := s.Device("enp4s0")
			if got := show(d); got != tc.want {
				t.Errorf("map %q, want %q", got, tc.want)
			}
			if d.Bus != pci || d.Node != 1 || d.Local != cpuset.Of(0, 1) || !d.QueuesKnown || d.Index != 2 || d.Kind != "physical" {
				t.Errorf("device %+v", d)
			}
			for _, q := range d.Queues {
				if q.Source != SourceMSI {
					t.Errorf("queue %d: source %s, want msi_irqs", q.N, q.Source)
				}
			}
		})
	}
}

// TestSpareIRQs: interrupts of queues that are out of use are in no row of the
// map and no setting of the snapshot, and a rollback can address them.
func TestSpareIRQs(t *testing.T) {
	const pci = "0000:04:00.0"
	for _, tc := range []struct {
		name    string
		actions []string
		rx, tx  int
		want    map[QueueID]int
	}{
		{"pairs", []string{"mlx5_async0@pci:" + pci, "mlx5_comp0@pci:" + pci, "mlx5_comp1@pci:" + pci}, 1, 1, map[QueueID]int{{N: 1}: 32, {Tx: true, N: 1}: 32}},
		{"each side", []string{"enp4s0-rx-0", "enp4s0-rx-1", "enp4s0-tx-0", "enp4s0-tx-1"}, 1, 2, map[QueueID]int{{N: 1}: 31}},
		{"all in use", []string{"enp4s0-TxRx-0", "enp4s0-TxRx-1"}, 2, 2, nil},
		{"half of a pair in use", []string{"enp4s0-TxRx-0", "enp4s0-TxRx-1"}, 1, 2, nil},
		{"two claim one queue", []string{"enp4s0-TxRx-0", "enp4s0-TxRx-1", "enp4s0-fp-1"}, 1, 1, nil},
		{"numbers across both sides", []string{"gve-ntfy-blk0@pci:" + pci, "gve-ntfy-blk1@pci:" + pci, "gve-ntfy-blk2@pci:" + pci, "gve-ntfy-blk3@pci:" + pci}, 1, 1, nil},
		{"queues not told", []string{"enp4s0-TxRx-0", "enp4s0-TxRx-1"}, 0, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var msi []int
			for i := range tc.actions {
				msi = append(msi, 30+i)
			}
			sc := scene{actions: tc.actions}
			sc.nic("enp4s0", pci, msi...).queues("enp4s0", tc.rx, tc.tx)
			s, err := Collect(sc.host(t))
			if err != nil {
				t.Fatal(err)
			}
			d := s.Device("enp4s0")
			if diff := cmp.Diff(tc.want, d.SpareIRQs); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for id, want := range tc.want {
				if irq, err := s.View().IRQ("enp4s0", id.Tx, id.N); irq != want || err != nil {
					t.Errorf("queue %+v resolves to %d, %v", id, irq, err)
				}
			}
			if irq, err := s.View().IRQ("enp4s0", false, 9); err == nil {
				t.Errorf("queue 9 resolves to %d", irq)
			}
			for ref := range s.Knobs {
				if _, spare := tc.want[QueueID{Tx: ref.Tx, N: ref.Queue}]; spare && ref.Kind == "irq.affinity" {
					t.Errorf("%s is a setting of the snapshot", ref)
				}
			}
		})
	}
}

// TestRenamedBothWays: two NICs swapped their names while up, so the action
// names point at the wrong one.
func TestRenamedBothWays(t *testing.T) {
	sc := scene{actions: []string{"eth0-TxRx-0", "eth1-TxRx-0"}}
	sc.nic("eth1", "0000:04:00.0", 30)
	sc.nic("eth0", "0000:05:00.0", 31)
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := show(s.Device("eth1")), show(s.Device("eth0")); a != "0:rx30/tx30" || b != "0:rx31/tx31" {
		t.Errorf("eth1 %q, eth0 %q: msi_irqs must win over names", a, b)
	}
}

// TestSharedFunction: several devices on one PCI function are told apart by
// name, else by being a representor, else not at all.
func TestSharedFunction(t *testing.T) {
	sc := scene{actions: []string{"mlx4-0@0000:04:00.0", "mlx4-1@0000:04:00.0"}}
	sc.nic("p1", "0000:04:00.0", 30, 31).queues("p1", 2, 2)
	sc.nic("p2", "0000:04:00.0").queues("p2", 2, 2)
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p1", "p2"} {
		d := s.Device(name)
		const why = "the interrupts of 0000:04:00.0 may belong to any of p1, p2"
		if got := show(d); got != "0:rx?/tx? 1:rx?/tx?" || d.Queues[0].Why != why {
			t.Errorf("%s: %q because %q", name, got, d.Queues[0].Why)
		}
	}
	sc.files["sys/devices/pci0000:00/0000:04:00.0/net/p2/phys_port_name"] = "pf0vf1\n"
	if s, err = Collect(sc.host(t)); err != nil {
		t.Fatal(err)
	}
	if got := show(s.Device("p1")); got != "0:rx30/tx30 1:rx31/tx31" {
		t.Errorf("uplink beside a representor: %q", got)
	}
	if got := show(s.Device("p2")); got != "0:rx?/tx? 1:rx?/tx?" {
		t.Errorf("representor: %q", got)
	}
}

func TestSubfunction(t *testing.T) {
	sc := scene{actions: []string{"mlx5_comp0@pci:0000:04:00.0", "mlx5_sf_comp0@pci:0000:04:00.0", "mlx5_sf_ctrl1@pci:0000:04:00.0"}}
	sc.nic("p0", "0000:04:00.0", 30, 31, 32)
	sc.links["sys/class/net/sf0/device"] = "../../../devices/pci0000:00/0000:04:00.0/mlx5_core.sf.4"
	sc.files["sys/class/net/sf0/ifindex"] = "3\n"
	sc.ethtool.DriverInfo = func(dev string) (host.DriverInfo, error) {
		if dev == "sf0" {
			return host.DriverInfo{Driver: "mlx5_core", Bus: "0000:04:00.0"}, nil
		}
		return host.DriverInfo{}, host.ErrUnsupported
	}
	for irq := 30; irq < 33; irq++ { // the auxiliary device shows the parent's vectors
		sc.files[fmt.Sprintf("sys/devices/pci0000:00/0000:04:00.0/mlx5_core.sf.4/msi_irqs/%d", irq)] = "msix\n"
	}
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := show(s.Device("p0")), show(s.Device("sf0")); a != "0:rx30/tx30" || b != "0:rx31/tx31 other[32]" {
		t.Errorf("port %q, sub-function %q", a, b)
	}
}

// virtio adds a virtio device below a PCI function.
func (s *scene) virtio(name, pci, id string, msi ...int) *scene {
	s.nic("unused", pci, msi...)
	delete(s.links, "sys/class/net/unused")
	home := "sys/devices/pci0000:00/" + pci + "/" + id
	s.homes[name] = home + "/net/" + name
	s.files[home+"/features"] = "1101\n"
	s.files[home+"/net/"+name+"/ifindex"] = "2\n"
	s.links[home+"/net/"+name+"/device"] = "../../../" + id
	s.links["sys/class/net/"+name] = "../../devices/pci0000:00/" + pci + "/" + id + "/net/" + name
	s.links["sys/bus/virtio/devices/"+id] = "../../../devices/pci0000:00/" + pci + "/" + id
	return s
}

func TestVirtio(t *testing.T) {
	sc := scene{actions: []string{
		"virtio1-config", "virtio1-input.0", "virtio1-output.0", "virtio1-input.1", "virtio1-output.1",
		"virtio10-config", "virtio10-input.0", "virtio10-output.0", "virtio3-req.0", "virtio4-control", "virtio5-virtqueues",
	}}
	sc.virtio("eth0", "0000:00:03.0", "virtio1", 30, 31, 32, 33, 34).queues("eth0", 1, 1)
	sc.virtio("eth1", "0000:00:04.0", "virtio10", 35, 36, 37).queues("eth1", 1, 1)
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	// Interrupts of unused pairs exist and must not become queues.
	if got, want := show(s.Device("eth0")), "0:rx31/tx32 other[30 33 34]"; got != want {
		t.Errorf("eth0 %q, want %q", got, want)
	}
	if got, want := show(s.Device("eth1")), "0:rx36/tx37 other[35]"; got != want {
		t.Errorf("eth1 %q, want %q", got, want)
	}
	d := s.Device("eth0")
	if d.Kind != "virtio" || d.Virtio != "virtio1" || d.Bus != "0000:00:03.0" || d.Node != 1 || d.VirtioFeatures != "1101" || d.Queues[0].Source != SourceMSI {
		t.Errorf("device %+v", d)
	}
	if len(s.Devices) != 2 {
		t.Errorf("%d devices: disks and consoles are no network devices", len(s.Devices))
	}
}

// TestInferred: captured hosts with nothing but /proc/interrupts.
func TestInferred(t *testing.T) {
	s, err := Collect(scene{actions: []string{
		"PCI-MSI 49152-edge|virtio0-config", "PCI-MSI 49153-edge|virtio0-input.0", "PCI-MSI 49154-edge|virtio0-output.0",
		"virtio1-req.0", "virtio2-control", "virtio3-virtqueues", "IO-APIC 10-fasteoi|virtio4",
		"mlx5_async0@pci:0000:04:00.0", "mlx5_comp0@pci:0000:04:00.0", "mana_q0@pci:0001:00:00.0",
		"vif0-q0-tx", "vif0-q0-rx", "eth0-TxRx-0", "ens1f0:misc", "irdma-ens1f0-AEQ", "ahci", "nvme0q1", "hpsa0-msix0",
		"xhci_hcd", "i915", "ioat-msix", "enp6s0", "acpi", "rtc0", "timer", "dmar0", "megasas0-msix3", "lpfc:16", "mei_me", "qla2xxx (default)",
	}}.host(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range s.Devices {
		got[d.Name+" "+d.Kind+" "+d.Bus] = show(d)
	}
	want := map[string]string{
		"virtio0 virtio 0000:00:03.0":             "0:rx31/tx32 other[30]",
		"mlx5@0000:04:00.0 physical 0000:04:00.0": "0:rx38/tx38 other[37]",
		"mana@0001:00:00.0 physical 0001:00:00.0": "0:rx39/tx39",
		"vif0 physical ":                          "0:rx41/tx40",
		"eth0 physical ":                          "0:rx42/tx42",
		"enp6s0 physical ":                        "0:rx51/tx51",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// TestOtherNamespace: a container sees all interrupts but only its own devices.
func TestOtherNamespace(t *testing.T) {
	s, err := Collect(scene{actions: []string{"virtio0-input.0", "mlx5_comp0@pci:0000:04:00.0", "eth1-TxRx-0"}, files: map[string]string{"sys/class/net/eth0/ifindex": "2\n"}}.host(t))
	if err != nil || len(s.Devices) != 1 || s.Devices[0].Name != "eth0" {
		t.Errorf("devices %v, %v: want eth0 only", s.Devices, err)
	}
}

func TestXenfront(t *testing.T) {
	sc := scene{actions: []string{"xen-dyn -event|vif0-q0-tx", "xen-dyn -event|vif0-q0-rx", "xen-dyn -event|vif1-q0-tx", "xen-dyn -event|vif1-q0-rx"}}
	sc.files = map[string]string{"sys/class/net/eth0/ifindex": "2\n", "sys/class/net/eth1/ifindex": "3\n"}
	sc.links = map[string]string{"sys/class/net/eth0/device": "../../../devices/vif-1", "sys/class/net/eth1/device": "../../../devices/vif-0"}
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := show(s.Device("eth0")), show(s.Device("eth1")); a != "0:rx33/tx32" || b != "0:rx31/tx30" {
		t.Errorf("eth0 %q, eth1 %q: the xenbus number decides", a, b)
	}
}

func TestNetlinkFirst(t *testing.T) {
	sc := scene{actions: []string{"eth0-TxRx-0", "eth0-TxRx-1", "other"}}
	sc.netlink = []host.Link{{Name: "eth0", Index: 7, Up: true}}
	sc.netdev = host.Netdev{
		NAPIs: func() ([]host.NAPI, error) {
			return []host.NAPI{{IfIndex: 7, ID: 501, IRQ: 31, PID: 99}, {IfIndex: 7, ID: 502, IRQ: -1}}, nil
		},
		Queues: func() ([]host.Queue, error) {
			return []host.Queue{{IfIndex: 7, ID: 0, NAPI: 501}, {IfIndex: 7, ID: 1, NAPI: 502}, {IfIndex: 7, ID: 0, Tx: true, NAPI: -1}}, nil
		},
	}
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	d := s.Device("eth0")
	if got, want := show(d), "0:rx31/tx30 1:rx31/"; got != want {
		t.Errorf("map %q, want %q: the kernel's word wins over the name", got, want)
	}
	if d.Queues[0].NAPI != 501 || d.Queues[0].ThreadPID != 99 || d.Queues[1].NAPI != 502 || !d.QueuesKnown {
		t.Errorf("queues %+v", d.Queues)
	}
}

func TestHyperV(t *testing.T) {
	const guid = "f8615163-0000-1000-2000-000d3a000000"
	sc := scene{actions: []string{"timer"}, files: map[string]string{
		"sys/class/net/eth0/ifindex":                         "2\n",
		"sys/bus/vmbus/devices/" + guid + "/channels/15/cpu": "0\n",
		"sys/bus/vmbus/devices/" + guid + "/channels/9/cpu":  "1\n",
	}, links: map[string]string{"sys/class/net/eth0/device": "../../../devices/" + guid}}
	sc.queues("eth0", 3, 3)
	sc.ethtool.DriverInfo = func(string) (host.DriverInfo, error) { return host.DriverInfo{Driver: "hv_netvsc"}, nil }
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	d := s.Device("eth0")
	var cpus []int
	for _, q := range d.Queues {
		cpus = append(cpus, q.VMBusCPU)
	}
	if diff := cmp.Diff([]int{1, 0, -1}, cpus); diff != "" || d.Kind != "synthetic" || show(d) != "0:rx?/tx? 1:rx?/tx? 2:rx?/tx?" {
		t.Errorf("%s %s, CPUs of channels (-want +got):\n%s", d.Kind, show(d), diff)
	}
}

func TestCautions(t *testing.T) {
	s, err := Collect(scene{actions: []string{"IO-APIC 11-fasteoi|uhci_hcd:usb1, eth0, eth1"}, netlink: []host.Link{{Name: "eth0", Index: 2, Up: true}, {Name: "eth1", Index: 3, Up: true}, {Name: "eth2", Index: 4}}}.host(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"eth0": "interrupt 30 is shared with uhci_hcd:usb1, eth1", "eth1": "interrupt 30 is shared with uhci_hcd:usb1, eth0"} {
		if q := s.Device(name).Queues; len(q) != 1 || q[0].Why != want {
			t.Errorf("%s: %+v, want why %q", name, q, want)
		}
	}
	if view := s.View(); len(view.Devices) != 3 || view.Devices[0].RxQueues != 1 || !view.Devices[0].Tunable {
		t.Errorf("view %+v", view.Devices)
	}
	if n, err := s.View().IRQ("eth0", true, 0); n != 30 || err != nil {
		t.Errorf("IRQ(eth0 tx-0) = %d, %v", n, err)
	}
	for _, dev := range []string{"eth2", "eth9"} {
		if n, err := s.View().IRQ(dev, false, 0); n != -1 || err == nil {
			t.Errorf("IRQ(%s rx-0) = %d, %v, want an error", dev, n, err)
		}
	}
}

func TestChipPCI(t *testing.T) {
	for chip, want := range map[string]string{
		"PCI-MSI 49152-edge":              "0000:00:03.0",
		"IR-PCI-MSI 103284752-edge":       "0000:c5:00.0",
		"PCI-MSI 134742016 Edge":          "0001:00:80.0",
		"PCI-MSIX-0000:00:03.0 1-edge":    "0000:00:03.0",
		"IR-PCI-MSI-10000:e1:00.0 0-edge": "10000:e1:00.0",
		"IR-PCI-MSI-edge":                 "",
		"PCI-MSI 5-edge":                  "",
		"IO-APIC 16-fasteoi":              "",
		"":                                "",
	} {
		if want == "0001:00:80.0" {
			want = "0001:01:00.0"
		}
		if got := chipPCI(chip); got != want {
			t.Errorf("chipPCI(%q) = %q, want %q", chip, got, want)
		}
	}
}

func FuzzReadName(f *testing.F) {
	for _, seed := range []string{"eth0-TxRx-0", "mlx5_comp3@pci:0000:04:00.0", "virtio1-input.10", "vif0-q0-tx", "a-b-c-1-2-3", "gve-ntfy-blk0@pci:10000:00:00.0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, action string) {
		v, ok := readName(action, func(vectorName) bool { return true })
		if !ok && v != (vectorName{}) {
			t.Fatalf("readName(%q) = %+v without a fit", action, v)
		}
		for _, part := range []string{v.iface, v.pci, v.virtio} {
			if !strings.Contains(action, part) {
				t.Fatalf("readName(%q) made up %q", action, part)
			}
		}
	})
}
