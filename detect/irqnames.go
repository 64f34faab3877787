package detect

import (
	"strings"
)

// vector is what an interrupt serves according to its name.
type vector uint8

const (
	vectorOther    vector = iota // link, mailbox, firmware events
	vectorRx                     // one receive queue
	vectorTx                     // one transmit queue
	vectorPair                   // receive and transmit queue of the same number
	vectorNotify                 // gve block: transmit queues first, then receive queues
	vectorWhole                  // all queues of the device
	vectorMayWhole               // all queues if the device has no vector per queue, else something other
)

// naming is one way in which drivers name their interrupts. Placeholders: {if}
// interface name at the time of request_irq, {pci} PCI address, {n} queue
// number, {id} number of a virtio or xenbus device, {*} anything.
type naming struct {
	pattern string
	serves  vector
	// weak patterns are too short to tell a network device by the name
	// alone; they count for interfaces that are known or look like one.
	weak bool
	// shifted: numbers count vectors, the first of which is no queue's.
	shifted bool
}

// namings is every naming known, most specific first, from the request_irq
// calls of the drivers (drivers/net/ethernet, virtio, xen-netfront).
var namings = []naming{
	// virtio_pci_common.c names vectors after the device and the virtqueue.
	{pattern: "virtio{id}-input.{n}", serves: vectorRx},
	{pattern: "virtio{id}-output.{n}", serves: vectorTx},
	{pattern: "virtio{id}-virtqueues", serves: vectorWhole, weak: true}, // one vector for all queues; other kinds of devices have it too
	{pattern: "virtio{id}-{*}", serves: vectorOther, weak: true},
	{pattern: "virtio{id}", serves: vectorWhole, weak: true},
	// xen-netfront
	{pattern: "vif{id}-q{n}-tx", serves: vectorTx},
	{pattern: "vif{id}-q{n}-rx", serves: vectorRx},
	// mlx5 up to 6.x, with few vectors, sub-functions
	{pattern: "mlx5_comp{n}@pci:{pci}", serves: vectorPair},
	{pattern: "mlx5_combined{n}@pci:{pci}", serves: vectorPair},
	{pattern: "mlx5_sf_comp{n}@pci:{pci}", serves: vectorPair},
	{pattern: "mlx5_sf_{*}@pci:{pci}", serves: vectorOther},
	{pattern: "mlx5_{*}@pci:{pci}", serves: vectorOther},
	// mlx4: shared by both ports of the function
	{pattern: "mlx4-{n}@{pci}", serves: vectorPair},
	{pattern: "mlx4-{n}@pci:{pci}", serves: vectorPair},
	{pattern: "mlx4-{*}@pci:{pci}", serves: vectorOther},
	// mana, gve, ena
	{pattern: "mana_q{n}@pci:{pci}", serves: vectorPair},
	{pattern: "mana_msi{n}@pci:{pci}", serves: vectorPair, shifted: true}, // from 7.x; vector 0 is mana_hwc
	{pattern: "mana_{*}@pci:{pci}", serves: vectorOther},
	{pattern: "gve-ntfy-blk{n}@pci:{pci}", serves: vectorNotify},
	{pattern: "{if}-ntfy-block.{n}", serves: vectorNotify},
	{pattern: "gve-{*}@pci:{pci}", serves: vectorOther},
	{pattern: "ena-{*}@pci:{pci}", serves: vectorOther},
	{pattern: "{if}-Tx-Rx-{n}", serves: vectorPair},
	// i40e, ice, iavf, idpf put the driver first; misc, fdir and mailbox
	// vectors carry the PCI address and must not match as queues.
	{pattern: "i40e-{pci}:{*}", serves: vectorOther},
	{pattern: "ice-{pci}:{*}", serves: vectorOther},
	{pattern: "iavf-{pci}:{*}", serves: vectorOther},
	{pattern: "idpf-{*}-Mailbox-{*}", serves: vectorOther},
	{pattern: "i40e-{if}-TxRx-{n}", serves: vectorPair},
	{pattern: "i40e-{if}-rx-{n}", serves: vectorRx},
	{pattern: "i40e-{if}-tx-{n}", serves: vectorTx},
	{pattern: "i40evf-{if}-TxRx-{n}", serves: vectorPair},
	{pattern: "ice-{if}-TxRx-{n}", serves: vectorPair},
	{pattern: "ice-{if}-rx-{n}", serves: vectorRx},
	{pattern: "ice-{if}-tx-{n}", serves: vectorTx},
	{pattern: "iavf-{if}-TxRx-{n}", serves: vectorPair},
	{pattern: "iavf-{if}-rx-{n}", serves: vectorRx},
	{pattern: "iavf-{if}-tx-{n}", serves: vectorTx},
	{pattern: "idpf-{if}-TxRx-{n}", serves: vectorPair, shifted: true},
	{pattern: "idpf-{if}-Rx-{n}", serves: vectorRx, shifted: true},
	{pattern: "idpf-{if}-Tx-{n}", serves: vectorTx, shifted: true},
	// hns3
	{pattern: "hns3-{pci}-TxRx-{n}", serves: vectorPair},
	{pattern: "hns3-{pci}-Rx-{n}", serves: vectorRx},
	{pattern: "hns3-{pci}-Tx-{n}", serves: vectorTx},
	{pattern: "hns3-{if}-TxRx-{n}", serves: vectorPair},
	// hinic: event queues are named after the driver
	{pattern: "hinic_aeq{n}@pci:{pci}", serves: vectorOther},
	{pattern: "hinic_ceq{n}@pci:{pci}", serves: vectorOther},
	{pattern: "{if}_rxq{n}", serves: vectorRx},
	{pattern: "{if}_txq{n}", serves: vectorTx},
	// stmmac
	{pattern: "{if}:rx-{n}", serves: vectorRx},
	{pattern: "{if}:tx-{n}", serves: vectorTx},
	{pattern: "{if}:mac", serves: vectorMayWhole, weak: true}, // all queues on variants without per-queue lines
	{pattern: "{if}:{*}", serves: vectorOther, weak: true},
	// ixgbe, ixgbevf, igb, igc, bnxt_en
	{pattern: "{if}-TxRx-{n}", serves: vectorPair},
	// bnx2x, qede
	{pattern: "{if}-fp-{n}", serves: vectorPair},
	// tg3; vmxnet3, nfp, otx2; enetc
	{pattern: "{if}-txrx-{n}", serves: vectorPair},
	{pattern: "{if}-rxtx-{n}", serves: vectorPair},
	{pattern: "{if}-rxtx{n}", serves: vectorPair},
	// ixgbe, igb, e1000e, bnxt_en, tg3, vmxnet3, sfc, enic
	{pattern: "{if}-rx-{n}", serves: vectorRx},
	{pattern: "{if}-tx-{n}", serves: vectorTx},
	// cxgb4
	{pattern: "{if}-Rx{n}", serves: vectorRx},
	// be2net
	{pattern: "{if}-q{n}", serves: vectorPair, weak: true},
	// tg3, bnx2, sfc, atlantic, r8125
	{pattern: "{if}-{n}", serves: vectorPair, weak: true},
	{pattern: "{if}-{*}", serves: vectorOther, weak: true}, // -event-N, -unused, -ptp, -mae, -notify
	// link and other causes of multi-vector devices; everything of e1000, r8169 and old devices
	{pattern: "{if}", serves: vectorMayWhole, weak: true},
}

