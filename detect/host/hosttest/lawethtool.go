package hosttest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// Feature bits of virtio devices (include/uapi/linux/virtio_net.h, virtio_config.h).
const (
	virtioRingReset = 40
	virtioNotfCoal  = 53
	virtioVQCoal    = 52
)

const virtioNet = "virtio_net"

// leastVirtioTx is the smallest transmit ring of virtio_net: more than
// MAX_SKB_FRAGS+2 descriptors (drivers/net/virtio_net.c, virtnet_tx_resize).
const leastVirtioTx = 20

// setRings: beyond the maximum is EINVAL (net/ethtool/rings.c), virtio needs
// VIRTIO_F_RING_RESET (virtnet_set_ringparam), and drivers round up.
func (m *Memory) setRings(dev string, want host.Rings) error {
	now, err := lookup(m.rings, m.last().base.Ethtool.Rings, same[host.Rings], dev)
	if err != nil {
		return err
	}
	driver := m.driver(dev)
	switch {
	case want.Rx > now.MaxRx || want.Tx > now.MaxTx || want.Rx < 0 || want.Tx < 0:
		return syscall.EINVAL
	case driver == virtioNet && (want.Rx != now.Rx || want.Tx != now.Tx) && !m.virtioFeature(dev, virtioRingReset):
		return syscall.EOPNOTSUPP
	case driver == virtioNet && want.Tx < leastVirtioTx:
		return syscall.EINVAL
	case (want.Rx == 0 && now.MaxRx > 0) || (want.Tx == 0 && now.MaxTx > 0):
		return syscall.EINVAL
	}
	now.Rx = ringSize(driver, want.Rx, now.MaxRx)
	now.Tx = ringSize(driver, want.Tx, now.MaxTx)
	m.rings[dev] = now
	return nil
}

// ringSize rounds as drivers do: igb and ixgbe to multiples of 8, i40e, iavf and
// ice to multiples of 32, at least 64 each (their set_ringparam functions);
// mlx5_core to powers of two (mlx5e_ethtool_set_ringparam).
func ringSize(driver string, want, limit int) int {
	switch driver {
	case "igb", "igbvf", "ixgbe", "ixgbevf", "e1000e":
		want = max(64, (want+7)/8*8)
	case "i40e", "iavf", "ice":
		want = max(64, (want+31)/32*32)
	case "mlx5_core":
		want = int(roundUpPowerOfTwo(int64(want)))
	}
	return min(want, limit)
}

// setCoalesce: a field the driver does not have is EOPNOTSUPP (net/ethtool/coalesce.c).
func (m *Memory) setCoalesce(dev string, want host.Coalesce) error {
	now, err := lookup(m.coalesce, m.last().base.Ethtool.Coalesce, cloneCoalesce, dev)
	if err != nil {
		return err
	}
	for name, value := range want.Values {
		if _, ok := now.Values[name]; !ok && value != 0 {
			return fmt.Errorf("%s: %w", name, syscall.EOPNOTSUPP)
		}
		if value < 0 {
			return fmt.Errorf("%s %d: %w", name, value, syscall.EINVAL)
		}
	}
	if (want.AdaptiveRx != nil && now.AdaptiveRx == nil) || (want.AdaptiveTx != nil && now.AdaptiveTx == nil) {
		return syscall.EOPNOTSUPP
	}
	if m.driver(dev) == virtioNet {
		if err := m.virtioCoalesces(dev, now, want); err != nil {
			return err
		}
	}
	for name := range now.Values {
		if value, ok := want.Values[name]; ok {
			now.Values[name] = value
		}
	}
	now.AdaptiveRx = m.moderates(dev, "rx", now, now.AdaptiveRx, want.AdaptiveRx)
	now.AdaptiveTx = m.moderates(dev, "tx", now, now.AdaptiveTx, want.AdaptiveTx)
	m.coalesce[dev] = now
	return nil
}

// Delays that mlx5_core begins with: those of net_dim's second profile while it
// moderates adaptively, its own else (include/linux/dim.h,
// MLX5E_PARAMS_DEFAULT_RX_CQ_MODERATION_USEC).
const (
	dimUsecs  = 8
	mlx5Usecs = 16
)

// moderates: mlx5_core forgets the delay of a side when its adaptive moderation
// is switched, and does not take one with the same request
// (mlx5e_ethtool_set_coalesce, mlx5e_reset_rx_moderation).
func (m *Memory) moderates(dev, side string, c host.Coalesce, now, want *bool) *bool {
	if want == nil {
		return now
	}
	if _, has := c.Values[side+"-usecs"]; has && *want != *now && m.driver(dev) == "mlx5_core" {
		c.Values[side+"-usecs"] = mlx5Usecs
		if *want {
			c.Values[side+"-usecs"] = dimUsecs
		}
	}
	return cloneBool(want)
}

