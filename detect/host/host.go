// Package host is the seam between napitune and one Linux machine: everything
// that can be asked of it (Host) and everything that can be changed on it
// (Writer), as structs of functions over plain values.
//
// Implementations: host/live talks to the running kernel, host/archive replays
// a captured machine, host/hosttest is a machine in memory that obeys the
// kernel's laws. The package itself does no I/O and builds on any system.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Sentinels that every implementation wraps, so that callers can tell
// "certainly not there" from "could not tell".
var (
	// ErrUnsupported: the kernel, driver or device does not have it
	// (EOPNOTSUPP, ENODEV for an operation). A conclusive answer.
	ErrUnsupported = errors.New("not supported here")
	// ErrNotCaptured: a captured host that did not record this. Never to be
	// read as "off" or "zero".
	ErrNotCaptured = errors.New("not captured")
	// ErrInconclusive: an answer came but cannot be believed, such as an
	// all-zero structure from a racy ioctl.
	ErrInconclusive = errors.New("inconclusive answer")
)

// Host is everything napitune can ask of one machine. A nil function means
// that this implementation has no such source; call through the methods below
// the struct types, which turn nil into ErrNotCaptured.
type Host struct {
	// FS is rooted at "/" and follows symbolic links inside it. It implements
	// fs.ReadFileFS, fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS. Names have no leading
	// slash ("proc/interrupts").
	FS fs.FS
	// Ident identifies the machine and its kernel.
	Ident func() (Ident, error)
	// Links lists the network devices of the caller's network namespace.
	Links func() ([]Link, error)
	// Processes lists the kernel threads and daemons that matter to packet
	// processing: those for which Watched(comm) is true, and threads of programs
	// that may run on one CPU only (Process.Pinned), the two busiest of each CPU.
	Processes func() ([]Process, error)
	Ethtool   Ethtool
	Netdev    Netdev
	// Irqbalance asks a running irqbalance what it was told. It may take half
	// a minute; see package irqbalance.
	Irqbalance func() (Irqbalance, error)
	// Now is the time of a reading. A captured host answers with the recorded
	// time, or the zero time if none was recorded.
	Now func() time.Time
}

// Ident says which machine, which boot and which kernel.
type Ident struct {
	Release        string `json:"release,omitempty"`        // uname -r
	Arch           string `json:"arch,omitempty"`           // uname -m
	BootID         string `json:"boot_id,omitempty"`        // /proc/sys/kernel/random/boot_id; a scrubbed capture has a stand-in
	HZ             int    `json:"hz,omitempty"`             // CONFIG_HZ; 0 = unknown
	Virtualization string `json:"virtualization,omitempty"` // "none", "kvm", "vmware", "microsoft", "xen", "amazon", …; "" = unknown
	Realtime       bool   `json:"realtime,omitempty"`       // PREEMPT_RT
	Distribution   string `json:"distribution,omitempty"`   // PRETTY_NAME of os-release
	// NetNS tells network namespaces of one boot apart: the inode number of
	// /proc/thread-self/ns/net and, since those are used again, the cookie of the
	// namespace (SO_NETNS_COOKIE, Linux 5.14). "" if unknown; captures have none.
	NetNS string `json:"-"`
}

