package hosttest

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// devices are the names in /sys/class/net, without lo.
func (m *Memory) devices() []string {
	entries, err := m.last().tree.ReadDir("sys/class/net")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.Name() != "lo" && e.Name() != "bonding_masters" {
			out = append(out, e.Name())
		}
	}
	return out
}

func deviceFile(dev, name string) string { return "sys/class/net/" + dev + "/" + name }

func queueFile(dev, side string, n int, name string) string {
	return deviceFile(dev, "queues/"+side+"-"+strconv.Itoa(n)+"/"+name)
}

// driver is the driver of a device, "" if the machine does not say.
func (m *Memory) driver(dev string) string {
	s := m.last()
	if s.base.Ethtool.DriverInfo != nil {
		if info, err := s.base.Ethtool.DriverInfo(dev); err == nil {
			return info.Driver
		}
	}
	target, err := s.tree.ReadLink(deviceFile(dev, "device/driver"))
	if err != nil {
		return ""
	}
	return path.Base(target)
}

// virtioFeature says whether a virtio device negotiated a feature bit.
func (m *Memory) virtioFeature(dev string, bit int) bool {
	features := m.virtioFeatures(dev)
	return bit < len(features) && features[bit] == '1'
}

func (m *Memory) virtioFeatures(dev string) string {
	text, err := m.last().tree.ReadFile(deviceFile(dev, "device/features"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// queueCount counts the directories of one side's queues.
func (m *Memory) queueCount(dev, side string) int {
	entries, err := m.last().tree.ReadDir(deviceFile(dev, "queues"))
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), side+"-") {
			n++
		}
	}
	return n
}

// vector is an interrupt of a queue.
type vector struct {
	irq, queue int
	rx, tx     bool
}

// vectorName finds the side and number of a queue in the name of an interrupt:
// "eth0-TxRx-3", "virtio0-input.0", "mlx5_comp3@pci:0000:3b:00.0", "eth0-rx-1".
var vectorName = regexp.MustCompile(`(?i)(tx-?rx|rx-?tx|input|output|rx|tx|comp|fp|q)[-._]?(\d+)(?:@.*)?$`)

// vectors lists the queue interrupts of a device in the order of queues: those
// in its msi_irqs, or without that list those that carry its name.
func (m *Memory) vectors(dev string) []vector {
	c, err := m.parsed()
	if err != nil {
		return nil
	}
	t := c.interrupts[len(c.interrupts)-1]
	if t == nil {
		return nil
	}
	mine := m.ownInterrupts(dev)
	named := regexp.MustCompile(`(^|[^0-9A-Za-z])` + regexp.QuoteMeta(dev) + `($|[^0-9A-Za-z])`)
	var out []vector
	for _, r := range t.rows {
		irq, err := strconv.Atoi(strings.TrimSpace(r.label))
		if err != nil || (mine != nil && !mine[irq]) || (mine == nil && !named.MatchString(r.rest)) {
			continue
		}
		if v, ok := parseVector(r.rest, irq); ok {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b vector) int { return a.queue - b.queue })
	return out
}

func parseVector(name string, irq int) (vector, bool) {
	found := vectorName.FindStringSubmatch(strings.TrimSpace(name))
	if found == nil {
		return vector{}, false
	}
	queue, err := strconv.Atoi(found[2])
	if err != nil {
		return vector{}, false
	}
	side := strings.ToLower(found[1])
	onlyRx, onlyTx := side == "rx" || side == "input", side == "tx" || side == "output"
	return vector{irq: irq, queue: queue, rx: !onlyTx, tx: !onlyRx}, true
}

// ownInterrupts are the interrupts of the device's PCI function; a virtio
// device has them one level up. nil if the machine does not list them.
func (m *Memory) ownInterrupts(dev string) map[int]bool {
	for _, dir := range []string{"device/msi_irqs", "device/../msi_irqs"} {
		entries, err := m.last().tree.ReadDir(m.physical(dev, dir))
		if err != nil || len(entries) == 0 {
			continue
		}
		out := map[int]bool{}
		for _, e := range entries {
			if irq, err := strconv.Atoi(e.Name()); err == nil {
				out[irq] = true
			}
		}
		return out
	}
	return nil
}

// physical resolves "device/.." through the links, which fs.FS names cannot say.
func (m *Memory) physical(dev, name string) string {
	rest, up := strings.CutPrefix(name, "device/../")
	if !up {
		return deviceFile(dev, name)
	}
	at, err := m.last().tree.ReadLink("sys/class/net/" + dev)
	if err != nil {
		return deviceFile(dev, name)
	}
	// sys/devices/…/0000:00:03.0/virtio0/net/eth0: three levels up.
	return path.Join("sys/class/net", at, "../../..", rest)
}