// virtioCoalesces: delays need VIRTIO_NET_F_NOTF_COAL, without it rx-frames
// must be 1; tx-frames between 0 and non-zero switches the transmit NAPI, EBUSY
// while the interface is up; adaptive moderation needs VIRTIO_NET_F_VQ_NOTF_COAL
// (drivers/net/virtio_net.c, virtnet_set_coalesce).
func (m *Memory) virtioCoalesces(dev string, now, want host.Coalesce) error {
	if (want.Values["tx-frames"] == 0) != (now.Values["tx-frames"] == 0) {
		return fmt.Errorf("tx-frames: %w", syscall.EBUSY)
	}
	adaptive := want.AdaptiveRx != nil && *want.AdaptiveRx
	if adaptive && !m.virtioFeature(dev, virtioVQCoal) {
		return fmt.Errorf("adaptive-rx: %w", syscall.EOPNOTSUPP)
	}
	if m.virtioFeature(dev, virtioNotfCoal) {
		return nil
	}
	frames, given := want.Values["rx-frames"]
	if want.Values["rx-usecs"] != 0 || want.Values["tx-usecs"] != 0 || want.Values["tx-frames"] > 1 || (given && frames > 1) {
		return syscall.EOPNOTSUPP
	}
	return nil
}

// setFeatures: a fixed feature stays as it is and nobody says so, since the
// ioctl reports a refused wish by a positive return value only
// (net/ethtool/ioctl.c, ethtool_set_features). LRO gives way to GRO by the device
// (net/core/dev.c, netdev_fix_features).
func (m *Memory) setFeatures(dev string, on map[string]bool) error {
	now, err := lookup(m.features, m.last().base.Ethtool.Features, cloneFeatures, dev)
	if err != nil {
		return err
	}
	for name := range on {
		if _, ok := now[name]; !ok {
			return fmt.Errorf("feature %s: %w", name, syscall.EINVAL)
		}
	}
	reset := false
	for name, wish := range on {
		f := now[name]
		if f.Fixed {
			continue
		}
		reset = reset || f.On != wish && resettingFeatures[name]
		f.On, f.Requested = wish, wish
		now[name] = f
	}
	if lro := now["rx-lro"]; lro.On && now["rx-gro-hw"].On {
		lro.On = false
		now["rx-lro"] = lro
	}
	m.features[dev] = now
	if reset {
		return m.resetDevice(dev)
	}
	return nil
}

// resettingFeatures make drivers reset the device (ixgbe_set_features,
// i40e_set_features, bnxt_set_features).
var resettingFeatures = map[string]bool{"rx-gro-hw": true, "rx-lro": true, "rx-ntuple-filter": true}

// resetDevice: the driver requests its interrupts again and gives each its hint,
// one online CPU after the other, which before 5.17 also set the affinity
// (kernel/irq/manage.c, irq_set_affinity_hint; i40e_vsi_request_irq_msix). The
// law is applied to every kernel: what older ones undo must not be relied on.
// virtio_net sends a control command instead (virtnet_set_features).
func (m *Memory) resetDevice(dev string) error {
	if m.driver(dev) == virtioNet {
		return nil
	}
	cpus := m.online(m.last()).CPUs()
	for _, v := range m.vectors(dev) {
		hint := cpuset.Of(cpus[v.queue%len(cpus)])
		if err := m.routeIRQ(v.irq, hint, hint.Min()); err != nil {
			return err
		}
	}
	return nil
}

func cloneFeatures(f host.Features) host.Features {
	if f == nil {
		return nil
	}
	out := make(host.Features, len(f))
	for name, v := range f {
		out[name] = v
	}
	return out
}

// setRSS: a table of another size, or one that names a queue that is not in
// use, is EINVAL; the table is the user's from then on (net/ethtool/ioctl.c,
// ethtool_set_rxfh). Traffic follows the slots.
func (m *Memory) setRSS(dev string, table []uint32) error {
	now, err := lookup(m.rss, m.last().base.Ethtool.RSS, cloneRSS, dev)
	if err != nil {
		return err
	}
	if len(now.Table) == 0 {
		return syscall.EOPNOTSUPP
	}
	if len(table) == 0 && now.RxRings > 0 {
		return m.resetRSS(dev, now)
	}
	if len(table) != len(now.Table) || (now.RxRings > 0 && int(slices.Max(table)) >= now.RxRings) {
		return syscall.EINVAL
	}
	if slices.Equal(table, now.Table) {
		return nil
	}
	now.Table = slices.Clone(table)
	m.rss[dev] = now
	m.userTable[dev] = true
	return m.spreadTraffic(dev)
}

// resetRSS: an empty table gives it back to the driver, which spreads over its
// queues in turn and again when their number changes (net/ethtool/ioctl.c,
// ethtool_set_rxfh with indir_size 0).
func (m *Memory) resetRSS(dev string, now host.RSS) error {
	for i := range now.Table {
		now.Table[i] = uint32(i % now.RxRings)
	}
	m.rss[dev] = now
	delete(m.userTable, dev)
	return m.spreadTraffic(dev)
}

// setHashFields: only flow types whose fields the driver shows can be set.
// With the ports in the hash traffic spreads over the table.
func (m *Memory) setHashFields(dev, flow, fields string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, err := m.hashFields(m.last(), dev, flow)
	if err != nil {
		return fmt.Errorf("set hash of %s on %s to %q: %w", flow, dev, fields, err)
	}
	if strings.Trim(fields, "mvtsdfnr") != "" {
		return fmt.Errorf("set hash of %s on %s to %q: %w", flow, dev, fields, syscall.EINVAL)
	}
	m.hash[hashKey{dev, flow}] = fields
	ports := func(s string) bool { return strings.ContainsAny(s, "fn") }
	if ports(fields) && !ports(now) {
		return m.spreadTraffic(dev)
	}
	return nil
}
