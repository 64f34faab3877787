package detect

import (
	"fmt"

	"github.com/napitune/napitune/detect/knob"
)

// knobs reads every setting of the table that exists on the host.
func (c *collector) knobs() {
	view := c.s.View()
	view.Host = c.h
	for _, k := range knob.All() {
		if k.Refs == nil || k.Read == nil || k.Asked {
			continue
		}
		for _, ref := range k.Refs(view) {
			if c.s.Knobs == nil {
				c.s.Knobs = map[knob.Ref]knob.State{}
			}
			c.s.Knobs[ref] = k.Read(view, ref)
		}
	}
}

// View is what the table of settings needs to know of the snapshot's host. Its
// Host is nil: the caller adds the host to read from or write to.
func (s *Snapshot) View() knob.View {
	view := knob.View{HZ: s.Ident.HZ, IRQ: s.resolveIRQ}
	if s.Topo != nil {
		view.OnlineCPUs = s.Topo.Online.String()
		view.HousekeepingCPUs = s.Topo.Housekeeping().String()
	}
	for _, d := range s.Devices {
		dev := knob.Dev{Name: d.Name, Tunable: hardware(d.Kind), Driver: d.Driver, VirtioFeatures: d.VirtioFeatures}
		for _, q := range d.Queues {
			if q.Rx {
				dev.RxQueues++
			}
			if q.Tx {
				dev.TxQueues++
			}
		}
		view.Devices = append(view.Devices, dev)
	}
	return view
}

// resolveIRQ names the interrupt of one side of a queue. A queue that is out of
// use may have one, whose mask a change of channels sets as well: a rollback
// must be able to address it.
func (s *Snapshot) resolveIRQ(dev string, tx bool, queue int) (int, error) {
	side := "rx"
	if tx {
		side = "tx"
	}
	d := s.Device(dev)
	if d == nil {
		return -1, fmt.Errorf("interrupt of %s/%s-%d: no such device", dev, side, queue)
	}
	for i := range d.Queues {
		q := &d.Queues[i]
		if q.N != queue || tx && !q.Tx || !tx && !q.Rx {
			continue
		}
		irq := q.RxIRQ
		if tx {
			irq = q.TxIRQ
		}
		if irq < 0 {
			return -1, fmt.Errorf("interrupt of %s/%s-%d: %s", dev, side, queue, q.Why)
		}
		return irq, nil
	}
	if irq, ok := d.SpareIRQs[QueueID{Tx: tx, N: queue}]; ok {
		return irq, nil
	}
	return -1, fmt.Errorf("interrupt of %s/%s-%d: no such queue", dev, side, queue)
}
