package detect

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/topo"
)

const (
	classNet   = "sys/class/net"
	sosEthtool = "sos_commands/networking"
)

// detail is what the collectors know of a device beyond the Snapshot.
type detail struct {
	base   string // last part of the device link: "0000:04:00.0", "virtio2", "vif-0", a vmbus GUID
	msi    []int  // interrupts that sysfs says belong to the bus function
	rx, tx int    // queues in use; -1 if not told
	// inferred: known from interrupt names only.
	inferred bool
}

func (c *collector) devices() {
	c.details = map[*Device]*detail{}
	names := c.deviceNames()
	counters := c.netDev()
	for name := range counters {
		names[name] = true
	}
	c.authoritative = len(names) > 0
	if !c.authoritative {
		for _, name := range c.sosDevices() {
			names[name] = true
		}
	}
	for name := range names {
		c.add(name, counters[name])
	}
	c.inferDevices()
	c.stack()
	sortDevices(c.s.Devices)
}

func sortDevices(devices []*Device) {
	slices.SortFunc(devices, func(a, b *Device) int { return strings.Compare(a.Name, b.Name) })
}

func (c *collector) deviceNames() map[string]bool {
	names := map[string]bool{}
	entries, err := c.h.ReadDir(classNet)
	if err != nil {
		c.gap(classNet, err)
	}
	for _, e := range entries {
		// A capture may know names without what lies below them.
		if _, err := c.h.ReadDir(classNet + "/" + e.Name()); err == nil {
			c.sysfs = true
		}
		// bonding_masters is a file among the links.
		if !e.Type().IsRegular() && validName(e.Name()) {
			names[e.Name()] = true
		}
	}
	for _, l := range c.s.Links {
		if validName(l.Name) {
			names[l.Name] = true
		}
	}
	return names
}

func validName(name string) bool {
	return name != "" && len(name) <= maxIfName && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\x00")
}

func (c *collector) netDev() map[string]InterfaceCounters {
	data, ok := c.read("proc/net/dev")
	if !ok {
		return nil
	}
	all, errs := parseNetDev(data)
	c.gaps("proc/net/dev", errs)
	for name := range all {
		if !validName(name) {
			delete(all, name)
		}
	}
	return all
}

// sosDevices finds devices in the names of kept ethtool outputs
// ("ethtool_-S_eth0") of a sosreport that has no better list.
func (c *collector) sosDevices() []string {
	entries, err := c.h.ReadDir(sosEthtool)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "ethtool_")
		if !ok {
			continue
		}
		if option, name, ok := strings.Cut(rest, "_"); ok && strings.HasPrefix(option, "-") {
			rest = name
		}
		if validName(rest) {
			names = append(names, rest)
		}
	}
	return names
}

func (c *collector) add(name string, counters InterfaceCounters) *Device {
	d := &Device{Name: name, Node: topo.Unknown, Counters: counters}
	t := &detail{rx: -1, tx: -1}
	c.details[d] = t
	c.s.Devices = append(c.s.Devices, d)
	link := c.link(name)
	c.fromLink(d, link)
	c.bus(d, t)
	c.state(d, link)
	d.Kind = c.kindOf(d, t, link)
	c.statistics(d)
	c.virtioFeatures(d)
	c.ask(d)
	return d
}

func (c *collector) link(name string) *host.Link {
	for i := range c.s.Links {
		if c.s.Links[i].Name == name {
			return &c.s.Links[i]
		}
	}
	return nil
}

func (c *collector) fromLink(d *Device, link *host.Link) {
	if link == nil {
		return
	}
	d.Index, d.XDP, d.Qdisc = link.Index, link.XDP, link.Qdisc
	d.Up, d.Carrier = tri(link.Up), tri(link.Running)
}

func tri(yes bool) Tri {
	if yes {
		return Yes
	}
	return No
}

