package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// Commands and string sets of include/uapi/linux/ethtool.h.
const (
	cmdGetStrings      = 0x1b
	cmdGetStats        = 0x1d
	cmdGetSetInfo      = 0x37
	cmdGetFeatures     = 0x3a
	cmdSetFeatures     = 0x3b
	cmdGetRxRings      = 0x2d
	cmdGetHashFields   = 0x29
	cmdSetHashFields   = 0x2a
	cmdGetIndirection  = 0x38
	cmdSetIndirection  = 0x39
	cmdGetRSS          = 0x46
	cmdSetRSS          = 0x47
	setStats           = 1
	setFeatures        = 4
	setHashFunctions   = 5
	stringBytes        = 32 // ETH_GSTRING_LEN
	maxStrings         = 1 << 16
	maxTable           = 1 << 16
	maxKeyBytes        = 1 << 12
	resizeAttempts     = 4
	stringsHeaderBytes = 12
	statsHeaderBytes   = 8
)

// errResized means that a device changed its number of counters or table
// entries between two calls that belong together.
var errResized = errors.New("size changed between calls")

// nic reads and writes what the ethtool library cannot, or not safely. call is
// one SIOCETHTOOL request on a device.
type nic struct {
	call func(dev string, request []byte) error

	mu    sync.Mutex
	fixed map[uint32][]string // string sets that are the kernel's and not a device's
}

func newNIC(call func(dev string, request []byte) error) *nic {
	return &nic{call: call, fixed: map[uint32][]string{}}
}

// request makes a zeroed request of a command.
func request(command uint32, size int) []byte {
	b := make([]byte, size)
	put32(b, 0, command)
	return b
}

func get32(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }

func put32(b []byte, at int, v uint32) { binary.NativeEndian.PutUint32(b[at:], v) }

// retrying repeats f while the device resizes itself under it. EFAULT is an
// answer that ran over the end of the request, EINVAL what newer kernels say
// instead where they check (ethtool_get_rxfh).
func retrying[T any](f func() (T, error)) (T, error) {
	var answer T
	var err error
	for range resizeAttempts {
		answer, err = f()
		if !errors.Is(err, errResized) && !errors.Is(err, unix.EFAULT) {
			return answer, err
		}
	}
	var zero T
	return zero, fmt.Errorf("%w in each of %d attempts", errResized, resizeAttempts)
}

// count gives the size of a string set; 0 if the device has none.
func (n *nic) count(dev string, set uint32) (int, error) {
	b := request(cmdGetSetInfo, 16+4)
	binary.NativeEndian.PutUint64(b[8:], 1<<set)
	if err := n.call(dev, b); err != nil {
		return 0, err
	}
	if binary.NativeEndian.Uint64(b[8:]) == 0 {
		return 0, nil
	}
	size := get32(b, 16)
	if size > maxStrings {
		return 0, fmt.Errorf("%d names in string set %d, more than %d", size, set, maxStrings)
	}
	return int(size), nil
}

// names reads a string set in its order. Sets of the kernel are kept.
func (n *nic) names(dev string, set uint32) ([]string, error) {
	n.mu.Lock()
	known, ok := n.fixed[set]
	n.mu.Unlock()
	if ok {
		return known, nil
	}
	names, err := retrying(func() ([]string, error) { return n.readNames(dev, set) })
	if err == nil && set != setStats {
		n.mu.Lock()
		n.fixed[set] = names
		n.mu.Unlock()
	}
	return names, err
}

func (n *nic) readNames(dev string, set uint32) ([]string, error) {
	count, err := n.count(dev, set)
	if err != nil || count == 0 {
		return nil, err
	}
	b := request(cmdGetStrings, stringsHeaderBytes+count*stringBytes)
	put32(b, 4, set)
	put32(b, 8, uint32(count))
	if err := n.call(dev, b); err != nil {
		return nil, err
	}
	return decodeNames(b, count)
}

// decodeNames reads struct ethtool_gstrings. The kernel overwrites the count
// with the present one, and with 0 if it differs from ours on newer kernels.
func decodeNames(b []byte, count int) ([]string, error) {
	if len(b) != stringsHeaderBytes+count*stringBytes {
		return nil, fmt.Errorf("names: %d bytes for %d names", len(b), count)
	}
	if int(get32(b, 8)) != count {
		return nil, errResized
	}
	names := make([]string, count)
	for i := range names {
		at := stringsHeaderBytes + i*stringBytes
		names[i] = attrString(b[at : at+stringBytes])
	}
	return names, nil
}

// stats reads the driver's counters in its order. Counters without a name are
// left out.
func (n *nic) stats(dev string) (host.Stats, error) {
	op := "read driver counters of " + dev
	stats, err := retrying(func() (host.Stats, error) {
		names, err := n.names(dev, setStats)
		if err != nil || len(names) == 0 {
			return nil, err
		}
		b := request(cmdGetStats, statsHeaderBytes+8*len(names))
		put32(b, 4, uint32(len(names)))
		if err := n.call(dev, b); err != nil {
			return nil, err
		}
		return decodeStats(names, b)
	})
	if err != nil {
		return nil, readError(op, err, strict)
	}
	if len(stats) == 0 {
		return nil, failure(op, host.ErrUnsupported, "the driver has none")
	}
	return stats, nil
}