// irqOf is the interrupt of one side of a queue.
func (m *Memory) irqOf(dev string, tx bool, queue int) (int, error) {
	for _, v := range m.vectors(dev) {
		if v.queue == queue && ((tx && v.tx) || (!tx && v.rx)) {
			return v.irq, nil
		}
	}
	return 0, fmt.Errorf("no interrupt of %s carries the number of queue %d", dev, queue)
}

// View is what package knob needs to read every setting of the last sample,
// with the queue map as this package understands it.
func (m *Memory) View() knob.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.last()
	v := knob.View{
		OnlineCPUs:       m.online(s).String(),
		HousekeepingCPUs: m.housekeeping(s).Intersect(m.online(s)).String(),
		HZ:               m.hz(),
	}
	irqs := map[knob.Ref]int{}
	for _, dev := range m.devices() {
		driver := m.driver(dev)
		v.Devices = append(v.Devices, knob.Dev{
			Name: dev, RxQueues: m.queueCount(dev, "rx"), TxQueues: m.queueCount(dev, "tx"),
			Tunable: driver != "" && !stackedDrivers[driver], Driver: driver, VirtioFeatures: m.virtioFeatures(dev),
		})
		for _, vec := range m.vectors(dev) {
			if vec.rx {
				irqs[knob.Rx(dev, vec.queue, "")] = vec.irq
			}
			if vec.tx {
				irqs[knob.Tx(dev, vec.queue, "")] = vec.irq
			}
		}
	}
	v.Host = m.Host(len(m.samples) - 1)
	v.IRQ = func(dev string, tx bool, queue int) (int, error) {
		irq, ok := irqs[knob.Ref{Dev: dev, Tx: tx, Queue: queue}]
		if !ok {
			return 0, fmt.Errorf("no interrupt of %s carries the number of queue %d", dev, queue)
		}
		return irq, nil
	}
	return v
}

// stackedDrivers are the names that ethtool -i gives for devices without
// hardware of their own.
var stackedDrivers = map[string]bool{
	"bonding": true, "bridge": true, "802.1Q VLAN Support": true, "team": true,
	"macvlan": true, "ipvlan": true, "tun": true, "veth": true, "vxlan": true, "dummy": true,
}

func (m *Memory) hz() int {
	if m.last().base.Ident == nil {
		return 0
	}
	ident, err := m.last().base.Ident()
	if err != nil {
		return 0
	}
	return ident.HZ
}

// Dump is every setting of the machine as text, one per line, in the order of
// the table: equal dumps mean equal settings. Settings without a value say why.
func (m *Memory) Dump() string {
	var out strings.Builder
	v := m.View()
	for _, k := range knob.All() {
		for _, r := range k.Refs(v) {
			state := k.Read(v, r)
			if state.Has() {
				fmt.Fprintf(&out, "%s = %s\n", r, state.Value)
			} else {
				fmt.Fprintf(&out, "%s: %s, %s\n", r, state.Status, state.Reason)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dumpInterrupts(&out)
	return out.String()
}

// dumpInterrupts adds the affinity of every interrupt, whether or not it could
// be tied to a queue, and the values of single NAPIs.
func (m *Memory) dumpInterrupts(out *strings.Builder) {
	entries, err := m.last().tree.ReadDir("proc/irq")
	if err == nil {
		for _, e := range entries {
			for _, file := range []string{"smp_affinity", "smp_affinity_list"} {
				name := "proc/irq/" + e.Name() + "/" + file
				if text, err := m.last().tree.ReadFile(name); err == nil {
					fmt.Fprintf(out, "/%s = %s\n", name, canonicalCPUs(file, string(text)))
				}
			}
		}
	}
	napis, err := list(m.napis, m.last().base.Netdev.NAPIs)
	if err != nil && !errors.Is(err, host.ErrNotCaptured) {
		fmt.Fprintf(out, "NAPIs: %v\n", err)
	}
	for _, n := range napis {
		fmt.Fprintf(out, "napi %d of %d: defer %d flush %d suspend %d threaded %d\n",
			n.ID, n.IfIndex, n.DeferHardIRQs, n.GROFlushTimeout, n.IRQSuspend, n.Threaded)
	}
}

// canonicalCPUs makes equal masks equal text: captures pad them differently.
func canonicalCPUs(file, text string) string {
	parse := cpuset.ParseMask
	if strings.HasSuffix(file, "_list") {
		parse = cpuset.ParseList
	}
	set, err := parse(text)
	if err != nil {
		return strconv.Quote(text)
	}
	return set.String()
}
