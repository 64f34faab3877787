package knob

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	v := View{IRQ: func(_ string, _ bool, queue int) (int, error) { return 40 + queue, nil }}
	for text, want := range map[string][]string{
		"net.core.netdev_budget": {"proc/sys/net/core/netdev_budget"},
		"eth0/rx-3/irq.affinity": {"proc/irq/43/smp_affinity", "proc/irq/43/smp_affinity_list"},
		"eth0/rx-1/rps.cpus":     {"sys/class/net/eth0/queues/rx-1/rps_cpus"},
		"eth0/tx-1/xps.cpus":     {"sys/class/net/eth0/queues/tx-1/xps_cpus"},
		"eth0/tx-1/xps.rxqs":     {"sys/class/net/eth0/queues/tx-1/xps_rxqs"},
		"eth0/gro_flush_timeout": {"sys/class/net/eth0/gro_flush_timeout"},
		"eth0/ring.rx":           nil,
	} {
		ref, err := ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := Lookup(ref.Kind)
		if diff := cmp.Diff(want, kind.Files(v, ref)); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
	kind, _ := Lookup("irq.affinity")
	if got := kind.Files(View{}, Rx("eth0", 0, "irq.affinity")); got != nil {
		t.Errorf("without a queue map: %q", got)
	}
	if got := kind.Files(v, Rx("a/b", 0, "irq.affinity")); got != nil {
		t.Errorf("of an impossible device: %q", got)
	}
}
