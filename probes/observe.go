package probes

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// eventCostNs is what one event costs where it is dear: calling the
	// program through its tracepoint, and its body. Measured by TestOverhead
	// on a 6.18 guest with retpolines: 220 ns for the four events of a packet
	// that has a softirq of its own, of which more than half is the call.
	// A kernel without retpolines pays less; the estimate errs on the safe side.
	eventCostNs = 60
	// sliceLength is how long the probes stay attached before their cost is
	// looked at again: long enough to make attaching and detaching cheap, which
	// patch kernel text on all CPUs (some 100 µs per program).
	sliceLength = 100 * time.Millisecond
	// firstSlice is short, for nothing is known of the rate yet; it holds
	// hundreds of events at the rates where cost matters.
	firstSlice = 10 * time.Millisecond
	// longestPause keeps several slices in a window of ten seconds.
	longestPause = 2 * time.Second
)

// Observe waits for the length of window while the default probes count, and
// keeps their cost below Options.MaxCostPercent of the busiest CPU: as long as
// events are rare enough they stay attached, else they are attached in slices
// with pauses between, so long that the limit holds on average. How much of the
// time was covered is in Counters.AttachedNs. Observe comes back early when ctx
// ends, without an error. Read before and after it.
func (s *Session) Observe(ctx context.Context, window time.Duration) error {
	core := s.objects["core"]
	if !core.loaded() {
		wait(ctx, window)
		return nil
	}
	end := time.Now().Add(window)
	slice := firstSlice
	for ctx.Err() == nil && time.Until(end) > 0 {
		if err := s.resume(); err != nil {
			return fmt.Errorf("observe: %w", err)
		}
		percent, err := s.sliceCost(ctx, min(slice, time.Until(end)))
		if err != nil {
			return fmt.Errorf("observe: %w", err)
		}
		pause, next := schedule(slice, percent/s.options.MaxCostPercent)
		slice = next
		if pause == 0 {
			continue
		}
		if err := s.pause(); err != nil {
			return fmt.Errorf("observe: %w", err)
		}
		wait(ctx, min(pause, max(time.Until(end), 0)))
	}
	return nil
}

// schedule says how long the probes must be off after a slice that cost excess
// times the limit, and how long the next slice may be so that the pause after
// it is not too long.
func schedule(slice time.Duration, excess float64) (pause, next time.Duration) {
	if excess <= 1 {
		return 0, sliceLength
	}
	pause = time.Duration(float64(slice) * (excess - 1))
	next = time.Duration(float64(longestPause) / (excess - 1))
	return min(pause, longestPause), min(next, sliceLength)
}

// sliceCost waits and estimates what the probes cost the busiest CPU
// meanwhile, in percent of its time.
func (s *Session) sliceCost(ctx context.Context, length time.Duration) (float64, error) {
	before, err := s.events()
	if err != nil {
		return 0, err
	}
	began := monotonicNs()
	wait(ctx, length)
	after, err := s.events()
	if err != nil {
		return 0, err
	}
	elapsed := monotonicNs() - began
	var most uint64
	for cpu := range after {
		most = max(most, after[cpu]-before[cpu])
	}
	if elapsed == 0 {
		return 0, nil
	}
	return 100 * float64(most*eventCostNs) / float64(elapsed), nil
}

// events is how often programs of the core object have been called, per CPU.
func (s *Session) events() ([]uint64, error) {
	core := s.objects["core"]
	var states []coreCpuState
	if err := core.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		return nil, fmt.Errorf("read softirq counters: %w", err)
	}
	out := make([]uint64, len(states))
	for cpu := range states {
		st := &states[cpu]
		for vec, n := range st.Count {
			out[cpu] += 2 * n // entry and exit
			if core.find("softirq_raise") != nil && (vec == 2 || vec == 3) {
				out[cpu] += n
			}
		}
		out[cpu] += st.RxPolls + st.Threaded.Polls + st.Busy.Polls + st.Netpoll.Polls
	}
	return out, nil
}

func (s *Session) pause() error {
	if s.attachedSince == 0 {
		return nil
	}
	core := s.objects["core"]
	err := core.setVariable("counting", 0)
	// Detaching may take longer than a slice, and nothing is judged meanwhile.
	s.attachedNs += monotonicNs() - s.attachedSince
	s.attachedSince = 0
	if err = errors.Join(err, core.detachAll()); err != nil {
		return fmt.Errorf("pause probes: %w", err)
	}
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
	if err := errors.Join(core.setVariable("counting", 1), core.attachAll()); err != nil {
		return fmt.Errorf("resume probes: %w", err)
	}
	s.attachedSince = monotonicNs()
	return nil
}
