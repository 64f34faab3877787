package hosttest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

func must(hosts []*host.Host, err error) []*host.Host {
	if err != nil {
		panic(err)
	}
	return hosts
}

func TestGenerateIsDeterministic(t *testing.T) {
	t.Parallel()
	a, b := must(Generate(i40e2())), must(Generate(i40e2()))
	for i := range a {
		first, second := a[i].FS.(*tree.Tree), b[i].FS.(*tree.Tree)
		paths := first.Paths()
		if !slices.Equal(paths, second.Paths()) || len(paths) < 300 {
			t.Fatalf("sample %d: %d and %d files", i, len(paths), len(second.Paths()))
		}
		for _, path := range paths {
			x, errX := first.ReadFile(path)
			y, errY := second.ReadFile(path)
			if (errX == nil) != (errY == nil) || !slices.Equal(x, y) {
				t.Errorf("sample %d: %s differs", i, path)
			}
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	for _, spec := range []Spec{
		{CPUs: 5, Nodes: 2}, {CPUs: 4, SMT: 3}, {QueuesPerNIC: 4, MaxQueues: 2}, {NICs: -1}, {Ring: 512, MaxRing: 256},
		{Isolated: "x"}, {CPUs: -1}, {CPUs: 1 << 20}, {PacketsPerPoll: -1}, {CPUs: 128, Nodes: 128},
	} {
		if hosts, err := Generate(spec); err == nil || hosts != nil {
			t.Errorf("%+v was generated", spec)
		}
	}
}

// The links must lead where those of sysfs do.
func TestGeneratedTree(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spec  Spec
		files map[string]string
		links map[string]string
	}{
		{virtio4(), map[string]string{
			"sys/class/net/eth0/device/features":             strings.Repeat("0", 17) + "1" + strings.Repeat("0", 4) + "1" + strings.Repeat("0", 41),
			"sys/class/net/eth0/device/net/eth0/ifindex":     "2",
			"sys/bus/virtio/devices/virtio0/net/eth0/mtu":    "1500",
			"sys/bus/pci/devices/0000:00:00.0/msi_irqs/41":   "msix",
			"sys/bus/pci/devices/0000:00:00.0/numa_node":     "-1",
			"sys/class/net/eth0/queues/tx-3/xps_cpus":        "0",
			"sys/devices/system/cpu/cpu3/topology/core_id":   "3",
			"sys/devices/system/node/node0/cpulist":          "0-3",
			"proc/sys/net/core/netdev_budget_usecs":          "8000",
			"sys/devices/system/cpu/cpu0/cache/index3/level": "3",
		}, map[string]string{
			"sys/class/net/eth0/device":               "../../../virtio0",
			"sys/bus/virtio/devices/virtio0/driver":   "../../../../bus/virtio/drivers/virtio_net",
			"sys/bus/pci/devices/0000:00:00.0/driver": "../../../bus/pci/drivers/virtio-pci",
		}},
		{i40e2(), map[string]string{
			"sys/class/net/eth1/device/numa_node":                       "1",
			"sys/class/net/eth1/device/local_cpulist":                   "8-15",
			"sys/class/net/eth1/device/msi_irqs/48":                     "msix",
			"sys/devices/system/cpu/cpu9/topology/thread_siblings_list": "9,13",
			"sys/devices/system/node/node1/distance":                    "21 10",
			"sys/class/net/eth0/subsystem/eth1/ifindex":                 "3",
		}, map[string]string{
			"sys/class/net/eth1/device":        "../../../0000:80:00.0",
			"sys/class/net/eth1/device/driver": "../../../bus/pci/drivers/i40e",
		}},
	} {
		h := must(Generate(tt.spec))[1]
		for name, want := range tt.files {
			text, err := h.ReadFile(name)
			if err != nil || strings.TrimSpace(string(text)) != want {
				t.Errorf("%s: %q, %v, want %q", name, text, err, want)
			}
		}
		for name, want := range tt.links {
			if got, err := h.ReadLink(name); err != nil || got != want {
				t.Errorf("%s -> %q, %v, want %q", name, got, err, want)
			}
			if _, err := h.ReadDir(name); err != nil {
				t.Errorf("%s leads nowhere: %v", name, err)
			}
		}
	}
}

func TestGeneratedLoad(t *testing.T) {
	t.Parallel()
	spec := virtio4()
	spec.PacketsPerSecond = 1_000_000 // one CPU at its limit by the model
	spec.Window = 5 * time.Second
	m := newMemory(t, spec)
	got := rises(t, m)
	if got["processed"][0] != 5_000_000 || got["squeezed"][0] == 0 || got["softirq"][0] != 500 {
		t.Errorf("stacked: %d packets, %d squeezes, %d ticks", got["processed"][0], got["squeezed"][0], got["softirq"][0])
	}
	spec.IRQStacked = false
	got = rises(t, newMemory(t, spec))
	for cpu := range 4 {
		if got["processed"][cpu] != 1_250_000 || got["squeezed"][cpu] != 0 {
			t.Errorf("spread: CPU %d has %d packets, %d squeezes", cpu, got["processed"][cpu], got["squeezed"][cpu])
		}
	}
}

func TestGenerateLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("512 CPUs and 4096 interrupts take a second and 100 MB: skipped with -short")
	}
	start := time.Now()
	m := newMemory(t, Spec{CPUs: 512, Nodes: 8, SMT: 2, NICs: 64, QueuesPerNIC: 64, Driver: "ice"})
	generated := time.Since(start)
	text, err := m.Host(1).ReadFile(interruptsFile)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines != 4096+3 {
		t.Errorf("%d lines", lines)
	}
	start = time.Now()
	for irq := firstIRQ; irq < firstIRQ+4096; irq++ {
		write(t, m, fmt.Sprintf("proc/irq/%d/smp_affinity_list", irq), fmt.Sprint(irq%512))
	}
	if _, err := m.Host(1).ReadFile(interruptsFile); err != nil {
		t.Fatal(err)
	}
	t.Logf("generated in %v, 4096 interrupts moved in %v", generated, time.Since(start))
}
