package probes

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// controlReadProbe is how the reads are called among the probes.
const controlReadProbe = "virtio-control-read"

const controlReadDoc = "How long virtio-net's control queue takes to answer, by timing a read of our own: the statistics of ethtool -S, which the driver fetches through that queue in one command if the device offers VIRTIO_NET_F_DEVICE_STATS (virtnet_get_hw_stats in drivers/net/virtio_net.c, 6.11 and later). No other read goes through it: channels, coalescing, RSS and offloads are answered from what the driver remembers, and every other command changes something."

// Bits of include/uapi/linux/virtio_net.h.
const (
	virtioControlQueue     = 17
	virtioDeviceStatistics = 50
)

const (
	// controlReads is how many reads the median is taken of.
	controlReads = 5
	// controlPatience bounds all reads of one device: the driver holds the
	// lock of the network configuration while it waits.
	controlPatience = 100 * time.Millisecond
)

// timeControl times reads through the control queue of every device that
// offers one. Features are as in Options.
func timeControl(features map[string]string, read func(device string) error) (counters.Status, []counters.ControlRead) {
	status := counters.Status{Name: controlReadProbe, Doc: controlReadDoc, State: counters.Off}
	if len(features) == 0 {
		if features != nil {
			status.Reason = "no network device is virtio-net"
		}
		return status, nil
	}
	var out []counters.ControlRead
	var said []string
	status.State = counters.Unsupported
	for _, device := range slices.Sorted(maps.Keys(features)) {
		if why := withoutControlReads(features[device]); why != "" {
			said = append(said, device+": "+why)
			continue
		}
		r, err := timeReads(device, read)
		if err != nil {
			status.State = counters.Failed
			said = append(said, err.Error())
			continue
		}
		out = append(out, r)
		said = append(said, fmt.Sprintf("%s: control queue: %.0f µs, by timing our own read (median of %d, at most %.0f µs)",
			device, float64(r.MedianNs)/1e3, r.Reads, float64(r.MostNs)/1e3))
	}
	if len(out) > 0 {
		status.State, status.Hook = counters.Timed, "ioctl/ETHTOOL_GSTATS"
	}
	status.Reason = strings.Join(said, "; ")
	return status, out
}

// withoutControlReads says why no read of a device goes through its control
// queue, "" if one does.
func withoutControlReads(features string) string {
	has := func(bit int) bool { return bit < len(features) && features[bit] == '1' }
	switch {
	case features == "":
		return "its features could not be read"
	case !has(virtioControlQueue):
		return "it has no control queue"
	case !has(virtioDeviceStatistics):
		return "no read goes through its control queue, for the device does not offer statistics of its own (VIRTIO_NET_F_DEVICE_STATS)"
	}
	return ""
}

func timeReads(device string, read func(device string) error) (counters.ControlRead, error) {
	var took []uint64
	for began := monotonicNs(); len(took) < controlReads; {
		before := monotonicNs()
		if err := read(device); err != nil {
			return counters.ControlRead{}, fmt.Errorf("time a read through the control queue of %s: %w", device, err)
		}
		now := monotonicNs()
		took = append(took, now-before)
		if now-began > uint64(controlPatience) {
			break
		}
	}
	slices.SortFunc(took, cmp.Compare[uint64])
	return counters.ControlRead{
		Device: device, Reads: len(took), MedianNs: took[len(took)/2], MostNs: took[len(took)-1],
	}, nil
}

// Of include/uapi/linux/ethtool.h.
const (
	ethtoolSetSize       = 0x37 // ETHTOOL_GSSET_INFO
	ethtoolGetStatistics = 0x1d // ETHTOOL_GSTATS
	ethtoolStatisticsSet = 1    // ETH_SS_STATS
)

// readDeviceStatistics is ethtool -S without the names.
func readDeviceStatistics(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	size := struct {
		command, reserved uint32
		sets              uint64
		count, pad        uint32
	}{command: ethtoolSetSize, sets: 1 << ethtoolStatisticsSet}
	if err := ethtool(fd, device, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("ask for the number of statistics: %w", err)
	}
	if size.sets == 0 || size.count == 0 {
		return errors.New("the driver has no statistics")
	}
	// The kernel writes as many as there are by then, whatever it is asked
	// for: twice as many and some hold them if queues are added in between.
	buf := make([]uint64, 1+2*int(size.count)+1024)
	head := (*[2]uint32)(unsafe.Pointer(&buf[0]))
	head[0], head[1] = ethtoolGetStatistics, size.count
	if err := ethtool(fd, device, unsafe.Pointer(&buf[0])); err != nil {
		return fmt.Errorf("read %d statistics: %w", size.count, err)
	}
	runtime.KeepAlive(buf)
	return nil
}

func ethtool(fd int, device string, data unsafe.Pointer) error {
	request := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: data}
	if len(device) >= len(request.name) {
		return fmt.Errorf("device %q: %w", device, unix.ENODEV)
	}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
