package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/probes/counters"
)

// Map is the answer of "napitune map": the way of packets from device to CPU.
type Map struct {
	Schema  string       `json:"schema"`
	Host    Host         `json:"host"`
	Window  Window       `json:"window"`
	Devices []MapDevice  `json:"devices"`
	Gaps    []detect.Gap `json:"gaps"`
}

// MapDevice is one device of the map.
type MapDevice struct {
	HostDevice
	Bus     string   `json:"bus,omitempty"`
	Up      string   `json:"up"` // "yes", "no", "unknown"
	Carrier string   `json:"carrier"`
	Lower   []string `json:"lower"` // devices below: tune those
	Upper   []string `json:"upper"`
	// QueuesKnown says that Queues is the whole truth.
	QueuesKnown bool       `json:"queues_known"`
	Queues      []MapQueue `json:"paths"`
	OtherIRQs   []int      `json:"other_irqs"` // link, configuration, mailbox
	// Polling is what the probes saw of receive queues; absent without them.
	Polling []MapPolling `json:"polling,omitempty"`
}

// MapPolling is how one receive queue was polled in the window.
type MapPolling struct {
	Queue          int     `json:"queue"`
	CPUs           string  `json:"cpus"` // where, list form
	Polls          uint64  `json:"polls"`
	PacketsPerPoll float64 `json:"packets_per_poll"`
	// The rest is of virtio-net, and absent where its interrupt was not seen:
	// interrupts that found nothing to do, and polls that none asked for (the race
	// at enabling interrupts, the refill worker, the GRO timer, busy polling).
	PacketsPerIRQ   *float64 `json:"packets_per_irq,omitempty"`
	SpuriousIRQs    *uint64  `json:"spurious_irqs,omitempty"`
	PollsWithoutIRQ *uint64  `json:"polls_without_irq,omitempty"`
}

// MapQueue is one edge bundle queue → NAPI → IRQ → CPU. A queue pair with one
// vector is one entry with both sides, otherwise each side has its own.
type MapQueue struct {
	Queue  int    `json:"queue"`
	Rx     bool   `json:"rx"`
	Tx     bool   `json:"tx"`
	NAPI   int    `json:"napi"`   // -1 = unknown
	Thread int    `json:"thread"` // PID of a threaded NAPI; 0 = none
	IRQ    int    `json:"irq"`    // -1 = unknown
	Action string `json:"action"` // the interrupt's name in /proc/interrupts
	Source string `json:"source"` // where the edge queue → IRQ comes from
	Why    string `json:"why,omitempty"`
	// Affinity is the wish, Effective the promise of the interrupt controller,
	// both list forms; "" = not told.
	Affinity  string `json:"affinity"`
	Effective string `json:"effective"`
	// Home is the CPU that took most of the interrupts; -1 = none fired.
	Home      int     `json:"home"`
	HomeShare float64 `json:"home_share"`
	HomeNode  int     `json:"home_node"` // -1 = unknown
	IRQs      uint64  `json:"irqs"`      // in the window
	Packets   *uint64 `json:"packets"`   // in the window; null = the driver does not count per queue
	// Rates are null where the length of the window is unknown.
	IRQsPerSec    *float64 `json:"irqs_per_sec"`
	PacketsPerSec *float64 `json:"packets_per_sec"`
}

// NewMap draws the map of an observation, of the named devices or of all.
func NewMap(obs *detect.Observation, only []string) Map {
	m := Map{
		Schema:  SchemaMap,
		Host:    newHost(obs.Last),
		Window:  Window{Seconds: obs.Window.Seconds(), Samples: obs.Samples, Basis: obs.Basis.String(), Probes: []string{}},
		Devices: []MapDevice{},
		Gaps:    gaps(obs),
	}
	a := newAtlas(obs)
	for _, d := range obs.Last.Devices {
		if d.Kind == "loopback" || len(only) > 0 && !slices.Contains(only, d.Name) {
			continue
		}
		m.Devices = append(m.Devices, a.device(d))
	}
	return m
}

// atlas is an observation with its interrupts by number: searching the table
// for each queue would cost the square of their count.
type atlas struct {
	*detect.Observation
	rows map[int]*detect.IRQ
}

