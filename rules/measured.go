package rules

import (
	"maps"
	"slices"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/probes/counters"
)

// This file turns what the probes counted into the quantities rules ask for.
// All of it answers ok = false where no probe took part.

// probedCPU is what the probes counted on one CPU.
func (c *Case) probedCPU(cpu int) (counters.CPU, bool) {
	if c.Probes == nil {
		return counters.CPU{}, false
	}
	for _, p := range c.Probes.CPUs {
		if p.CPU == cpu {
			return p, true
		}
	}
	return counters.CPU{}, false
}

// polling is what all receive NAPIs of a device did, or those of one CPU.
type polling struct {
	polls, work, full, empty uint64
	softirqNs                float64
	napis                    int
}

func (p *polling) add(n counters.NAPI) {
	p.polls += n.Polls
	p.work += n.Work
	p.full += n.Full
	p.empty += n.Empty
	p.softirqNs += n.SoftirqNs()
	p.napis++
}

// perPoll is the mean work of a poll that found any.
func (p *polling) perPoll() float64 {
	if p.polls <= p.empty {
		return 0
	}
	return float64(p.work) / float64(p.polls-p.empty)
}

// fullShare is the part of the polls with work that used their whole weight: 1
// means that more was always waiting. Polls of transmit queues say nothing of
// that, and none of them counts as work (drivers/net/virtio_net.c virtnet_poll_tx).
func (p *polling) fullShare() float64 {
	if p.polls <= p.empty {
		return 0
	}
	return float64(p.full) / float64(p.polls-p.empty)
}

// nsPerPacket is the softirq time per unit of work.
func (p *polling) nsPerPacket() float64 {
	if p.work == 0 {
		return 0
	}
	return p.softirqNs / float64(p.work)
}

// isDevice reports whether a row of the probes that has d's name is about d: a
// pod's eth0 has that name too, and its index as well where both namespaces made
// few devices.
func (c *Case) isDevice(d *detect.Device, netns, ifindex uint32) bool {
	return c.Probes.OfDevice(d.Index, netns, ifindex)
}

// devicePolling sums a device's receive NAPIs.
func (c *Case) devicePolling(d *detect.Device) (polling, bool) {
	var out polling
	if c.Probes == nil {
		return out, false
	}
	for _, n := range c.Probes.NAPIs {
		if n.ID != 0 && n.Device == d.Name && c.isDevice(d, n.NetNS, n.IfIndex) {
			out.add(n)
		}
	}
	return out, out.polls > 0
}

// cpuPolling sums the NAPIs polled on one CPU, the backlog among them.
func (c *Case) cpuPolling(cpu int) (polling, bool) {
	var out polling
	if c.Probes == nil {
		return out, false
	}
	for _, n := range c.Probes.NAPIs {
		if n.CPU == cpu {
			out.add(n)
		}
	}
	return out, out.polls > 0
}

// groOf is what GRO made of a device's packets while it was looked at.
func (c *Case) groOf(d *detect.Device) (counters.GRO, bool) {
	if c.Probes == nil {
		return counters.GRO{}, false
	}
	for _, g := range c.Probes.GRO {
		if g.Device == d.Name && c.isDevice(d, g.NetNS, g.IfIndex) {
			return g, true
		}
	}
	return counters.GRO{}, false
}

// threadShare is the part of the window that a thread ran, by PID; threads
// that are not in both samples are absent.
func (c *Case) threadShare(keep func(host.Process) bool) map[int]float64 {
	out := map[int]float64{}
	if c.Basis != detect.BasisWindow || c.Window <= 0 {
		return out
	}
	before := map[int]host.Process{}
	for _, p := range c.First.Processes {
		before[p.PID] = p
	}
	for _, p := range c.Last.Processes {
		old, ok := before[p.PID]
		if ok && old.Comm == p.Comm && p.Ticks >= old.Ticks && keep(p) {
			out[p.PID] = float64(p.Ticks-old.Ticks) / userHZ / c.Window.Seconds()
		}
	}
	return out
}

// userHZ is USER_HZ, the unit of times in /proc/PID/stat and /proc/stat on all
// architectures that napitune supports (include/asm-generic/param.h).
const userHZ = 100

func (c *Case) process(pid int) host.Process {
	i := slices.IndexFunc(c.Last.Processes, func(p host.Process) bool { return p.PID == pid })
	if i < 0 {
		return host.Process{}
	}
	return c.Last.Processes[i]
}

// sortedByValue are the keys of a map, largest value first, then by key.
func sortedByValue(m map[int]float64) []int {
	out := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(out, func(a, b int) int {
		switch {
		case m[a] > m[b]:
			return -1
		case m[a] < m[b]:
			return 1
		}
		return 0
	})
	return out
}

// rate is a count per second, 0 if the window has no length.
func (c *Case) rate(n uint64) float64 {
	rate, _ := c.PerSecond(n)
	return rate
}

// packetRate is how many packets a device received per second in the window.
func (c *Case) packetRate(d *detect.Device) (float64, bool) {
	delta := c.Device[d.Name]
	if !delta.Known || c.Basis != detect.BasisWindow {
		return 0, false
	}
	return c.PerSecond(delta.Counters.RxPackets)
}

// interruptRate is how many interrupts a device's queues raised per second.
func (c *Case) interruptRate(d *detect.Device) (float64, bool) {
	total, known := c.receiveInterrupts(d)
	if !known || c.Basis != detect.BasisWindow {
		return 0, false
	}
	return c.PerSecond(total)
}

// receiveInterrupts counts the interrupts of a device's receive queues; one that
// serves several queues counts once.
func (c *Case) receiveInterrupts(d *detect.Device) (total uint64, known bool) {
	counted := map[int]bool{}
	for _, p := range c.Paths {
		if p.dev != d {
			continue
		}
		known = true
		if !counted[p.rx.irq] {
			counted[p.rx.irq] = true
			total += p.rx.total
		}
	}
	return total, known
}

// heat is the largest softirq share among the CPUs that serve a device's queues.
func (c *Case) heat(d *detect.Device) float64 {
	hottest := 0.0
	for _, p := range c.Paths {
		if p.dev == d && p.home() >= 0 {
			share := c.CPU[p.home()]
			hottest = max(hottest, share.Softirq+share.IRQ)
		}
	}
	return hottest
}

// coolDevice reports whether all CPUs that serve a device are known to have had
// room to spare in the window.
func (c *Case) coolDevice(d *detect.Device) bool {
	known := false
	for _, p := range c.Paths {
		if p.dev != d || p.home() < 0 {
			continue
		}
		known = true
		if !c.cool(p.home()) {
			return false
		}
	}
	return known
}

// stackedAt names the stack on a CPU as a cause, "" if there is none.
func (c *Case) stackedAt(cpu int) string {
	for _, s := range c.diagnosis.stacked {
		if s.cpu == cpu {
			return s.because()
		}
	}
	return ""
}

// udpShare is the part of IP datagrams for this host that were UDP.
func (c *Case) udpShare() (float64, bool) {
	all := c.Protocols["Ip.InDelivers"] + c.Protocols["Ip6InDelivers"]
	udp := c.Protocols["Udp.InDatagrams"] + c.Protocols["Udp6InDatagrams"]
	if all == 0 {
		return 0, false
	}
	return min(1, float64(udp)/float64(all)), true
}
