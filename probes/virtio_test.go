package probes

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/probes/counters"
)

// TestVirtioMadeAnew: a virtqueue that is made anew within the window takes
// another slot, and its queue stays one row that only grows.
func TestVirtioMadeAnew(t *testing.T) {
	r := newRig(t, Options{})
	s := &Session{objects: map[string]*object{"core": r.object}, irqs: []int{7}}
	put := func(slot uint32, v coreVirtioSlot) {
		t.Helper()
		var rows []coreVirtioSlot
		if err := r.maps["virtio_slots"].Lookup(slot, &rows); err != nil {
			t.Fatal(err)
		}
		v.Netns, v.Ifindex, v.Queue = 1, 2, 3
		rows[r.cpu] = v
		if err := r.maps["virtio_slots"].Put(slot, rows); err != nil {
			t.Fatal(err)
		}
		r.change(t, func(st *coreCpuState) { st.VirtioUsed = slot + 1 })
	}
	read := func(taken uint64) (*counters.Counters, [][]uint32) {
		t.Helper()
		var states []coreCpuState
		if err := r.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
			t.Fatal(err)
		}
		out := &counters.Counters{Session: 1, TakenNs: taken}
		queues, err := s.readVirtio(out, states)
		if err != nil {
			t.Fatal(err)
		}
		return out, queues
	}
	put(0, coreVirtioSlot{Vq: 0xffff0, RingSize: 256, IrqSlot: 1, ArmedPolls: 10, UnarmedPolls: 2, Reads: 12, Starved: 1, PendingMax: 200, EmptyMax: 4, Pending: [9]uint64{0, 5}})
	first, _ := read(1)
	put(1, coreVirtioSlot{Vq: 0xffff8, RingSize: 1024, ArmedPolls: 3, UnarmedPolls: 1, Reads: 4, PendingMax: 20, EmptyMax: 9, Pending: [9]uint64{4, 0, 2}})
	second, queues := read(2)
	got, err := second.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	want := []counters.Virtio{{
		NetNS: 1, IfIndex: 2, Queue: 3, CPU: r.cpu, IRQ: 7, RingSize: 1024,
		ArmedPolls: 3, UnarmedPolls: 1, RingReads: 4, PendingEighths: []uint64{4, 0, 2}, MaxPending: 200, MaxUnfilled: 9,
	}}
	if diff := cmp.Diff(want, got.Virtio); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if slots := queues[r.cpu]; len(slots) != 2 || slots[0] != 3 || slots[1] != 3 {
		t.Errorf("queues of the slots: %v, want 3 of both", slots)
	}
}
