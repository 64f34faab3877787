package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/rules/plan"
)

var vhostShare = threshold("vhost-share", 0.2, "of a CPU",
	"a vhost thread that takes a fifth of a CPU loses as much again when interrupts of the same packets run on that CPU",
	"nothing known")

var _ = register(Rule{
	ID:    "vhost-shares-irq-cpu",
	Title: "a vhost thread runs on a CPU busy with NIC interrupts",
	Page: Page{
		Meaning:     "A guest's packets are copied by a vhost thread, and that thread sits on a CPU which already spends its time on the NIC's softirqs. The two take turns, and each packet of the guest needs both: at worst its throughput halves.",
		Evidence:    "CPU time and last CPU of vhost threads, softirq time of that CPU.",
		Cause:       "The scheduler wakes the thread where the packet arrived.",
		Remedy:      "Pin vhost threads (libvirt emulatorpin or taskset) to other CPUs of the same node, or keep NIC queues off their CPUs.",
		SideEffects: "A wake-up across CPUs.",
		NotWhen:     "Both together leave the CPU half idle.",
		Source:      "drivers/vhost/vhost.c vhost_worker",
		Thresholds:  describe(vhostShare, hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		shares := c.threadShare(func(p host.Process) bool { return strings.HasPrefix(p.Comm, "vhost-") })
		var out []plan.Finding
		for _, pid := range sortedByValue(shares) {
			cpu := c.threadHome(pid)
			if shares[pid] < c.At(vhostShare) || cpu < 0 || !c.hot(cpu) {
				continue
			}
			out = append(out, plan.Finding{
				Severity: plan.Advice, Subject: cpuName(cpu),
				Claim:    fmt.Sprintf("%s runs on CPU %d for %s of the time, which spends %s on softirqs", c.process(pid).Comm, cpu, percent(shares[pid]), percent(c.CPU[cpu].Softirq+c.CPU[cpu].IRQ)),
				Evidence: append([]plan.Evidence{{Metric: "vhost_share", Value: shares[pid], Unit: "of the CPU's time", Threshold: c.At(vhostShare), Source: fmt.Sprintf("/proc/%d/stat", pid)}}, c.cpuEvidence(cpu)...),
				Operator: "pin the vhost thread to another CPU of the same node (libvirt: emulatorpin; or taskset)",
			})
		}
		return out
	},
})
