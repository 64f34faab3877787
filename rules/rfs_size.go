package rules

import (
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "rfs-size",
	Title: "receive flow steering is half configured",
	Page: Page{
		Meaning:     "RFS needs a global table and a table per receive queue. Only one of the two is there, so it steers nothing; the global table alone still costs a look-up for each packet.",
		Evidence:    "net.core.rps_sock_flow_entries and rps_flow_cnt of each receive queue.",
		Cause:       "A recipe followed half-way.",
		Remedy:      "Complete it: 32,768 entries in all, divided by the number of receive queues. If nobody wants RFS, set both to 0 instead.",
		SideEffects: "Four bytes per global entry; steering costs an inter-processor interrupt when the reader sits on another CPU.",
		NotWhen:     "The host forwards packets: RFS learns from sockets and sees none.",
		Source:      "Documentation/networking/scaling.rst (RFS); net/core/sysctl_net_core.c rps_sock_flow_sysctl",
		Thresholds:  []string{},
	},
	Eval: func(c *Case) []plan.Finding {
		global, ok := c.knobInt(knob.Global(rfsGlobal))
		if !ok {
			return nil
		}
		var out []plan.Finding
		for c, d := range c.devices() {
			on, off, known := c.flowTables(d)
			if !known {
				continue
			}
			switch {
			case global == 0 && len(on) > 0:
				out = append(out, halfRFS(d, fmt.Sprintf("%s has flow tables on %d receive queues, but the global table has no entries", d.Name, len(on)),
					[]plan.Want{{Ref: knob.Global(rfsGlobal), Value: strconv.Itoa(rfsEntries), Mode: plan.Raise, Why: "rps_flow_cnt is set without it", Expect: bothHalves()}}))
			case global > 0 && len(on) == 0 && c.anyFlowTable():
				continue // another device uses it
			case global > 0 && len(on) == 0 && len(off) > 0 && c.forwards(d) == "":
				per := strconv.Itoa(max(1, powerOfTwo(int(global)/len(off))))
				var wants []plan.Want
				for _, ref := range off {
					wants = append(wants, plan.Want{Ref: ref, Value: per, Mode: plan.Raise, Why: fmt.Sprintf("global table of %d entries is unused", global), Expect: bothHalves()})
				}
				out = append(out, halfRFS(d, fmt.Sprintf("the global flow table has %d entries, but no receive queue of %s has a table", global, d.Name), wants))
			}
		}
		return out
	},
})

// bothHalves: what steering then does depends on where the readers run; that
// both tables are there can be read back.
func bothHalves() plan.Expect { return expect("rfs_halves", "up", 2, "of 2 tables") }

func halfRFS(d *detect.Device, claim string, wants []plan.Want) plan.Finding {
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name, Claim: claim, Wants: wants,
		Evidence: []plan.Evidence{{Metric: "rfs_halves", Value: 1, Unit: "of 2 tables", Threshold: 2, Source: "/proc/sys/net/core/rps_sock_flow_entries, rps_flow_cnt"}},
	}
}

// flowTables sorts a device's receive queues by whether they have a flow table.
func (c *Case) flowTables(d *detect.Device) (on, off []knob.Ref, known bool) {
	for i := range d.Queues {
		if !d.Queues[i].Rx {
			continue
		}
		ref := knob.Rx(d.Name, d.Queues[i].N, "rps.flow_cnt")
		n, ok := c.knobInt(ref)
		if !ok {
			return nil, nil, false
		}
		if n > 0 {
			on = append(on, ref)
		} else {
			off = append(off, ref)
		}
	}
	return on, off, len(on)+len(off) > 0
}

func (c *Case) anyFlowTable() bool {
	for _, d := range c.Last.Devices {
		if on, _, known := c.flowTables(d); known && len(on) > 0 {
			return true
		}
	}
	return false
}

// powerOfTwo rounds down to a power of two; the kernel rounds up
// (net/core/net-sysfs.c store_rps_dev_flow_table_cnt), which would exceed the share.
func powerOfTwo(n int) int {
	p := 1
	for p*2 <= n {
		p *= 2
	}
	return p
}
