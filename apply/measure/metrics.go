package measure

import (
	"math"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
	"github.com/napitune/napitune/rules/plan"
)

// class is how a metric enters the verdict.
type class uint8

const (
	// promisedOnly metrics count where a plan names them.
	promisedOnly class = iota
	// loss is harm whatever else improved.
	loss
	// throughput is what was achieved; less of it is harm only with a sign
	// that it was not simply less that was wanted.
	throughput
	// cost is CPU time and waiting. It may rise by less than double where the
	// plan's promise came true: spreading work costs a little of it. Where that
	// is thin, see there, the factor does not count.
	cost
	// indicator tells how costs come about. It may change by any factor where
	// the promise came true or cannot be seen: whoever buys latency pays in
	// interrupts.
	indicator
)

// metric is one row of what is compared.
type metric struct {
	name, title, unit string
	class             class
	upIsBetter        bool
	// perDevice metrics are told apart by device.
	perDevice bool
	// floor is the least move that matters, in the unit; relative the least
	// part of the value, where it is more than for the others.
	floor, relative float64
	// scaled metrics grow with the offered load.
	scaled bool
	// ticking metrics are counted in ticks of USER_HZ.
	ticking bool
	source  string
}

// Names that code refers to.
const (
	backlogDropped = "backlog_dropped"
	softirqShare   = "softirq_share"
	maxSoftirq     = "max_cpu_softirq_share"
	rxBytes        = "rx_bytes"
	txBytes        = "tx_bytes"
	anyQueueShare  = "max_queue_share"
)

// metrics are all that can be compared. Floors: a loss of one packet in ten
// thousand is where TCP over a WAN begins to suffer (Mathis et al., CCR 27,
// 1997); a twentieth of a CPU is what no CPU misses; ten squeezes a second and 20 µs of waiting are below what any
// workload notices.
func metrics() []metric {
	const (
		lossFloor  = 0.0001
		shareFloor = 0.05
	)
	return []metric{
		{name: "device_lost", title: "packets lost at devices", unit: "of packets", class: loss, floor: lossFloor, source: "interface counters"},
		{name: backlogDropped, title: "packets dropped at a CPU's backlog", unit: "of packets", class: loss, floor: lossFloor, source: "/proc/net/softnet_stat"},
		{name: "tcp_retransmits", title: "TCP segments sent again", unit: "of segments", class: loss, floor: 10 * lossFloor, source: "/proc/net/snmp"},
		{name: "tcp_out_of_order", title: "TCP segments received out of order", unit: "of segments", class: loss, floor: 10 * lossFloor, source: "/proc/net/netstat"},
		{name: rxBytes, title: "received", unit: "bytes/s", class: throughput, upIsBetter: true, perDevice: true, source: "interface counters"},
		{name: txBytes, title: "sent", unit: "bytes/s", class: throughput, upIsBetter: true, perDevice: true, source: "interface counters"},
		{name: softirqShare, ticking: true, title: "softirq time of all CPUs", unit: "of a CPU", class: cost, floor: shareFloor, scaled: true, source: "/proc/stat"},
		{name: maxSoftirq, ticking: true, title: "softirq time of the busiest CPU", unit: "of a CPU", class: cost, floor: shareFloor, scaled: true, source: "/proc/stat"},
		{name: "softirq_latency", title: "wait for the receive softirq", unit: "ns", class: cost, floor: 20_000, relative: 0.5, source: "in-kernel probes"},
		{name: "squeezes", title: "receive runs cut short", unit: "1/s", class: indicator, floor: 10, relative: 0.5, scaled: true, source: "/proc/net/softnet_stat"},
		{name: "interrupts_per_packet", title: "interrupts per packet", unit: "interrupts", class: indicator, floor: 0.02, relative: 0.25, source: "/proc/interrupts"},
		{name: "gro_ratio", title: "packets merged into one", unit: "packets", class: indicator, floor: 0.2, relative: 0.25, upIsBetter: true, source: "/proc/net/netstat"},
		{name: "rx_ring_lost", title: "packets lost for want of a receive descriptor", unit: "packets/s", perDevice: true, floor: 1, source: "interface counters"},
		{name: "interrupts_per_second", title: "interrupts of the devices", unit: "1/s", floor: 100, scaled: true, source: "/proc/interrupts"},
		{name: "max_cpu_interrupt_share", title: "interrupts on the CPU with most of them", unit: "of NIC interrupts", floor: shareFloor, source: "/proc/interrupts"},
		{name: anyQueueShare, title: "packets in the busiest receive queue", unit: "of packets", perDevice: true, floor: shareFloor, source: "counters per queue"},
		{name: "received_rps", title: "interrupts between CPUs for RPS", unit: "1/s", floor: 100, scaled: true, source: "/proc/net/softnet_stat"},
		{name: "packets_per_poll", title: "packets per poll", unit: "packets", floor: 0.5, upIsBetter: true, source: "in-kernel probes"},
		{name: "ring_starved", title: "looks that found the receive ring nearly empty", unit: "of looks", floor: 0.01, source: "in-kernel probes"},
		{name: "squeezed_by_time", title: "receive runs that ran out of time", unit: "1/s", floor: 10, scaled: true, source: "in-kernel probes"},
		{name: "squeezed_by_packets", title: "receive runs that ran out of packets allowed", unit: "1/s", floor: 10, scaled: true, source: "in-kernel probes"},
	}
}

