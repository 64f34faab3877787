package detect

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/topo"
)

// queues builds the map NIC → queue → NAPI → IRQ: the kernel's own word
// (netdev-genl) first, then interrupts that sysfs or the MSI address tie to the
// bus function, with the queue number from the name, then names alone.
func (c *collector) queues() {
	m := newMapper(c)
	m.netlink()
	m.names()
	for _, d := range c.s.Devices {
		c.queueCounts(d, m)
		m.build(d)
		c.vmbus(d)
	}
	c.irqDetails()
	c.queueRates()
}

// slot is one side of one queue.
type slot struct {
	irqs   []int
	source EdgeSource
}

// deviceMap is what is known of one device's interrupts.
type deviceMap struct {
	slots   map[QueueID]*slot
	whole   []int // vectors that serve all queues
	maybe   []int // vectors named like the interface: everything, or only the link
	other   []int
	blocks  map[int]int // gve: block number → interrupt
	napi    map[QueueID]host.NAPI
	bare    []bareVector
	shifted bool
	sources EdgeSource // of whole and maybe
	why     string     // why nothing can be said
	// from netlink: numbers of queues
	rx, tx int
}

// bareVector is named by interface and number alone. Beside vectors that say
// what they serve it is the link vector of tg3, else a queue pair.
type bareVector struct {
	n, irq int
	source EdgeSource
}

type mapper struct {
	c      *collector
	byName map[string]*Device
	byMSI  map[int][]*Device
	byPCI  map[string][]*Device
	byID   map[string]*Device // virtio2, vif-0
	maps   map[*Device]*deviceMap
	shared map[int][]claim // interrupts with several actions → which device claims which action
}

// claim is one action of a shared line.
type claim struct {
	device string
	others string // the other actions
}

func newMapper(c *collector) *mapper {
	m := &mapper{c: c, byName: map[string]*Device{}, byMSI: map[int][]*Device{}, byPCI: map[string][]*Device{}, byID: map[string]*Device{}, maps: map[*Device]*deviceMap{}, shared: map[int][]claim{}}
	for _, d := range c.s.Devices {
		t := c.details[d]
		m.byName[d.Name] = d
		m.maps[d] = &deviceMap{slots: map[QueueID]*slot{}, blocks: map[int]int{}, napi: map[QueueID]host.NAPI{}, rx: -1, tx: -1}
		for _, irq := range t.msi {
			m.byMSI[irq] = append(m.byMSI[irq], d)
		}
		if d.Bus != "" {
			m.byPCI[d.Bus] = append(m.byPCI[d.Bus], d)
		}
		if d.Virtio != "" {
			m.byID[d.Virtio] = d
		}
		switch {
		case strings.HasPrefix(t.base, "vif-"):
			m.byID[t.base] = d
		case t.inferred && strings.HasPrefix(d.Name, "vif"):
			m.byID["vif-"+d.Name[len("vif"):]] = d
		}
	}
	return m
}

// netlink enters what the kernel says itself. Drivers that tell the NAPI but
// not its interrupt still give the NAPI id.
func (m *mapper) netlink() {
	c := m.c
	napis, err := c.h.Netdev.NAPIs()
	if err != nil {
		if !errors.Is(err, host.ErrUnsupported) {
			c.gap("netlink netdev napi-get", err)
		}
		return
	}
	queues, err := c.h.Netdev.Queues()
	if err != nil && !errors.Is(err, host.ErrUnsupported) {
		c.gap("netlink netdev queue-get", err)
	}
	byID := map[int]host.NAPI{}
	for _, n := range napis {
		byID[n.ID] = n
	}
	byIndex := map[int]*Device{}
	for _, d := range c.s.Devices {
		byIndex[d.Index] = d
	}
	for _, q := range queues {
		d := byIndex[q.IfIndex]
		if d == nil || q.IfIndex == 0 || q.ID < 0 || q.ID > maxQueue {
			continue
		}
		dm := m.maps[d]
		if q.Tx {
			dm.tx = max(dm.tx, q.ID+1)
		} else {
			dm.rx = max(dm.rx, q.ID+1)
		}
		n, ok := byID[q.NAPI]
		if !ok || q.NAPI <= 0 {
			continue
		}
		id := QueueID{Tx: q.Tx, N: q.ID}
		dm.napi[id] = n
		if n.IRQ > 0 {
			dm.put(id, n.IRQ, SourceNetlink)
		}
	}
}

// maxQueue bounds queue numbers; the kernel's limit for virtual devices is
// 4096 (IFLA_NUM_RX_QUEUES, net/core/rtnetlink.c).
const maxQueue = 4095

