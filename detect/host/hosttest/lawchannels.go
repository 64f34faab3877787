package hosttest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// setChannels changes the number of queues, with all that hangs on them.
func (m *Memory) setChannels(dev string, want host.Channels) error {
	now, err := lookup(m.channels, m.last().base.Ethtool.Channels, same[host.Channels], dev)
	if err != nil {
		return err
	}
	if err := m.channelsFit(dev, now, want); err != nil {
		return err
	}
	if want.Rx == now.Rx && want.Tx == now.Tx && want.Combined == now.Combined && want.Other == now.Other {
		return nil // the core does not ask the driver (net/ethtool/channels.c)
	}
	rx, tx := want.Combined+want.Rx, want.Combined+want.Tx
	now.Rx, now.Tx, now.Combined, now.Other = want.Rx, want.Tx, want.Combined, want.Other
	m.channels[dev] = now
	return errors.Join(
		m.queuesFollow(dev, "rx", rx),
		m.queuesFollow(dev, "tx", tx),
		m.vectorsFollow(dev, rx, tx),
		m.tableFollows(dev, rx),
		m.netdevFollows(dev, rx, tx),
		m.spreadTraffic(dev),
	)
}

// channelsFit: EINVAL beyond a maximum, without a receive or a transmit
// channel, and for fewer channels than a user's RSS table names
// (net/ethtool/channels.c, ethnl_set_channels); virtio takes combined only
// (drivers/net/virtio_net.c, virtnet_set_channels).
func (m *Memory) channelsFit(dev string, now, want host.Channels) error {
	beyond := want.Rx > now.MaxRx || want.Tx > now.MaxTx || want.Combined > now.MaxCombined || want.Other > now.MaxOther
	negative := want.Rx < 0 || want.Tx < 0 || want.Combined < 0 || want.Other < 0
	rx, tx := want.Combined+want.Rx, want.Combined+want.Tx
	if beyond || negative || rx == 0 || tx == 0 {
		return syscall.EINVAL
	}
	if m.driver(dev) == virtioNet && (want.Rx != 0 || want.Tx != 0 || want.Other != 0) {
		return syscall.EINVAL
	}
	if !m.userTable[dev] {
		return nil
	}
	rss, err := lookup(m.rss, m.last().base.Ethtool.RSS, cloneRSS, dev)
	if err == nil && len(rss.Table) > 0 && int(slices.Max(rss.Table)) >= rx {
		return fmt.Errorf("requested channel counts are too low for existing indirection table: %w", syscall.EINVAL)
	}
	return nil
}

