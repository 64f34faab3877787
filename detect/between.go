package detect

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
)

// Between works out what happened over samples of one machine, given in the
// order in which they were taken. With one sample, counters since boot stand
// in. Counters of 32 bits are subtracted modulo 2^32; a 64-bit counter that
// went down was reset and is absent. Without any sample it returns nil.
func Between(snaps ...*Snapshot) *Observation {
	snaps = slices.DeleteFunc(slices.Clone(snaps), func(s *Snapshot) bool { return s == nil })
	if len(snaps) == 0 {
		return nil
	}
	first, last := snaps[0], snaps[len(snaps)-1]
	o := &Observation{First: first, Last: last, Samples: len(snaps)}
	o.basis()
	b := between{o: o, snaps: snaps, zero: len(snaps) == 1}
	for _, s := range snaps {
		for _, g := range s.Gaps {
			b.gap(g.Source, "%s", g.Reason)
		}
	}
	b.online()
	b.softirqs()
	b.softnet()
	b.cpuTimes()
	b.interrupts()
	b.devices()
	b.protocols()
	b.conntrack()
	o.Inconsistent = contradictions(last)
	return o
}

// basis finds the window. Wall-clock times of the samples bound it; clocks
// that stand still or run backwards leave it unknown.
func (o *Observation) basis() {
	switch {
	case o.Samples == 1:
		o.Basis = BasisBoot
		if t := o.Last.CPUTimes.BootTime; t > 0 && !o.Last.Taken.IsZero() {
			o.Window = max(0, o.Last.Taken.Sub(time.Unix(t, 0)))
		}
		if o.Window == 0 {
			o.Window = o.Last.Uptime
		}
	case o.First.Taken.IsZero() || !o.Last.Taken.After(o.First.Taken):
		o.Basis = BasisUntimed
	default:
		o.Basis = BasisWindow
		o.Window = o.Last.Taken.Sub(o.First.Taken)
	}
}

type between struct {
	o     *Observation
	snaps []*Snapshot
	zero  bool // one sample: the counters themselves are the result
}

func (b *between) first() *Snapshot { return b.o.First }
func (b *between) last() *Snapshot  { return b.o.Last }

func (b *between) gap(source, format string, args ...any) {
	g := Gap{Source: source, Reason: fmt.Sprintf(format, args...)}
	if !slices.Contains(b.o.Gaps, g) {
		b.o.Gaps = append(b.o.Gaps, g)
	}
}

// online notices CPUs that came or went between any two samples.
func (b *between) online() {
	for i := 1; i < len(b.snaps); i++ {
		if onlineOf(b.snaps[i-1]) != onlineOf(b.snaps[i]) {
			b.o.HotPlug = true
		}
	}
}

// onlineOf prefers the columns of /proc/interrupts: they were read with the counters.
func onlineOf(s *Snapshot) cpuset.Set {
	if len(s.IRQs.CPUs) > 0 {
		return cpuset.Of(s.IRQs.CPUs...)
	}
	if s.Topo == nil {
		return cpuset.Set{}
	}
	return s.Topo.Online
}

// columns maps each column of the last sample to one of the first, -1 where
// the CPU is in one sample only.
func columns(first, last []int) []int {
	at := make(map[int]int, len(first))
	for i, cpu := range first {
		at[cpu] = i
	}
	out := make([]int, len(last))
	for i, cpu := range last {
		out[i] = -1
		if j, ok := at[cpu]; ok {
			out[i] = j
		}
	}
	return out
}

func (b *between) softirqs() {
	b.o.NetRx = b.softirq("NET_RX")
	b.o.NetTx = b.softirq("NET_TX")
}

func (b *between) softirq(vector string) map[int]uint64 {
	first, last := &b.first().Softirqs, &b.last().Softirqs
	now, ok := last.Counts[vector]
	if !ok {
		return nil
	}
	out := make(map[int]uint64, len(now))
	if b.zero {
		live := onlineOf(b.last())
		for i, n := range now {
			// Possible CPUs that were never there have columns of zeros.
			if n != 0 || live.Has(last.CPUs[i]) {
				out[last.CPUs[i]] = uint64(n)
			}
		}
		return out
	}
	before, ok := first.Counts[vector]
	if !ok {
		return nil
	}
	live := onlineOf(b.first()).Intersect(onlineOf(b.last()))
	for i, j := range columns(first.CPUs, last.CPUs) {
		if j < 0 {
			continue
		}
		if delta := now[i] - before[j]; delta != 0 || live.IsEmpty() || live.Has(last.CPUs[i]) {
			out[last.CPUs[i]] = uint64(delta)
		}
	}
	return out
}