func newAtlas(obs *detect.Observation) atlas {
	a := atlas{obs, make(map[int]*detect.IRQ, len(obs.Last.IRQs.Rows))}
	for i := range obs.Last.IRQs.Rows {
		row := &obs.Last.IRQs.Rows[i]
		a.rows[row.Number] = row
	}
	return a
}

func (a atlas) device(d *detect.Device) MapDevice {
	md := MapDevice{
		HostDevice: HostDevice{Name: d.Name, Kind: d.Kind, Driver: d.Driver, Node: d.Node, Queues: rxQueues(d)},
		Bus:        d.Bus, Up: tri(d.Up), Carrier: tri(d.Carrier),
		Lower: present(d.Lower), Upper: present(d.Upper),
		QueuesKnown: d.QueuesKnown, Queues: []MapQueue{}, OtherIRQs: present(d.OtherIRQs),
	}
	for _, q := range d.Queues {
		if q.Rx && q.Tx && q.RxIRQ != q.TxIRQ {
			md.Queues = append(md.Queues, a.queue(d, q, true, false), a.queue(d, q, false, true))
			continue
		}
		md.Queues = append(md.Queues, a.queue(d, q, q.Rx, q.Tx))
	}
	for _, q := range d.Queues {
		if polling, ok := a.polling(d, q); ok {
			md.Polling = append(md.Polling, polling)
		}
	}
	return md
}

// polling is false for a queue that the probes did not see polled.
func (a atlas) polling(d *detect.Device, q detect.Queue) (MapPolling, bool) {
	out := MapPolling{Queue: q.N}
	if a.Probes == nil || !q.Rx {
		return out, false
	}
	var work uint64
	var cpus []int
	for _, n := range a.Probes.NAPIs {
		ours := n.Device == d.Name && a.Probes.OfDevice(d.Index, n.NetNS, n.IfIndex)
		if ours && n.Polls > 0 && (n.ID != 0 && int(n.ID) == q.NAPI || n.Kind == "virtio-rx" && n.Queue == q.N) {
			out.Polls += n.Polls
			work += n.Work
			cpus = append(cpus, n.CPU)
		}
	}
	if out.Polls == 0 {
		return out, false
	}
	out.CPUs, out.PacketsPerPoll = cpuset.Of(cpus...).String(), float64(work)/float64(out.Polls)
	out.fillVirtio(a.Probes, d)
	return out, true
}

func (m *MapPolling) fillVirtio(c *counters.Counters, d *detect.Device) {
	for _, v := range c.Virtio {
		// Without an index a row cannot be told from one of another device.
		if v.Queue != m.Queue || v.IRQ < 0 || d.Index == 0 || !c.OfDevice(d.Index, v.NetNS, v.IfIndex) {
			continue
		}
		if m.PollsWithoutIRQ == nil {
			m.PollsWithoutIRQ, m.SpuriousIRQs = new(uint64), new(uint64)
			for _, i := range c.IRQs {
				if i.IRQ == v.IRQ {
					*m.SpuriousIRQs += i.Unhandled
				}
			}
		}
		*m.PollsWithoutIRQ += v.UnarmedPolls
		if each, ok := c.PacketsPerInterrupt(v); ok {
			m.PacketsPerIRQ = &each
		}
	}
}

func (a atlas) queue(d *detect.Device, q detect.Queue, rx, tx bool) MapQueue {
	m := MapQueue{
		Queue: q.N, Rx: rx, Tx: tx, NAPI: -1, IRQ: q.RxIRQ,
		Source: q.Source.String(), Why: q.Why, Home: -1, HomeNode: topo.Unknown,
	}
	if rx {
		m.NAPI, m.Thread = q.NAPI, q.ThreadPID
	} else {
		m.IRQ = q.TxIRQ
	}
	if m.IRQ < 0 && q.VMBusCPU >= 0 {
		m.Home, m.HomeNode = q.VMBusCPU, nodeOf(a.Last.Topo, q.VMBusCPU)
	}
	m.fillIRQ(a)
	m.fillPackets(a, d)
	return m
}

func (m *MapQueue) fillIRQ(a atlas) {
	if m.IRQ < 0 {
		return
	}
	if row := a.rows[m.IRQ]; row != nil {
		m.Action = strings.Join(row.Actions, " ")
		if row.HasSMP {
			m.Affinity = row.Affinity.String()
		}
		m.Effective = row.Effective.String()
	}
	delta, ok := a.IRQ[m.IRQ]
	if !ok {
		return
	}
	m.IRQs = delta.Total
	if delta.Home >= 0 {
		m.Home, m.HomeShare, m.HomeNode = delta.Home, delta.HomeShare, nodeOf(a.Last.Topo, delta.Home)
	}
	if rate, ok := a.PerSecond(delta.Total); ok {
		m.IRQsPerSec = &rate
	}
}