// put enters an interrupt for one side of a queue. A better source replaces a
// weaker one; two interrupts from equal sources stay both and make the queue
// ambiguous.
func (dm *deviceMap) put(id QueueID, irq int, source EdgeSource) {
	s := dm.slots[id]
	switch {
	case s == nil || source < s.source:
		dm.slots[id] = &slot{irqs: []int{irq}, source: source}
	case source == s.source && !slices.Contains(s.irqs, irq):
		s.irqs = append(s.irqs, irq)
	}
}

// names walks over all interrupts and enters those of network devices.
func (m *mapper) names() {
	for i := range m.c.s.IRQs.Rows {
		row := &m.c.s.IRQs.Rows[i]
		for _, action := range row.Actions {
			m.action(row, action)
		}
	}
}

func (m *mapper) action(row *IRQ, action string) {
	chip := chipPCI(row.Chip)
	owners := m.byMSI[row.Number]
	if len(owners) == 0 && chip != "" {
		owners = m.byPCI[chip]
	}
	v, ok := readName(action, func(v vectorName) bool { return m.acceptable(v, owners) })
	if !ok {
		if len(owners) == 1 && len(m.byMSI[row.Number]) == 1 && row.Device == "" {
			row.Device = owners[0].Name // such as the vectors of RDMA
		}
		return
	}
	owners = m.subfunctions(v, owners)
	if len(owners) == 0 && v.pci != "" {
		owners = m.byPCI[v.pci]
	}
	d, source, why := m.owner(v, owners)
	if d == nil {
		for _, o := range owners {
			if v.serves != vectorOther {
				m.maps[o].why = why
			}
		}
		return
	}
	if row.Device == "" {
		row.Device = d.Name
	}
	if d.Virtio == "" && source == SourceMSI {
		d.Virtio = v.virtio
	}
	if len(row.Actions) > 1 {
		m.shared[row.Number] = append(m.shared[row.Number], claim{d.Name, othersOn(row, action)})
	}
	m.maps[d].enter(v, row.Number, source)
}

func othersOn(row *IRQ, action string) string {
	var others []string
	for _, a := range row.Actions {
		if a != action {
			others = append(others, a)
		}
	}
	return strings.Join(others, ", ")
}

// acceptable decides whether a reading of a name is about a known device. With
// an owner by bus address the interface name in the action may be an old one
// (renamed while up), so it is not asked for.
func (m *mapper) acceptable(v vectorName, owners []*Device) bool {
	if len(owners) > 0 {
		// A bare word is the whole device's vector only if it is its name:
		// "irdma" or "ahci" on the same function is something else.
		return !v.weak || v.iface == "" || m.byName[v.iface] != nil || looksLikeInterface(v.iface)
	}
	switch {
	case v.iface != "":
		return m.byName[v.iface] != nil
	case v.virtio != "":
		return m.byID[v.virtio] != nil
	case v.xen != "":
		return m.byID[v.xen] != nil
	default:
		return len(m.byPCI[v.pci]) > 0
	}
}

// owner decides which device an interrupt belongs to.
func (m *mapper) owner(v vectorName, owners []*Device) (*Device, EdgeSource, string) {
	named := m.byName[v.iface]
	if v.virtio != "" {
		named = m.byID[v.virtio]
	} else if v.xen != "" {
		named = m.byID[v.xen]
	}
	switch {
	case len(owners) == 0:
		return named, SourceName, ""
	case named != nil && slices.Contains(owners, named):
		return named, SourceMSI, ""
	case len(owners) == 1:
		return owners[0], SourceMSI, ""
	}
	if real := m.uplinks(owners); len(real) == 1 {
		return real[0], SourceMSI, ""
	}
	names := make([]string, len(owners))
	for i, d := range owners {
		names[i] = d.Name
	}
	slices.Sort(names)
	return nil, SourceNone, fmt.Sprintf("the interrupts of %s may belong to any of %s", owners[0].Bus, strings.Join(names, ", "))
}

