package probes

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// vectorNames are those of /proc/softirqs, by number (kernel/softirq.c).
var vectorNames = [...]string{
	"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
}

// Read gives the totals since Open. Counters of different CPUs and tables are
// not read at the same instant; each of them only grows.
func (s *Session) Read() (*counters.Counters, error) {
	if s.objects == nil {
		return nil, fmt.Errorf("read probes: the session is closed")
	}
	out := &counters.Counters{
		Session: s.started,
		TakenNs: monotonicNs(),
		NetNS:   ownNetNS(),
		Probes:  s.Status(),
		// Once is enough: each read holds up who configures a network device.
		ControlReads: slices.Clone(s.controlReads),
	}
	if err := s.refreshBudget(); err != nil {
		return nil, err
	}
	out.AttachedNs = s.attachedFor(out.TakenNs)
	out.BudgetPackets, out.BudgetJiffies = uint64(s.budget.packets), uint64(s.budget.jiffies)
	if err := s.readCore(out); err != nil {
		return nil, err
	}
	if err := s.readPackets(out); err != nil {
		return nil, err
	}
	return out, s.readCost(out)
}

// ownNetNS is the network namespace of this thread, 0 if procfs does not tell.
func ownNetNS() uint32 {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0
	}
	return uint32(st.Ino)
}

// refreshBudget follows a change of the sysctls, so that squeezes from now on
// are judged by the new limits.
func (s *Session) refreshBudget() error {
	core := s.objects["core"]
	now := s.readLimits()
	if now == s.budget || !core.loaded() {
		s.budget = now
		return nil
	}
	s.budget = now
	if err := core.setVariable("budget_packets", now.packets); err != nil {
		return err
	}
	return core.setVariable("budget_jiffies", s.ticks.limit(now.jiffies))
}

func (s *Session) readCore(out *counters.Counters) error {
	core := s.objects["core"]
	if !core.loaded() {
		return nil
	}
	var states []coreCpuState
	if err := core.maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		return fmt.Errorf("read softirq counters: %w", err)
	}
	for cpu := range states {
		if row, busy := cpuRow(cpu, &states[cpu]); busy {
			out.CPUs = append(out.CPUs, row)
		}
	}
	for _, n := range s.eventsOf(states) {
		out.Events += n
		out.EstimateNs += uint64(float64(n) * s.eventNs)
	}
	out.Calls = append(out.Calls, coreCalls(states)...)
	virtio, err := s.readVirtio(out, states)
	if err != nil {
		return err
	}
	if err := s.readNAPIs(out, virtio); err != nil {
		return err
	}
	return s.readIRQs(out)
}

// cpuRow converts one CPU's state; false if nothing ever happened there (an
// offline CPU).
func cpuRow(cpu int, st *coreCpuState) (counters.CPU, bool) {
	row := counters.CPU{CPU: cpu, Softirq: make(map[string]counters.Softirq)}
	for v, name := range vectorNames {
		if st.Count[v] == 0 {
			continue
		}
		row.Softirq[name] = counters.Softirq{
			Runs: st.Count[v], TimeNs: st.TimeNs[v], TimedRuns: st.TimedWeight[v],
		}
	}
	row.Tx, row.Rx = netRow(st, 0), netRow(st, 1)
	row.Budget = counters.Budget{
		Runs: st.RxRuns, Polls: st.RxPolls, Work: st.RxWork, Full: st.RxFull,
		SqueezedPackets: st.SqueezePackets, SqueezedTime: st.SqueezeTime, SqueezedBoth: st.SqueezeBoth,
		SqueezedUnexplained: st.SqueezeUnexplained, InferredRuns: st.Inferred,
		MaxPolls:    st.MaxPolls,
		PollsPerRun: counters.NewHist(st.PollsPerRun[:], 0).Buckets,
		WorkPerRun:  counters.NewHist(st.WorkPerRun[:], st.RxWork),
	}
	row.Outside = counters.Outside{
		ThreadedPolls: st.Threaded.Polls, ThreadedWork: st.Threaded.Work,
		BusyPolls: st.Busy.Polls, BusyWork: st.Busy.Work,
		NetpollPolls: st.Netpoll.Polls, NetpollWork: st.Netpoll.Work,
	}
	row.Backlog.QueuePackets = counters.NewHist(st.BacklogQueue[:], st.BacklogQueueSum)
	row.NAPIOverflow, row.VirtioOverflow = st.NapiOverflow, st.VirtioOverflow
	busy := len(row.Softirq) > 0 || row.Outside != counters.Outside{} || row.NAPIOverflow > 0
	return row, busy
}

