package live

import (
	"fmt"
	"path"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/irqbalance"
)

// machine holds the descriptors behind a host.Host or host.Writer. They are
// given back when nothing refers to it any more.
type machine struct {
	files    *files
	lib      *library
	nic      *nic
	coalesce coalescing
	netdev   netdevSource
	route    *conn
	root     string
	isSystem bool // the root is "/"
}

func openMachine(opts Options) (_ *machine, err error) {
	m := &machine{root: path.Clean(opts.root())}
	m.isSystem = m.root == "/"
	var closers []func()
	defer func() {
		if err != nil {
			closeAll(closers)
			err = fmt.Errorf("open the running machine: %w", err)
		}
	}()
	if m.files, err = openFiles(opts.root()); err != nil {
		return nil, err
	}
	// The tree closes itself: a caller may keep Host.FS longer than the Host.
	if m.lib, err = openLibrary(); err != nil {
		return nil, err
	}
	closers = append(closers, m.lib.close)
	ioctls, err := openIoctler()
	if err != nil {
		return nil, err
	}
	closers = append(closers, ioctls.close)
	m.nic = newNIC(ioctls.call)
	if m.route, err = openConn(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	closers = append(closers, m.route.close)
	generic, err := openConn(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	closers = append(closers, generic.close)
	m.netdev = netdevSource{family{generic, "netdev"}}
	m.coalesce = coalescing{fields: coalesceFields(), ethtool: family{generic, unix.ETHTOOL_GENL_NAME}, lib: m.lib}
	runtime.AddCleanup(m, closeAll, closers)
	return m, nil
}

func closeAll(closers []func()) {
	for _, c := range closers {
		c()
	}
}

// Open gives the running machine for reading. It needs no privilege; what the
// kernel keeps from the caller comes as fs.ErrPermission from the single call.
// Every function of the Host may be called concurrently.
func Open(opts Options) (*host.Host, error) {
	m, err := openMachine(opts)
	if err != nil {
		return nil, err
	}
	return &host.Host{
		FS:        m.files,
		Ident:     m.ident,
		Links:     m.links,
		Processes: m.processes,
		Ethtool: host.Ethtool{
			DriverInfo: m.driverInfo,
			Channels:   onDevice(m, func(dev string) (host.Channels, error) { return m.lib.channels(dev) }),
			Rings:      onDevice(m, func(dev string) (host.Rings, error) { return m.lib.rings(dev) }),
			Coalesce:   onDevice(m, func(dev string) (host.Coalesce, error) { return m.coalesce.read(dev) }),
			Features:   onDevice(m, func(dev string) (host.Features, error) { return m.nic.features(dev) }),
			RSS:        onDevice(m, func(dev string) (host.RSS, error) { return m.nic.rss(dev) }),
			Stats:      onDevice(m, func(dev string) (host.Stats, error) { return m.nic.stats(dev) }),
			HashFields: func(dev, flow string) (string, error) {
				return onDevice(m, func(dev string) (string, error) { return m.nic.hashFields(dev, flow) })(dev)
			},
		},
		Netdev: host.Netdev{
			NAPIs:  keeping(m, func() ([]host.NAPI, error) { return m.netdev.napis() }),
			Queues: keeping(m, func() ([]host.Queue, error) { return m.netdev.queues() }),
			QStats: keeping(m, func() ([]host.QStat, error) { return m.netdev.qstats() }),
		},
		Irqbalance: keeping(m, m.irqbalance().Setup),
		Now:        time.Now,
	}, nil
}

// irqbalance reaches the one that runs at the time of a call.
func (m *machine) irqbalance() irqbalance.Client {
	return irqbalance.Client{Root: m.root, PIDs: func() ([]int, error) {
		all, err := m.files.processes()
		var pids []int
		for _, p := range all {
			if p.Comm == "irqbalance" {
				pids = append(pids, p.PID)
			}
		}
		return pids, err
	}}
}

// keeping holds the machine's descriptors open during a call.
func keeping[T any](m *machine, f func() (T, error)) func() (T, error) {
	return func() (T, error) {
		defer runtime.KeepAlive(m)
		return f()
	}
}

// onDevice refuses names that are too long before a library cuts them to the
// name of another device.
func onDevice[T any](m *machine, f func(dev string) (T, error)) func(dev string) (T, error) {
	return func(dev string) (T, error) {
		defer runtime.KeepAlive(m)
		if err := checkName(dev); err != nil {
			var zero T
			return zero, readError(fmt.Sprintf("read device %q", dev), err, strict)
		}
		return f(dev)
	}
}

// checkName refuses what cannot be a device's name (net/core/dev.c, dev_valid_name).
func checkName(dev string) error {
	if dev == "" || len(dev) >= unix.IFNAMSIZ {
		return fmt.Errorf("name of %d bytes: %w", len(dev), unix.ENODEV)
	}
	for _, c := range []byte(dev) {
		if c == 0 || c == '/' {
			return fmt.Errorf("name with %q: %w", c, unix.ENODEV)
		}
	}
	return nil
}

func (m *machine) links() ([]host.Link, error) { return readLinks(m.route) }

func (m *machine) processes() ([]host.Process, error) { return m.files.processes() }

// ident adds uname to what the files say, unless the files are another
// machine's.
func (m *machine) ident() (host.Ident, error) {
	id := host.IdentFromFS(m.files)
	if !m.isSystem {
		return id, nil
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return id, readError("uname", err, strict)
	}
	id.Release = unix.ByteSliceToString(name.Release[:])
	id.Arch = unix.ByteSliceToString(name.Machine[:])
	id.NetNS = m.files.netNS()
	return id, nil
}

// netNS names the network namespace of this thread, "" where procfs does not
// tell.
func (f *files) netNS() string {
	target, err := f.ReadLink("proc/thread-self/ns/net")
	if err != nil {
		return ""
	}
	inode := strings.TrimSuffix(strings.TrimPrefix(target, "net:["), "]")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return inode
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return inode // before Linux 5.14
	}
	return fmt.Sprintf("%s/%d", inode, cookie)
}

// virtioName is the bus name of a virtio device (drivers/virtio/virtio.c,
// register_virtio_device).
var virtioName = regexp.MustCompile(`^virtio[0-9]+$`)

// pciAddress is domain:bus:device.function (drivers/pci/probe.c, pci_setup_device).
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

func (m *machine) driverInfo(dev string) (host.DriverInfo, error) {
	info, err := onDevice(m, func(dev string) (host.DriverInfo, error) { return m.lib.driverInfo(dev) })(dev)
	if err == nil && virtioName.MatchString(info.Bus) {
		info.Bus = m.files.busOfVirtio(info.Bus)
	}
	return info, err
}

// busOfVirtio gives the PCI address behind a virtio device, or its own name if
// it is not on PCI.
func (f *files) busOfVirtio(name string) string {
	target, err := f.ReadLink("sys/bus/virtio/devices/" + name)
	if err != nil {
		return name
	}
	if parent := path.Base(path.Dir(target)); pciAddress.MatchString(parent) {
		return parent
	}
	return name
}
