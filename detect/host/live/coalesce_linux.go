package live

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// coalesceField ties a name that "ethtool -c" prints to its netlink attribute
// (include/uapi/linux/ethtool_netlink.h) and to its place in struct
// ethtool_coalesce (include/uapi/linux/ethtool.h).
type coalesceField struct {
	name  string
	attr  uint16
	place func(*ethtool.Coalesce) *uint32
}

// coalesceFields returns the table in the order of the attributes.
func coalesceFields() []coalesceField {
	type c = ethtool.Coalesce
	return []coalesceField{
		{"rx-usecs", unix.ETHTOOL_A_COALESCE_RX_USECS, func(v *c) *uint32 { return &v.RxCoalesceUsecs }},
		{"rx-frames", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES, func(v *c) *uint32 { return &v.RxMaxCoalescedFrames }},
		{"rx-usecs-irq", unix.ETHTOOL_A_COALESCE_RX_USECS_IRQ, func(v *c) *uint32 { return &v.RxCoalesceUsecsIrq }},
		{"rx-frames-irq", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_IRQ, func(v *c) *uint32 { return &v.RxMaxCoalescedFramesIrq }},
		{"tx-usecs", unix.ETHTOOL_A_COALESCE_TX_USECS, func(v *c) *uint32 { return &v.TxCoalesceUsecs }},
		{"tx-frames", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES, func(v *c) *uint32 { return &v.TxMaxCoalescedFrames }},
		{"tx-usecs-irq", unix.ETHTOOL_A_COALESCE_TX_USECS_IRQ, func(v *c) *uint32 { return &v.TxCoalesceUsecsIrq }},
		{"tx-frames-irq", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_IRQ, func(v *c) *uint32 { return &v.TxMaxCoalescedFramesIrq }},
		{"stats-block-usecs", unix.ETHTOOL_A_COALESCE_STATS_BLOCK_USECS, func(v *c) *uint32 { return &v.StatsBlockCoalesceUsecs }},
		{"pkt-rate-low", unix.ETHTOOL_A_COALESCE_PKT_RATE_LOW, func(v *c) *uint32 { return &v.PktRateLow }},
		{"rx-usecs-low", unix.ETHTOOL_A_COALESCE_RX_USECS_LOW, func(v *c) *uint32 { return &v.RxCoalesceUsecsLow }},
		{"rx-frame-low", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_LOW, func(v *c) *uint32 { return &v.RxMaxCoalescedFramesLow }},
		{"tx-usecs-low", unix.ETHTOOL_A_COALESCE_TX_USECS_LOW, func(v *c) *uint32 { return &v.TxCoalesceUsecsLow }},
		{"tx-frame-low", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_LOW, func(v *c) *uint32 { return &v.TxMaxCoalescedFramesLow }},
		{"pkt-rate-high", unix.ETHTOOL_A_COALESCE_PKT_RATE_HIGH, func(v *c) *uint32 { return &v.PktRateHigh }},
		{"rx-usecs-high", unix.ETHTOOL_A_COALESCE_RX_USECS_HIGH, func(v *c) *uint32 { return &v.RxCoalesceUsecsHigh }},
		{"rx-frame-high", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_HIGH, func(v *c) *uint32 { return &v.RxMaxCoalescedFramesHigh }},
		{"tx-usecs-high", unix.ETHTOOL_A_COALESCE_TX_USECS_HIGH, func(v *c) *uint32 { return &v.TxCoalesceUsecsHigh }},
		{"tx-frame-high", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_HIGH, func(v *c) *uint32 { return &v.TxMaxCoalescedFramesHigh }},
		{"sample-interval", unix.ETHTOOL_A_COALESCE_RATE_SAMPLE_INTERVAL, func(v *c) *uint32 { return &v.RateSampleInterval }},
	}
}

// coalescing reads and writes interrupt moderation. The ethtool netlink family
// (Linux 5.6 and later) leaves out what a driver does not have and writes
// single values; the ioctl does neither and is used where the family is missing.
type coalescing struct {
	fields  []coalesceField
	ethtool family
	lib     *library
}