// state reads from sysfs what netlink did not tell.
func (c *collector) state(d *Device, link *host.Link) {
	dir := classNet + "/" + d.Name
	if d.Index == 0 {
		d.Index, _ = c.number(dir + "/ifindex")
	}
	d.MAC = c.hardwareAddress(dir)
	if speed, ok := c.text(dir + "/speed"); ok {
		if n, err := strconv.Atoi(speed); err == nil && n > 0 {
			d.SpeedMbps = n // -1 and 2^32-1 stand for unknown
		}
		if d.SpeedMbps >= 1<<31-1 {
			d.SpeedMbps = 0
		}
	}
	const iffUp, iffPromisc = 1, 0x100 // include/uapi/linux/if.h
	text, _ := c.text(dir + "/flags")
	flags, err := strconv.ParseUint(text, 0, 64)
	if err == nil {
		d.Promiscuous = tri(flags&iffPromisc != 0)
	}
	if link != nil {
		return
	}
	if err == nil {
		d.Up = tri(flags&iffUp != 0)
	}
	if text, ok := c.text(dir + "/carrier"); ok && (text == "0" || text == "1") {
		d.Carrier = tri(text == "1")
	}
}

// hardwareAddress prefers the address that a bond took over from its slave
// (drivers/net/bonding/bond_sysfs_slave.c): under a bond all slaves show that
// of the bond.
func (c *collector) hardwareAddress(dir string) string {
	for _, name := range []string{dir + "/bonding_slave/perm_hwaddr", dir + "/address"} {
		if text, ok := c.text(name); ok && text != "" {
			return strings.ToLower(text)
		}
	}
	return ""
}

// bus finds the bus address, driver, node and interrupts behind a device. A
// virtio device hangs below the PCI function that has the interrupts and the
// locality.
func (c *collector) bus(d *Device, t *detail) {
	dir := classNet + "/" + d.Name + "/device"
	if target, err := c.h.ReadLink(dir); err == nil {
		t.base = path.Base(target)
	}
	if target, err := c.h.ReadLink(dir + "/driver"); err == nil {
		d.Driver = path.Base(target)
	}
	info, err := c.h.Ethtool.DriverInfo(d.Name)
	switch {
	case err == nil:
		c.fromDriverInfo(d, t, info)
	case !errors.Is(err, host.ErrUnsupported):
		c.gap("ethtool -i "+d.Name, err)
	}
	function := dir
	if isVirtioName(t.base) {
		d.Virtio = t.base
		function = c.parentOf(dir, t.base)
	} else if t.base != "" && leadingPCI(t.base) == t.base {
		d.Bus = t.base
	}
	if d.Virtio != "" && d.Bus == "" {
		d.Bus = c.virtioBus(dir)
	}
	if t.base == "" {
		if d.Bus == "" {
			return
		}
		function = "sys/bus/pci/devices/" + d.Bus
	}
	c.locality(d, function)
	t.msi = c.functionIRQs(function)
}

func (c *collector) fromDriverInfo(d *Device, t *detail, info host.DriverInfo) {
	if info.Driver != "" {
		d.Driver = info.Driver
	}
	switch {
	case leadingPCI(info.Bus) == info.Bus && info.Bus != "":
		if d.Bus == "" {
			d.Bus = info.Bus
		}
	case isVirtioName(info.Bus) && t.base == "":
		t.base = info.Bus
	}
}

func isVirtioName(name string) bool {
	digits, ok := strings.CutPrefix(name, "virtio")
	return ok && digits != "" && leadingDigits(digits) == digits
}

// parentOf is the directory above a virtio device. The textual parent of
// sys/class/net/X/device is X, so the link must be spelled out.
func (c *collector) parentOf(dir, base string) string {
	if target, err := c.h.ReadLink("sys/bus/virtio/devices/" + base); err == nil {
		return path.Dir(path.Join("sys/bus/virtio/devices", target))
	}
	if full, ok := c.resolve(dir); ok {
		return path.Dir(full)
	}
	return dir
}

// resolve spells out sys/class/net/X/device through the two links it is made of.
func (c *collector) resolve(dir string) (string, bool) {
	class := path.Dir(dir)
	home := class
	if target, err := c.h.ReadLink(class); err == nil {
		home = path.Join(path.Dir(class), target)
	}
	target, err := c.h.ReadLink(path.Join(home, "device"))
	if err != nil {
		if target, err = c.h.ReadLink(dir); err != nil {
			return "", false
		}
	}
	full := path.Join(home, target)
	return full, strings.HasPrefix(full, "sys/")
}

func (c *collector) virtioBus(dir string) string {
	full, ok := c.resolve(dir)
	if !ok {
		return ""
	}
	for full != "." && full != "/" {
		full = path.Dir(full)
		if base := path.Base(full); leadingPCI(base) == base && base != "" {
			return base
		}
	}
	return ""
}

