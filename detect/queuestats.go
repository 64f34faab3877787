package detect

import (
	"errors"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// grammar is one way in which drivers name per-queue counters in ethtool -S.
// Placeholders: {n} queue number, {side} "rx" or "tx", {c} name of the counter.
// vmxnet3, which prints blocks, is read apart from these.
type grammar struct {
	pattern string
	// counters maps the driver's word to "packets", "bytes", "drops" or "kicks"
	// (virtio: times the device was told of new buffers). Words that map to the same are added up.
	counters map[string]string
}

var plainCounters = map[string]string{"packets": "packets", "bytes": "bytes", "drops": "drops"}

// grammars in the order of trial. A counter that fits none is not one of a
// queue: "rx_64_byte_packets" is a histogram of frame sizes.
var grammars = []grammar{
	// virtio_net up to 6.9, igb, igc, ixgbe, ice, gve and others
	{"{side}_queue_{n}_{c}", map[string]string{"packets": "packets", "bytes": "bytes", "drops": "drops", "pkts": "packets", "kicks": "kicks"}},
	// i40e, iavf; older i40e repeats the side
	{"{side}-{n}.{c}", plainCounters},
	{"{side}-{n}.{side}_{c}", plainCounters},
	{"{side}-{n}_{c}", plainCounters},
	// mlx5, mlx4, virtio_net from 6.11 (drops and kicks only), mana, hv_netvsc
	{"{side}{n}_{c}", map[string]string{"packets": "packets", "bytes": "bytes", "drops": "drops", "dropped": "drops", "kicks": "kicks"}},
	{"{side}_{n}_{c}", map[string]string{"packets": "packets", "bytes": "bytes", "drops": "drops", "dropped": "drops"}},
	// bnxt_en, bnx2x
	{"[{n}]: {side}_{c}", map[string]string{
		"ucast_packets": "packets", "mcast_packets": "packets", "bcast_packets": "packets",
		"ucast_bytes": "bytes", "mcast_bytes": "bytes", "bcast_bytes": "bytes", "bytes": "bytes",
		"discards": "drops",
	}},
	// ena
	{"queue_{n}_{side}_{c}", map[string]string{"cnt": "packets", "bytes": "bytes", "drops": "drops"}},
	// hns3, qede
	{"{side}q{n}_{c}", map[string]string{"packets": "packets", "bytes": "bytes", "dropped": "drops"}},
	// be2net
	{"{side}q{n}: {side}_{c}", map[string]string{"pkts": "packets", "bytes": "bytes", "drops_no_frags": "drops"}},
	{"{side}Q{n}_{c}", map[string]string{"packets": "packets", "bytes": "bytes"}},
}

// vmxnet3Counters are lines of the blocks that "Rx Queue#: 1" and
// "Tx Queue#: 1" open (drivers/net/vmxnet3/vmxnet3_ethtool.c). A host may have
// put the block in front of each name instead, as "rxq1: ".
var vmxnet3Counters = map[string]struct {
	tx   bool
	name string
}{
	"ucast pkts rx": {false, "packets"}, "mcast pkts rx": {false, "packets"}, "bcast pkts rx": {false, "packets"},
	"ucast bytes rx": {false, "bytes"}, "mcast bytes rx": {false, "bytes"}, "bcast bytes rx": {false, "bytes"},
	"pkts rx OOB": {false, "drops"}, "drv dropped rx total": {false, "drops"},
	"ucast pkts tx": {true, "packets"}, "mcast pkts tx": {true, "packets"}, "bcast pkts tx": {true, "packets"},
	"ucast bytes tx": {true, "bytes"}, "mcast bytes tx": {true, "bytes"}, "bcast bytes tx": {true, "bytes"},
	"pkts tx discard": {true, "drops"}, "drv dropped tx total": {true, "drops"},
}

// queueStats reads per-queue counters out of ethtool -S; nil if the driver has none.
func queueStats(stats host.Stats) map[QueueID]map[string]uint64 {
	out := map[QueueID]map[string]uint64{}
	put := func(id QueueID, name string, value uint64) {
		if out[id] == nil {
			out[id] = map[string]uint64{}
		}
		out[id][name] += value
	}
	block := -1
	for _, st := range stats {
		name := strings.TrimSpace(st.Name)
		if name == "Rx Queue#" || name == "Tx Queue#" {
			block = -1
			if st.Value <= maxQueue {
				block = int(st.Value)
			}
			continue
		}
		n, counter := block, name
		if side, rest, ok := strings.Cut(name, ": "); ok && len(side) > 3 && side[1:3] == "xq" {
			if queue, ok := atoi(leadingDigits(side[3:])); ok && queue <= maxQueue {
				n, counter = queue, rest
			}
		}
		if v, ok := vmxnet3Counters[counter]; ok && n >= 0 {
			put(QueueID{Tx: v.tx, N: n}, v.name, st.Value)
			continue
		}
		if id, counter, ok := queueCounter(name); ok {
			put(id, counter, st.Value)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func queueCounter(name string) (QueueID, string, bool) {
	for i := range grammars {
		g := &grammars[i]
		id := QueueID{N: -1}
		counter, ok := fitsCounter(g.pattern, name, &id)
		if !ok {
			continue
		}
		if known, ok := g.counters[counter]; ok {
			return id, known, true
		}
	}
	return QueueID{}, "", false
}

// fitsCounter matches a counter name against a grammar. Numbers and sides end
// themselves and {c} is the rest, so no place has to be tried twice.
func fitsCounter(pattern, name string, id *QueueID) (counter string, ok bool) {
	for {
		open := strings.IndexByte(pattern, '{')
		if open < 0 {
			return "", pattern == name
		}
		if name, ok = strings.CutPrefix(name, pattern[:open]); !ok {
			return "", false
		}
		end := open + strings.IndexByte(pattern[open:], '}')
		word := pattern[open+1 : end]
		pattern = pattern[end+1:]
		switch word {
		case "c":
			return name, true
		case "n":
			digits := leadingDigits(name)
			n, err := strconv.Atoi(digits)
			if err != nil || n > maxQueue {
				return "", false
			}
			id.N = n
			name = name[len(digits):]
		case "side":
			if rest, ok := strings.CutPrefix(name, "tx"); ok {
				id.Tx, name = true, rest
			} else if rest, ok := strings.CutPrefix(name, "rx"); ok {
				name = rest
			} else {
				return "", false
			}
		}
	}
}

// qstatNames are the counters of netdev-genl qstats that have a common name
// (Documentation/netlink/specs/netdev.yaml).
var qstatNames = map[string]string{
	"rx-packets": "packets", "tx-packets": "packets", "rx-bytes": "bytes", "tx-bytes": "bytes",
	"rx-hw-drops": "drops", "rx-alloc-fail": "drops", "tx-hw-drops": "drops", "tx-errors": "drops",
	"tx-stop": "stops",
}

// queueRates fills Device.QueueRate. The kernel's own per-queue counters win
// over the driver's.
func (c *collector) queueRates() {
	fromKernel := c.qstats()
	for _, d := range c.s.Devices {
		d.QueueRate = queueStats(d.Stats)
		for id, counters := range fromKernel[d.Index] {
			if d.QueueRate == nil {
				d.QueueRate = map[QueueID]map[string]uint64{}
			}
			if d.QueueRate[id] == nil {
				d.QueueRate[id] = map[string]uint64{}
			}
			for name, value := range counters {
				d.QueueRate[id][name] = value
			}
		}
	}
}

func (c *collector) qstats() map[int]map[QueueID]map[string]uint64 {
	stats, err := c.h.Netdev.QStats()
	if err != nil {
		if !errors.Is(err, host.ErrUnsupported) {
			c.gap("netlink netdev qstats-get", err)
		}
		return nil
	}
	out := map[int]map[QueueID]map[string]uint64{}
	for _, s := range stats {
		if s.IfIndex == 0 || s.ID < 0 || s.ID > maxQueue {
			continue
		}
		if out[s.IfIndex] == nil {
			out[s.IfIndex] = map[QueueID]map[string]uint64{}
		}
		id := QueueID{Tx: s.Tx, N: s.ID}
		counters := map[string]uint64{}
		for name, value := range s.Counters {
			if known, ok := qstatNames[name]; ok {
				counters[known] += value
			}
		}
		if len(counters) > 0 {
			out[s.IfIndex][id] = counters
		}
	}
	return out
}
