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
		Meaning: "RFS needs a global table and a table per receive queue. Only one of the two is there, so it steers nothing (the global table alone still costs a look-up for each packet); " +
			"or the global table is so much smaller than those of the queues that flows push each other out of it.",
		Evidence: "net.core.rps_sock_flow_entries, and rps_flow_cnt of each receive queue and their sum.",
		Cause:    "A recipe followed half-way.",
		Remedy: "Complete it: 32,768 entries in all, divided by the number of receive queues. If nobody wants RFS, set both to 0 instead. " +
			"It is only a note, without a change, where RFS has nothing to bring: see when not to.",
		SideEffects: "Four bytes per global entry; steering costs an inter-processor interrupt when the reader sits on another CPU.",
		NotWhen: "The host forwards packets: RFS learns from sockets and sees none. The NIC has a queue per core, or hardly works: then packets that are handed on cost more than they save. " +
			"The site prefers latency: the CPU handed to may have to wake up first.",
		Source:     "Documentation/networking/scaling.rst (RFS); net/core/sysctl_net_core.c rps_sock_flow_sysctl; include/net/rps.h rps_record_sock_flow",
		Thresholds: describe(rfsProportion, activeRate, activeSoftirq, groPackets),
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
			var f plan.Finding
			sum := c.flowEntries(on)
			switch {
			case global == 0 && len(on) > 0:
				f = halfRFS(d, fmt.Sprintf("%s has flow tables on %d receive queues, but the global table has no entries", d.Name, len(on)),
					[]plan.Want{{Ref: knob.Global(rfsGlobal), Value: strconv.Itoa(rfsEntries), Mode: plan.Raise, Why: "rps_flow_cnt is set without it", Expect: bothHalves()}})
			case global > 0 && len(on) == 0 && len(off) > 0 && !c.anyFlowTable(): // else another device uses it
				per := strconv.Itoa(max(1, powerOfTwo(int(global)/len(off))))
				var wants []plan.Want
				for _, ref := range off {
					wants = append(wants, plan.Want{Ref: ref, Value: per, Mode: plan.Raise, Why: fmt.Sprintf("global table of %d entries is unused", global), Expect: bothHalves()})
				}
				f = halfRFS(d, fmt.Sprintf("the global flow table has %d entries, but no receive queue of %s has a table", global, d.Name), wants)
			case global > 0 && global < rfsEntries && float64(sum) > c.At(rfsProportion)*float64(global):
				f = c.smallRFS(d, global, sum)
			default:
				continue
			}
			if why := c.needsNoRFS(d); why != "" {
				f.Severity, f.Wants = plan.Note, nil
				f.Claim += "; " + why + ", so nothing is completed"
			}
			out = append(out, f)
		}
		return out
	},
})

var rfsProportion = threshold("rfs-proportion", 2, "times the global table",
	"every table is rounded up to a power of two (net/core/net-sysfs.c store_rps_dev_flow_table_cnt), which may double their sum; more is another recipe",
	"a measured number of active flows")

// smallRFS is about a global table that cannot hold the flows that the queues'
// tables have room for: an entry belongs to the last flow that was read, and the
// others are not steered (net/core/dev.c get_rps_cpu compares the whole hash).
func (c *Case) smallRFS(d *detect.Device, global, sum int64) plan.Finding {
	most := sum
	for _, other := range c.Last.Devices {
		on, _, _ := c.flowTables(other)
		most = max(most, c.flowEntries(on))
	}
	want := int64(powerOfTwo(int(min(most, rfsEntries))))
	return plan.Finding{
		Severity: plan.Advice, Subject: d.Name,
		Claim:    fmt.Sprintf("the global flow table has %d entries, the receive queues of %s have room for %d flows: they push each other out of it", global, d.Name, sum),
		Evidence: []plan.Evidence{{Metric: "rps_flow_cnt_sum", Value: float64(sum), Unit: "entries", Threshold: c.At(rfsProportion) * float64(global), Source: "rps_flow_cnt of " + d.Name}},
		Wants: []plan.Want{{Ref: knob.Global(rfsGlobal), Value: strconv.FormatInt(want, 10), Mode: plan.Raise, Why: fmt.Sprintf("the queues have room for %d flows", sum),
			Expect: expect("rps_sock_flow_entries", "up", float64(want), "entries")}},
	}
}

// flowEntries is how many entries the flow tables of queues have together.
func (c *Case) flowEntries(tables []knob.Ref) int64 {
	var sum int64
	for _, ref := range tables {
		n, _ := c.knobInt(ref)
		sum += min(n, 1<<29) // the most that the kernel takes
	}
	return sum
}

// needsNoRFS says why steering flows to their readers would bring a device
// nothing, "" if it might.
func (c *Case) needsNoRFS(d *detect.Device) string {
	cores, each := c.queuePerCore(d)
	switch {
	case c.forwards(d) != "":
		return c.forwards(d) + ", and RFS learns from sockets"
	case c.Policy.Latency:
		return "the policy prefers latency, and steering wakes other CPUs"
	case each:
		return fmt.Sprintf("%s has a receive queue for each of the %d cores near it", d.Name, cores)
	case c.quiet(d):
		return d.Name + " hardly works"
	}
	return ""
}

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