func (c *collector) locality(d *Device, function string) {
	if node, ok := c.number(function + "/numa_node"); ok && node >= 0 {
		d.Node = node
	}
	if set, ok := c.set(function+"/local_cpulist", function+"/local_cpus"); ok {
		d.Local = set
	}
}

// functionIRQs lists msi_irqs, or the one legacy line.
func (c *collector) functionIRQs(function string) []int {
	entries, err := c.h.ReadDir(function + "/msi_irqs")
	if err == nil {
		var irqs []int
		for _, e := range entries {
			if n, ok := atoi(e.Name()); ok {
				irqs = append(irqs, n)
			}
		}
		slices.Sort(irqs)
		if len(irqs) > 0 {
			return irqs
		}
	}
	if n, ok := c.number(function + "/irq"); ok && n > 0 {
		return []int{n}
	}
	return nil
}

// driverKinds are devices that ethtool -i names by the software behind them.
var driverKinds = map[string]string{
	"virtio_net": "virtio", "hv_netvsc": "synthetic", "bonding": "bond", "team": "team", "bridge": "bridge",
	"802.1Q VLAN Support": "vlan", "macvlan": "macvlan", "macvtap": "macvlan", "ipvlan": "ipvlan", "veth": "veth",
	"tun": "tap", "vxlan": "tunnel", "geneve": "tunnel", "openvswitch": "virtual", "dummy": "virtual", "ifb": "virtual",
	"netkit": "veth", "gretap": "tunnel", "erspan": "tunnel", "wireguard": "tunnel",
	"dsa": "virtual", // a port of a switch: its packets come through the conduit (net/dsa/user.c, dsa_user_get_drvinfo)
}

// linkKinds are IFLA_INFO_KIND words and DEVTYPE words of uevent files.
var linkKinds = map[string]string{
	"bond": "bond", "team": "team", "bridge": "bridge", "vlan": "vlan", "macvlan": "macvlan", "macvtap": "macvlan",
	"ipvlan": "ipvlan", "ipvtap": "ipvlan", "veth": "veth", "netkit": "veth", "tun": "tap", "vxlan": "tunnel",
	"geneve": "tunnel", "gre": "tunnel", "gretap": "tunnel", "ip6gre": "tunnel", "ip6gretap": "tunnel", "ipip": "tunnel",
	"sit": "tunnel", "ip6tnl": "tunnel", "vti": "tunnel", "vti6": "tunnel", "xfrm": "tunnel", "wireguard": "tunnel",
	"erspan": "tunnel", "gtp": "tunnel", "bareudp": "tunnel", "ppp": "tunnel",
	"dsa": "virtual",
}

// kindOf goes from what the kernel says in one word to what only hints.
func (c *collector) kindOf(d *Device, t *detail, link *host.Link) string {
	dir := classNet + "/" + d.Name
	if link != nil && link.Loopback || link == nil && d.Name == "lo" {
		return "loopback"
	}
	if link != nil && link.Kind != "" {
		if kind, ok := linkKinds[link.Kind]; ok {
			return kind
		}
		return "virtual"
	}
	if d.Virtio != "" || d.Driver == "virtio_net" {
		return "virtio"
	}
	if kind, ok := driverKinds[d.Driver]; ok {
		return kind
	}
	if t.base != "" || d.Bus != "" {
		return "physical"
	}
	if uevent, ok := c.text(dir + "/uevent"); ok {
		for line := range strings.Lines(uevent) {
			if kind, ok := linkKinds[strings.TrimPrefix(strings.TrimSpace(line), "DEVTYPE=")]; ok {
				return kind
			}
		}
	}
	for _, mark := range []struct{ file, kind string }{{"bonding/mode", "bond"}, {"bridge/bridge_id", "bridge"}, {"tun_flags", "tap"}} {
		if _, ok := c.text(dir + "/" + mark.file); ok {
			return mark.kind
		}
	}
	return c.kindByPlace(dir, d)
}

