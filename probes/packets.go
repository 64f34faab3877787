package probes

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/probes/counters"
)

// readPackets reads the probes that are not part of the core object.
func (s *Session) readPackets(out *counters.Counters) error {
	for _, read := range []func(*counters.Counters) error{
		s.readGRO, s.readDrops, s.readLatency, s.readControl,
	} {
		if err := read(out); err != nil {
			return err
		}
	}
	return nil
}

// windowRow is the row of a windowed probe, its brakes still to be added.
func (s *Session) windowRow(name string) counters.Window {
	return counters.Window{
		Probe: name, AttachedNs: s.windowNs[name], LimitPerJiffy: uint64(s.options.PacketsPerJiffy),
	}
}

func addWindow(out *counters.Counters, w counters.Window) {
	out.Windows = append(out.Windows, w)
	out.Calls = append(out.Calls, counters.Calls{Group: w.Probe, Calls: w.Events + w.Skipped})
	out.Events += w.Events + w.Skipped
	out.EstimateNs += (w.Events + w.Skipped) * packetCostNs
}

func (s *Session) readGRO(out *counters.Counters) error {
	obj := s.objects["gro"]
	if !obj.loaded() {
		return nil
	}
	var states []groGroState
	if err := obj.maps["gro_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("read GRO counters: %w", err)
	}
	w := s.windowRow("gro")
	for _, st := range states {
		w.Events += st.Brake.Events
		w.Skipped += st.Brake.Skipped
		w.SwitchedOff += st.Brake.SwitchedOff
		w.Overflow += st.Overflow
	}
	addWindow(out, w)
	devices := map[[2]uint32]*counters.GRO{}
	m := obj.maps["gro_slots"]
	for slot := range m.MaxEntries() {
		var rows []groGroSlot
		if err := m.Lookup(slot, &rows); err != nil {
			return fmt.Errorf("read GRO counters: %w", err)
		}
		for i := range rows {
			if rows[i].Dev != 0 {
				addGRO(devices, &rows[i])
			}
		}
	}
	for _, d := range devices {
		out.GRO = append(out.GRO, *d)
	}
	slices.SortFunc(out.GRO, func(a, b counters.GRO) int {
		return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.IfIndex, b.IfIndex))
	})
	return nil
}

func addGRO(devices map[[2]uint32]*counters.GRO, r *groGroSlot) {
	key := [2]uint32{r.Netns, r.Ifindex}
	d := devices[key]
	if d == nil {
		d = &counters.GRO{NetNS: r.Netns, IfIndex: r.Ifindex, Device: text(r.Device[:])}
		devices[key] = d
	}
	d.In += r.In
	d.Merged += r.Merged
	d.Held += r.Held
	d.Normal += r.Normal
	d.Consumed += r.Consumed
	d.Delivered += r.Delivered
	d.Segments += r.Segments
	d.TCPSegments += r.TcpSegments
	d.UnknownSegments += r.UnknownSegments
	d.SegmentsPerSKB = d.SegmentsPerSKB.Merge(counters.NewHist(r.SegmentsPerSkb[:], r.Segments))
}

// packets is how often the programs of a windowed object have been called, per
// CPU, but for those at the exit of a function.
func packets(o *object) ([]uint64, error) {
	var out []uint64
	switch o.decl.name {
	case "gro":
		var states []groGroState
		if err := o.maps["gro_states"].Lookup(uint32(0), &states); err != nil {
			return nil, fmt.Errorf("read GRO counters: %w", err)
		}
		for _, st := range states {
			out = append(out, st.Brake.Events+st.Brake.Skipped)
		}
	case "drops":
		var states []dropsDropState
		if err := o.maps["drop_states"].Lookup(uint32(0), &states); err != nil {
			return nil, fmt.Errorf("read drop counters: %w", err)
		}
		for _, st := range states {
			out = append(out, st.Brake.Events+st.Brake.Skipped)
		}
	}
	return out, nil
}

func (s *Session) readDrops(out *counters.Counters) error {
	obj := s.objects["drops"]
	if !obj.loaded() {
		return nil
	}
	var states []dropsDropState
	if err := obj.maps["drop_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("read drop counters: %w", err)
	}
	w := s.windowRow("drops")
	for cpu, st := range states {
		w.Events += st.Brake.Events
		w.Skipped += st.Brake.Skipped
		w.SwitchedOff += st.Brake.SwitchedOff
		if st.Backlog+st.Other+st.RpsInterrupts == 0 {
			continue
		}
		row := counters.Drop{CPU: cpu, Other: st.Other}
		if obj.tellsBacklog() {
			row.Backlog = &states[cpu].Backlog
		}
		if obj.find("csd_function_entry") != nil {
			row.RPSInterrupts = &states[cpu].RpsInterrupts
		}
		out.Drops = append(out.Drops, row)
	}
	addWindow(out, w)
	return nil
}

// tellsBacklog: this kernel gives the reason of a drop, and that one among them.
func (o *object) tellsBacklog() bool {
	return o.types.hasValue("skb_drop_reason", "SKB_DROP_REASON_CPU_BACKLOG")
}

func (s *Session) readLatency(out *counters.Counters) error {
	obj := s.objects["latency"]
	if !obj.loaded() {
		return nil
	}
	var states []latencyLatencyState
	if err := obj.maps["latency_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("read latency counters: %w", err)
	}
	for cpu, st := range states {
		row := counters.Latency{
			CPU:            cpu,
			PollToSocketNs: counters.NewHist(st.PollToSocket.Bucket[:], st.PollToSocket.SumNs),
			SocketToReadNs: counters.NewHist(st.SocketToRead.Bucket[:], st.SocketToRead.SumNs),
		}
		if row.PollToSocketNs.Count()+row.SocketToReadNs.Count() > 0 {
			out.Latency = append(out.Latency, row)
		}
	}
	return nil
}

func (s *Session) readControl(out *counters.Counters) error {
	obj := s.objects["control"]
	if !obj.loaded() {
		return nil
	}
	var states []controlControlState
	if err := obj.maps["control_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("read control-queue counters: %w", err)
	}
	for cpu, st := range states {
		h := counters.NewHist(st.Command.Bucket[:], st.Command.SumNs)
		if h.Count() > 0 {
			out.Control = append(out.Control, counters.Control{CPU: cpu, CommandNs: h})
		}
	}
	return nil
}

// symbolAddress finds a kernel function, 0 if the kernel does not tell
// (kptr_restrict without CAP_SYSLOG shows zeros).
func symbolAddress(name string) uint64 {
	file, err := os.Open("/proc/kallsyms")
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		address, rest, _ := strings.Cut(lines.Text(), " ")
		if len(rest) < 2 || rest[2:] != name {
			continue // also skips functions of modules, which carry a suffix
		}
		n, err := strconv.ParseUint(address, 16, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}
