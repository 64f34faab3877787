package rules

import (
	"fmt"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "loss-elsewhere",
	Title: "packets are lost where no setting of this tool reaches",
	Page: Page{
		Meaning:     "Packets are lost, but not for want of queues, budgets or CPUs: the socket buffer of an application was full, the table of tracked connections was full, the cloud's allowance was used up, or the traffic does not go through the device one looks at.",
		Evidence:    "UDP RcvbufErrors (/proc/net/snmp), drop, early_drop and insert_failed (/proc/net/stat/nf_conntrack) with nf_conntrack_count against nf_conntrack_max, *_allowance_exceeded (ENA), vf_rx_packets (hv_netvsc) and rx_discards_phy (mlx5), ethtool -S, over the window.",
		Cause:       "The application reads too slowly; more connections, or longer remembered ones, than the table holds; or the instance is too small for the packet rate.",
		Remedy:      "Larger socket buffers or a faster reader; a larger connection table, shorter timeouts, or no tracking for traffic that needs none; a larger instance. For the cloud's own name, metadata and time service: a cache in the guest.",
		SideEffects: "None from here.",
		NotWhen:     "Always worth reading before turning a knob. UDP packets lost at full buffers are only a note while they are a small part of all UDP packets. What the cloud refuses of new connections or of its own services is few packets beside all others, and counts by its number.",
		Source:      "net/ipv4/udp.c; net/netfilter/nf_conntrack_core.c; ENA driver documentation (allowance metrics); Amazon EC2 User Guide, Monitor network performance for ENA settings",
		Thresholds:  describe(backlogRate, lossCount, lossShare, conntrackFull, ringLoss, ringLossCount, ringLossBoot),
	},
	Eval: func(c *Case) []plan.Finding {
		out := append(c.syntheticDevices(), c.connectionTable()...)
		for c, d := range c.devices() {
			if f, ok := c.portLoss(d); ok {
				out = append(out, f)
			}
		}
		if c.Basis == detect.BasisBoot {
			return out
		}
		if f, ok := c.fullBuffers(); ok {
			out = append(out, f)
		}
		for c, d := range c.devices() {
			for _, s := range d.Stats {
				if f, ok := c.usedAllowance(d, s.Name); ok {
					out = append(out, f)
				}
			}
		}
		return out
	},
})

// portLoss is about packets that mlx5 dropped at the port for want of room in
// the NIC's own buffer (drivers/net/ethernet/mellanox/mlx5/core/en_stats.c,
// rx_discards_phy; Documentation/networking/device_drivers/ethernet/mellanox/
// mlx5/counters.rst): the way into memory is too slow, not a ring too short.
func (c *Case) portLoss(d *detect.Device) (plan.Finding, bool) {
	const counter = "rx_discards_phy"
	n := c.Device[d.Name].Stats[counter]
	_, received := c.ringLosses(d)
	if float64(n) < c.At(ringLossCount) || float64(n) < c.At(ringLoss)*float64(received+n) {
		return plan.Finding{}, false
	}
	f := plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim: fmt.Sprintf("%s dropped %d packets at its port, %s of those that arrived (%s): the NIC could not hand them over fast enough",
			d.Name, n, percent(float64(n)/float64(received+n)), c.Basis),
		Evidence: []plan.Evidence{{Metric: counter, Value: float64(n), Unit: "packets", Threshold: c.At(ringLoss) * float64(received), Source: "ethtool -S " + d.Name}},
		Operator: "look at the PCIe link (width and speed in lspci -vv), the IOMMU, the memory of the NIC's node and flow control: a longer ring does not help",
	}
	if c.Basis == detect.BasisBoot {
		f.Severity = c.oldLoss(n)
		f.Missing = append(f.Missing, "a second sample: the loss may be old")
	}
	return f, true
}

// syntheticDevices notes paravirtual devices whose traffic goes through a
// virtual function beside them: tuning the synthetic one changes nothing. The
// driver counts that traffic apart (drivers/net/hyperv/netvsc_drv.c, vf_rx_packets).
func (c *Case) syntheticDevices() []plan.Finding {
	var out []plan.Finding
	for _, d := range c.Last.Devices {
		through := c.Device[d.Name].Stats["vf_rx_packets"]
		if !c.wanted(d.Name) || float64(through) < c.At(skewPackets) {
			continue
		}
		out = append(out, plan.Finding{
			Severity: plan.Note, Subject: d.Name,
			Claim:    fmt.Sprintf("%d packets of %s came through its virtual function, not through the synthetic device", through, d.Name),
			Evidence: []plan.Evidence{{Metric: "vf_rx_packets", Value: float64(through), Unit: "packets", Source: "ethtool -S " + d.Name}},
			Operator: "look at and tune the virtual function (mlx5, mana): the synthetic device carries next to nothing",
		})
	}
	return out
}

// fullBuffers is about UDP packets for which a socket had no room. All sockets of
// the host share the counter: a small part of everything may be most of what one
// reader should have got.
func (c *Case) fullBuffers() (plan.Finding, bool) {
	lost, taken := c.Protocols["Udp.RcvbufErrors"]+c.Protocols["Udp6RcvbufErrors"], c.Protocols["Udp.InDatagrams"]+c.Protocols["Udp6InDatagrams"]
	f := plan.Finding{
		Severity: plan.Advice, Subject: "host",
		Claim:    fmt.Sprintf("%d UDP packets were dropped because the reading socket's buffer was full", lost),
		Evidence: []plan.Evidence{{Metric: "udp_rcvbuf_errors", Value: float64(lost), Unit: "packets", Threshold: c.At(lossCount), Source: "/proc/net/snmp"}},
		Operator: "the application reads too slowly or its buffer is small (SO_RCVBUF, net.core.rmem_max): no queue or softirq setting helps",
	}
	if !c.losesMany(lost, taken) {
		f.Severity = plan.Note
		f.Claim += fmt.Sprintf(", beside %d taken: few, unless they were all one program's (ss -uanm shows the drops of each socket)", taken)
	}
	return f, c.losesMany(lost, 0)
}