// Link is one network device as rtnetlink shows it.
type Link struct {
	Name     string `json:"name"`
	Index    int    `json:"index"`
	Kind     string `json:"kind,omitempty"`   // IFLA_INFO_KIND: "bond", "vlan", "bridge", "veth", "macvlan", "team", "vxlan", "tun", …; "" for a plain device
	Parent   int    `json:"parent,omitempty"` // IFLA_LINK: VLAN real device, veth peer (of this or, with ForeignParent, another namespace)
	Foreign  bool   `json:"foreign,omitempty"`
	Master   int    `json:"master,omitempty"` // IFLA_MASTER: bond, team, bridge
	Up       bool   `json:"up"`               // IFF_UP
	Running  bool   `json:"running"`          // IFF_RUNNING: carrier
	Loopback bool   `json:"loopback,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	RxQueues int    `json:"rx_queues,omitempty"` // IFLA_NUM_RX_QUEUES: allocated, not in use
	TxQueues int    `json:"tx_queues,omitempty"`
	XDP      bool   `json:"xdp,omitempty"`   // an XDP program is attached
	Qdisc    string `json:"qdisc,omitempty"` // IFLA_QDISC: the queueing discipline at the root, "mq" for one per queue; "" if not told
}

// Process is one kernel thread, daemon or pinned thread that matters to packet
// processing.
type Process struct {
	PID     int    `json:"pid"`
	Comm    string `json:"comm"`
	Args    string `json:"args,omitempty"` // daemons only; "" for kernel threads
	CPU     int    `json:"cpu"`            // CPU it last ran on (/proc/PID/stat field 39)
	Ticks   uint64 `json:"ticks"`          // utime+stime in USER_HZ ticks
	Allowed string `json:"allowed,omitempty"`
	// Pinned marks a thread of a program that is here only because it may run on
	// one CPU alone, the one in Allowed; PID is that thread's.
	Pinned bool `json:"pinned,omitempty"`
	// RSSKiB is the memory of a daemon in RAM (VmRSS of /proc/PID/status); 0 if
	// unknown, and for kernel threads.
	RSSKiB uint64 `json:"rss_kib,omitempty"`
}

// Ethtool is the read side of ethtool. Every error wraps one of the sentinels
// of this package, fs.ErrPermission, or fs.ErrNotExist (no such device).
type Ethtool struct {
	DriverInfo func(dev string) (DriverInfo, error)
	Channels   func(dev string) (Channels, error)
	Rings      func(dev string) (Rings, error)
	Coalesce   func(dev string) (Coalesce, error)
	Features   func(dev string) (Features, error)
	RSS        func(dev string) (RSS, error)
	// HashFields reads which packet fields are hashed for a flow type
	// ("tcp4", "udp4", "tcp6", "udp6"), as letters of ethtool -n rx-flow-hash:
	// s and d are the addresses, f and n the port halves. "sdfn" is the four-tuple.
	HashFields func(dev, flow string) (string, error)
	Stats      func(dev string) (Stats, error)
}

// DriverInfo is ethtool -i.
type DriverInfo struct {
	Driver   string `json:"driver"`
	Version  string `json:"version,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	Bus      string `json:"bus,omitempty"` // PCI address, "virtio2" is resolved to it where the host tells
}

// Channels is ethtool -l. Zero maxima mean that the device has no such channels.
type Channels struct {
	MaxRx, MaxTx, MaxOther, MaxCombined int
	Rx, Tx, Other, Combined             int
}

// Rings is ethtool -g, in descriptors.
type Rings struct {
	MaxRx, MaxTx int
	Rx, Tx       int
}

// Coalesce is ethtool -c: interrupt moderation. Values maps the names that
// ethtool prints ("rx-usecs", "tx-frames", "rx-frames-irq", …) to values; a
// name that the driver does not have is absent.
type Coalesce struct {
	AdaptiveRx *bool          `json:"adaptive_rx,omitempty"` // nil = the driver has none
	AdaptiveTx *bool          `json:"adaptive_tx,omitempty"`
	Values     map[string]int `json:"values,omitempty"`
}

// Features maps kernel feature names ("rx-gro", "rx-gro-hw", "rx-lro",
// "rx-hashing", "rx-ntuple-filter", "rx-gro-list", "rx-udp-gro-forwarding") to
// their state.
type Features map[string]Feature

// Feature is one line of ethtool -k.
type Feature struct {
	On        bool `json:"on"`
	Requested bool `json:"requested,omitempty"` // the wish; differs from On while something forbids it
	Fixed     bool `json:"fixed,omitempty"`     // the device cannot change it
}

// RSS is the receive-side-scaling state of context 0, whatever its size.
type RSS struct {
	Table    []uint32 `json:"table,omitempty"`    // indirection table: queue of each slot
	Key      []byte   `json:"key,omitempty"`      // scrubbed in captures
	Function string   `json:"function,omitempty"` // "toeplitz", "xor", "crc32"
	RxRings  int      `json:"rx_rings,omitempty"` // ETHTOOL_GRXRINGS: queues the table may name
}

// Stats is ethtool -S in the driver's order.
type Stats []Stat

// Stat is one driver counter.
type Stat struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// Netdev is the read side of the "netdev" generic netlink family (kernel 6.8 and later).
type Netdev struct {
	NAPIs  func() ([]NAPI, error)
	Queues func() ([]Queue, error)
	QStats func() ([]QStat, error)
}

