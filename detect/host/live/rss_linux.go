package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// struct ethtool_rxfh (include/uapi/linux/ethtool.h): command, context, table
// size, key size, hash function, transformation (a reserved byte before Linux
// 6.8), reserved bytes, then the table and the key.
const (
	rssTableSizeAt = 8
	rssKeySizeAt   = 12
	rssFunctionAt  = 16
	rssTransformAt = 17
	rssHeaderBytes = 24
)

// struct ethtool_rxfh_indir: command, size, table.
const indirHeaderBytes = 8

// struct ethtool_rxnfc: command, flow type, data, and 176 bytes that our
// commands do not use but the kernel copies.
const (
	rxnfcFlowAt = 4
	rxnfcDataAt = 8
	rxnfcBytes  = 192
)

// rssState is one ETHTOOL_GRSSH answer.
type rssState struct {
	table     []uint32
	key       []byte
	function  uint8 // a bit of the string set ETH_SS_RSS_HASH_FUNCS
	transform uint8
}

// rss reads context 0. A device that has neither a table nor a key has no
// receive-side scaling.
func (n *nic) rss(dev string) (host.RSS, error) {
	op := "read rss of " + dev
	state, err := n.rssState(dev)
	if err != nil {
		return host.RSS{}, readError(op, err, strict)
	}
	if len(state.table) == 0 && len(state.key) == 0 {
		return host.RSS{}, failure(op, host.ErrUnsupported, "the device has no indirection table")
	}
	out := host.RSS{Table: state.table, Key: state.key}
	// What follows describes the table. A device that does not tell it still
	// has one.
	if names, err := n.names(dev, setHashFunctions); err == nil {
		out.Function = functionName(names, state.function)
	}
	if rings, err := n.rxRings(dev); err == nil {
		out.RxRings = rings
	}
	return out, nil
}

func functionName(names []string, bits uint8) string {
	for i, name := range names {
		if i < 8 && bits == 1<<i {
			return name
		}
	}
	return ""
}

// rssState asks for the sizes, then for the data. ETHTOOL_GRXFHINDIR is for
// drivers of old kernels that have the table alone.
func (n *nic) rssState(dev string) (rssState, error) {
	state, err := retrying(func() (rssState, error) { return n.readRSS(dev) })
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return state, err
	}
	return retrying(func() (rssState, error) { return n.readIndirection(dev) })
}

func (n *nic) readRSS(dev string) (rssState, error) {
	head := request(cmdGetRSS, rssHeaderBytes)
	if err := n.call(dev, head); err != nil {
		return rssState{}, err
	}
	entries, keyBytes := get32(head, rssTableSizeAt), get32(head, rssKeySizeAt)
	if entries > maxTable || keyBytes > maxKeyBytes {
		return rssState{}, fmt.Errorf("table of %d entries and key of %d bytes, more than %d and %d", entries, keyBytes, maxTable, maxKeyBytes)
	}
	b := request(cmdGetRSS, rssHeaderBytes+4*int(entries)+int(keyBytes))
	put32(b, rssTableSizeAt, entries)
	put32(b, rssKeySizeAt, keyBytes)
	err := n.call(dev, b)
	// The sizes are the device's own, so EINVAL can only mean that they are
	// no longer so (ethtool_get_rxfh).
	if errors.Is(err, unix.EINVAL) {
		return rssState{}, errResized
	}
	if err != nil {
		return rssState{}, err
	}
	return decodeRSS(b)
}

// decodeRSS reads struct ethtool_rxfh with its table and key.
func decodeRSS(b []byte) (rssState, error) {
	if len(b) < rssHeaderBytes {
		return rssState{}, fmt.Errorf("rss: %d bytes", len(b))
	}
	entries, keyBytes := int64(get32(b, rssTableSizeAt)), int64(get32(b, rssKeySizeAt))
	if rssHeaderBytes+4*entries+keyBytes != int64(len(b)) {
		return rssState{}, errResized
	}
	rest := b[rssHeaderBytes:]
	return rssState{
		table:     decodeTable(rest[:4*entries]),
		key:       append([]byte(nil), rest[4*entries:]...),
		function:  b[rssFunctionAt],
		transform: b[rssTransformAt],
	}, nil
}

func decodeTable(b []byte) []uint32 {
	if len(b) == 0 {
		return nil
	}
	table := make([]uint32, len(b)/4)
	for i := range table {
		table[i] = get32(b, 4*i)
	}
	return table
}

func (n *nic) readIndirection(dev string) (rssState, error) {
	head := request(cmdGetIndirection, indirHeaderBytes)
	if err := n.call(dev, head); err != nil {
		return rssState{}, err
	}
	entries := get32(head, 4)
	if entries > maxTable {
		return rssState{}, fmt.Errorf("table of %d entries, more than %d", entries, maxTable)
	}
	b := request(cmdGetIndirection, indirHeaderBytes+4*int(entries))
	put32(b, 4, entries)
	if err := n.call(dev, b); err != nil {
		return rssState{}, err
	}
	return decodeIndirection(b)
}

// decodeIndirection reads struct ethtool_rxfh_indir.
func decodeIndirection(b []byte) (rssState, error) {
	if len(b) < indirHeaderBytes {
		return rssState{}, fmt.Errorf("indirection table: %d bytes", len(b))
	}
	if indirHeaderBytes+4*int64(get32(b, 4)) != int64(len(b)) {
		return rssState{}, errResized
	}
	return rssState{table: decodeTable(b[indirHeaderBytes:])}, nil
}