// queuesFollow: removed queues lose their settings, new receive queues get
// net.core.rps_default_mask, new transmit queues no XPS (net/core/net-sysfs.c,
// net_rx_queue_update_kobjects; net/core/dev.c, netif_reset_xps_queues_gt).
func (m *Memory) queuesFollow(dev, side string, n int) error {
	have := m.queueCount(dev, side)
	if have == 0 {
		return nil // the capture does not show queues
	}
	for _, s := range m.samples {
		for q := n; q < have; q++ {
			if err := s.tree.Remove(deviceFile(dev, "queues/"+side+"-"+strconv.Itoa(q))); err != nil && !missing(err) {
				return err
			}
		}
		for q := have; q < n; q++ {
			if err := m.newQueue(s, dev, side, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// newQueue copies the directory of queue 0 and sets the kernel's own values.
func (m *Memory) newQueue(s *sample, dev, side string, q int) error {
	from, to := deviceFile(dev, "queues/"+side+"-0"), deviceFile(dev, "queues/"+side+"-"+strconv.Itoa(q))
	entries, err := s.tree.ReadDir(from)
	if err != nil {
		return err
	}
	fresh := map[string]string{
		"rps_flow_cnt": "0\n",
		"rps_cpus":     maskText(m.defaultRPS(s), m.cpuIDs()) + "\n",
		"xps_cpus":     maskText(cpuset.Set{}, m.cpuIDs()) + "\n",
		"xps_rxqs":     maskText(cpuset.Set{}, m.madeQueues(dev)) + "\n",
	}
	if err := s.tree.Mkdir(to); err != nil {
		return err
	}
	for _, e := range entries {
		text, ok := fresh[e.Name()]
		if !ok {
			data, err := s.tree.ReadFile(from + "/" + e.Name())
			if err != nil {
				continue // a directory or a file that cannot be read
			}
			text = string(data)
		}
		if err := s.tree.WriteFile(to+"/"+e.Name(), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) defaultRPS(s *sample) cpuset.Set {
	text, err := s.tree.ReadFile("proc/sys/net/core/rps_default_mask")
	if err != nil {
		return cpuset.Set{}
	}
	set, err := cpuset.ParseMask(string(text))
	if err != nil {
		return cpuset.Set{}
	}
	return set
}

// vectorsFollow: virtio keeps its vectors, which exist for every pair, and
// spreads them and XPS anew; others free their vectors and get fresh ones.
func (m *Memory) vectorsFollow(dev string, rx, tx int) error {
	if m.driver(dev) == virtioNet {
		return m.virtioSpreads(dev, rx)
	}
	return m.freshVectors(dev, max(rx, tx))
}

// virtioSpreads: the online CPUs in order over the pairs in use, the first
// pairs one more where it does not divide; the same mask for both interrupts of
// a pair and for XPS (drivers/net/virtio_net.c, virtnet_set_affinity).
func (m *Memory) virtioSpreads(dev string, pairs int) error {
	cpus := m.online(m.last()).CPUs()
	stride, extra := max(len(cpus)/pairs, 1), 0
	if len(cpus) >= pairs {
		extra = len(cpus) % pairs
	}
	masks := make([]cpuset.Set, pairs)
	at := 0
	for q := range masks {
		size := stride
		if q < extra {
			size++
		}
		var mine []int
		for range size {
			mine = append(mine, cpus[at%len(cpus)])
			at++
		}
		masks[q] = cpuset.Of(mine...)
		name := queueFile(dev, "tx", q, "xps_cpus")
		if err := m.store(name, maskText(masks[q], m.cpuIDs())); err != nil && !missing(err) {
			return err
		}
	}
	for _, v := range m.vectors(dev) {
		if v.queue >= pairs {
			continue
		}
		mask := masks[v.queue]
		if err := m.routeIRQ(v.irq, mask, m.targetCPU(v.irq, mask)); err != nil {
			return err
		}
	}
	return nil
}

// freshVectors: the vectors of removed queues vanish with their directories in
// /proc/irq, new ones appear under new numbers, and all get the default mask
// (kernel/irq/msi.c, kernel/irq/manage.c irq_setup_affinity). The search for a
// CPU with few vectors (arch/x86/kernel/apic/vector.c) spreads them in order.
func (m *Memory) freshVectors(dev string, n int) error {
	have := m.vectors(dev)
	if len(have) == 0 {
		return nil // the machine does not tell which interrupts are the device's
	}
	mask := m.defaultAffinity()
	if err := m.addVectors(dev, have, n); err != nil {
		return err
	}
	for _, v := range m.vectors(dev) {
		if v.queue >= n {
			if err := m.dropVector(dev, v.irq); err != nil {
				return err
			}
			continue
		}
		cpus := mask.CPUs()
		if err := m.routeIRQ(v.irq, mask, cpus[v.queue%len(cpus)]); err != nil {
			return err
		}
	}
	return nil
}

// defaultAffinity is the mask of new interrupts: default_smp_affinity, or all
// online CPUs where the machine does not show it.
func (m *Memory) defaultAffinity() cpuset.Set {
	online := m.online(m.last())
	text, err := m.last().tree.ReadFile("proc/irq/default_smp_affinity")
	if err != nil {
		return online
	}
	set, err := cpuset.ParseMask(string(text))
	if err != nil || !set.Overlaps(online) {
		return online
	}
	return set.Intersect(online)
}

// addVectors makes interrupts for the queues that have none, after the pattern
// of the vectors of queue 0.
func (m *Memory) addVectors(dev string, have []vector, n int) error {
	c, err := m.parsed()
	if err != nil {
		return err
	}
	var patterns []vector
	highest := 0
	for _, v := range have {
		if v.queue == have[0].queue {
			patterns = append(patterns, v)
		}
		highest = max(highest, v.queue)
	}
	for q := highest + 1; q < n; q++ {
		for _, p := range patterns {
			if err := m.addVector(dev, c, p, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Memory) addVector(dev string, c *counters, pattern vector, queue int) error {
	irq := c.freeNumber()
	for _, t := range c.interrupts {
		model := t.find(strconv.Itoa(pattern.irq))
		if model == nil {
			continue
		}
		name := vectorName.ReplaceAllStringFunc(strings.TrimRight(model.rest, " "), func(found string) string {
			number := strconv.Itoa(pattern.queue)
			at := strings.LastIndex(strings.SplitN(found, "@", 2)[0], number)
			return found[:at] + strconv.Itoa(queue) + found[at+len(number):]
		})
		t.insert(&row{label: fmt.Sprintf("%*d", len(model.label), irq), counts: make([]uint64, len(t.cpus)), rest: name}, irq)
	}
	c.dirty = true
	for _, s := range m.samples {
		for _, file := range []string{"smp_affinity", "smp_affinity_list", "effective_affinity", "effective_affinity_list", "affinity_hint", "node"} {
			data, err := s.tree.ReadFile(irqFile(pattern.irq, file))
			if err != nil {
				continue
			}
			if err := s.tree.WriteFile(irqFile(irq, file), data); err != nil {
				return err
			}
		}
		if dir := m.msiDir(s, dev); dir != "" {
			if err := s.tree.WriteFile(dir+"/"+strconv.Itoa(irq), []byte("msix\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

// freeNumber is the lowest number above all interrupts of every sample.
func (c *counters) freeNumber() int {
	top := 0
	for _, t := range c.interrupts {
		if t == nil {
			continue
		}
		for _, r := range t.rows {
			if n, err := strconv.Atoi(strings.TrimSpace(r.label)); err == nil {
				top = max(top, n)
			}
		}
	}
	return top + 1
}

// insert puts a numbered line behind the last one with a smaller number.
func (t *table) insert(r *row, irq int) {
	at := 0
	for i, other := range t.rows {
		if n, err := strconv.Atoi(strings.TrimSpace(other.label)); err == nil && n < irq {
			at = i + 1
		}
	}
	t.rows = slices.Insert(t.rows, at, r)
	t.labels[strconv.Itoa(irq)] = r
}

func (m *Memory) dropVector(dev string, irq int) error {
	c, err := m.parsed()
	if err != nil {
		return err
	}
	label := strconv.Itoa(irq)
	for i, t := range c.interrupts {
		r := t.find(label)
		if r == nil {
			continue
		}
		if c.network[label] {
			for col, n := range r.since(previous(c.interrupts[0], t, r)) {
				c.load[i][col] -= n
			}
		}
	}
	for _, t := range c.interrupts {
		if r := t.find(label); r != nil {
			t.rows = slices.DeleteFunc(t.rows, func(other *row) bool { return other == r })
			delete(t.labels, label)
		}
	}
	delete(c.network, label)
	c.dirty = true
	for _, s := range m.samples {
		names := []string{"proc/irq/" + label}
		if dir := m.msiDir(s, dev); dir != "" {
			names = append(names, dir+"/"+label)
		}
		for _, name := range names {
			if err := s.tree.Remove(name); err != nil && !missing(err) {
				return err
			}
		}
	}
	return nil
}

func (m *Memory) msiDir(s *sample, dev string) string {
	for _, dir := range []string{"device/msi_irqs", "device/../msi_irqs"} {
		name := m.physical(dev, dir)
		if _, err := fs.ReadDir(s.tree, name); err == nil {
			return name
		}
	}
	return ""
}

// tableFollows: without a user's table the driver spreads over the new number
// of queues in turn (include/linux/ethtool.h, ethtool_rxfh_indir_default).
func (m *Memory) tableFollows(dev string, rx int) error {
	rss, err := lookup(m.rss, m.last().base.Ethtool.RSS, cloneRSS, dev)
	if err != nil || len(rss.Table) == 0 {
		return nil
	}
	rss.RxRings = rx
	if !m.userTable[dev] {
		for i := range rss.Table {
			rss.Table[i] = uint32(i % rx)
		}
	}
	m.rss[dev] = rss
	return nil
}

// netdevFollows keeps queue-get and napi-get in step: queues beyond the new
// number vanish with their NAPIs, new ones get a NAPI each.
func (m *Memory) netdevFollows(dev string, rx, tx int) error {
	index := m.ifIndex(dev)
	queues, err := list(m.queues, m.last().base.Netdev.Queues)
	if err != nil || index == 0 {
		return nil // the kernel or the capture does not show them
	}
	napis, err := list(m.napis, m.last().base.Netdev.NAPIs)
	if err != nil {
		return nil
	}
	limit := func(isTx bool) int {
		if isTx {
			return tx
		}
		return rx
	}
	have := map[bool]int{}
	kept := map[int]bool{}
	queues = slices.DeleteFunc(queues, func(q host.Queue) bool {
		if q.IfIndex != index {
			kept[q.NAPI] = true
			return false
		}
		if q.ID >= limit(q.Tx) {
			return true
		}
		have[q.Tx] = max(have[q.Tx], q.ID+1)
		kept[q.NAPI] = true
		return false
	})
	if len(have) == 0 {
		return nil
	}
	napis = slices.DeleteFunc(napis, func(n host.NAPI) bool { return n.IfIndex == index && !kept[n.ID] })
	top := 0
	for _, n := range napis {
		top = max(top, n.ID)
	}
	for _, isTx := range []bool{false, true} {
		for q := have[isTx]; have[isTx] > 0 && q < limit(isTx); q++ {
			napi := -1
			if !isTx {
				top++
				napi = top
				irq, err := m.irqOf(dev, false, q)
				if err != nil || !slices.ContainsFunc(napis, func(n host.NAPI) bool { return n.IfIndex == index && n.IRQ >= 0 }) {
					irq = -1
				}
				n := m.newNAPI(dev)
				n.IfIndex, n.ID, n.IRQ = index, napi, irq
				napis = append(napis, n)
			}
			queues = append(queues, host.Queue{IfIndex: index, ID: q, Tx: isTx, NAPI: napi})
		}
	}
	slices.SortStableFunc(queues, func(a, b host.Queue) int {
		return cmp.Or(cmp.Compare(a.IfIndex, b.IfIndex), compareBool(a.Tx, b.Tx), cmp.Compare(a.ID, b.ID))
	})
	m.queues, m.napis = queues, napis
	return nil
}

// newNAPI has the values of its device (net/core/dev.c, netif_napi_add_weight).
func (m *Memory) newNAPI(dev string) host.NAPI {
	value := func(attribute string) uint64 {
		text, err := m.last().tree.ReadFile(deviceFile(dev, attribute))
		if err != nil {
			return 0
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return host.NAPI{
		DeferHardIRQs: value("napi_defer_hard_irqs"), GROFlushTimeout: value("gro_flush_timeout"), Threaded: int(value("threaded")),
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// spreadTraffic: what a device received goes to its queues by their share of
// the RSS table, in equal parts without one, and fires on the CPU of each
// queue's interrupt. Real traffic of few flows spreads worse.
func (m *Memory) spreadTraffic(dev string) error {
	vectors := m.vectors(dev)
	if len(vectors) == 0 {
		return nil
	}
	shares := map[bool][]float64{true: m.receiveShares(dev), false: m.transmitShares(dev)}
	targets := map[int]int{}
	var irqs []int
	for _, v := range vectors {
		irqs = append(irqs, v.irq)
		targets[v.irq] = m.effective(v.irq)
	}
	return m.rearrange(irqs, func(cpus []int, was deltas) deltas {
		total := map[bool]uint64{}
		for _, v := range vectors {
			for _, n := range was[v.irq] {
				total[v.rx] += n
			}
		}
		will := deltas{}
		for _, v := range vectors {
			delta, ok := was[v.irq]
			if !ok {
				continue
			}
			now := make([]uint64, len(delta))
			if v.queue < len(shares[v.rx]) {
				col := max(slices.Index(cpus, targets[v.irq]), 0)
				now[col] = uint64(float64(total[v.rx]) * shares[v.rx][v.queue])
			}
			will[v.irq] = now
		}
		return will
	})
}

// effective is the CPU on which an interrupt fires.
func (m *Memory) effective(irq int) int {
	for _, file := range []string{"effective_affinity_list", "smp_affinity_list"} {
		text, err := m.last().tree.ReadFile(irqFile(irq, file))
		if err != nil {
			continue
		}
		if set, err := cpuset.ParseList(string(text)); err == nil && !set.IsEmpty() {
			return set.Min()
		}
	}
	return m.online(m.last()).Min()
}

// maxQueues bounds what a damaged table can make the law allocate; queue
// numbers of devices have 16 bits (include/linux/netdevice.h).
const maxQueues = 1 << 16

// receiveShares is each receive queue's part of the traffic.
func (m *Memory) receiveShares(dev string) []float64 {
	rss, err := lookup(m.rss, m.last().base.Ethtool.RSS, cloneRSS, dev)
	if err != nil || len(rss.Table) == 0 || slices.Max(rss.Table) >= maxQueues {
		return m.evenShares(dev, "rx")
	}
	shares := make([]float64, slices.Max(rss.Table)+1)
	for _, q := range rss.Table {
		shares[q] += 1 / float64(len(rss.Table))
	}
	return shares
}

func (m *Memory) transmitShares(dev string) []float64 { return m.evenShares(dev, "tx") }

func (m *Memory) evenShares(dev, side string) []float64 {
	n := m.queueCount(dev, side)
	if c, err := lookup(m.channels, m.last().base.Ethtool.Channels, same[host.Channels], dev); err == nil {
		n = c.Combined + c.Rx
		if side == "tx" {
			n = c.Combined + c.Tx
		}
	}
	shares := make([]float64, n)
	for i := range shares {
		shares[i] = 1 / float64(n)
	}
	return shares
}