func (m *MapQueue) fillPackets(a atlas, d *detect.Device) {
	var sum uint64
	counted := false
	for _, id := range m.sides() {
		if n, ok := a.Device[d.Name].Queue[id]["packets"]; ok {
			sum += n
			counted = true
		}
	}
	if !counted {
		return
	}
	m.Packets = &sum
	if rate, ok := a.PerSecond(sum); ok {
		m.PacketsPerSec = &rate
	}
}

func (m *MapQueue) sides() []detect.QueueID {
	var out []detect.QueueID
	if m.Rx {
		out = append(out, detect.QueueID{N: m.Queue})
	}
	if m.Tx {
		out = append(out, detect.QueueID{Tx: true, N: m.Queue})
	}
	return out
}

func nodeOf(t *topo.Topology, cpu int) int {
	if t == nil {
		return topo.Unknown
	}
	if c, ok := t.CPUs[cpu]; ok {
		return c.Node
	}
	return topo.Unknown
}

func tri(t detect.Tri) string {
	return map[detect.Tri]string{detect.Yes: "yes", detect.No: "no"}[t] + map[detect.Tri]string{detect.Unknown: "unknown"}[t]
}

// Text writes the map as one table per device.
func (m Map) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	p.hostLine(Advice{Host: m.Host, Window: m.Window, Gaps: m.Gaps})
	shown := 0
	for _, d := range m.Devices {
		if !style.Verbose && dull(d) {
			continue
		}
		shown++
		p.blank()
		p.mapDevice(d, m.rated())
	}
	p.dullDevices(m, len(m.Devices)-shown)
	p.gaps(m.Gaps)
	return p.err
}

// dull devices have neither queues with interrupts nor devices below.
func dull(d MapDevice) bool {
	hasIRQ := slices.ContainsFunc(d.Queues, func(q MapQueue) bool { return q.IRQ >= 0 || q.Home >= 0 })
	return !hasIRQ && len(d.Lower) == 0 && (d.Driver == "" || d.Kind == "veth" || d.Kind == "tunnel" || d.Kind == "tap" || d.Kind == "virtual")
}

func (p *page) dullDevices(m Map, n int) {
	switch {
	case len(m.Devices) == 0:
		p.blank()
		p.line("No network device besides loopback was found.")
	case n > 0:
		var names []string
		for _, d := range m.Devices {
			if dull(d) {
				names = append(names, d.Name)
			}
		}
		p.blank()
		p.hang("", plain, 2, plural(n, "device")+" without hardware queues: "+strings.Join(names, ", ")+" (-v shows all)")
	}
}

// rated reports whether rates are known; totals are shown otherwise.
func (m Map) rated() bool { return m.Window.Seconds > 0 }

func (p *page) mapDevice(d MapDevice, rated bool) {
	head := p.paint(bold, headOf(d.HostDevice))
	for _, extra := range []string{d.Bus, state(d)} {
		if extra != "" {
			head += "  " + clean(extra)
		}
	}
	p.line(head)
	if len(d.Lower) > 0 {
		p.hang("", plain, 2, "  over "+strings.Join(d.Lower, ", ")+": settings of queues and interrupts belong there")
	}
	if len(d.Upper) > 0 {
		p.hang("", plain, 2, "  below "+strings.Join(d.Upper, ", "))
	}
	p.mapQueues(d, rated)
	if p.style.Verbose {
		p.mapPolling(d.Polling)
	}
	if len(d.OtherIRQs) > 0 {
		p.hang("", plain, 2, "  other interrupts (link, configuration): "+numbers(d.OtherIRQs))
	}
	if !d.QueuesKnown && len(d.Queues) == 0 && len(d.Lower) == 0 {
		p.hang("", plain, 2, "  queues unknown: this host does not tell them")
	}
}

func state(d MapDevice) string {
	switch {
	case d.Up == "no":
		return "down"
	case d.Carrier == "no":
		return "no carrier"
	default:
		return ""
	}
}

