package knob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

func hashing() []*Kind {
	const name = "rss.table"
	out := []*Kind{{
		Name: name, Scope: ScopeDevice, Title: "RSS indirection table",
		Doc: "Which receive queue each slot of the hash table leads to: the NIC takes the low bits of the flow hash as the slot. " +
			"Slots in turn over all queues spread flows evenly; unequal shares give queues weights, and a table over fewer queues " +
			"leaves the others unused. A change moves running flows, which may reorder them for a moment. Once set by a user, " +
			"the table survives channel changes and forbids fewer channels than it names. Written form: groups QUEUE or " +
			"FIRST-LAST, each with *TIMES, such as 0-3*32.",
		Source: "net/ethtool/ioctl.c ethtool_set_rxfh, net/ethtool/channels.c, Documentation/networking/scaling.rst",
		Unit:   "queues", Codec: tableCodec, Stage: StageRSS, Disruption: DisruptsPackets,
		Default: noDefault,
		Refs:    tunableDevice(name),
		Read:    readTable,
		Write: func(_ View, w host.Writer, r Ref, value string) error {
			slots, err := ParseTable(value)
			if err != nil {
				return err
			}
			return put(w.SetRSS, r.Dev, slots)
		},
		Shell: tableShell,
	}}
	for _, flow := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
		out = append(out, hashKind(flow))
	}
	return out
}

func readTable(v View, r Ref) State {
	rss, err := askRSS(v, r.Dev)
	if err != nil {
		return failure(err, "the device has no RSS indirection table")
	}
	if len(rss.Table) == 0 {
		return State{Status: Unsupported, Reason: "the device has no RSS indirection table"}
	}
	bounds := Bounds{Slots: len(rss.Table)}
	lock := ""
	switch {
	case rss.RxRings == 1:
		lock = "the device has one receive queue in use"
	case rss.RxRings > 1:
		bounds.Max = int64(rss.RxRings - 1)
	default:
		bounds.Max = int64(slices.Max(rss.Table))
	}
	return known(FormatTable(rss.Table), lock, bounds)
}

// tableShell gives a command only for the tables that ethtool -X can express:
// in turn over the first N queues, or rising blocks.
func tableShell(_ View, r Ref, value string) string {
	slots, err := ParseTable(value)
	if err != nil {
		return ""
	}
	queues := int(min(slices.Max(slots), maxSlots)) + 1
	command := "ethtool -X " + quote(r.Dev)
	if value == EvenTable(len(slots), queues) {
		return command + " equal " + strconv.Itoa(queues)
	}
	if !slices.IsSorted(slots) || queues > len(slots) {
		return ""
	}
	// With weights that add up to the size of the table ethtool gives each
	// queue a block of just that many slots (ethtool.c, fill_indir_table).
	weights := make([]string, queues)
	for q := range weights {
		first, _ := slices.BinarySearch(slots, uint32(q))
		next, _ := slices.BinarySearch(slots, uint32(q)+1)
		weights[q] = strconv.Itoa(next - first)
	}
	return command + " weight " + strings.Join(weights, " ")
}

func hashKind(flow string) *Kind {
	name := "rss.hash." + flow
	protocol := strings.ToUpper(flow[:3]) + " over IPv" + flow[3:]
	return &Kind{
		Name: name, Scope: ScopeDevice, Title: "hash fields of " + protocol,
		Doc: "Which header fields the NIC hashes to choose the queue of " + protocol + ": s and d are the addresses, f and n the " +
			"source and destination port (the two halves of the first four bytes after the IP header). With addresses only, all " +
			"flows between two hosts share one queue; sdfn spreads them. Hashing ports of UDP separates IP fragments from their " +
			"first packet, which may reorder fragmented traffic. A change moves running flows.",
		Source: "include/uapi/linux/ethtool.h ETHTOOL_SRXFH, net/ethtool/ioctl.c ethtool_set_rxfh_fields, ethtool(8) -N rx-flow-hash",
		Unit:   "fields", Codec: fieldsCodec, Stage: StageRSS, Disruption: DisruptsPackets,
		Default: noDefault,
		Refs:    tunableDevice(name),
		Read:    func(v View, r Ref) State { return readHash(v, r, flow) },
		Write: func(_ View, w host.Writer, r Ref, value string) error {
			if w.SetHashFields == nil {
				return host.ErrUnsupported
			}
			return w.SetHashFields(r.Dev, flow, value)
		},
		Shell: func(_ View, r Ref, value string) string {
			if value == "" {
				return ""
			}
			return "ethtool -N " + quote(r.Dev) + " rx-flow-hash " + flow + " " + value
		},
	}
}

func readHash(v View, r Ref, flow string) State {
	if v.Host == nil || v.Host.Ethtool.HashFields == nil {
		return State{Status: Unknown, Reason: notCaptured}
	}
	letters, err := v.Host.Ethtool.HashFields(r.Dev, flow)
	if err != nil {
		return failure(err, "the driver does not show its hash fields")
	}
	fields, err := canonicalFields(letters)
	if err != nil {
		return State{Status: Unknown, Reason: fmt.Sprintf("hash fields of %s: %v", flow, err)}
	}
	return known(fields, "", Bounds{})
}