// read gives the values. On a kernel without the ethtool netlink family the
// ioctl cannot tell "driver has none" from 0: then every name is present and both
// adaptive switches are non-nil.
func (c coalescing) read(dev string) (host.Coalesce, error) {
	values, err := c.readNetlink(dev)
	if !c.netlinkMissing(err) {
		return values, err
	}
	raw, err := c.lib.rawCoalesce(dev)
	if err != nil {
		return host.Coalesce{}, err
	}
	return coalesceFromIoctl(c.fields, raw), nil
}

func (c coalescing) readNetlink(dev string) (host.Coalesce, error) {
	op := "read coalescing of " + dev
	answers, err := c.ethtool.request(unix.ETHTOOL_MSG_COALESCE_GET, 0, coalesceHeader(dev))
	if err != nil {
		return host.Coalesce{}, readError(op, err, strict)
	}
	if len(answers) != 1 {
		return host.Coalesce{}, failure(op, host.ErrInconclusive, "%d answers", len(answers))
	}
	values, err := decodeCoalesce(c.fields, answers[0])
	if err != nil {
		return host.Coalesce{}, failure(op, host.ErrInconclusive, "%w", err)
	}
	return values, nil
}

// netlinkMissing tells a kernel without the family or command from a driver
// without the operation: both say EOPNOTSUPP, so the family is looked up.
func (c coalescing) netlinkMissing(err error) bool {
	if !errors.Is(err, host.ErrUnsupported) {
		return false
	}
	_, _, err = c.ethtool.resolve()
	return err != nil
}

// coalesceHeader names the device (net/ethtool/netlink.c, ethnl_parse_header_dev_get).
func coalesceHeader(dev string) []byte {
	name := appendAttr(nil, unix.ETHTOOL_A_HEADER_DEV_NAME, append([]byte(dev), 0))
	return appendAttr(nil, unix.ETHTOOL_A_COALESCE_HEADER|unix.NLA_F_NESTED, name)
}

// decodeCoalesce reads the attributes of one COALESCE_GET answer. A value that
// is 0 and not supported by the driver is not in it
// (net/ethtool/coalesce.c, coalesce_put_u32).
func decodeCoalesce(fields []coalesceField, b []byte) (host.Coalesce, error) {
	c := host.Coalesce{Values: map[string]int{}}
	err := eachAttr(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX:
			c.AdaptiveRx, err = attrSwitch(value)
		case unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX:
			c.AdaptiveTx, err = attrSwitch(value)
		default:
			i := slices.IndexFunc(fields, func(f coalesceField) bool { return f.attr == kind })
			if i < 0 {
				return nil
			}
			var n uint64
			n, err = attrUint(value)
			c.Values[fields[i].name] = int(min(n, math.MaxInt))
		}
		return wrapAttr("coalescing", kind, err)
	})
	if err != nil {
		return host.Coalesce{}, err
	}
	return c, nil
}

func attrSwitch(value []byte) (*bool, error) {
	n, err := attrUint(value)
	if err != nil {
		return nil, err
	}
	on := n != 0
	return &on, nil
}

func coalesceFromIoctl(fields []coalesceField, raw ethtool.Coalesce) host.Coalesce {
	rx, tx := raw.UseAdaptiveRxCoalesce != 0, raw.UseAdaptiveTxCoalesce != 0
	c := host.Coalesce{AdaptiveRx: &rx, AdaptiveTx: &tx, Values: map[string]int{}}
	for _, f := range fields {
		c.Values[f.name] = int(*f.place(&raw))
	}
	return c
}

