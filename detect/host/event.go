package host

// EventKind is a class of things that happen to a host and may change settings.
type EventKind uint8

// Event kinds. For each it is known which settings it may change without
// anybody asking (drivers' open, reset and hotplug functions).
const (
	// EventsLost: the kernel had more to tell than its buffers hold (ENOBUFS).
	// Anything may have happened; the state must be read anew.
	EventsLost EventKind = iota
	// DeviceChanged: a device came, went, was renamed or moved to another
	// network namespace (RTM_NEWLINK, RTM_DELLINK, uevents of "net").
	DeviceChanged
	// LinkChanged: a device went up or down, its carrier came or went, or its
	// MTU, master or XDP program changed, for which drivers set up queues anew.
	LinkChanged
	// AddressChanged: a device got or lost an address. It changes no setting
	// itself; programs that configure devices finish with it.
	AddressChanged
	// QueuesChanged: queues, NAPIs or page pools of a device were made or removed
	// (uevents of "queues", netdev genetlink page-pool notifications).
	QueuesChanged
	// SettingChanged: ethtool settings of a device were written, by ioctl or
	// netlink (ethtool genetlink, group "monitor"). Setting says which.
	SettingChanged
	// CPUChanged: a CPU went online or offline (uevents of "cpu").
	CPUChanged
	// FileWritten: another process wrote a watched file of procfs or sysfs.
	FileWritten
)

func (k EventKind) String() string {
	return [...]string{
		"lost events", "device change", "link change", "address change", "queue change", "ethtool change", "CPU hotplug", "write",
	}[k]
}

// Event is one thing that happened. Equal events are told once until they are
// taken, so that a storm of them is as cheap as one.
type Event struct {
	Kind EventKind
	// Dev is the device by its present name; "" for events of the host and where
	// the device is not known.
	Dev string
	// Setting is, for SettingChanged, the group of settings as ethtool calls it:
	// "channels", "rings", "coalesce", "features", "rss", …
	Setting string
	// Path is, for FileWritten, the file as it was given to Watch.
	Path string
	// PID and By are, for FileWritten, the process that wrote and its name
	// (comm); 0 and "" where the kernel does not tell, which takes CAP_SYS_ADMIN.
	PID int
	By  string
}

// Events is a stream of what happens to a host. It costs nothing while nothing
// happens.
type Events struct {
	// Ready holds a token after something happened.
	Ready <-chan struct{}
	// Take hands over what happened since the last call, in no order. A write that
	// was made before the call, by this process as well, is in what it hands over
	// or was in an earlier call's. Memory is bounded: of too many different events
	// it makes one of kind EventsLost.
	Take func() []Event
	// Watch makes writes to these files by other processes events of kind
	// FileWritten, instead of those of the call before. Files that are not there
	// are passed over; other errors are joined, and the rest is watched.
	Watch func(names []string) error
	// Names says whether FileWritten events tell who wrote.
	Names bool
	// Failed says, after Ready, why the stream has ended; nil while it goes on.
	Failed func() error
	// Close ends the stream.
	Close func() error
}
