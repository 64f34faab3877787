package rules

import (
	"cmp"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/probes/counters"
)

// ordered is an observation with everything in a fixed order that has one by
// chance, so that the same observation gives the same advice: which of two equal
// queues moves, which device is named first. Collected ones are in order already
// and come back as they are; others are copied, not changed.
func ordered(o *detect.Observation) *detect.Observation {
	out := *o
	out.Last = orderedSnapshot(o.Last)
	out.First = out.Last
	if o.First != o.Last {
		out.First = orderedSnapshot(o.First)
	}
	if o.Probes != nil {
		p := *o.Probes
		p.CPUs = sorted(p.CPUs, func(a, b counters.CPU) int { return cmp.Compare(a.CPU, b.CPU) })
		p.NAPIs = sorted(p.NAPIs, func(a, b counters.NAPI) int {
			return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Device, b.Device),
				cmp.Compare(a.ID, b.ID), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.CPU, b.CPU))
		})
		p.GRO = sorted(p.GRO, func(a, b counters.GRO) int {
			return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Device, b.Device))
		})
		p.ControlReads = sorted(p.ControlReads, func(a, b counters.ControlRead) int { return cmp.Compare(a.Device, b.Device) })
		out.Probes = &p
	}
	return &out
}

func orderedSnapshot(s *detect.Snapshot) *detect.Snapshot {
	out := *s
	out.Devices = sorted(s.Devices, func(a, b *detect.Device) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index))
	})
	if slices.ContainsFunc(out.Devices, func(d *detect.Device) bool { return !slices.IsSortedFunc(d.Queues, compareQueue) }) {
		out.Devices = slices.Clone(out.Devices)
		for i, d := range out.Devices {
			own := *d
			own.Queues = sorted(d.Queues, compareQueue)
			out.Devices[i] = &own
		}
	}
	out.Processes = sorted(s.Processes, func(a, b host.Process) int { return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.Comm, b.Comm)) })
	out.Contests = sorted(s.Contests, func(a, b detect.Contest) int {
		return cmp.Or(cmp.Compare(a.Ref.String(), b.Ref.String()), a.At.Compare(b.At), cmp.Compare(a.Present, b.Present))
	})
	return &out
}

func compareQueue(a, b detect.Queue) int {
	side := func(q detect.Queue) int {
		if q.Rx {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.N, b.N), cmp.Compare(side(a), side(b)), cmp.Compare(a.RxIRQ, b.RxIRQ), cmp.Compare(a.TxIRQ, b.TxIRQ))
}

// sorted is the slice itself if it is in order, else a copy that is.
func sorted[S ~[]E, E any](of S, compare func(a, b E) int) S {
	if slices.IsSortedFunc(of, compare) {
		return of
	}
	return slices.SortedStableFunc(slices.Values(of), compare)
}
