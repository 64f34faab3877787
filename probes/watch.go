package probes

import (
	"context"
	"errors"
	"time"

	"github.com/napitune/napitune/probes/counters"
)

const (
	// costWindow is how long BPF statistics are on for the default probes: long
	// enough for thousands of events under load, and they make each event dearer
	// meanwhile.
	costWindow = 200 * time.Millisecond
	// packetWindow is how long each probe that runs once per packet looks at
	// them: GRO, and drops if they are asked for.
	packetWindow = 300 * time.Millisecond
)

// Watch is how a window of advice passes: a small part of it goes to the cost of
// the probes and to those that run per packet, whose cost is the most worth
// knowing, the rest to Observe. Windows shorter than counters.WholeWindow go to
// Observe alone, and after its first window a session leaves out what runs per
// packet where the limit of cost does not pay for it and the default probes.
// Read before and after it.
func (s *Session) Watch(ctx context.Context, window time.Duration) error {
	end := time.Now().Add(window)
	if window >= counters.WholeWindow {
		// Without statistics all is counted but the cost; Counters says why.
		_ = s.StartStats()
		errs := []error{s.Observe(ctx, costWindow)}
		for _, name := range s.Windowed() {
			errs = append(errs, s.lookAtPackets(ctx, name, time.Until(end)))
		}
		if err := errors.Join(append(errs, s.StopStats())...); err != nil {
			return err
		}
	}
	return s.Observe(ctx, time.Until(end))
}

// lookAtPackets opens a window if the account has room for it, with left of the
// whole window to go.
func (s *Session) lookAtPackets(ctx context.Context, name string, left time.Duration) error {
	p, _ := findProbe(name)
	obj := s.objects[p.object]
	credit, open := s.account.perPacket(monotonicNs(), left, obj.attachNs+obj.detachNs, s.windowNs[p.object] == 0)
	if !open {
		return nil
	}
	return s.window(ctx, name, packetWindow, credit)
}