// vectorName is an action name taken apart.
type vectorName struct {
	serves vector
	weak   bool
	n      int    // queue number, -1 if the name has none
	iface  string // interface name in it, "" if none
	pci    string
	virtio string // "virtio2"
	xen    string // "vif-0": the xenbus name of vif0
	sub    bool   // of an mlx5 sub-function
	bare   bool   // interface and number, nothing else
	// shifted: numbers count vectors, the first of which is no queue's.
	shifted bool
}

// readName takes an action name apart by the first naming that fits and is
// acceptable: accept sees every reading, also of one naming (interface names
// may contain dashes and digits), and may refuse it, for example because no
// such interface exists.
func readName(action string, accept func(vectorName) bool) (vectorName, bool) {
	for i := range namings {
		n := &namings[i]
		out := vectorName{serves: n.serves, weak: n.weak, n: -1, sub: strings.HasPrefix(n.pattern, "mlx5_sf_"), bare: n.pattern == "{if}-{n}", shifted: n.shifted}
		if fits(n.pattern, action, &out, accept) {
			return out, true
		}
	}
	return vectorName{}, false
}

// fits matches a whole action against a pattern and leaves the parts in out.
func fits(pattern, text string, out *vectorName, accept func(vectorName) bool) bool {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return pattern == text && accept(*out)
	}
	text, ok := strings.CutPrefix(text, pattern[:open])
	if !ok {
		return false
	}
	end := open + strings.IndexByte(pattern[open:], '}')
	rest := pattern[end+1:]
	switch pattern[open+1 : end] {
	case "n":
		digits := leadingDigits(text)
		n, ok := atoi(digits)
		out.n = n
		return ok && fits(rest, text[len(digits):], out, accept)
	case "id":
		digits := leadingDigits(text)
		if digits == "" {
			return false
		}
		if strings.HasPrefix(pattern, "virtio") {
			out.virtio = "virtio" + digits
		} else {
			out.xen = "vif-" + digits
		}
		return fits(rest, text[len(digits):], out, accept)
	case "pci":
		out.pci = leadingPCI(text)
		return out.pci != "" && fits(rest, text[len(out.pci):], out, accept)
	case "if":
		for i := min(len(text), maxIfName); i > 0; i-- {
			out.iface = text[:i]
			if plausibleIfName(out.iface) && fits(rest, text[i:], out, accept) {
				return true
			}
		}
		return false
	default:
		for i := len(text); i > 0; i-- {
			if fits(rest, text[i:], out, accept) {
				return true
			}
		}
		return false
	}
}