// lookup finds a metric by the name that plans use.
func lookup(name string) (metric, bool) {
	// What plans call latency is the part of it that the kernel shows.
	if name == "latency" {
		name = "softirq_latency"
	}
	for _, m := range metrics() {
		if m.name == name {
			return m, true
		}
	}
	return metric{}, false
}

// Key names a metric, of one device where devices are told apart.
type Key struct{ Metric, Device string }

func (k Key) String() string {
	if k.Device == "" {
		return k.Metric
	}
	return k.Device + "/" + k.Metric
}

// CPU is how one CPU spent a sub-window, as parts of it.
type CPU struct {
	Busy    float64
	Softirq float64 // softirqs and interrupts
}

// Sample is one sub-window in figures. NaN stands for what is not known.
type Sample struct {
	Seconds float64
	// Packets and Bytes per second were offered to the devices concerned in both
	// directions; what was lost is offered, too.
	Packets, Bytes float64
	// Elsewhere is how many packets the whole host handled for each one that the
	// devices concerned moved, those of other namespaces among them.
	Elsewhere float64
	// OtherWork is CPU time that is neither softirq nor interrupt, Steal what
	// the hypervisor took, both in CPUs.
	OtherWork, Steal float64
	// UDPShare is UDP's part of what was received, by count.
	UDPShare float64
	CPUs     map[int]CPU
	// Interrupts are parts of all NIC interrupts by CPU.
	Interrupts map[int]float64
	// Tickless is the part of them on CPUs of nohz_full=.
	Tickless float64
	Carrier  map[string]bool // devices concerned whose link state is known
	Values   map[Key]float64
}

