package boot

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/rules/place"
	"github.com/napitune/napitune/rules/plan"
)

// solution is the CPU of every queue of the devices whose CPUs the profile
// leaves to the host.
type solution struct {
	home map[knob.Ref]int // by receive queue, kind irq.affinity
}

// channels is as many queues as there are CPUs for them, at most what the
// device offers.
func (r *reckoning) channels(ref knob.Ref) (string, bool) {
	state, known := r.s.Knobs[ref]
	if !known || state.Status != knob.Known || state.Bounds.Max < 1 {
		return "", false // a device without these channels, or with one
	}
	if before := r.scope.Solved[ref]; before != "" {
		if n, err := strconv.ParseInt(before, 10, 64); err == nil && n <= state.Bounds.Max {
			return before, true
		}
	}
	cpus := r.near(r.s.Device(ref.Dev)).Len()
	return strconv.FormatInt(min(state.Bounds.Max, int64(max(cpus, 1))), 10), true
}

// StandingChannels are the numbers of queues of a plan that stand, or stood before
// and are wanted back: those for the next Scope.
func StandingChannels(p plan.Plan, before map[knob.Ref]string) map[knob.Ref]string {
	out := map[knob.Ref]string{}
	for _, kept := range p.Kept {
		if isChannels(kept.Ref.Kind) {
			out[kept.Ref] = kept.Value
		}
	}
	for _, c := range p.Changes {
		if before[c.Ref] == c.After {
			out[c.Ref] = c.After
		}
	}
	return out
}

// near are the CPUs for a device: those that may take network work, of its own
// node where that is known and has any.
func (r *reckoning) near(d *detect.Device) cpuset.Set {
	allowed := r.s.AllowedCPUs()
	if d == nil || !r.s.Topo.NUMATrusted() {
		return allowed
	}
	if local := r.s.Topo.NodeCPUs(d.Node).Intersect(allowed); !local.IsEmpty() {
		return local
	}
	return allowed
}

// cpus is the choice for one queue.
func (r *reckoning) cpus(d *detect.Device, ref knob.Ref) (string, bool) {
	r.solve()
	home, ok := r.solution.home[knob.Rx(ref.Dev, ref.Queue, affinityKind)]
	if !ok {
		return "", false
	}
	switch ref.Kind {
	case rpsKind:
		return r.helpers(d, home).String(), true
	case xpsKind:
		mask := r.senders(d)[ref.Queue]
		return mask.String(), !mask.IsEmpty()
	default:
		return strconv.Itoa(home), true
	}
}

// solve places the queues of all devices of which any CPUs are left to the
// host, whatever the scope: the choice for one device must not depend on which
// is looked at. Present places play no part either, so that planning again
// after the changes finds nothing to change; loads are not known at boot and
// count as equal.
func (r *reckoning) solve() {
	if r.solution != nil {
		return
	}
	r.solution = &solution{home: map[knob.Ref]int{}}
	var items []place.Item
	var refs []knob.Ref
	for _, d := range r.s.Devices {
		if !r.solved(d) {
			continue
		}
		for _, q := range d.Queues {
			item := place.Item{ID: fmt.Sprintf("%s/%05d", d.Name, q.N), Current: -1, Node: topo.Unknown, Consumer: topo.Unknown, Group: d.Name}
			if r.s.Topo.NUMATrusted() {
				item.Node = d.Node
			}
			ref := knob.Rx(d.Name, q.N, affinityKind)
			if !slices.Contains(refs, ref) { // both sides of a pair
				items, refs = append(items, item), append(refs, ref)
			}
		}
	}
	s := place.Solve(r.placeCPUs(), items, place.Options{LocalLimit: -1})
	place.Orderly(items, s.CPU)
	for i, ref := range refs {
		if s.CPU[i] >= 0 {
			r.solution.home[ref] = s.CPU[i]
		}
	}
}

// solved reports whether the profile leaves any CPUs of a device to the host.
func (r *reckoning) solved(d *detect.Device) bool {
	return slices.ContainsFunc(r.profile.Entries, func(e Entry) bool {
		return e.Match.Matches(d) && slices.ContainsFunc(e.Settings, func(s Setting) bool { return s.Value == Solve && s.Side != "" })
	})
}

func (r *reckoning) placeCPUs() []place.CPU {
	var out []place.CPU
	for id := range r.s.InterruptCPUs().All() {
		out = append(out, place.On(r.s.Topo, id))
	}
	return out
}

// helpers are the CPUs to which RPS may hand the packets of a queue: those that
// share the last-level cache, else the node, with its CPU, without the cores
// that take interrupts of the device. A device with a queue for every CPU needs
// none (Documentation/networking/scaling.rst, "RPS Configuration").
func (r *reckoning) helpers(d *detect.Device, home int) cpuset.Set {
	t := r.s.Topo
	busy := t.Siblings(home)
	for _, q := range d.Queues {
		if cpu, ok := r.solution.home[knob.Rx(d.Name, q.N, affinityKind)]; ok {
			busy = busy.Union(t.Siblings(cpu))
		}
	}
	allowed := r.s.AllowedCPUs()
	near := t.LLCOf(home).Intersect(allowed).Minus(busy)
	if near.IsEmpty() {
		near = r.near(d).Minus(busy)
	}
	return near
}

// senders gives every online CPU to one of the transmit queues, so that each
// sends to the nearest.
func (r *reckoning) senders(d *detect.Device) map[int]cpuset.Set {
	var queues, homes []int
	for _, q := range d.Queues {
		home, ok := r.solution.home[knob.Rx(d.Name, q.N, affinityKind)]
		if ok && q.Tx && !slices.Contains(queues, q.N) {
			queues, homes = append(queues, q.N), append(homes, home)
		}
	}
	out := map[int]cpuset.Set{}
	for i, share := range r.s.Topo.Share(homes) {
		out[queues[i]] = share
	}
	return out
}