// kindByPlace judges by the home of a device in sysfs, and leaves the rest
// "physical" only if it has a driver.
func (c *collector) kindByPlace(dir string, d *Device) string {
	if target, err := c.h.ReadLink(dir); err == nil && strings.Contains(target, "/virtual/") {
		return "virtual"
	}
	if _, ok := c.text("proc/net/bonding/" + d.Name); ok {
		return "bond"
	}
	if _, ok := c.text("proc/net/vlan/" + d.Name); ok {
		return "vlan"
	}
	if d.Driver != "" || looksLikeInterface(d.Name) {
		return "physical"
	}
	return "virtual"
}

// statistics prefers the files of sysfs for devices with hardware: there a
// missed packet (ring full) is told from one that the stack dropped, which
// /proc/net/dev adds up.
func (c *collector) statistics(d *Device) {
	if !hardware(d.Kind) {
		return
	}
	dir := classNet + "/" + d.Name + "/statistics/"
	var out InterfaceCounters
	for _, f := range []struct {
		name string
		into *uint64
	}{
		{"rx_packets", &out.RxPackets}, {"rx_bytes", &out.RxBytes}, {"rx_dropped", &out.RxDropped}, {"rx_errors", &out.RxErrors},
		{"rx_fifo_errors", &out.RxFIFO}, {"rx_missed_errors", &out.RxMissed}, {"rx_over_errors", &out.RxOver},
		{"tx_packets", &out.TxPackets}, {"tx_bytes", &out.TxBytes}, {"tx_dropped", &out.TxDropped}, {"tx_errors", &out.TxErrors},
	} {
		text, ok := c.text(dir + f.name)
		if !ok {
			return
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			c.gap(dir+f.name, fmt.Errorf("%q is not a number", clip(text)))
			return
		}
		*f.into = n
	}
	out.Known = true
	d.Counters = out
}

// hardware reports whether a device of this kind has queues and interrupts of
// its own.
func hardware(kind string) bool {
	return kind == "physical" || kind == "virtio" || kind == "synthetic"
}

func (c *collector) virtioFeatures(d *Device) {
	if d.Virtio == "" {
		return
	}
	if text, ok := c.text("sys/bus/virtio/devices/" + d.Virtio + "/features"); ok {
		if strings.Trim(text, "01") == "" {
			d.VirtioFeatures = text
		} else {
			c.gap("sys/bus/virtio/devices/"+d.Virtio+"/features", fmt.Errorf("%q is not a string of bits", clip(text)))
		}
	}
}

// ask puts the ethtool questions to a device with hardware, and those that
// any device may answer to the others.
func (c *collector) ask(d *Device) {
	e := &c.h.Ethtool
	if d.Kind == "loopback" {
		return
	}
	if f, err := e.Features(d.Name); err == nil {
		d.Features = f
	} else {
		c.refused("ethtool -k ", d.Name, err)
	}
	if !hardware(d.Kind) {
		return
	}
	if ch, err := e.Channels(d.Name); err == nil {
		d.Channels = &ch
	} else {
		d.ChannelsUnsupported = errors.Is(err, host.ErrUnsupported)
		c.refused("ethtool -l ", d.Name, err)
	}
	if r, err := e.Rings(d.Name); err == nil {
		d.Rings = &r
	} else {
		c.refused("ethtool -g ", d.Name, err)
	}
	if co, err := e.Coalesce(d.Name); err == nil {
		d.Coalesce = &co
	} else {
		c.refused("ethtool -c ", d.Name, err)
	}
	if rss, err := e.RSS(d.Name); err == nil {
		d.RSS = &rss
	} else {
		c.refused("ethtool -x ", d.Name, err)
	}
	if st, err := e.Stats(d.Name); err == nil {
		d.Stats = st
	} else {
		c.refused("ethtool -S ", d.Name, err)
	}
	c.hashFields(d)
}

func (c *collector) hashFields(d *Device) {
	for _, flow := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
		fields, err := c.h.Ethtool.HashFields(d.Name, flow)
		if err != nil {
			c.refused("ethtool -n rx-flow-hash "+flow+" ", d.Name, err)
			continue
		}
		if d.HashFields == nil {
			d.HashFields = map[string]string{}
		}
		d.HashFields[flow] = fields
	}
}

// refused records a gap unless the answer is a certain no.
func (c *collector) refused(question, dev string, err error) {
	if !errors.Is(err, host.ErrUnsupported) {
		c.gap(question+dev, err)
	}
}