// subfunctions keeps mlx5 sub-functions apart from the port whose PCI function
// they share: the one kind sits on the auxiliary bus, and its vectors have
// names of their own.
func (m *mapper) subfunctions(v vectorName, owners []*Device) []*Device {
	if v.pci == "" || len(owners) < 2 {
		return owners
	}
	var out []*Device
	for _, d := range owners {
		if onAuxiliary := strings.Contains(m.c.details[d].base, ".sf."); onAuxiliary == v.sub {
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return owners
	}
	return out
}

// uplinks leaves out representors and sub-functions, which share the bus
// function of the port they hang on (phys_port_name "pf0vf1", "pf0sf8";
// Documentation/networking/switchdev.rst) but not its interrupts.
func (m *mapper) uplinks(owners []*Device) []*Device {
	var out []*Device
	for _, d := range owners {
		port, _ := m.c.text(classNet + "/" + d.Name + "/phys_port_name")
		if strings.Contains(port, "vf") || strings.Contains(port, "sf") {
			continue
		}
		out = append(out, d)
	}
	return out
}

func (dm *deviceMap) enter(v vectorName, irq int, source EdgeSource) {
	if v.n > maxQueue {
		return
	}
	dm.shifted = dm.shifted || v.shifted
	switch v.serves {
	case vectorRx:
		dm.put(QueueID{N: v.n}, irq, source)
	case vectorTx:
		dm.put(QueueID{Tx: true, N: v.n}, irq, source)
	case vectorPair:
		if v.bare {
			dm.bare = append(dm.bare, bareVector{v.n, irq, source})
			return
		}
		dm.put(QueueID{N: v.n}, irq, source)
		dm.put(QueueID{Tx: true, N: v.n}, irq, source)
	case vectorNotify:
		dm.blocks[v.n] = irq
		dm.sources = source
	case vectorWhole:
		dm.whole = append(dm.whole, irq)
		dm.sources = source
	case vectorMayWhole:
		if slices.Contains(dm.maybe, irq) {
			return // macb requests one line once per queue, under one name
		}
		dm.maybe = append(dm.maybe, irq)
		dm.sources = source
	default:
		dm.other = append(dm.other, irq)
	}
}

// queueCounts finds how many queues are in use: directories of sysfs, which
// the kernel keeps at the real numbers (net-sysfs.c), else ethtool channels,
// else netlink.
func (c *collector) queueCounts(d *Device, m *mapper) {
	t, dm := c.details[d], m.maps[d]
	if rx, tx, ok := c.queueDirs(d.Name); ok {
		t.rx, t.tx = rx, tx
		d.QueuesKnown = true
		return
	}
	if ch := d.Channels; ch != nil && ch.Rx+ch.Tx+ch.Combined > 0 {
		t.rx, t.tx = ch.Rx+ch.Combined, ch.Tx+ch.Combined
		d.QueuesKnown = true
		return
	}
	if dm.rx > 0 || dm.tx > 0 {
		t.rx, t.tx = max(dm.rx, 0), max(dm.tx, 0)
		d.QueuesKnown = true
	}
}

func (c *collector) queueDirs(name string) (rx, tx int, ok bool) {
	entries, err := c.h.ReadDir(classNet + "/" + name + "/queues")
	if err != nil {
		if c.authoritative && !errors.Is(err, fs.ErrNotExist) {
			c.gap(classNet+"/"+name+"/queues", err)
		}
		return 0, 0, false
	}
	for _, e := range entries {
		switch side, _, _ := strings.Cut(e.Name(), "-"); side {
		case "rx":
			rx++
		case "tx":
			tx++
		}
	}
	return rx, tx, rx+tx > 0
}

// build turns what was found into Device.Queues.
func (m *mapper) build(d *Device) {
	t, dm := m.c.details[d], m.maps[d]
	dm.settle(d, t)
	rx, tx := t.rx, t.tx
	if rx < 0 {
		rx, tx = dm.hinted()
	}
	used := map[int]bool{}
	for n := range max(rx, tx) {
		q := Queue{N: n, Rx: n < rx, Tx: n < tx, RxIRQ: -1, TxIRQ: -1, NAPI: -1, VMBusCPU: -1}
		if q.Rx {
			m.side(d, QueueID{N: n}, &q, &q.RxIRQ)
		}
		if q.Tx {
			m.side(d, QueueID{Tx: true, N: n}, &q, &q.TxIRQ)
		}
		if napi, ok := dm.napi[QueueID{N: n}]; ok && q.Rx {
			q.NAPI, q.ThreadPID = napi.ID, napi.PID
		}
		used[q.RxIRQ], used[q.TxIRQ] = true, true
		m.caution(d, &q)
		d.Queues = append(d.Queues, q)
	}
	if t.rx >= 0 {
		d.SpareIRQs = dm.spare(rx, tx, used)
	}
	for irq := range dm.doubtful(max(rx, tx)) {
		used[irq] = true
	}
	for i := range m.c.s.IRQs.Rows {
		if row := &m.c.s.IRQs.Rows[i]; row.Device == d.Name && !used[row.Number] {
			d.OtherIRQs = append(d.OtherIRQs, row.Number)
		}
	}
}

// spare are the interrupts of queues beyond those in use. gve numbers its
// interrupts across both sides, so that the number of one says nothing of a
// queue that is out of use.
func (dm *deviceMap) spare(rx, tx int, used map[int]bool) map[QueueID]int {
	out := map[QueueID]int{}
	for id, s := range dm.slots {
		beyond := id.N >= rx
		if id.Tx {
			beyond = id.N >= tx
		}
		if beyond && len(s.irqs) == 1 && !used[s.irqs[0]] && len(dm.blocks) == 0 {
			out[id] = s.irqs[0]
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// doubtful are interrupts that do serve queues in use, though it is not known
// which.
func (dm *deviceMap) doubtful(queues int) map[int]bool {
	out := map[int]bool{}
	for _, irq := range dm.blocks {
		out[irq] = true
	}
	for id, s := range dm.slots {
		for _, irq := range s.irqs {
			out[irq] = out[irq] || id.N < queues
		}
	}
	for _, irq := range dm.whole {
		out[irq] = true
	}
	for irq, doubt := range out {
		if !doubt {
			delete(out, irq)
		}
	}
	return out
}

// settle decides what the vectors without a queue number are, now that all
// vectors of the device are known.
func (dm *deviceMap) settle(d *Device, t *detail) {
	if len(dm.slots) == 0 {
		for _, v := range dm.bare {
			dm.put(QueueID{N: v.n}, v.irq, v.source)
			dm.put(QueueID{Tx: true, N: v.n}, v.irq, v.source)
		}
	}
	for _, tx := range []bool{false, true} {
		dm.shift(d.Driver, tx)
	}
	if len(dm.slots) == 0 && len(dm.blocks) == 0 && len(dm.whole) == 0 {
		dm.whole = dm.maybe
	}
	if len(dm.blocks) == 0 || t.tx < 0 {
		return
	}
	// gve numbers its blocks transmit queues first (gve_main.c, gve_tx_idx_to_ntfy).
	for n, irq := range dm.blocks {
		if n < t.tx {
			dm.put(QueueID{Tx: true, N: n}, irq, dm.sources)
		} else {
			dm.put(QueueID{N: n - t.tx}, irq, dm.sources)
		}
	}
}

// shift corrects numbers that count vectors and not queues: tg3 has receive
// queue 0 on vector 1 when vector 0 is for the link (drivers/net/ethernet/
// broadcom/tg3.c, tg3_request_irq), and idpf counts from after its mailbox.
func (dm *deviceMap) shift(driver string, tx bool) {
	_, linkFirst := dm.slots[QueueID{Tx: true, N: 0}]
	for _, v := range dm.bare {
		linkFirst = linkFirst || v.n == 0
	}
	if !dm.shifted && driver != "tg3" && (driver != "" || !linkFirst) {
		return
	}
	least, most := maxQueue+1, -1
	for id, s := range dm.slots {
		if s.source == SourceNetlink {
			return // the kernel has named queues itself
		}
		if id.Tx == tx {
			least, most = min(least, id.N), max(most, id.N)
		}
	}
	if least == 0 || most < 0 || !dm.shifted && least != 1 {
		return
	}
	for n := least; n <= most; n++ {
		if s, ok := dm.slots[QueueID{Tx: tx, N: n}]; ok {
			delete(dm.slots, QueueID{Tx: tx, N: n})
			for _, irq := range s.irqs {
				dm.put(QueueID{Tx: tx, N: n - least}, irq, s.source)
			}
		}
	}
}

// hinted counts queues by the highest number in any name.
func (dm *deviceMap) hinted() (rx, tx int) {
	for id := range dm.slots {
		if id.Tx {
			tx = max(tx, id.N+1)
		} else {
			rx = max(rx, id.N+1)
		}
	}
	if rx+tx == 0 && len(dm.whole) > 0 {
		return 1, 1
	}
	return rx, tx
}

func (m *mapper) side(d *Device, id QueueID, q *Queue, irq *int) {
	dm := m.maps[d]
	s := dm.slots[id]
	switch {
	case s != nil && len(s.irqs) == 1:
		*irq = s.irqs[0]
		q.Source = max(q.Source, s.source)
	case s != nil:
		q.Why = fmt.Sprintf("several interrupts claim it: %s", numbers(s.irqs))
	case len(dm.whole) == 1:
		*irq = dm.whole[0]
		q.Source = max(q.Source, dm.sources)
		if rx, tx := m.c.details[d].rx, m.c.details[d].tx; max(rx, tx) > 1 {
			q.Why = fmt.Sprintf("all queues share interrupt %d", *irq)
		}
	case len(dm.whole) > 1:
		q.Why = fmt.Sprintf("several interrupts claim it: %s", numbers(dm.whole))
	case q.Why == "" && dm.why != "":
		q.Why = dm.why
	case q.Why == "" && hardware(d.Kind):
		q.Why = m.absent(d, id)
	}
}

func (m *mapper) absent(d *Device, id QueueID) string {
	table := &m.c.s.IRQs
	switch {
	case table.Masked:
		return "/proc/interrupts is hidden by a container runtime"
	case len(table.CPUs) == 0:
		return "/proc/interrupts is not readable"
	case d.Up == No:
		return "the device is down: most drivers take interrupts only while it is up"
	case len(m.maps[d].blocks) > 0:
		return "the driver numbers its interrupts across transmit and receive queues, and their numbers are not known"
	case id.Tx:
		return "no interrupt is named for this transmit queue"
	default:
		return "no interrupt is named for this receive queue"
	}
}

// caution says when the interrupt serves something else too.
func (m *mapper) caution(d *Device, q *Queue) {
	for _, irq := range []int{q.RxIRQ, q.TxIRQ} {
		for _, c := range m.shared[irq] {
			if c.device == d.Name {
				q.Why = fmt.Sprintf("interrupt %d is shared with %s", irq, c.others)
				return
			}
		}
	}
}

func numbers(irqs []int) string {
	out := make([]string, len(irqs))
	for i, n := range slices.Sorted(slices.Values(irqs)) {
		out[i] = strconv.Itoa(n)
	}
	return strings.Join(out, ", ")
}

// vmbus enters the CPUs of Hyper-V channels, which have no interrupt line of
// their own. Channels are numbered in the order in which the host offered
// them; the first serves queue 0.
func (c *collector) vmbus(d *Device) {
	base := c.details[d].base
	if d.Kind != "synthetic" {
		return
	}
	dir := "sys/bus/vmbus/devices/" + base + "/channels"
	entries, err := c.h.ReadDir(dir)
	if base == "" || err != nil {
		c.gap("sys/bus/vmbus/devices/*/channels", cmp.Or(err, error(host.ErrNotCaptured)))
	}
	var ids []int
	for _, e := range entries {
		if id, ok := atoi(e.Name()); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for i := range d.Queues {
		d.Queues[i].Why = "Hyper-V channels have no interrupt line of their own"
		if i >= len(ids) {
			continue
		}
		if cpu, ok := c.number(path.Join(dir, strconv.Itoa(ids[i]), "cpu")); ok && cpu >= 0 {
			d.Queues[i].VMBusCPU = cpu
		}
	}
}

// irqDetails reads /proc/irq only for interrupts of network devices: a large
// machine has a thousand others.
func (c *collector) irqDetails() {
	missing := 0
	for i := range c.s.IRQs.Rows {
		row := &c.s.IRQs.Rows[i]
		if row.Device == "" {
			continue
		}
		dir := "proc/irq/" + strconv.Itoa(row.Number) + "/"
		row.Affinity, row.HasSMP = c.set(dir+"smp_affinity_list", dir+"smp_affinity")
		if !row.HasSMP {
			missing++
			continue
		}
		row.Effective, _ = c.set(dir+"effective_affinity_list", dir+"effective_affinity")
		row.Hint = c.hint(dir + "affinity_hint")
		if node, ok := c.number(dir + "node"); ok && node >= 0 {
			row.Node = node
		} else {
			row.Node = topo.Unknown
		}
	}
	if missing > 0 {
		c.gap("proc/irq/*/smp_affinity", fmt.Errorf("not readable for %d interrupts of network devices", missing))
	}
}

func (c *collector) hint(name string) cpuset.Set {
	text, ok := c.text(name)
	if !ok || text == "" {
		return cpuset.Set{}
	}
	set, err := cpuset.ParseMask(text)
	if err != nil {
		c.gap(name, err)
	}
	return set
}

// queueIRQs are the interrupts that serve queues of any device.
func (s *Snapshot) queueIRQs() map[int]bool {
	out := map[int]bool{}
	for _, d := range s.Devices {
		for _, q := range d.Queues {
			out[q.RxIRQ], out[q.TxIRQ] = true, true
		}
	}
	delete(out, -1)
	return out
}
