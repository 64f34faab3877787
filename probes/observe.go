package probes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/napitune/napitune/probes/counters"
)

const (
	// eventCostNs is what one event costs where it is dear: calling the
	// program through its tracepoint, and its body. A packet that has a softirq
	// of its own is four events; on a 6.18 guest with retpolines TestOverhead
	// found 220 ns for them on the quiet machine and 345 ns on a busy one, more
	// than half of it for the calls. A kernel without retpolines pays less; the
	// estimate errs on the safe side.
	eventCostNs = 85
	// statsCostNs comes on top while BPF statistics are on: two clock reads.
	statsCostNs = 50
	// shortestSlice is the least time attached that tells the rate: it holds
	// hundreds of events at the rates where cost matters.
	shortestSlice = 10 * time.Millisecond
	// lookEvery is how often the rate is looked at while probes are attached.
	lookEvery = 100 * time.Millisecond
)

// Observe waits for the length of window while the default probes count, and
// keeps what they cost, attaching and detaching included, below
// Options.MaxCostPercent of the busiest CPU: as long as events are rare enough
// they stay attached, else they are attached in slices with pauses between, so
// long that the limit holds on average. How much of the time was covered is in
// Counters.AttachedNs; every session sees at least one slice. Observe comes back
// early when ctx ends, without an error. Read before and after it.
func (s *Session) Observe(ctx context.Context, window time.Duration) error {
	if !s.objects["core"].loaded() {
		wait(ctx, window)
		return nil
	}
	end := time.Now().Add(window)
	for left := window; ctx.Err() == nil && left > 0; left = time.Until(end) {
		until, err := s.step(left)
		if err != nil {
			return fmt.Errorf("observe: %w", err)
		}
		wait(ctx, min(until, left))
	}
	if err := s.Rest(); err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	return nil
}

// Rest detaches the default probes until the next Observe if events come so
// often that they cost more than Options.MaxCostPercent: for the time in which
// nobody observes, such as between Open and Observe.
func (s *Session) Rest() error {
	if s.attachedSince == 0 {
		return nil
	}
	if err := s.look(); err != nil {
		return err
	}
	if s.account.affordable() {
		return nil
	}
	return s.pause()
}

// step attaches or detaches, with left of the window to go, and says when to
// decide again.
func (s *Session) step(left time.Duration) (time.Duration, error) {
	attached := s.attachedSince != 0
	if attached {
		if err := s.look(); err != nil {
			return 0, err
		}
	}
	on, until := s.account.decide(monotonicNs(), left, attached)
	if on {
		return until, s.resume()
	}
	return until, s.pause()
}

// look charges what the default probes have cost since the last look.
func (s *Session) look() error {
	events, err := s.events()
	if err != nil {
		return err
	}
	s.account.look(monotonicNs(), float64(busiest(s.eventsSeen, events))*s.eachCosts(s.eventNs))
	s.eventsSeen = events
	return nil
}

// busiest is the largest growth of a per-CPU counter.
func busiest(before, after []uint64) uint64 {
	var most uint64
	for cpu, n := range after {
		if cpu < len(before) {
			n -= before[cpu]
		}
		most = max(most, n)
	}
	return most
}

// events is how often programs of the core object have been called, per CPU,
// but for interrupts that nobody chose.
func (s *Session) events() ([]uint64, error) {
	var states []coreCpuState
	if err := s.objects["core"].maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		return nil, fmt.Errorf("read softirq counters: %w", err)
	}
	return s.eventsOf(states), nil
}

func (s *Session) eventsOf(states []coreCpuState) []uint64 {
	raised := s.objects["core"].find("softirq_raise") != nil
	out := make([]uint64, len(states))
	for cpu := range states {
		st := &states[cpu]
		for vec, n := range st.Count {
			out[cpu] += 2 * n // entry and exit
			if raised && (vec == 2 || vec == 3) {
				out[cpu] += n
			}
		}
		out[cpu] += 2*st.Irqs + polls(st)
	}
	return out
}

func polls(st *coreCpuState) uint64 {
	return st.RxPolls + st.Threaded.Polls + st.Busy.Polls + st.Netpoll.Polls
}

// coreCalls are how often the programs of the core object were called.
func coreCalls(states []coreCpuState) []counters.Calls {
	softirq, napi := counters.Calls{Group: "softirq"}, counters.Calls{Group: "napi"}
	for i := range states {
		for _, n := range states[i].Count {
			softirq.Calls += 2 * n // entry and exit
		}
		napi.Calls += polls(&states[i])
	}
	return []counters.Calls{napi, softirq}
}

// pause detaches. Programs that are detached last still run while the first
// go, so that time is charged at the rate of before.
func (s *Session) pause() error {
	if s.attachedSince == 0 {
		return nil
	}
	core := s.objects["core"]
	began := monotonicNs()
	err := core.setVariable("counting", 0)
	// Detaching may take longer than a slice, and nothing is judged meanwhile.
	s.attachedNs += monotonicNs() - s.attachedSince
	s.attachedSince = 0
	err = errors.Join(err, core.detachAll())
	now := monotonicNs()
	s.account.detached(now, now-began, core.detachNs)
	events, errRead := s.events()
	if err = errors.Join(err, errRead); err != nil {
		return fmt.Errorf("pause probes: %w", err)
	}
	s.eventsSeen = events
	return nil
}

// resume attaches again. What was in flight when the probes were detached is
// forgotten first: a softirq that was raised then would seem to have waited
// for the whole pause.
func (s *Session) resume() error {
	if s.attachedSince != 0 {
		return nil
	}
	core := s.objects["core"]
	var states []coreCpuState
	if err := core.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("resume probes: %w", err)
	}
	for cpu := range states {
		st := &states[cpu]
		st.EntryNs, st.InRx, st.Primed, st.LastIrqSlot, st.SqueezedKnown = 0, 0, 0, 0, 0
		st.RaiseChoice = [2]uint32{}
	}
	if err := core.maps["cpu_states"].Put(uint32(0), states); err != nil {
		return fmt.Errorf("resume probes: %w", err)
	}
	began := monotonicNs()
	if err := errors.Join(core.setVariable("counting", 1), core.attachAll()); err != nil {
		return fmt.Errorf("resume probes: %w", err)
	}
	s.attachedSince = monotonicNs()
	s.account.attached(s.attachedSince, s.attachedSince-began, core.attachNs)
	return nil
}
