package main

import (
	"context"
	"errors"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes"
)

// session is a set of attached probes with the way advise uses them.
type session struct{ *probes.Session }

// probeNames are the probes of --probes, with those that count without being named.
func probeNames() (all, byDefault []string) { return probes.Names(), probes.DefaultProbes() }

func attachProbes(s *detect.Snapshot, names []string) (prober, error) {
	open, err := probes.Open(probes.Options{
		Probes: names,
		IRQs:   queueIRQs(s), HZ: s.Ident.HZ, VirtioFeatures: virtioFeatures(s),
		// Without the budgets of the snapshot, so that every Read looks at those in
		// force: somebody may change them within the window.
	})
	if err != nil {
		return nil, err
	}
	// Reading the whole host comes next, and takes long on a large one.
	if err := open.Rest(); err != nil {
		return nil, errors.Join(err, open.Close())
	}
	return session{open}, nil
}

// queueIRQs are the interrupts of network queues.
func queueIRQs(s *detect.Snapshot) []int {
	var out []int
	for _, d := range s.Devices {
		for _, q := range d.Queues {
			for _, irq := range []int{q.RxIRQ, q.TxIRQ} {
				if irq >= 0 {
					out = append(out, irq)
				}
			}
		}
	}
	return out
}

// virtioFeatures are those of each virtio-net device.
func virtioFeatures(s *detect.Snapshot) map[string]string {
	out := make(map[string]string)
	for _, d := range s.Devices {
		if d.Driver == "virtio_net" {
			out[d.Name] = d.VirtioFeatures
		}
	}
	return out
}

const (
	// costWindow is how long BPF statistics are on for the default probes: long
	// enough for thousands of events under load, and they make each event dearer
	// meanwhile.
	costWindow = 200 * time.Millisecond
	// packetWindow is how long each probe that runs once per packet looks at
	// them: GRO, and drops if they are asked for.
	packetWindow = 300 * time.Millisecond
)

// Watch spends a small part of the window on the cost of the probes and on
// those that run per packet, whose cost is the most worth knowing; windows that
// are too short for that go to the others alone.
func (s session) Watch(ctx context.Context, window time.Duration) error {
	end := time.Now().Add(window)
	if window >= wholeWindow {
		// Without statistics all is counted but the cost; Counters says why.
		_ = s.StartStats()
		errs := []error{s.Observe(ctx, costWindow)}
		for _, name := range s.Windowed() {
			errs = append(errs, s.Window(ctx, name, packetWindow))
		}
		if err := errors.Join(append(errs, s.StopStats())...); err != nil {
			return err
		}
	}
	return s.Observe(ctx, time.Until(end))
}
