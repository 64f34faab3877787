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
		Meaning:     "Packets are lost, but not for want of queues, budgets or CPUs: the socket buffer of an application was full, the cloud's allowance was used up, or the traffic does not go through the device one looks at.",
		Evidence:    "UDP RcvbufErrors (/proc/net/snmp), *_allowance_exceeded (ENA) and vf_rx_packets (hv_netvsc), ethtool -S, over the window. A full connection table is not measured: the kernel log tells of it.",
		Cause:       "The application reads too slowly, or the instance is too small for the packet rate.",
		Remedy:      "Larger socket buffers or a faster reader; a larger instance.",
		SideEffects: "None from here.",
		NotWhen:     "Always worth reading before turning a knob.",
		Source:      "net/ipv4/udp.c; ENA driver documentation (allowance metrics)",
		Thresholds:  describe(backlogRate),
	},
	Eval: func(c *Case) []plan.Finding {
		out := c.syntheticDevices()
		if c.Basis == detect.BasisBoot {
			return out
		}
		if n := c.Protocols["Udp.RcvbufErrors"] + c.Protocols["Udp6.RcvbufErrors"]; n > 0 && c.lossRate(n) {
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: "host",
				Claim:    fmt.Sprintf("%d UDP packets were dropped because the reading socket's buffer was full", n),
				Evidence: []plan.Evidence{{Metric: "udp_rcvbuf_errors", Value: float64(n), Unit: "packets", Source: "/proc/net/snmp"}},
				Operator: "the application reads too slowly or its buffer is small (SO_RCVBUF, net.core.rmem_max): no queue or softirq setting helps",
			})
		}
		for c, d := range c.devices() {
			for _, s := range d.Stats {
				if n := c.Device[d.Name].Stats[s.Name]; n > 0 && isAllowance(s.Name) && c.lossRate(n) {
					out = append(out, plan.Finding{
						Severity: plan.Advice, Subject: d.Name,
						Claim:    fmt.Sprintf("the cloud dropped or queued %d packets of %s: %s", n, d.Name, s.Name),
						Evidence: []plan.Evidence{{Metric: s.Name, Value: float64(n), Unit: "packets", Source: "ethtool -S " + d.Name}},
						Operator: "the instance's allowance is used up: a larger instance or fewer packets help, no setting in this guest does",
					})
				}
			}
		}
		return out
	},
})

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

func (c *Case) lossRate(n uint64) bool {
	rate, timed := c.PerSecond(n)
	return !timed || rate >= c.At(backlogRate)
}

// isAllowance names ENA's counters of the instance's limits
// (drivers/net/ethernet/amazon/ena/ena_ethtool.c).
func isAllowance(name string) bool {
	switch name {
	case "bw_in_allowance_exceeded", "bw_out_allowance_exceeded", "pps_allowance_exceeded",
		"conntrack_allowance_exceeded", "linklocal_allowance_exceeded":
		return true
	}
	return false
}