func (b *between) softnet() {
	first, last := &b.first().Softnet, &b.last().Softnet
	if len(last.Rows) == 0 {
		return
	}
	before := map[int]SoftnetRow{}
	for _, r := range first.Rows {
		before[r.CPU] = r
	}
	if !b.zero && first.Identified != last.Identified || !last.Identified && len(first.Rows) != len(last.Rows) {
		b.gap("proc/net/softnet_stat", "rows of the two samples cannot be tied to the same CPUs")
		return
	}
	out := make(map[int]SoftnetDelta, len(last.Rows))
	for _, r := range last.Rows {
		old, ok := before[r.CPU]
		if b.zero {
			old = SoftnetRow{}
		} else if !ok {
			continue
		}
		out[r.CPU] = SoftnetDelta{
			Processed:   uint64(r.Processed - old.Processed),
			Dropped:     uint64(r.Dropped - old.Dropped),
			Squeezed:    uint64(r.Squeezed - old.Squeezed),
			ReceivedRPS: uint64(r.ReceivedRPS - old.ReceivedRPS),
			FlowLimit:   uint64(r.FlowLimit - old.FlowLimit),
		}
	}
	b.o.Softnet = out
}

func (b *between) cpuTimes() {
	last := b.last().CPUTimes.CPUs
	if len(last) == 0 {
		return
	}
	out := make(map[int]CPUShare, len(last))
	for cpu, now := range last {
		old := CPUTime{}
		if !b.zero {
			var ok bool
			if old, ok = b.first().CPUTimes.CPUs[cpu]; !ok {
				continue
			}
		}
		if share, ok := shareOf(now, old); ok {
			out[cpu] = share
		}
	}
	b.o.CPU = out
}

// shareOf is false if no time passed on this CPU. Single fields may go back by
// a few ticks: idle and iowait are estimated while a CPU sleeps
// (fs/proc/stat.c, get_idle_time); those count as no time.
func shareOf(now, old CPUTime) (CPUShare, bool) {
	sub := func(a, b uint64) uint64 {
		if a < b {
			return 0
		}
		return a - b
	}
	d := CPUTime{
		User: sub(now.User, old.User), Nice: sub(now.Nice, old.Nice), System: sub(now.System, old.System),
		Idle: sub(now.Idle, old.Idle), IOWait: sub(now.IOWait, old.IOWait), IRQ: sub(now.IRQ, old.IRQ),
		Softirq: sub(now.Softirq, old.Softirq), Steal: sub(now.Steal, old.Steal),
	}
	ticks := d.Total()
	if ticks == 0 {
		return CPUShare{}, false
	}
	part := func(n uint64) float64 { return float64(n) / float64(ticks) }
	return CPUShare{Softirq: part(d.Softirq), IRQ: part(d.IRQ), Steal: part(d.Steal), Idle: part(d.Idle + d.IOWait), Busy: part(d.Busy()), Ticks: ticks}, true
}

// interrupts works out every line over the whole window, and how often its
// home changed from one pair of samples to the next.
func (b *between) interrupts() {
	last := &b.last().IRQs
	if len(last.CPUs) == 0 {
		return
	}
	b.o.IRQ = b.lines(b.first(), b.last(), b.zero)
	if !b.zero {
		b.moves()
	}
	b.o.Interrupt = make(map[int]uint64, len(last.CPUs))
	common := onlineOf(b.last())
	if !b.zero {
		common = common.Intersect(onlineOf(b.first()))
	}
	for cpu := range common.All() {
		b.o.Interrupt[cpu] = 0
	}
	for irq := range b.last().queueIRQs() {
		for cpu, n := range b.o.IRQ[irq].CPU {
			b.o.Interrupt[cpu] += n
		}
	}
}

