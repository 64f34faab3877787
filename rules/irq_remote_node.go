package rules

import (
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

var _ = register(Rule{
	ID:    "irq-remote-node",
	Title: "queues are served by CPUs of another NUMA node",
	Page: Page{
		Meaning: "The NIC hangs on one NUMA node, but queues interrupt CPUs of another one. Every descriptor and packet then crosses the " +
			"socket link; published measurements lose some 20 % throughput per core.",
		Evidence:    "numa_node of the PCI function against the node of the CPU where each queue fires (/proc/interrupts).",
		Cause:       "Default or hand-made affinity that counts CPUs without looking at nodes; drivers such as virtio_net spread over all online CPUs.",
		Remedy:      "Move these queues to CPUs of the device's node. More queues than local cores help nobody: lower the channel count instead of going remote.",
		SideEffects: "Local CPUs take more work; the plan shows their load.",
		NotWhen:     "The application runs on the remote node and reads everything there, or the local CPUs are full. Where the remote CPUs hardly work it is only a note.",
		Source:      "Documentation/networking/scaling.rst; Cai et al., Understanding Host Network Stack Overheads, SIGCOMM 2021 (remote core −20 %)",
		Thresholds:  describe(activeQueue, activeRate, activeSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		var out []plan.Finding
		for _, group := range byDevice(c.diagnosis.remote) {
			f := c.remoteFinding(group)
			f.Wants = c.affinityWants(group, fmt.Sprintf("device is on node %d", group[0].dev.Node), c.moved("remote_queue_pairs", 0, "queue pairs"))
			out = append(out, f)
		}
		for _, group := range byDevice(c.diagnosis.idling) {
			f := c.remoteFinding(group)
			f.Severity = plan.Note
			f.Claim += fmt.Sprintf("; none of these CPUs spends %s of its time on it, so there is next to nothing to gain", percent(c.At(activeSoftirq)))
			out = append(out, f)
		}
		return out
	},
})

func (c *Case) remoteFinding(group []*path) plan.Finding {
	dev, first := group[0].dev, group[0]
	return plan.Finding{
		Severity: plan.Advice,
		Subject:  dev.Name,
		Claim: fmt.Sprintf("%d of %d queue pairs of %s (node %d) fire on other nodes: %s on CPU %d (node %d)",
			len(group), len(dev.Queues), dev.Name, dev.Node, first.id(), first.home(), c.Last.Topo.NodeOf(first.home())),
		Evidence: []plan.Evidence{{Metric: "remote_queue_pairs", Value: float64(len(group)), Unit: "queue pairs", Threshold: 1, Source: "/proc/interrupts, numa_node"}},
	}
}

// findIdling takes the devices out of the remote pairs whose CPUs hardly work:
// nothing is asked for them, so nothing may be placed for them either.
func (c *Case) findIdling() {
	d := c.diagnosis
	var remote []*path
	for _, group := range byDevice(d.remote) {
		if c.idling(group) {
			d.idling = append(d.idling, group...)
		} else {
			remote = append(remote, group...)
		}
	}
	d.remote = remote
}

// idling reports whether all CPUs where pairs fire are known to have had hardly
// any softirq work in the window.
func (c *Case) idling(paths []*path) bool {
	return c.Basis == detect.BasisWindow && !slices.ContainsFunc(paths, func(p *path) bool {
		_, known := c.CPU[p.home()]
		return !known || c.softirq(p.home()) >= c.At(activeSoftirq)
	})
}