// Concerned lists the devices that changes act on, with those below them. A
// change of the whole host concerns every device but loopback.
func Concerned(changes []plan.Change, s *detect.Snapshot) []string {
	var out []string
	for _, c := range changes {
		if c.Ref.Dev != "" && s.Device(c.Ref.Dev) != nil {
			out = append(out, s.WithLower([]string{c.Ref.Dev})...)
		}
		if c.Ref.Dev != "" {
			continue
		}
		for _, d := range s.Devices {
			if d.Kind != "loopback" {
				out = append(out, d.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// segmenting reports settings after which the kernel counts the same bytes as
// another number of packets.
func segmenting(kind string) bool { return strings.HasPrefix(kind, "feature.") }

// reading turns one observation into figures.
type reading struct {
	o       *detect.Observation
	seconds float64
	devices []string
	moved   uint64 // packets that the devices concerned received and sent
	s       Sample
}

// Read turns one sub-window into figures; false if it does not tell how long it
// was, so that there are no rates.
func Read(o *detect.Observation, devices []string) (Sample, bool) {
	if o == nil || o.Basis != detect.BasisWindow || o.Window <= 0 {
		return Sample{}, false
	}
	r := reading{o: o, seconds: o.Window.Seconds(), devices: devices}
	r.s = Sample{
		Seconds: r.seconds, Values: map[Key]float64{}, CPUs: map[int]CPU{}, Interrupts: map[int]float64{}, Carrier: map[string]bool{},
		Elsewhere: math.NaN(), UDPShare: math.NaN(),
	}
	r.traffic()
	r.losses()
	r.cpus()
	r.interrupts()
	r.protocols()
	r.softnet()
	r.queues()
	r.probes()
	return r.s, true
}

func (r *reading) set(name, device string, v float64) { r.s.Values[Key{name, device}] = v }

func (r *reading) rate(n uint64) float64 { return float64(n) / r.seconds }

// part is n of a whole; nothing of nothing is nothing.
func part(n, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return n / whole
}

// lost are packets that a device could not take or pass on. Drivers count the
// same loss under several names, so the largest counts.
func lost(c detect.InterfaceCounters) uint64 {
	return max(c.RxDropped, c.RxMissed, c.RxFIFO, c.RxOver) + c.TxDropped
}

func (r *reading) traffic() {
	for _, name := range r.devices {
		d, ok := r.o.Device[name]
		if !ok || !d.Known {
			continue
		}
		c := d.Counters
		r.s.Packets += r.rate(c.RxPackets + c.TxPackets + max(c.RxMissed, c.RxFIFO, c.RxOver) + c.TxDropped)
		r.s.Bytes += r.rate(c.RxBytes + c.TxBytes)
		r.moved += c.RxPackets + c.TxPackets
		r.set(rxBytes, name, r.rate(c.RxBytes))
		r.set(txBytes, name, r.rate(c.TxBytes))
		r.set("rx_ring_lost", name, r.rate(max(c.RxMissed, c.RxFIFO)))
	}
	for _, name := range r.devices {
		if d := r.o.Last.Device(name); d != nil && d.Carrier != detect.Unknown {
			r.s.Carrier[name] = d.Carrier == detect.Yes
		}
	}
}

// losses are of all devices: what one device sends too fast another one loses.
func (r *reading) losses() {
	var gone, offered uint64
	for _, d := range r.o.Device {
		if d.Known {
			gone += lost(d.Counters)
			offered += d.Counters.RxPackets + d.Counters.TxPackets + lost(d.Counters)
		}
	}
	r.set("device_lost", "", part(float64(gone), float64(offered)))
}

func (r *reading) cpus() {
	sum, most := 0.0, 0.0
	for cpu, share := range r.o.CPU {
		packets := share.Softirq + share.IRQ
		r.s.CPUs[cpu] = CPU{Busy: share.Busy, Softirq: packets}
		r.s.OtherWork += max(0, share.Busy-packets-share.Steal)
		r.s.Steal += share.Steal
		sum += packets
		most = max(most, packets)
	}
	if len(r.o.CPU) == 0 {
		return
	}
	r.set(softirqShare, "", sum)
	r.set(maxSoftirq, "", most)
}

func (r *reading) interrupts() {
	var total uint64
	for _, name := range r.devices {
		for _, irq := range queueLines(r.o.Last.Device(name)) {
			total += r.o.IRQ[irq].Total
		}
	}
	var all, most uint64
	for _, n := range r.o.Interrupt {
		all += n
		most = max(most, n)
	}
	if all == 0 {
		return
	}
	for cpu, n := range r.o.Interrupt {
		r.s.Interrupts[cpu] = part(float64(n), float64(all))
		if t := r.o.Last.Topo; t != nil && t.NohzFull.Has(cpu) {
			r.s.Tickless += r.s.Interrupts[cpu]
		}
	}
	r.set("max_cpu_interrupt_share", "", part(float64(most), float64(all)))
	r.set("interrupts_per_second", "", r.rate(total))
	if r.s.Packets > 0 {
		r.set("interrupts_per_packet", "", r.rate(total)/r.s.Packets)
	}
}

// queueLines are the interrupts of a device's queues, each once.
func queueLines(d *detect.Device) []int {
	if d == nil {
		return nil
	}
	var out []int
	for _, q := range d.Queues {
		for _, irq := range []int{q.RxIRQ, q.TxIRQ} {
			if irq >= 0 {
				out = append(out, irq)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// protocols reads what this namespace's IP and TCP saw. IP counts received
// datagrams as they come from GRO in InReceives and as they were on the wire in
// the counters by ECN mark (net/ipv4/ip_input.c and net/ipv6/ip6_input.c).
func (r *reading) protocols() {
	p := r.o.Protocols
	delivered := p["Ip.InReceives"] + p["Ip6.InReceives"]
	var segments uint64
	for _, mark := range []string{"InNoECTPkts", "InECT0Pkts", "InECT1Pkts", "InCEPkts"} {
		segments += p["IpExt."+mark] + p["Ip6."+mark]
	}
	if delivered > 0 && segments >= delivered {
		r.set("gro_ratio", "", float64(segments)/float64(delivered))
	}
	if sent := p["Tcp.OutSegs"]; sent > 0 {
		r.set("tcp_retransmits", "", part(float64(p["Tcp.RetransSegs"]), float64(sent)))
	}
	if received := p["Tcp.InSegs"]; received > 0 {
		r.set("tcp_out_of_order", "", part(float64(p["TcpExt.TCPOFOQueue"]), float64(received)))
	}
	udp, tcp := float64(p["Udp.InDatagrams"]+p["Udp6.InDatagrams"]), float64(p["Tcp.InSegs"])
	if udp+tcp >= fewPackets {
		r.s.UDPShare = udp / (udp + tcp)
	}
}

func (r *reading) softnet() {
	if len(r.o.Softnet) == 0 {
		return
	}
	var sum detect.SoftnetDelta
	for _, d := range r.o.Softnet {
		sum.Processed += d.Processed
		sum.Dropped += d.Dropped
		sum.Squeezed += d.Squeezed
		sum.ReceivedRPS += d.ReceivedRPS
	}
	handled := float64(sum.Processed + sum.Dropped)
	r.set(backlogDropped, "", part(float64(sum.Dropped), handled))
	r.set("squeezes", "", r.rate(sum.Squeezed))
	r.set("received_rps", "", r.rate(sum.ReceivedRPS))
	merged := 1.0
	if ratio, ok := r.s.Values[Key{"gro_ratio", ""}]; ok {
		merged = ratio
	}
	if r.moved > 0 {
		r.s.Elsewhere = handled * merged / float64(r.moved)
	}
}

func (r *reading) queues() {
	for _, name := range r.devices {
		var all, most uint64
		for id, counted := range r.o.Device[name].Queue {
			if !id.Tx {
				all += counted["packets"]
				most = max(most, counted["packets"])
			}
		}
		if all > 0 {
			r.set(anyQueueShare, name, part(float64(most), float64(all)))
		}
	}
}

// probes reads what only the in-kernel probes tell.
func (r *reading) probes() {
	p := r.o.Probes
	if p == nil || p.AttachedNs == 0 {
		return
	}
	attached := float64(p.AttachedNs) / 1e9
	var wait counters.Hist
	var budget counters.Budget
	for _, c := range p.CPUs {
		wait = wait.Merge(c.Rx.RaiseToEntryNs)
		budget.Runs += c.Budget.Runs
		budget.Polls += c.Budget.Polls
		budget.Work += c.Budget.Work
		budget.SqueezedTime += c.Budget.SqueezedTime
		budget.SqueezedPackets += c.Budget.SqueezedPackets + c.Budget.SqueezedBoth
	}
	if mean, ok := wait.Mean(); ok && mean > 0 {
		r.set("softirq_latency", "", mean)
	}
	if budget.Polls > 0 {
		r.set("packets_per_poll", "", float64(budget.Work)/float64(budget.Polls))
	}
	if budget.Runs > 0 && !p.BudgetChanged {
		r.set("squeezed_by_time", "", float64(budget.SqueezedTime)/attached)
		r.set("squeezed_by_packets", "", float64(budget.SqueezedPackets)/attached)
	}
	var looks, starved uint64
	for _, v := range p.Virtio {
		looks += v.RingReads
		starved += v.Starved
	}
	if looks > 0 {
		r.set("ring_starved", "", part(float64(starved), float64(looks)))
	}
}