// lines subtracts two tables. A line that is in one of them only was freed or
// requested meanwhile and is absent, as is one whose number serves another
// action now.
func (b *between) lines(first, last *Snapshot, zero bool) map[int]IRQDelta {
	out := make(map[int]IRQDelta, len(last.IRQs.Rows))
	at := columns(first.IRQs.CPUs, last.IRQs.CPUs)
	old := make(map[int]*IRQ, len(first.IRQs.Rows))
	if !zero {
		for i := range first.IRQs.Rows {
			old[first.IRQs.Rows[i].Number] = &first.IRQs.Rows[i]
		}
	}
	for i := range last.IRQs.Rows {
		row := &last.IRQs.Rows[i]
		if zero {
			out[row.Number] = delta(last.IRQs.CPUs, row.Counts, nil, nil)
			continue
		}
		before, ok := old[row.Number]
		if ok && slices.Equal(before.Actions, row.Actions) {
			out[row.Number] = delta(last.IRQs.CPUs, row.Counts, before.Counts, at)
		}
	}
	return out
}

func delta(cpus []int, now, before []uint32, at []int) IRQDelta {
	d := IRQDelta{Home: -1}
	var most uint64
	for i, n := range now {
		if before != nil {
			if at[i] < 0 {
				continue
			}
			n -= before[at[i]]
		}
		if n == 0 {
			continue
		}
		if d.CPU == nil {
			d.CPU = make(map[int]uint64, 1)
		}
		d.CPU[cpus[i]] = uint64(n)
		d.Total += uint64(n)
		if uint64(n) > most {
			most, d.Home = uint64(n), cpus[i]
		}
	}
	if d.Total > 0 {
		d.HomeShare = float64(most) / float64(d.Total)
	}
	return d
}

// moves counts changes of home between consecutive pairs. A line that did not
// fire in a pair keeps the home it had.
func (b *between) moves() {
	homes := map[int]int{}
	for i := 1; i < len(b.snaps); i++ {
		step := b.o.IRQ
		if len(b.snaps) > 2 {
			step = b.lines(b.snaps[i-1], b.snaps[i], false)
		}
		for irq, d := range step {
			if d.Home < 0 {
				continue
			}
			if home, ok := homes[irq]; ok && home != d.Home {
				if total, ok := b.o.IRQ[irq]; ok {
					total.Moves++
					b.o.IRQ[irq] = total
				}
			}
			homes[irq] = d.Home
		}
	}
}

func (b *between) devices() {
	b.o.Device = make(map[string]DeviceDelta, len(b.last().Devices))
	for _, d := range b.last().Devices {
		old := b.first().Device(d.Name)
		if b.zero {
			old = &Device{Counters: InterfaceCounters{Known: true}}
		}
		if old == nil {
			b.o.Appeared = append(b.o.Appeared, d.Name)
			continue
		}
		if !b.zero && old.Index != 0 && d.Index != 0 && old.Index != d.Index {
			b.gap("device "+d.Name, "interface number changed from %d to %d: another device has the name now", old.Index, d.Index)
			continue
		}
		b.o.Device[d.Name] = b.device(old, d)
	}
	for _, d := range b.first().Devices {
		if b.last().Device(d.Name) == nil {
			b.o.Vanished = append(b.o.Vanished, d.Name)
		}
	}
}

func (b *between) device(old, now *Device) DeviceDelta {
	var out DeviceDelta
	if old.Counters.Known && now.Counters.Known {
		out.Counters, out.Known = b.counters(old, now)
	}
	if len(now.Stats) > 0 && (b.zero || len(old.Stats) > 0) {
		out.Stats = b.stats(old, now)
	}
	for id, counters := range now.QueueRate {
		before, ok := old.QueueRate[id]
		if !ok && !b.zero {
			continue
		}
		deltas := b.subtract(before, counters, "counters of "+now.Name)
		if len(deltas) == 0 {
			continue
		}
		if out.Queue == nil {
			out.Queue = map[QueueID]map[string]uint64{}
		}
		out.Queue[id] = deltas
	}
	return out
}