// decodeStats reads struct ethtool_stats.
func decodeStats(names []string, b []byte) (host.Stats, error) {
	if len(b) != statsHeaderBytes+8*len(names) {
		return nil, fmt.Errorf("counters: %d bytes for %d names", len(b), len(names))
	}
	if int(get32(b, 4)) != len(names) {
		return nil, errResized
	}
	stats := make(host.Stats, 0, len(names))
	for i, name := range names {
		if name != "" {
			stats = append(stats, host.Stat{Name: name, Value: binary.NativeEndian.Uint64(b[statsHeaderBytes+8*i:])})
		}
	}
	return stats, nil
}

const (
	featuresHeaderBytes = 8
	featureBlockBytes   = 16 // struct ethtool_get_features_block
	setFeatureBytes     = 8  // struct ethtool_set_features_block
)

func featureBlocks(names []string) int { return (len(names) + 31) / 32 }

// features reads every feature of the kernel with its state on a device.
func (n *nic) features(dev string) (host.Features, error) {
	op := "read features of " + dev
	names, err := n.names(dev, setFeatures)
	if err != nil {
		return nil, readError(op, err, strict)
	}
	blocks := featureBlocks(names)
	b := request(cmdGetFeatures, featuresHeaderBytes+blocks*featureBlockBytes)
	put32(b, 4, uint32(blocks))
	if err := n.call(dev, b); err != nil {
		return nil, readError(op, err, strict)
	}
	features, err := decodeFeatures(names, b)
	if err != nil {
		return nil, failure(op, host.ErrInconclusive, "%w", err)
	}
	return features, nil
}

// decodeFeatures reads struct ethtool_gfeatures. A feature that is not among
// the ones a user may change, or never may be changed at all, is fixed.
func decodeFeatures(names []string, b []byte) (host.Features, error) {
	blocks := featureBlocks(names)
	if blocks == 0 || len(b) != featuresHeaderBytes+blocks*featureBlockBytes || int(get32(b, 4)) != blocks {
		return nil, fmt.Errorf("features: %d bytes for %d names", len(b), len(names))
	}
	features := make(host.Features, len(names))
	for i, name := range names {
		if name == "" {
			continue
		}
		at := featuresHeaderBytes + i/32*featureBlockBytes
		bit := func(word int) bool { return get32(b, at+4*word)>>(i%32)&1 != 0 }
		available, requested, active, never := bit(0), bit(1), bit(2), bit(3)
		features[name] = host.Feature{On: active, Requested: requested, Fixed: !available || never}
	}
	return features, nil
}

// writeFeatures asks for states and reads back what was granted: the kernel
// reports success also where it granted nothing (ethtool_set_features returns
// positive bits that few callers look at).
func (n *nic) writeFeatures(dev string, on map[string]bool) error {
	op := fmt.Sprintf("set features of %s to %s", dev, featuresText(on))
	now, err := n.features(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	names, err := n.names(dev, setFeatures)
	if err != nil {
		return writeError(op, err)
	}
	if err := checkFeatures(op, now, on); err != nil {
		return err
	}
	b := encodeFeatures(names, now, on)
	if b == nil {
		return nil
	}
	if err := n.call(dev, b); err != nil {
		return writeError(op, err)
	}
	now, err = n.features(dev)
	if err != nil {
		return fmt.Errorf("%s, reading back: %w", op, err)
	}
	if refused := notGranted(now, on); len(refused) > 0 {
		return failure(op, nil, "not granted by the kernel or driver: %s", featuresText(refused))
	}
	return nil
}

// checkFeatures refuses names that the kernel does not have and changes of
// fixed features before anything is written.
func checkFeatures(op string, now host.Features, on map[string]bool) error {
	fixed := map[string]bool{}
	for name, want := range on {
		state, ok := now[name]
		if !ok {
			return failure(op, host.ErrUnsupported, "the kernel has no feature %q", name)
		}
		if state.Fixed && state.On != want {
			fixed[name] = want
		}
	}
	if len(fixed) > 0 {
		return failure(op, host.ErrUnsupported, "fixed by the device: %s", featuresText(fixed))
	}
	return nil
}

// encodeFeatures makes a request that touches only features whose state or
// wish differs; nil if there is none.
func encodeFeatures(names []string, now host.Features, on map[string]bool) []byte {
	blocks := featureBlocks(names)
	b := request(cmdSetFeatures, featuresHeaderBytes+blocks*setFeatureBytes)
	put32(b, 4, uint32(blocks))
	changed := false
	for i, name := range names {
		want, wanted := on[name]
		state := now[name]
		if name == "" || !wanted || state.Fixed || (state.On == want && state.Requested == want) {
			continue
		}
		changed = true
		at := featuresHeaderBytes + i/32*setFeatureBytes
		put32(b, at, get32(b, at)|1<<(i%32))
		if want {
			put32(b, at+4, get32(b, at+4)|1<<(i%32))
		}
	}
	if !changed {
		return nil
	}
	return b
}

func notGranted(now host.Features, on map[string]bool) map[string]bool {
	refused := map[string]bool{}
	for name, want := range on {
		if now[name].On != want {
			refused[name] = want
		}
	}
	return refused
}

func featuresText(on map[string]bool) string {
	names := make([]string, 0, len(on))
	for name := range on {
		names = append(names, name)
	}
	slices.Sort(names)
	text := ""
	for i, name := range names {
		if i > 0 {
			text += ", "
		}
		text += name + map[bool]string{true: " on", false: " off"}[on[name]]
	}
	return text
}
