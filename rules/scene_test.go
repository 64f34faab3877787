package rules_test

import (
	"strconv"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/topo"
	"github.com/napitune/napitune/profiles"
)

// scene builds an observation by hand: a machine with one thread per core
// unless told otherwise, ten seconds of window, nothing wrong.
type scene struct {
	obs  *detect.Observation
	snap *detect.Snapshot
	irq  int
	// latency makes the policy prefer latency.
	latency bool
	// policy changes the balanced policy; nil leaves it.
	policy func(p *profiles.Policy)
}

func newScene(cpus int) *scene {
	t := &topo.Topology{
		Possible: cpuset.Range(0, cpus-1), Present: cpuset.Range(0, cpus-1), Online: cpuset.Range(0, cpus-1),
		CPUs:  map[int]topo.CPU{},
		Known: topo.Known{Online: true, SMT: true, LLC: true, Nodes: true, Isolation: true},
		Nodes: []topo.Node{{ID: 0, CPUs: cpuset.Range(0, cpus-1), HasMemory: true, Distance: map[int]int{0: 10}}},
	}
	for i := range cpus {
		t.CPUs[i] = topo.CPU{ID: i, Package: 0, Node: 0, LLC: 0, Core: i}
	}
	snap := &detect.Snapshot{
		Taken: time.Unix(1000, 0), Topo: t, Ident: host.Ident{HZ: 250},
		Knobs: map[knob.Ref]knob.State{}, Protocols: detect.Protocols{},
	}
	snap.IRQs.CPUs = cpuset.Range(0, cpus-1).CPUs()
	obs := &detect.Observation{
		First: snap, Last: snap, Samples: 2, Basis: detect.BasisWindow, Window: 10 * time.Second,
		NetRx: map[int]uint64{}, NetTx: map[int]uint64{}, Softnet: map[int]detect.SoftnetDelta{}, CPU: map[int]detect.CPUShare{},
		Interrupt: map[int]uint64{}, IRQ: map[int]detect.IRQDelta{}, Device: map[string]detect.DeviceDelta{}, Protocols: map[string]uint64{}, Conntrack: map[string]uint64{},
	}
	for i := range cpus {
		obs.NetRx[i] = 100
		obs.Softnet[i] = detect.SoftnetDelta{Processed: 100}
		obs.CPU[i] = detect.CPUShare{Idle: 0.95, Busy: 0.05, Softirq: 0.01, Ticks: 1000}
	}
	return &scene{obs: obs, snap: snap, irq: 40}
}

// contest is a setting that a guard wanted to have one value and left to somebody
// else, who gave it the present one.
func (s *scene) contest(ref knob.Ref, want, present, by string) {
	s.set(ref, present)
	s.snap.Contests = append(s.snap.Contests, detect.Contest{
		Ref: ref, Want: want, Present: present, By: by, Reason: "written 2 times by somebody else within 20s", At: time.Unix(900, 0),
	})
}

// fire is where one interrupt fired: CPU → count.
type fire map[int]uint64

// nic adds a device with one queue pair per element of rx; tx may be nil for
// combined vectors.
func (s *scene) nic(name, kind string, rx, tx []fire) *detect.Device {
	d := &detect.Device{
		Name: name, Kind: kind, Node: 0, Up: detect.Yes, Carrier: detect.Yes, QueuesKnown: true,
		Features: host.Features{"rx-gro": {On: true, Requested: true}}, Local: s.snap.Topo.Online,
		Channels: &host.Channels{MaxCombined: len(rx), Combined: len(rx)},
		Rings:    &host.Rings{MaxRx: 4096, MaxTx: 4096, Rx: 512, Tx: 512},
	}
	if kind == "virtio" {
		d.Driver = "virtio_net"
	}
	s.snap.Devices = append(s.snap.Devices, d)
	for n := range rx {
		q := detect.Queue{N: n, Rx: true, Tx: true, VMBusCPU: -1, NAPI: -1, Source: detect.SourceMSI}
		q.RxIRQ = s.line(name, "rx", n, rx[n])
		q.TxIRQ = q.RxIRQ
		if tx != nil {
			q.TxIRQ = s.line(name, "tx", n, tx[n])
		}
		d.Queues = append(d.Queues, q)
		s.set(knob.Rx(name, n, "rps.cpus"), "")
		s.set(knob.Rx(name, n, "rps.flow_cnt"), "0")
		if len(rx) > 1 {
			s.set(knob.Tx(name, n, "xps.cpus"), "")
		}
	}
	s.set(knob.Device(name, "feature.rx-gro"), "on")
	s.set(knob.Device(name, "channels.combined"), strconv.Itoa(len(rx)))
	s.set(knob.Device(name, "ring.rx"), "512")
	s.obs.Device[name] = detect.DeviceDelta{Known: true, Counters: detect.InterfaceCounters{Known: true, RxPackets: 1_000_000},
		Queue: map[detect.QueueID]map[string]uint64{}, Stats: map[string]uint64{}}
	return d
}