func netRow(st *coreCpuState, v int) counters.NetSoftirq {
	return counters.NetSoftirq{
		RaiseToEntryNs:  counters.NewHist(st.RaiseToEntry[v].Bucket[:], st.RaiseToEntry[v].SumNs),
		RunNs:           counters.NewHist(st.EntryToExit[v].Bucket[:], st.EntryToExit[v].SumNs),
		KsoftirqdRuns:   st.KsoftirqdCount[v],
		KsoftirqdTimeNs: st.KsoftirqdTimeNs[v],
		Unraised:        st.Unraised[v],
	}
}

// readVirtio reads the receive queues and returns the queue number of each
// slot per CPU, which names NAPIs. A queue has several slots on a CPU if its
// virtqueue was made anew, as when channels are added or the device was reset.
func (s *Session) readVirtio(out *counters.Counters, states []coreCpuState) ([][]uint32, error) {
	queues := make([][]uint32, len(states))
	var used uint32
	for i := range states {
		used = max(used, states[i].VirtioUsed)
	}
	merged := map[virtioKey]*counters.Virtio{}
	for slot := range used {
		var rows []coreVirtioSlot
		if err := s.objects["core"].maps["virtio_slots"].Lookup(slot, &rows); err != nil {
			return nil, fmt.Errorf("read virtqueue counters: %w", err)
		}
		for cpu := range rows {
			queues[cpu] = append(queues[cpu], rows[cpu].Queue)
			if rows[cpu].Vq != 0 {
				addVirtio(merged, s.virtioRow(cpu, &rows[cpu]))
			}
		}
	}
	for _, v := range merged {
		out.Virtio = append(out.Virtio, *v)
	}
	slices.SortFunc(out.Virtio, func(a, b counters.Virtio) int {
		return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.IfIndex, b.IfIndex),
			cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.CPU, b.CPU))
	})
	return queues, nil
}

// virtioKey is what makes a row of counters.Virtio: two readings are compared by it.
type virtioKey struct {
	netns, ifindex uint32
	queue, cpu     int
}

// addVirtio adds the counts of a slot to those of earlier ones of its queue; how
// the ring looks now, and its interrupt if that was seen, are those of the last.
func addVirtio(merged map[virtioKey]*counters.Virtio, v counters.Virtio) {
	key := virtioKey{v.NetNS, v.IfIndex, v.Queue, v.CPU}
	before := merged[key]
	merged[key] = &v
	if before == nil {
		return
	}
	v.ArmedPolls += before.ArmedPolls
	v.UnarmedPolls += before.UnarmedPolls
	v.RingReads += before.RingReads
	v.Starved += before.Starved
	v.PendingEighths = counters.NewHist(v.PendingEighths, 0).Merge(counters.NewHist(before.PendingEighths, 0)).Buckets
	v.MaxPending, v.MaxUnfilled = max(v.MaxPending, before.MaxPending), max(v.MaxUnfilled, before.MaxUnfilled)
	if v.IRQ < 0 {
		v.IRQ = before.IRQ
	}
}

func (s *Session) virtioRow(cpu int, v *coreVirtioSlot) counters.Virtio {
	row := counters.Virtio{
		NetNS: v.Netns, IfIndex: v.Ifindex, Queue: int(v.Queue), CPU: cpu, IRQ: -1,
		RingSize: v.RingSize, Packed: v.Packed != 0,
		ArmedPolls: v.ArmedPolls, UnarmedPolls: v.UnarmedPolls,
		RingReads: v.Reads, Starved: v.Starved,
		MaxPending: v.PendingMax, MaxUnfilled: v.EmptyMax,
		PendingEighths: counters.NewHist(v.Pending[:], 0).Buckets,
	}
	if n := int(v.IrqSlot); n > 0 && n <= len(s.irqs) {
		row.IRQ = s.irqs[n-1]
	}
	return row
}

