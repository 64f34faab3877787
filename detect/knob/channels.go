package knob

import (
	"strconv"
	"syscall"

	"github.com/napitune/napitune/detect/host"
)

// channelField is one line of ethtool -l.
type channelField struct {
	name, title, doc string
	of               func(c *host.Channels) (limit int, current *int)
}

var channelFields = []channelField{
	{
		name: "combined", title: "queue pairs in use",
		doc: "Number of queue pairs (receive and transmit served by one vector). As many as physical cores of the NIC's node is " +
			"the usual upper bound; the fewest that do not overflow are the most efficient. ",
		of: func(c *host.Channels) (int, *int) { return c.MaxCombined, &c.Combined },
	},
	{
		name: "rx", title: "receive-only queues in use",
		doc: "Number of queues that only receive, on drivers with separate vectors per direction. ",
		of:  func(c *host.Channels) (int, *int) { return c.MaxRx, &c.Rx },
	},
	{
		name: "tx", title: "transmit-only queues in use",
		doc: "Number of queues that only transmit, on drivers with separate vectors per direction. ",
		of:  func(c *host.Channels) (int, *int) { return c.MaxTx, &c.Tx },
	},
}

func channels() []*Kind {
	out := make([]*Kind, 0, len(channelFields))
	for _, f := range channelFields {
		out = append(out, f.kind())
	}
	return out
}

func (f channelField) kind() *Kind {
	name := "channels." + f.name
	return &Kind{
		Name: name, Scope: ScopeDevice, Title: f.title,
		Doc: f.doc + "A change re-creates queues: settings of removed queues are lost, new ones get the kernel's defaults, drivers " +
			"may reset interrupt affinity and the RSS table, and many reset the link for seconds. virtio_net changes queues by " +
			"a control command without a reset, and then spreads interrupts and XPS anew. Once a user has set an RSS table, " +
			"fewer channels than it names are refused.",
		Source: "net/ethtool/channels.c, drivers/net/virtio_net.c virtnet_set_channels, Documentation/networking/scaling.rst",
		Unit:   "queues", Codec: integerCodec, Stage: StageChannels, Disruption: DisruptsLink,
		DisruptionOn: queueRestart,
		Clobbers:     []string{"irq.affinity", "rps.cpus", "rps.flow_cnt", "rss.table", "xps.cpus", "xps.rxqs"},
		Default:      noDefault,
		Refs:         tunableDevice(name),
		Read:         f.read,
		Write:        f.write,
		Shell: func(_ View, r Ref, value string) string {
			return "ethtool -L " + quote(r.Dev) + " " + f.name + " " + value
		},
	}
}

// queueRestart is what re-creating queues does. virtio_net and veth do it
// under way (virtnet_set_channels and virtnet_rx_resize in
// drivers/net/virtio_net.c, veth_set_channels in drivers/net/veth.c); for all
// others the worst is assumed.
func queueRestart(v View, r Ref) Disruption {
	switch v.device(r.Dev).Driver {
	case virtioDriver, "veth":
		return DisruptsPackets
	default:
		return DisruptsLink
	}
}

func (f channelField) read(v View, r Ref) State {
	c, err := askChannels(v, r.Dev)
	if err != nil {
		return failure(err, "the driver cannot change its number of queues")
	}
	limit, current := f.of(&c)
	if limit == 0 {
		return State{Status: Unsupported, Reason: "the device has no " + f.name + " channels"}
	}
	bounds := Bounds{Min: f.least(c), Max: int64(limit)}
	lock := ""
	if limit == 1 && *current == 1 {
		lock = "the device offers one queue"
	}
	return known(strconv.Itoa(*current), lock, bounds)
}

// channelsBusy is what EBUSY means: the driver does not re-create queues that
// somebody holds, such as RDMA (ice_set_channels in
// drivers/net/ethernet/intel/ice/ice_ethtool.c, "Cannot change channels when
// RDMA is active").
const channelsBusy = "RDMA (irdma, mlx5_ib), an AF_XDP socket or a macvlan offload holds the queues; " +
	"stop the holder, or set the channels at boot before it starts (napitune profile install)"

// least is the smallest number the core accepts: at least one receive and one
// transmit channel must remain (net/ethtool/channels.c, ethnl_set_channels).
func (f channelField) least(c host.Channels) int64 {
	switch f.name {
	case "rx", "tx":
		if c.Combined > 0 {
			return 0
		}
	case "combined":
		if c.Rx > 0 && c.Tx > 0 {
			return 0
		}
	}
	return 1
}

func (f channelField) write(v View, w host.Writer, r Ref, value string) error {
	n, err := number(value)
	if err != nil {
		return err
	}
	c, err := askChannels(v, r.Dev)
	if err != nil {
		return err
	}
	_, current := f.of(&c)
	*current = n
	return explained(put(w.SetChannels, r.Dev, c), syscall.EBUSY, channelsBusy)
}
