package boot_test

import (
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/profiles/boot"
)

// TestSolveWithinIRQAffinity: interrupts are placed where the kernel command line
// wants them.
func TestSolveWithinIRQAffinity(t *testing.T) {
	t.Parallel()
	s := machine(t, hosttest.Spec{CPUs: 8, QueuesPerNIC: 4, IRQStacked: true})
	s.Cmdline = map[string]string{"irqaffinity": "6-7"}
	p, problems := parse(t, "devices:\n- match: {driver: virtio_net}\n  settings: {rx-*/irq.affinity: solve}\n").Plan(s, boot.Scope{})
	if len(problems) > 0 || len(p.Changes) == 0 {
		t.Fatalf("%d changes, problems %v", len(p.Changes), problems)
	}
	for ref, cpu := range changes(p) {
		if strings.HasSuffix(ref, "/irq.affinity") && cpu != "6" && cpu != "7" {
			t.Errorf("%s becomes %s, outside irqaffinity=6-7", ref, cpu)
		}
	}
}