// Kinds of NAPI as bpf/core.bpf.c numbers them.
var napiKinds = [...]string{"device", "backlog", "virtio-rx"}

func (s *Session) readNAPIs(out *counters.Counters, queues [][]uint32) error {
	if !s.wants("napi") && !s.wants("backlog") && !s.wants("virtio") {
		return nil
	}
	m := s.objects["core"].maps["napi_slots"]
	for slot := range m.MaxEntries() {
		var rows []coreNapiSlot
		if err := m.Lookup(slot, &rows); err != nil {
			return fmt.Errorf("read NAPI counters: %w", err)
		}
		for cpu := range rows {
			if rows[cpu].Napi != 0 {
				out.NAPIs = append(out.NAPIs, s.napiRow(cpu, slot, &rows[cpu], queues[cpu]))
			}
		}
	}
	slices.SortFunc(out.NAPIs, func(a, b counters.NAPI) int {
		return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.IfIndex, b.IfIndex),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.CPU, b.CPU))
	})
	return nil
}

func (s *Session) napiRow(cpu int, slot uint32, n *coreNapiSlot, queues []uint32) counters.NAPI {
	row := counters.NAPI{
		NetNS: n.Netns, IfIndex: n.Ifindex, Device: text(n.Device[:]), ID: n.NapiId, Slot: slot,
		Kind: "unknown", Queue: -1, CPU: cpu,
		Polls: n.Polls, Work: uint64(n.Work), Full: n.Full, Empty: n.Empty, Outside: n.Outside,
		TimeNs: n.TimeNs, TimedPolls: n.TimedWeight, LongPolls: n.LongWeight, LongNs: n.LongNs,
		WorkPerPoll: counters.NewHist(n.WorkPerPoll[:], uint64(n.Work)),
	}
	if p := s.objects["core"].find("napi_poll"); p != nil && p.rung.loss == "" && int(n.Kind) < len(napiKinds) {
		row.Kind = napiKinds[n.Kind]
	}
	if v := int(n.VirtioSlot); v > 0 && v <= len(queues) {
		row.Queue = int(queues[v-1])
	}
	return row
}

func (s *Session) readIRQs(out *counters.Counters) error {
	for slot, irq := range s.irqs {
		var rows []coreIrqSlot
		if err := s.objects["core"].maps["irq_slots"].Lookup(uint32(slot), &rows); err != nil {
			return fmt.Errorf("read counters of interrupt %d: %w", irq, err)
		}
		for cpu, r := range rows {
			if r.Count == 0 && r.Unhandled == 0 {
				continue
			}
			out.IRQs = append(out.IRQs, counters.IRQ{
				IRQ: irq, CPU: cpu, Count: r.Count, Unhandled: r.Unhandled,
				TimeNs: r.TimeNs, TimedIRQs: r.TimedWeight,
			})
		}
	}
	return nil
}

// text is a C string.
func text(chars []int8) string {
	var b []byte
	for _, c := range chars {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

// readCost adds what the programs cost while statistics were on.
func (s *Session) readCost(out *counters.Counters) error {
	out.CostUnknown = s.costUnknown
	attached := s.attachedTimes()
	return s.eachProgram(func(object string, p *program) error {
		now, st, err := p.counted()
		if err != nil {
			return err
		}
		cost, countedNs := p.cost, s.countedNs[object]
		if s.stats != nil {
			cost = cost.plus(now, p.costSince)
			countedNs += attached[object] - s.statsSince[object]
		}
		out.Cost = append(out.Cost, counters.ProgCost{
			Program: p.rung.program, Hook: string(p.rung.how) + "/" + p.rung.target, Group: p.group,
			Runs: cost.runs, TimeNs: cost.ns, AttachedNs: attached[object], CountedNs: countedNs, Missed: st.RecursionMisses,
		})
		return nil
	})
}

func (s *Session) eachProgram(do func(object string, p *program) error) error {
	for _, d := range objectTable() {
		for _, p := range s.objects[d.name].programs {
			if err := do(d.name, p); err != nil {
				return err
			}
		}
	}
	return nil
}
