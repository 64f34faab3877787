package detect_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host/archive"
)

func captured(t testing.TB, name string) []*detect.Snapshot {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("NAPITUNE_HOSTS is unset: CI must test against the captured hosts")
		}
		t.Skip("NAPITUNE_HOSTS is unset: the captured hosts are not here")
	}
	c, err := archive.Open(filepath.Join(dir, name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	var out []*detect.Snapshot
	for _, h := range c.Samples {
		s, err := detect.Collect(h)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// summary shows the hardware devices of a snapshot: number of queues, the
// first and the last with their interrupts, where the edges come from.
func summary(s *detect.Snapshot) map[string]string {
	out := map[string]string{}
	for _, d := range s.Devices {
		if len(d.Queues) == 0 || d.Kind != "physical" && d.Kind != "virtio" && d.Kind != "synthetic" {
			continue
		}
		first, last := d.Queues[0], d.Queues[len(d.Queues)-1]
		text := fmt.Sprintf("%s %dq %d/%d", d.Kind, len(d.Queues), first.RxIRQ, first.TxIRQ)
		if len(d.Queues) > 1 {
			text += fmt.Sprintf("..%d/%d", last.RxIRQ, last.TxIRQ)
		}
		out[d.Name] = text + " " + first.Source.String()
	}
	return out
}

func TestCapturedMaps(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"netutils-linux/igb.E5606": {
			"eth0": "physical 4q 58/62..61/65 name", "eth1": "physical 4q 67/71..70/74 name", "eth3": "physical 4q 85/89..88/92 name",
			"eth4": "physical 4q 94/98..97/101 name", "eth5": "physical 4q 103/107..106/110 name",
		},
		"netutils-linux/mlx5.Q6700": {
			"eth0": "physical 1q 41/41 name", "eth1": "physical 1q 17/17 name",
			"mlx5@0000:01:00.0": "physical 4q 30/30..33/33 msi_irqs", "mlx5@0000:01:00.1": "physical 4q 37/37..40/40 msi_irqs",
		},
		"openshift-nto/worker2": {
			"eno1": "physical 32q 179/179..210/210 msi_irqs", "eno2": "physical 32q 212/212..243/243 msi_irqs",
			"eno3": "physical 8q 76/76..83/83 msi_irqs", "eno4": "physical 8q 87/87..94/94 msi_irqs",
			"ens7f0": "physical 32q 96/96..127/127 msi_irqs", "ens7f1": "physical 32q 138/138..169/169 msi_irqs",
		},
		"openshift-nto/sno": {"virtio1": "virtio 1q 69/70 msi_irqs"},
		"hotsos/openstack": {
			"ens3": "virtio 1q 25/26 msi_irqs", "ens4": "virtio 1q 30/31 msi_irqs", "ens5": "virtio 1q 33/34 msi_irqs", "ens6": "virtio 1q 38/39 msi_irqs",
			"ens7": "virtio 1q 41/42 msi_irqs", "ens8": "virtio 1q 44/45 msi_irqs", "ens9": "virtio 1q 47/48 msi_irqs",
		},
		"netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf": {
			"eth0": "physical 4q 162/161..165/-1 name", "eth1": "physical 4q 167/166..170/-1 name",
			"eth6": "physical 8q 113/113..120/120 name", "eth7": "physical 8q 121/121..128/128 name",
		},
		"netutils-linux/kvm.l3.masterconf":          {"eth0": "physical 1q 11/11 name", "eth1": "physical 1q 11/11 name"},
		"netutils-linux/1xE31240.2x82576.L2.manual": {"eth0": "physical 8q 36/36..43/43 name", "eth1": "physical 8q 45/45..52/52 name", "eth2": "physical 1q 53/54 name", "eth3": "physical 1q 56/57 name"},
		"issues/irqbalance81_xen_vif_4cpu":          {"vif0": "physical 4q 71/70..77/76 name"},
		"issues/orangepi46_8cpu_plic_cpu0":          {"eth0": "physical 1q 26/26 name", "eth1": "physical 1q 27/27 name", "eth2": "physical 8q 38/38..45/45 msi_irqs"},
		"issues/ena316_4cpu_isolated":               {"enp39s0": "physical 1q 66/66 msi_irqs"},
		"issues/coreos2135_vmxnet3_46cpu":           {"ens192": "physical 2q 56/56..57/57 msi_irqs"},
		"web/virtio_8cpu_8q_irqbalance_churn":       {"virtio0": "virtio 8q 50/51..64/65 msi_irqs"},
		"web/ec2_c5.xlarge_ena":                     {"ens5": "physical 4q 27/27..30/30 name"},
		"web/ec2_c4.xlarge_ixgbevf_xen":             {"ens3": "physical 2q 74/74..75/75 name"},
		"pcp/s390x_16cpu":                           {"mlx5@0002:00:00.0": "physical 9q 4/4..12/12 msi_irqs", "mlx5@0003:00:00.0": "physical 9q 14/14..22/22 msi_irqs"},
		"pcp/laptop_8cpu_x86":                       {"enp0s25": "physical 1q 29/29 msi_irqs"},
		"proc-snapshot/kvm_1vcpu_virtio_pcimsix":    {"virtio1": "virtio 1q 33/34 msi_irqs", "virtio2": "virtio 1q 36/37 msi_irqs"},
		"proc-snapshot/sep4020_arm_1cpu_9col":       {"eth0": "physical 1q -1/-1 unknown"},
		"prometheus/node_exporter_4cpu":             {},
		"pcp/hpe_1152cpu_i40e": {
			"eth0": "physical 94q 679/679..772/772 msi_irqs", "enp195s0f1": "physical 94q 808/808..901/901 msi_irqs",
			"enp195s0f2": "physical 94q 937/937..1030/1030 msi_irqs", "enp195s0f3": "physical 94q 1066/1066..1159/1159 msi_irqs",
		},
	} {
		t.Run(strings.ReplaceAll(name, "/", "."), func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(want, summary(captured(t, name)[0])); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCapturedSeries(t *testing.T) {
	// Totals blame CPU4; what happened blames CPU1 and CPU5.
	o := detect.Between(captured(t, "netutils-linux/series_i7")...)
	var sum uint64
	for _, n := range o.NetRx {
		sum += n
	}
	if share := float64(o.NetRx[1]+o.NetRx[5]) / float64(sum); o.Samples != 5 || o.Basis != detect.BasisUntimed || share < 0.9 {
		t.Errorf("%d samples, %v, CPU1 and CPU5 have %.2f of %v", o.Samples, o.Basis, share, o.NetRx)
	}
	o = detect.Between(captured(t, "netutils-linux/series_dualcore")...)
	if len(o.NetRx) != 2 {
		t.Errorf("NET_RX on %v: four columns, but two CPUs", o.NetRx)
	}
	o = detect.Between(captured(t, "netutils-linux/series_singlequeue_8cpu")...)
	if d := o.IRQ[17]; d.Home != 0 || d.HomeShare != 1 || d.Moves != 0 || d.Total == 0 || o.Interrupt[0] < d.Total {
		t.Errorf("eth0 over %d samples: %+v", o.Samples, d)
	}
}

func TestCapturedContradictions(t *testing.T) {
	for name, want := range map[string]bool{"prometheus/node_exporter_4cpu": true, "sysstat/root7": true, "sysstat/root1": false, "hotsos/rabbitmq": false} {
		if got := detect.Between(captured(t, name)...).Inconsistent; len(got) > 0 != want {
			t.Errorf("%s: inconsistent %q, want any: %v", name, got, want)
		}
	}
}

// TestEveryCapturedHost holds for every capture what must hold for any host.
func TestEveryCapturedHost(t *testing.T) {
	dir := os.Getenv("NAPITUNE_HOSTS")
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		captured(t, "none")
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, dir+"/"), ".tar.gz")
		t.Run(strings.ReplaceAll(name, "/", "."), func(t *testing.T) {
			t.Parallel()
			snaps := captured(t, name)
			for _, s := range snaps {
				checkSnapshot(t, s)
			}
			o := detect.Between(snaps...)
			for irq, d := range o.IRQ {
				var sum uint64
				for _, n := range d.CPU {
					sum += n
				}
				if sum != d.Total || (d.Home < 0) != (d.Total == 0) || d.HomeShare > 1 {
					t.Errorf("interrupt %d: %+v", irq, d)
				}
			}
		})
	}
}

func checkSnapshot(t *testing.T, s *detect.Snapshot) {
	t.Helper()
	owner := map[int]string{}
	for _, d := range s.Devices {
		for i, q := range d.Queues {
			if q.N != i || !q.Rx && !q.Tx {
				t.Errorf("%s: queue %d at place %d: %+v", d.Name, q.N, i, q)
			}
			for _, irq := range []int{q.RxIRQ, q.TxIRQ} {
				if irq >= 0 && s.IRQs.Row(irq) == nil {
					t.Errorf("%s queue %d: interrupt %d does not exist", d.Name, q.N, irq)
				}
				if was, ok := owner[irq]; irq >= 0 && ok && was != d.Name && q.Why == "" {
					t.Errorf("interrupt %d belongs to %s and %s", irq, was, d.Name)
				}
				owner[irq] = d.Name
			}
			hardware := d.Kind == "physical" || d.Kind == "virtio" || d.Kind == "synthetic"
			if hardware && q.Why == "" && (q.Rx && q.RxIRQ < 0) {
				t.Errorf("%s queue %d: no interrupt and no reason", d.Name, q.N)
			}
		}
	}
	for _, g := range s.Gaps {
		if g.Source == "" || g.Reason == "" {
			t.Errorf("gap %+v says nothing", g)
		}
	}
}
