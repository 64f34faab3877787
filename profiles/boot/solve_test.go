package boot_test

import (
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
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

// A number of queues that was worked out once stays when CPUs go, as long as the
// device offers as many.
func TestSolvedChannelsStay(t *testing.T) {
	t.Parallel()
	s := machine(t, hosttest.Spec{CPUs: 2, QueuesPerNIC: 4, MaxQueues: 4})
	profile := parse(t, "devices:\n- match: {driver: virtio_net}\n  settings: {channels.combined: solve}\n")
	for before, want := range map[string]string{"": "2", "4": "4", "3": "3", "8": "2"} {
		ref := knob.Device("eth0", "channels.combined")
		p, problems := profile.Plan(s, boot.Scope{Device: "eth0", Solved: map[knob.Ref]string{ref: before}})
		got := changes(p)[ref.String()]
		if len(p.Kept) > 0 {
			got = p.Kept[0].Value
		}
		if got != want || len(problems) > 0 {
			t.Errorf("after %q: %q, want %q; problems %v", before, got, want, problems)
		}
	}
}
