package rules

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/rules/plan"
)

// virtioMQ is VIRTIO_NET_F_MQ (include/uapi/linux/virtio_net.h): the device
// has several queue pairs. The sysfs string has character i for bit i.
const virtioMQ = 22

var _ = register(Rule{
	ID:    "virtio-host-single-queue",
	Title: "the hypervisor gives the guest one virtio queue pair",
	Page: Page{
		Meaning:  "All packets of this device pass through one queue pair, or several queues share one interrupt, and thus one virtual CPU does the work. Nothing inside the guest can change that.",
		Evidence: "Maximum combined channels of 1, the MQ feature bit not offered, or a single pair of virtqueue interrupts (the driver allocates vectors for all offered pairs).",
		Cause:    "The hypervisor defines the interface without queues=N.",
		Remedy: "Ask the hypervisor's owner: libvirt <driver name='vhost' queues='N'/>, QEMU -netdev tap,queues=N with -device virtio-net-pci,mq=on,vectors=2N+2; " +
			"OpenStack hw_vif_multiqueue_enabled=true; clouds by instance type. Only if a CPU is near its limit does RPS help inside the guest.",
		SideEffects: "Each queue costs a vhost thread and memory on the host.",
		NotWhen:     "The guest has one virtual CPU or little traffic: then this is only a note.",
		Source:      "drivers/net/virtio_net.c virtnet_probe, virtnet_find_vqs; include/uapi/linux/virtio_net.h VIRTIO_NET_F_MQ",
		Thresholds:  describe(hotSoftirq),
	},
	Eval: func(c *Case) []plan.Finding {
		if c.Last.Topo.Online.Len() < 2 {
			return nil
		}
		var out []plan.Finding
		var cool []string
		source := ""
		for c, d := range c.devices() {
			from, single := singleQueue(d)
			if f, few := c.fewVectors(d); few {
				out = append(out, f)
			}
			if !single {
				continue
			}
			if cpu := c.queueCPU(d); cpu >= 0 && c.hot(cpu) {
				f := c.oneQueue([]string{d.Name}, from)
				f.Severity = plan.Problem
				f.Claim += fmt.Sprintf("; CPU %d spends %s of its time on it", cpu, percent(c.CPU[cpu].Softirq+c.CPU[cpu].IRQ))
				f.Evidence = append(f.Evidence, c.cpuEvidence(cpu)...)
				out = append(out, f)
				continue
			}
			cool, source = append(cool, d.Name), from
		}
		if len(cool) > 0 {
			out = append(out, c.oneQueue(cool, source))
		}
		return out
	},
})

// oneQueue is the note about devices with one queue pair, told once for all.
func (c *Case) oneQueue(devices []string, source string) plan.Finding {
	f := plan.Finding{
		Severity: plan.Note,
		Subject:  devices[0],
		Claim:    fmt.Sprintf("%s has one queue pair, all that the hypervisor offers, for %d CPUs", devices[0], c.Last.Topo.Online.Len()),
		Evidence: []plan.Evidence{{Metric: "max_queue_pairs", Value: 1, Unit: "offered", Source: source}},
		Operator: "if this guest's network CPU is the limit, ask the hypervisor's owner for more queues " +
			"(libvirt: <driver queues='N'/>; QEMU: queues=N, mq=on, vectors=2N+2; OpenStack: hw_vif_multiqueue_enabled=true)",
	}
	if len(devices) > 1 {
		f.Subject = "host"
		f.Claim = fmt.Sprintf("%d devices (%s) have one queue pair each, all that the hypervisor offers, for %d CPUs",
			len(devices), strings.Join(devices, ", "), c.Last.Topo.Online.Len())
	}
	return f
}

// fewVectors is about a device whose queues share one interrupt: the
// hypervisor gave it fewer vectors than queues (drivers/virtio/virtio_pci_common.c
// vp_find_vqs falls back to one vector for all queues).
func (c *Case) fewVectors(d *detect.Device) (plan.Finding, bool) {
	if d.Kind != "virtio" || !sharedVector(d) {
		return plan.Finding{}, false
	}
	cpu := c.queueCPU(d)
	f := plan.Finding{
		Severity: plan.Note, Subject: d.Name,
		Claim:    fmt.Sprintf("the %d queues of %s share one interrupt, so one CPU serves them all", rxQueues(d), d.Name),
		Evidence: append([]plan.Evidence{{Metric: "vectors", Value: 1, Unit: "interrupts", Threshold: float64(rxQueues(d)), Source: "/proc/interrupts"}}, c.cpuEvidence(cpu)...),
		Operator: "ask the hypervisor's owner for vectors=2N+2 with N queues (QEMU: -device virtio-net-pci,mq=on,vectors=2N+2)",
	}
	if c.hot(cpu) {
		f.Severity = plan.Problem
	}
	return f, true
}

// singleQueue reports whether a virtio device certainly has one queue pair, and who says so.
func singleQueue(d *detect.Device) (source string, single bool) {
	if d.Kind != "virtio" {
		return "", false
	}
	if d.Channels != nil {
		return "ethtool -l " + d.Name, d.Channels.MaxCombined == 1
	}
	if len(d.VirtioFeatures) > virtioMQ {
		return "virtio features", d.VirtioFeatures[virtioMQ] == '0'
	}
	return "/proc/interrupts", len(d.Queues) == 1
}

// queueCPU is the CPU where a single-queue device's interrupts fire, -1 if unknown.
func (c *Case) queueCPU(d *detect.Device) int {
	for _, p := range c.Paths {
		if p.dev == d {
			return p.home()
		}
	}
	return -1
}