// allowance is one of the cloud's limits for an instance.
type allowance struct {
	// ofAll says that it is a limit for all packets, so that its loss is a part of
	// them. Else few packets fall under it, and each may be a connection.
	ofAll  bool
	remedy string
}

// allowances are ENA's counters of the instance's limits
// (drivers/net/ethernet/amazon/ena/ena_ethtool.c).
var allowances = map[string]allowance{
	"bw_in_allowance_exceeded":  {true, smallerLoad},
	"bw_out_allowance_exceeded": {true, smallerLoad},
	"pps_allowance_exceeded":    {true, smallerLoad},
	"conntrack_allowance_exceeded": {false, "new connections were refused, because the cloud tracks no more for this instance: fewer or shorter idle connections, " +
		"security groups that need no tracking, or a larger instance help, no setting in this guest does"},
	"linklocal_allowance_exceeded": {false, "the cloud's name, metadata or time service was asked too often by this interface: a DNS cache in the guest and fewer metadata queries help, " +
		"no queue or softirq setting does"},
}

const smallerLoad = "the instance's allowance is used up: a larger instance or fewer packets help, no setting in this guest does"

// usedAllowance is about what the cloud dropped or queued by one of its limits.
func (c *Case) usedAllowance(d *detect.Device, counter string) (plan.Finding, bool) {
	limit, known := allowances[counter]
	if !known {
		return plan.Finding{}, false
	}
	n, all := c.Device[d.Name].Stats[counter], uint64(0)
	if limit.ofAll {
		all = c.Device[d.Name].Counters.RxPackets + c.Device[d.Name].Counters.TxPackets
	}
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("the cloud dropped or queued %d packets of %s: %s", n, d.Name, counter),
		Evidence: []plan.Evidence{{Metric: counter, Value: float64(n), Unit: "packets", Threshold: c.At(lossCount), Source: "ethtool -S " + d.Name}},
		Operator: limit.remedy,
	}, c.losesMany(n, all)
}

var conntrackFull = threshold("conntrack-full", 0.95, "of nf_conntrack_max",
	"from 95 % on kernels with nf_conntrack_max95 throw out connections before their time (net/netfilter/nf_conntrack_core.c, gc_worker)",
	"bursts of new connections larger than the last twentieth of the table")

// connectionTable judges the table of tracked connections. A packet of a new
// connection that finds it full, and no other connection that may go for it, is
// dropped before it reaches any queue that could be tuned
// (net/netfilter/nf_conntrack_core.c, __nf_conntrack_alloc and early_drop).
func (c *Case) connectionTable() []plan.Finding {
	t := c.Last.Conntrack
	if !t.Known || t.Max == 0 {
		return nil
	}
	used := float64(t.Count) / float64(t.Max)
	dropped, early := c.Conntrack["drop"], c.Conntrack["early_drop"]
	full := used >= c.At(conntrackFull)
	lost := c.losesMany(dropped, 0)
	f := plan.Finding{
		Subject:  "nf_conntrack",
		Evidence: []plan.Evidence{{Metric: "conntrack_used", Value: used, Unit: "of nf_conntrack_max", Threshold: c.At(conntrackFull), Source: "nf_conntrack_count"}},
		Operator: "raise net.netfilter.nf_conntrack_max (with the module parameter hashsize a quarter of it), shorten nf_conntrack_tcp_timeout_* and nf_conntrack_udp_timeout, " +
			"or do not track what needs none (iptables -j NOTRACK, nft notrack): no queue or softirq setting helps",
	}
	if c.Basis == detect.BasisBoot {
		lost, early = false, 0
	} else {
		f.Evidence = append(f.Evidence,
			plan.Evidence{Metric: "conntrack_drop", Value: float64(dropped), Unit: "packets", Source: "/proc/net/stat/nf_conntrack"},
			plan.Evidence{Metric: "conntrack_early_drop", Value: float64(early), Unit: "connections", Source: "/proc/net/stat/nf_conntrack"})
	}
	switch {
	case full && (lost || c.losesMany(early, 0)):
		f.Severity = plan.Advice
		f.Claim = fmt.Sprintf("the connection table is full (%d of %d): %d packets of new connections were dropped here, and %d connections thrown out for others", t.Count, t.Max, dropped, early)
	case full:
		f.Severity = plan.Note
		f.Claim = fmt.Sprintf("the connection table is nearly full: %d of %d", t.Count, t.Max)
	case lost:
		f.Severity = plan.Note
		f.Claim = fmt.Sprintf("connection tracking dropped %d packets, %d of them because their connection was entered twice at the same time", dropped, min(dropped, c.Conntrack["insert_failed"]))
		f.Operator = "the table is not full: usual are first packets of one UDP connection in parallel, such as DNS queries through NAT (a local DNS cache, or NOTRACK); no queue or softirq setting helps"
	default:
		return nil
	}
	return []plan.Finding{f}
}