// write sets what differs from the present state: names in Values and the
// adaptive switches that are not nil. Names that are absent keep their value.
//
// On virtio_net a change of tx-frames is refused: between 0 and another value it
// switches the transmit NAPI, which the driver forbids while the device is up
// (drivers/net/virtio_net.c, virtnet_set_coalesce).
func (c coalescing) write(dev string, want host.Coalesce) error {
	op := fmt.Sprintf("set coalescing of %s to %s", dev, coalesceText(want))
	now, err := c.read(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	change, err := coalesceChange(c.fields, op, now, want)
	if err != nil || (len(change.Values) == 0 && change.AdaptiveRx == nil && change.AdaptiveTx == nil) {
		return err
	}
	if err := c.refuseVirtioTxFrames(op, dev, change); err != nil {
		return err
	}
	_, err = c.ethtool.request(unix.ETHTOOL_MSG_COALESCE_SET, unix.NLM_F_ACK, encodeCoalesce(c.fields, dev, change))
	if err = writeError(op, err); !c.netlinkMissing(err) {
		return err
	}
	raw, err := c.lib.rawCoalesce(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return c.lib.setRawCoalesce(dev, op, coalesceIntoIoctl(c.fields, raw, change))
}

func (c coalescing) refuseVirtioTxFrames(op, dev string, change host.Coalesce) error {
	if _, ok := change.Values["tx-frames"]; !ok {
		return nil
	}
	info, err := c.lib.driverInfo(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if info.Driver == "virtio_net" {
		return failure(op, host.ErrUnsupported, "tx-frames of virtio_net switches its transmit NAPI and is left alone")
	}
	return nil
}

// coalesceChange is the part of want that differs from now. A name that the
// device does not have is refused.
func coalesceChange(fields []coalesceField, op string, now, want host.Coalesce) (host.Coalesce, error) {
	change := host.Coalesce{Values: map[string]int{}}
	for name, value := range want.Values {
		if err := within(op, math.MaxUint32, value); err != nil {
			return host.Coalesce{}, err
		}
		present, ok := now.Values[name]
		if !ok || !slices.ContainsFunc(fields, func(f coalesceField) bool { return f.name == name }) {
			return host.Coalesce{}, failure(op, host.ErrUnsupported, "the device has no %s", name)
		}
		if present != value {
			change.Values[name] = value
		}
	}
	var err error
	change.AdaptiveRx, err = switchChange(op, "adaptive rx", now.AdaptiveRx, want.AdaptiveRx)
	if err != nil {
		return host.Coalesce{}, err
	}
	change.AdaptiveTx, err = switchChange(op, "adaptive tx", now.AdaptiveTx, want.AdaptiveTx)
	if err != nil {
		return host.Coalesce{}, err
	}
	return change, nil
}

func switchChange(op, name string, now, want *bool) (*bool, error) {
	switch {
	case want == nil || (now != nil && *now == *want):
		return nil, nil
	case now == nil:
		return nil, failure(op, host.ErrUnsupported, "the device has no %s", name)
	}
	return want, nil
}

func encodeCoalesce(fields []coalesceField, dev string, change host.Coalesce) []byte {
	b := coalesceHeader(dev)
	for _, f := range fields {
		if value, ok := change.Values[f.name]; ok {
			b = appendUint32Attr(b, f.attr, uint32(value))
		}
	}
	if change.AdaptiveRx != nil {
		b = appendAttr(b, unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, []byte{byte(switchValue(*change.AdaptiveRx))})
	}
	if change.AdaptiveTx != nil {
		b = appendAttr(b, unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX, []byte{byte(switchValue(*change.AdaptiveTx))})
	}
	return b
}

func coalesceIntoIoctl(fields []coalesceField, raw ethtool.Coalesce, change host.Coalesce) ethtool.Coalesce {
	for _, f := range fields {
		if value, ok := change.Values[f.name]; ok {
			*f.place(&raw) = uint32(value)
		}
	}
	if change.AdaptiveRx != nil {
		raw.UseAdaptiveRxCoalesce = switchValue(*change.AdaptiveRx)
	}
	if change.AdaptiveTx != nil {
		raw.UseAdaptiveTxCoalesce = switchValue(*change.AdaptiveTx)
	}
	return raw
}

func switchValue(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

func coalesceText(c host.Coalesce) string {
	var words []string
	for name, value := range c.Values {
		words = append(words, fmt.Sprintf("%s %d", name, value))
	}
	sort.Strings(words)
	if c.AdaptiveRx != nil {
		words = append(words, fmt.Sprintf("adaptive-rx %t", *c.AdaptiveRx))
	}
	if c.AdaptiveTx != nil {
		words = append(words, fmt.Sprintf("adaptive-tx %t", *c.AdaptiveTx))
	}
	return strings.Join(words, ", ")
}