func (p *page) mapQueues(d MapDevice, rated bool) {
	if len(d.Queues) == 0 {
		return
	}
	t := table{
		heads: []string{"QUEUE", "NAPI", "IRQ", "ALLOWED", "EFFECTIVE", "FIRES ON", "NODE", "IRQ/s", "PKT/s", "SOURCE"},
		right: map[int]bool{1: true, 2: true, 6: true, 7: true, 8: true}, limit: 18,
	}
	if !rated {
		t.heads[7], t.heads[8] = "IRQS", "PACKETS"
	}
	queues := d.Queues
	for len(queues) > 0 {
		run := sameRun(queues)
		t.add(mapRow(queues[:run], rated)...)
		queues = queues[run:]
	}
	t.render(p, 2)
}

func (p *page) mapPolling(list []MapPolling) {
	t := table{
		heads: []string{"QUEUE", "POLLS", "PKT/POLL", "PKT/IRQ", "SPURIOUS IRQS", "POLLS WITHOUT IRQ", "POLLED ON"},
		right: map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true}, limit: 18,
	}
	for _, m := range list {
		perIRQ, spurious, without := "-", "-", "-"
		if m.PacketsPerIRQ != nil {
			perIRQ = number(*m.PacketsPerIRQ)
		}
		if m.SpuriousIRQs != nil {
			spurious = count(*m.SpuriousIRQs)
		}
		if m.PollsWithoutIRQ != nil {
			without = count(*m.PollsWithoutIRQ)
		}
		t.add("rx-"+strconv.Itoa(m.Queue), count(m.Polls), number(m.PacketsPerPoll), perIRQ, spurious, without, "CPU "+m.CPUs)
	}
	t.render(p, 2)
}

// sameRun counts leading queues of which nothing is known but one reason.
func sameRun(queues []MapQueue) int {
	first := queues[0]
	if !first.silent() {
		return 1
	}
	n := 1
	for n < len(queues) && queues[n].silent() && queues[n].Why == first.Why && queues[n].Queue == first.Queue+n &&
		queues[n].Rx == first.Rx && queues[n].Tx == first.Tx {
		n++
	}
	return n
}

func (m MapQueue) silent() bool {
	return m.IRQ < 0 && m.NAPI < 0 && m.Home < 0 && m.Packets == nil
}

func mapRow(queues []MapQueue, rated bool) []string {
	q := queues[0]
	name := sideName(q) + strconv.Itoa(q.Queue)
	if last := queues[len(queues)-1]; len(queues) > 1 {
		name = fmt.Sprintf("%s[%d-%d]", sideName(q), q.Queue, last.Queue)
	}
	irqs, packets := "-", "-"
	if q.IRQ >= 0 {
		irqs = tally(q.IRQs, q.IRQsPerSec, rated)
	}
	if q.Packets != nil {
		packets = tally(*q.Packets, q.PacketsPerSec, rated)
	}
	return []string{
		name, napi(q), idOrDash(q.IRQ),
		cmp.Or(q.Affinity, "-"), cmp.Or(q.Effective, "-"), fires(q), idOrDash(q.HomeNode),
		irqs, packets, source(q),
	}
}

func sideName(q MapQueue) string {
	switch {
	case q.Rx && q.Tx:
		return "rx+tx-"
	case q.Tx:
		return "tx-"
	default:
		return "rx-"
	}
}

func napi(q MapQueue) string {
	if q.Thread > 0 {
		return idOrDash(q.NAPI) + " (thread " + strconv.Itoa(q.Thread) + ")"
	}
	return idOrDash(q.NAPI)
}

func idOrDash(id int) string {
	if id < 0 {
		return "-"
	}
	return strconv.Itoa(id)
}

func fires(q MapQueue) string {
	switch {
	case q.Home < 0:
		return "-"
	case q.HomeShare == 0:
		return "CPU " + strconv.Itoa(q.Home)
	default:
		return fmt.Sprintf("CPU %d (%.0f%%)", q.Home, 100*q.HomeShare)
	}
}

func tally(total uint64, rate *float64, rated bool) string {
	if !rated || rate == nil {
		return count(total)
	}
	return number(*rate)
}

func source(q MapQueue) string {
	if q.Why == "" {
		return q.Source
	}
	if q.IRQ < 0 {
		return "unknown, because " + q.Why
	}
	return q.Source + ": " + q.Why
}