// counters is unknown as a whole if any counter went down: the driver reset
// them all.
func (b *between) counters(old, now *Device) (InterfaceCounters, bool) {
	out := InterfaceCounters{Known: true}
	o, n := &old.Counters, &now.Counters
	for _, f := range []struct {
		into     *uint64
		now, old uint64
		name     string
	}{
		{&out.RxPackets, n.RxPackets, o.RxPackets, "rx_packets"}, {&out.RxBytes, n.RxBytes, o.RxBytes, "rx_bytes"},
		{&out.RxDropped, n.RxDropped, o.RxDropped, "rx_dropped"}, {&out.RxErrors, n.RxErrors, o.RxErrors, "rx_errors"},
		{&out.RxFIFO, n.RxFIFO, o.RxFIFO, "rx_fifo_errors"}, {&out.RxMissed, n.RxMissed, o.RxMissed, "rx_missed_errors"},
		{&out.RxOver, n.RxOver, o.RxOver, "rx_over_errors"},
		{&out.TxPackets, n.TxPackets, o.TxPackets, "tx_packets"}, {&out.TxBytes, n.TxBytes, o.TxBytes, "tx_bytes"},
		{&out.TxDropped, n.TxDropped, o.TxDropped, "tx_dropped"}, {&out.TxErrors, n.TxErrors, o.TxErrors, "tx_errors"},
	} {
		if f.now < f.old {
			b.gap("counters of "+now.Name, "%s went down from %d to %d: the counters were reset", f.name, f.old, f.now)
			return InterfaceCounters{}, false
		}
		*f.into = f.now - f.old
	}
	return out, true
}

// stats subtracts driver counters. Some drivers repeat names; those are added up.
func (b *between) stats(old, now *Device) map[string]uint64 {
	sum := func(d *Device) map[string]uint64 {
		out := make(map[string]uint64, len(d.Stats))
		for _, s := range d.Stats {
			out[s.Name] += s.Value
		}
		return out
	}
	return b.subtract(sum(old), sum(now), "ethtool -S "+now.Name)
}

// subtract leaves out counters that are in one sample only and those that went
// down because a driver created its queues anew.
func (b *between) subtract(old, now map[string]uint64, source string) map[string]uint64 {
	out := make(map[string]uint64, len(now))
	down := 0
	for name, n := range now {
		o, ok := old[name]
		if !ok && !b.zero {
			continue
		}
		if n < o {
			down++
			continue
		}
		out[name] = n - o
	}
	if down > 0 {
		b.gap(source, "%d counters went down", down)
	}
	return out
}

func (b *between) protocols() {
	if b.last().Protocols == nil || !b.zero && b.first().Protocols == nil {
		return
	}
	var before map[string]uint64
	if !b.zero {
		before = b.first().Protocols
	}
	b.o.Protocols = b.subtract(before, withoutGauges(b.last().Protocols), "proc/net/snmp")
}

// gauges of /proc/net/snmp are levels and settings, not counters
// (net/ipv4/proc.c).
var gauges = map[string]bool{
	"Ip.Forwarding": true, "Ip.DefaultTTL": true, "Tcp.CurrEstab": true,
	"Tcp.RtoAlgorithm": true, "Tcp.RtoMin": true, "Tcp.RtoMax": true, "Tcp.MaxConn": true,
}

func withoutGauges(p Protocols) map[string]uint64 {
	out := maps.Clone(map[string]uint64(p))
	maps.DeleteFunc(out, func(name string, _ uint64) bool { return gauges[name] })
	return out
}

// contradictions compares the CPU sets of the sources of one sample.
func contradictions(s *Snapshot) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	irqs, rows := len(s.IRQs.CPUs), len(s.Softnet.Rows)
	// Fewer rows are an excerpt or a hotplug between two reads, and such rows
	// are not tied to CPUs; more rows than CPUs cannot be one machine.
	if irqs > 0 && rows > irqs {
		say("softnet_stat has %d rows, /proc/interrupts %d CPUs", rows, irqs)
	}
	online := cpuset.Of(s.IRQs.CPUs...)
	if soft := cpuset.Of(s.Softirqs.CPUs...); irqs > 0 && !soft.IsEmpty() && !soft.Contains(online) {
		say("/proc/softirqs has columns for %s, which are not all of the CPUs %s of /proc/interrupts", soft, online)
	}
	if s.Topo != nil && s.Topo.Known.Online && irqs > 0 && s.Topo.Online != online {
		say("CPUs %s are online in sysfs, %s in /proc/interrupts", s.Topo.Online, online)
	}
	if n := len(s.CPUTimes.CPUs); n > 0 && irqs > 0 && n != irqs {
		say("/proc/stat has %d CPUs, /proc/interrupts %d", n, irqs)
	}
	return out
}

// liveSoftirqs are the CPUs on which any softirq ever ran.
func liveSoftirqs(s *Softirqs) cpuset.Set {
	var live []int
	for i, cpu := range s.CPUs {
		for _, row := range s.Counts {
			if row[i] != 0 {
				live = append(live, cpu)
				break
			}
		}
	}
	return cpuset.Of(live...)
}