// maxIfName is IFNAMSIZ-1 (include/uapi/linux/if.h).
const maxIfName = 15

// plausibleIfName refuses what dev_valid_name (net/core/dev.c) refuses, and
// PCI addresses, which stand at the same place in some names.
func plausibleIfName(name string) bool {
	if name == "." || name == ".." || leadingPCI(name) != "" {
		return false
	}
	return !strings.ContainsAny(name, "/: \t@[]")
}

func leadingDigits(text string) string {
	i := 0
	for i < len(text) && text[i] >= '0' && text[i] <= '9' {
		i++
	}
	if i > 6 {
		return ""
	}
	return text[:i]
}

// leadingPCI cuts a PCI address off the front: domain of at least four hex
// digits, bus, device, function ("0000:04:00.0", "10000:e1:00.0").
func leadingPCI(text string) string {
	i := 0
	for _, part := range []struct {
		least, most int
		after       byte
	}{{4, 8, ':'}, {2, 2, ':'}, {2, 2, '.'}, {1, 1, 0}} {
		start := i
		for i < len(text) && i-start < part.most && isHex(text[i]) {
			i++
		}
		if i-start < part.least {
			return ""
		}
		if part.after == 0 {
			return text[:i]
		}
		if i >= len(text) || text[i] != part.after {
			return ""
		}
		i++
	}
	return ""
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// looksLikeInterface tells names that udev, the BIOS scheme or the kernel give
// to Ethernet and InfiniBand devices from other words in /proc/interrupts
// ("ahci", "nvme0q1", "hpsa0"). It is asked only where no list of devices is
// known.
func looksLikeInterface(name string) bool {
	for _, prefix := range interfacePrefixes {
		rest, ok := strings.CutPrefix(name, prefix)
		if ok && rest != "" && strings.ContainsAny(rest, "0123456789") && !strings.ContainsAny(rest, ".@ []-:") {
			return prefix != "p" || portName(rest)
		}
	}
	return false
}

var interfacePrefixes = []string{"eth", "eno", "ens", "enp", "enP", "enx", "em", "ib", "lan", "wlan", "wlp", "wan", "sfp", "net", "p"}

// portName is the rest of "p1p2" (biosdevname).
func portName(rest string) bool {
	slot := leadingDigits(rest)
	port, ok := strings.CutPrefix(rest[len(slot):], "p")
	return slot != "" && ok && port != "" && leadingDigits(port) == port
}

// chipPCI is the PCI function that an MSI line belongs to, from its chip text:
// spelled out since 6.2 ("PCI-MSIX-0000:00:03.0 1-edge"); before, hardware
// number = domain<<27 | bus<<19 | devfn<<11 | index (drivers/pci/msi,
// pci_msi_domain_calc_hwirq). "" where the text tells neither.
func chipPCI(chip string) string {
	at := strings.Index(chip, "PCI-MSI")
	if at < 0 {
		return ""
	}
	rest := strings.TrimPrefix(chip[at+len("PCI-MSI"):], "X")
	if name, ok := strings.CutPrefix(rest, "-"); ok {
		return leadingPCI(name)
	}
	digits := strings.TrimLeft(rest, " ")
	end := 0
	var hwirq uint64
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' && end < 19 {
		hwirq = hwirq*10 + uint64(digits[end]-'0')
		end++
	}
	const bus0 = 1 << 11 // the host bridge 0000:00:00.0 has no MSI: smaller numbers are plain indices
	if end == 0 || hwirq < bus0 {
		return ""
	}
	return pciAddress(hwirq>>27, byte(hwirq>>19), byte(hwirq>>11))
}

func pciAddress(domain uint64, bus, devfn byte) string {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 16)
	digits := 4
	for domain>>(4*digits) != 0 {
		digits++
	}
	for i := digits - 1; i >= 0; i-- {
		out = append(out, hex[domain>>(4*i)&15])
	}
	device, function := devfn>>3, devfn&7
	return string(append(out, ':', hex[bus>>4], hex[bus&15], ':', hex[device>>4], hex[device&15], '.', hex[function]))
}