func (n *nic) rxRings(dev string) (int, error) {
	b := request(cmdGetRxRings, rxnfcBytes)
	if err := n.call(dev, b); err != nil {
		return 0, err
	}
	rings := binary.NativeEndian.Uint64(b[rxnfcDataAt:])
	if rings > maxTable {
		return 0, fmt.Errorf("%d receive rings", rings)
	}
	return int(rings), nil
}

// writeRSS writes a table of the device's own size and leaves key, function and
// transformation alone. An empty table asks for the driver's default, which
// also lifts the bar on using fewer channels than a user's table names
// (net/ethtool/ioctl.c, ethtool_set_rxfh). Nothing is written if the table
// is already so.
func (n *nic) writeRSS(dev string, table []uint32) error {
	op := fmt.Sprintf("set rss table of %s to %s", dev, tableText(table))
	now, err := n.rssState(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, readError("read rss of "+dev, err, strict))
	}
	switch {
	case len(now.table) == 0:
		return failure(op, host.ErrUnsupported, "the device has no indirection table")
	case len(table) != 0 && len(table) != len(now.table):
		return failure(op, nil, "the device's table has %d entries", len(now.table))
	case slices.Equal(table, now.table):
		return nil
	}
	err = n.call(dev, encodeRSS(table, now.transform))
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = n.call(dev, encodeIndirection(table))
	}
	return writeError(op, err)
}

// encodeRSS sends back the transformation as read: 0 would switch symmetric
// hashing off, and before Linux 6.8 the byte is reserved and reads as 0.
func encodeRSS(table []uint32, transform uint8) []byte {
	b := request(cmdSetRSS, rssHeaderBytes+4*len(table))
	put32(b, rssTableSizeAt, uint32(len(table)))
	b[rssTransformAt] = transform
	for i, queue := range table {
		put32(b, rssHeaderBytes+4*i, queue)
	}
	return b
}

func encodeIndirection(table []uint32) []byte {
	b := request(cmdSetIndirection, indirHeaderBytes+4*len(table))
	put32(b, 4, uint32(len(table)))
	for i, queue := range table {
		put32(b, indirHeaderBytes+4*i, queue)
	}
	return b
}

// tableText is short enough for an error line.
func tableText(table []uint32) string {
	const shown = 16
	switch {
	case len(table) == 0:
		return "the default"
	case len(table) <= shown:
		return fmt.Sprint(table)
	}
	return fmt.Sprintf("%v and %d more", table[:shown], len(table)-shown)
}

// flowType gives the number of a flow type (include/uapi/linux/ethtool.h, TCP_V4_FLOW and on).
func flowType(name string) (uint32, bool) {
	switch name {
	case "tcp4":
		return 1, true
	case "udp4":
		return 2, true
	case "sctp4":
		return 3, true
	case "tcp6":
		return 5, true
	case "udp6":
		return 6, true
	case "sctp6":
		return 7, true
	}
	return 0, false
}

// hashLetters are the letters of ethtool -N rx-flow-hash in its order with
// their bits (include/uapi/linux/ethtool.h, RXH_L2DA and on).
const hashLetters = "mvtsdfn"

func hashBit(i int) uint64 { return 1 << (i + 1) }

const hashDiscard = 1 << 31 // letter r

func hashKnown() uint64 {
	bits := uint64(hashDiscard)
	for i := range len(hashLetters) {
		bits |= hashBit(i)
	}
	return bits
}

func hashText(bits uint64) string {
	var text []byte
	for i, letter := range []byte(hashLetters) {
		if bits&hashBit(i) != 0 {
			text = append(text, letter)
		}
	}
	if bits&hashDiscard != 0 {
		text = append(text, 'r')
	}
	return string(text)
}

func hashBits(text string) (uint64, error) {
	var bits uint64
	for _, letter := range []byte(text) {
		i := slices.Index([]byte(hashLetters), letter)
		switch {
		case i >= 0:
			bits |= hashBit(i)
		case letter == 'r':
			bits |= hashDiscard
		default:
			return 0, fmt.Errorf("hash fields %q: no field %q", text, letter)
		}
	}
	return bits, nil
}

// hashFields reads the packet fields that are hashed for a flow type; "" means
// that the device hashes none.
func (n *nic) hashFields(dev, flow string) (string, error) {
	bits, err := n.hashBitsOf(dev, flow)
	if err != nil {
		return "", readError(fmt.Sprintf("read hash fields of %s for %s", dev, flow), err, einvalUnsupported)
	}
	return hashText(bits), nil
}

func (n *nic) hashBitsOf(dev, flow string) (uint64, error) {
	number, ok := flowType(flow)
	if !ok {
		return 0, fmt.Errorf("flow type %q: %w", flow, unix.EINVAL)
	}
	b := request(cmdGetHashFields, rxnfcBytes)
	put32(b, rxnfcFlowAt, number)
	if err := n.call(dev, b); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(b[rxnfcDataAt:]), nil
}

// writeHashFields sets the packet fields. Nothing is written if they are
// already so.
func (n *nic) writeHashFields(dev, flow, fields string) error {
	op := fmt.Sprintf("set hash fields of %s for %s to %q", dev, flow, fields)
	want, err := hashBits(fields)
	if err != nil {
		return failure(op, nil, "%w", err)
	}
	now, err := n.hashBitsOf(dev, flow)
	if err != nil {
		return fmt.Errorf("%s: %w", op, readError("read hash fields", err, einvalUnsupported))
	}
	// Fields without a letter (such as RXH_IP6_FL) stay as they are.
	want |= now &^ hashKnown()
	if now == want {
		return nil
	}
	number, _ := flowType(flow)
	b := request(cmdSetHashFields, rxnfcBytes)
	put32(b, rxnfcFlowAt, number)
	binary.NativeEndian.PutUint64(b[rxnfcDataAt:], want)
	return writeError(op, n.call(dev, b))
}