// stack fills Lower and Upper from netlink, or from the links of sysfs.
func (c *collector) stack() {
	byIndex := map[int]string{}
	for _, l := range c.s.Links {
		byIndex[l.Index] = l.Name
	}
	for _, l := range c.s.Links {
		if master := byIndex[l.Master]; l.Master != 0 && master != "" {
			c.join(master, l.Name)
		}
		if below := byIndex[l.Parent]; l.Parent != 0 && !l.Foreign && below != "" && l.Kind != "veth" {
			c.join(l.Name, below)
		}
	}
	for _, d := range c.s.Devices {
		if hardware(d.Kind) && len(c.s.Links) > 0 {
			continue
		}
		entries, err := c.h.ReadDir(classNet + "/" + d.Name)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if name, ok := strings.CutPrefix(e.Name(), "lower_"); ok {
				c.join(d.Name, name)
			}
			if name, ok := strings.CutPrefix(e.Name(), "upper_"); ok {
				c.join(name, d.Name)
			}
		}
	}
	for _, d := range c.s.Devices {
		slices.Sort(d.Lower)
		slices.Sort(d.Upper)
	}
}

func (c *collector) join(upper, lower string) {
	if upper == lower {
		return
	}
	if d := c.s.Device(upper); d != nil && !slices.Contains(d.Lower, lower) {
		d.Lower = append(d.Lower, lower)
	}
	if d := c.s.Device(lower); d != nil && !slices.Contains(d.Upper, upper) {
		d.Upper = append(d.Upper, upper)
	}
}

// inferDevices finds devices that only interrupts tell of. It is done where no
// source lists devices at all, and for virtio and mlx5 functions that no listed
// device could be tied to. Where sysfs lists devices, vectors of others belong
// to another network namespace.
func (c *collector) inferDevices() {
	if c.sysfs {
		return
	}
	byPCI := map[string]*Device{}
	for _, d := range c.s.Devices {
		if d.Bus != "" {
			byPCI[d.Bus] = d
		}
	}
	for i := range c.s.IRQs.Rows {
		row := &c.s.IRQs.Rows[i]
		for _, action := range row.Actions {
			c.inferFrom(action, chipPCI(row.Chip), byPCI)
		}
	}
}

func (c *collector) inferFrom(action, pci string, byPCI map[string]*Device) {
	v, ok := readName(action, func(v vectorName) bool { return c.acceptWithoutList(v) })
	if !ok || v.serves == vectorOther {
		return
	}
	if v.pci != "" {
		pci = v.pci
	}
	if pci != "" && byPCI[pci] != nil {
		return
	}
	name, kind := inferredName(v, action, pci)
	if name == "" || c.s.Device(name) != nil {
		return
	}
	if c.authoritative && v.iface != "" {
		return // an interface that is not listed is in another namespace or was renamed
	}
	d := c.add(name, InterfaceCounters{})
	d.Kind, d.Bus = kind, pci
	if kind == "virtio" {
		d.Virtio = name
	}
	c.details[d].inferred = true
	if pci != "" {
		byPCI[pci] = d
	}
}

// acceptWithoutList believes a strong naming, and a weak one only for names
// that look like an interface.
func (c *collector) acceptWithoutList(v vectorName) bool {
	if v.iface != "" && c.s.Device(v.iface) != nil {
		return true
	}
	if v.iface != "" {
		return looksLikeInterface(v.iface) || !v.weak && !knownStranger(v.iface)
	}
	return v.virtio == "" || v.serves == vectorRx || v.serves == vectorTx || v.serves == vectorOther
}

// knownStranger are drivers whose vectors look like those of a NIC.
func knownStranger(name string) bool {
	for _, prefix := range []string{"nvme", "hpsa", "megasas", "mpt", "ahci", "xhci", "ioat", "qla", "lpfc", "dmar", "hpet", "irdma", "i40iw"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func inferredName(v vectorName, action, pci string) (name, kind string) {
	switch {
	case v.iface != "":
		return v.iface, "physical"
	case v.virtio != "":
		return v.virtio, "virtio"
	case v.xen != "":
		return strings.Replace(v.xen, "-", "", 1), "physical"
	case pci != "":
		driver, _, _ := strings.Cut(action, "_")
		driver, _, _ = strings.Cut(driver, "-")
		return driver + "@" + pci, "physical"
	}
	return "", ""
}
