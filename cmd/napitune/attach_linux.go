package main

import (
	"errors"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes"
)

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
	return open, nil
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