// NAPI is one object of napi-get.
type NAPI struct {
	IfIndex         int    `json:"ifindex"`
	ID              int    `json:"id"`
	IRQ             int    `json:"irq"` // -1 = the driver does not say
	PID             int    `json:"pid"` // of the NAPI thread; 0 = none
	DeferHardIRQs   uint64 `json:"defer_hard_irqs,omitempty"`
	GROFlushTimeout uint64 `json:"gro_flush_timeout,omitempty"` // ns
	IRQSuspend      uint64 `json:"irq_suspend_timeout,omitempty"`
	Threaded        int    `json:"threaded,omitempty"`
}

// Queue is one object of queue-get.
type Queue struct {
	IfIndex int  `json:"ifindex"`
	ID      int  `json:"id"`
	Tx      bool `json:"tx,omitempty"`
	NAPI    int  `json:"napi"` // -1 = the driver does not say
}

// QStat is one queue's counters from qstats-get with queue scope.
type QStat struct {
	IfIndex  int               `json:"ifindex"`
	ID       int               `json:"id"`
	Tx       bool              `json:"tx,omitempty"`
	Counters map[string]uint64 `json:"counters"` // "rx-packets", "tx-stop", …: names of Documentation/netlink/specs/netdev.yaml
}

// Irqbalance is what a running irqbalance was told.
type Irqbalance struct {
	Interval int   // seconds between its rounds
	Banned   []int // interrupts that it leaves alone, in ascending order
}

// Writer is everything napitune can change on one machine. Only cmd makes the
// live one and only package apply accepts one, so that nothing else can write.
type Writer struct {
	// WriteFile writes data to an existing file below "/" with one write(2),
	// without creating or truncating.
	WriteFile     func(name string, data []byte) error
	SetChannels   func(dev string, c Channels) error
	SetRings      func(dev string, r Rings) error
	SetCoalesce   func(dev string, c Coalesce) error
	SetFeatures   func(dev string, on map[string]bool) error
	SetRSS        func(dev string, table []uint32) error
	SetHashFields func(dev, flow, fields string) error
	SetNAPI       func(n NAPI) error
	// BanIRQs replaces the list of interrupts that a running irqbalance leaves alone.
	BanIRQs func(irqs []int) error
	// MayWrite asks whether WriteFile could open a file, and changes nothing; nil
	// leaves that to the write. The error names the remedy where there is one.
	MayWrite func(name string) error
}

// Watched reports whether a process of this name matters to packet
// processing: softirq, NAPI, backlog and vhost threads, the daemons that write
// the same settings as napitune, and sensors. The order of the list is of no meaning.
func Watched(comm string) bool {
	for _, prefix := range watchedPrefixes {
		if len(comm) >= len(prefix) && comm[:len(prefix)] == prefix {
			return true
		}
	}
	return watchedNames[comm] || Sensor(comm)
}

// Sensor reports whether a process of this name looks at packets as they were
// sent: an intrusion detection or capture program that runs for good.
func Sensor(comm string) bool { return sensors[comm] }

var sensors = map[string]bool{
	"suricata": true, "Suricata-Main": true, "zeek": true, "snort": true, "snort3": true, "arkime-capture": true, "stenotype": true,
}

// Thread name forms: kernel/softirq.c (ksoftirqd/N), net/core/dev.c
// (napi/DEV-ID, backlog_napi/N), drivers/vhost/vhost.c (vhost-PID).
var watchedPrefixes = []string{"ksoftirqd/", "napi/", "backlog_napi/", "vhost-"}

var watchedNames = map[string]bool{
	"irqbalance": true, "tuned": true, "tuned-ppd": true, "NetworkManager": true,
	"systemd-network": true, // comm is cut at 15 characters
	"bpftune":         true, "perftune.py": true, "katalyst-agent": true,
	"google_guest_ag": true, "oeaware": true, "crio": true, "kubelet": true,
}

// ReadFile reads one file of the host.
func (h *Host) ReadFile(name string) ([]byte, error) {
	if h.FS == nil {
		return nil, fmt.Errorf("read %s: %w", name, ErrNotCaptured)
	}
	return fs.ReadFile(h.FS, name)
}

// ReadDir lists one directory of the host.
func (h *Host) ReadDir(name string) ([]fs.DirEntry, error) {
	if h.FS == nil {
		return nil, fmt.Errorf("list %s: %w", name, ErrNotCaptured)
	}
	return fs.ReadDir(h.FS, name)
}

// ReadLink returns the target of a symbolic link.
func (h *Host) ReadLink(name string) (string, error) {
	if h.FS == nil {
		return "", fmt.Errorf("read link %s: %w", name, ErrNotCaptured)
	}
	return fs.ReadLink(h.FS, name)
}