func (s *scene) line(dev, side string, n int, f fire) int {
	s.irq++
	row := detect.IRQ{Number: s.irq, Chip: "PCI-MSIX", Actions: []string{dev + "-" + side + "-" + strconv.Itoa(n)},
		Counts: make([]uint32, len(s.snap.IRQs.CPUs)), Device: dev, HasSMP: true, Affinity: s.snap.Topo.Online, Node: topo.Unknown}
	delta := detect.IRQDelta{CPU: map[int]uint64{}, Home: -1}
	for cpu, count := range f {
		row.Counts[cpu] = uint32(count)
		delta.CPU[cpu] = count
		delta.Total += count
		s.obs.Interrupt[cpu] += count
		if delta.Home < 0 || count > f[delta.Home] || count == f[delta.Home] && cpu < delta.Home {
			delta.Home = cpu
		}
	}
	if delta.Total > 0 {
		delta.HomeShare = float64(f[delta.Home]) / float64(delta.Total)
		row.Effective = cpuset.Of(delta.Home)
	}
	s.snap.IRQs.Rows = append(s.snap.IRQs.Rows, row)
	s.obs.IRQ[s.irq] = delta
	s.set(knob.Rx(dev, n, "irq.affinity"), row.Affinity.String())
	if side == "tx" {
		s.set(knob.Tx(dev, n, "irq.affinity"), row.Affinity.String())
	}
	return s.irq
}

// effective is where an interrupt would fire.
func (s *scene) effective(action string, cpu int) {
	for i := range s.snap.IRQs.Rows {
		if row := &s.snap.IRQs.Rows[i]; row.Actions[0] == action {
			row.Effective = cpuset.Of(cpu)
		}
	}
}

// usb adds a device without an interrupt of its own.
func (s *scene) usb(name string, packets uint64) {
	d := s.nic(name, "physical", even(1, 0), nil)
	d.Channels, d.Rings = nil, nil
	d.Queues[0].RxIRQ, d.Queues[0].TxIRQ = -1, -1
	s.receive(name, packets)
}

// stranger adds an interrupt of something that is no network device.
func (s *scene) stranger(name string, f fire) {
	s.line("", "", 0, f)
	row := &s.snap.IRQs.Rows[len(s.snap.IRQs.Rows)-1]
	row.Actions, row.Device = []string{name}, ""
}

func (s *scene) set(ref knob.Ref, value string) {
	s.snap.Knobs[ref] = knob.State{Status: knob.Known, Value: value}
}

// heat makes a CPU spend a share of its time in softirqs.
func (s *scene) heat(cpu int, softirq float64) {
	s.obs.CPU[cpu] = detect.CPUShare{Softirq: softirq, Busy: softirq, Idle: 1 - softirq, Ticks: 1000}
}

// siblings makes CPU n and n+half threads of one core.
func (s *scene) siblings() {
	half := len(s.snap.Topo.CPUs) / 2
	for i := range half {
		cpu := s.snap.Topo.CPUs[i+half]
		cpu.Core = i
		s.snap.Topo.CPUs[i+half] = cpu
	}
}

// nodes splits the CPUs into two halves.
func (s *scene) nodes() {
	n := len(s.snap.Topo.CPUs)
	low, high := cpuset.Range(0, n/2-1), cpuset.Range(n/2, n-1)
	s.snap.Topo.Nodes = []topo.Node{
		{ID: 0, CPUs: low, HasMemory: true, Distance: map[int]int{0: 10, 1: 21}},
		{ID: 1, CPUs: high, HasMemory: true, Distance: map[int]int{0: 21, 1: 10}},
	}
	for i := n / 2; i < n; i++ {
		cpu := s.snap.Topo.CPUs[i]
		cpu.Node, cpu.LLC = 1, n/2
		s.snap.Topo.CPUs[i] = cpu
	}
}

// sinceBoot turns the scene into a single sample without a clock.
func (s *scene) sinceBoot() {
	s.obs.Basis, s.obs.Window, s.obs.Samples = detect.BasisBoot, 0, 1
	s.obs.CPU = map[int]detect.CPUShare{}
}

// even is n fires of count each on CPU 0, 1, 2, …
func even(n int, count uint64) []fire {
	out := make([]fire, n)
	for i := range out {
		out[i] = fire{i: count}
	}
	return out
}

// all is n fires of count each on one CPU.
func all(n, cpu int, count uint64) []fire {
	out := make([]fire, n)
	for i := range out {
		out[i] = fire{cpu: count}
	}
	return out
}
