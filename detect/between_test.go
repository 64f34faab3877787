package detect

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/napitune/napitune/detect/topo"
)

// sample makes a snapshot of two CPUs whose one NIC has one queue on interrupt 30.
func sample(at int, change func(*Snapshot)) *Snapshot {
	s := &Snapshot{
		Taken: time.Unix(1_700_000_000+int64(at), 0),
		Topo:  &topo.Topology{},
		IRQs: IRQTable{CPUs: []int{0, 1}, Rows: []IRQ{
			{Number: 30, Actions: []string{"eth0"}, Counts: []uint32{100, 0}, Device: "eth0"},
			{Number: 31, Actions: []string{"ahci"}, Counts: []uint32{7, 7}},
		}},
		Softirqs: Softirqs{CPUs: []int{0, 1, 2}, Counts: map[string][]uint32{"NET_RX": {10, 20, 0}, "NET_TX": {1, 2, 0}}},
		Softnet:  Softnet{Identified: true, Columns: 13, Rows: []SoftnetRow{{CPU: 0, Processed: 5}, {CPU: 1, Processed: 6}}},
		CPUTimes: CPUTimes{CPUs: map[int]CPUTime{0: {User: 10, Idle: 90}, 1: {Idle: 100}}, BootTime: 1_699_999_000},
		Devices: []*Device{{Name: "eth0", Index: 2, Counters: InterfaceCounters{Known: true, RxPackets: 50}, Queues: []Queue{{Rx: true, Tx: true, RxIRQ: 30, TxIRQ: 30}},
			QueueRate: map[QueueID]map[string]uint64{{}: {"packets": 50}}}},
		Protocols: Protocols{"Udp.InErrors": 3, "Tcp.CurrEstab": 9},
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestBetweenOneSample(t *testing.T) {
	o := Between(sample(0, nil))
	if o.Basis != BasisBoot || o.Window != 1000*time.Second || o.Samples != 1 || o.First != o.Last {
		t.Errorf("basis %v, window %v, samples %d", o.Basis, o.Window, o.Samples)
	}
	if diff := cmp.Diff(map[int]uint64{0: 10, 1: 20}, o.NetRx); diff != "" {
		t.Errorf("NET_RX (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[int]uint64{0: 100, 1: 0}, o.Interrupt); diff != "" {
		t.Errorf("interrupts of queues (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"Udp.InErrors": 3}, o.Protocols); diff != "" {
		t.Errorf("protocols, gauges left out (-want +got):\n%s", diff)
	}
	if d := o.Device["eth0"]; !d.Known || d.Counters.RxPackets != 50 || d.Queue[QueueID{}]["packets"] != 50 {
		t.Errorf("device %+v", d)
	}
	untimed := Between(sample(0, func(s *Snapshot) { s.Taken, s.Uptime = time.Time{}, time.Minute }))
	if untimed.Window != time.Minute {
		t.Errorf("window %v, want the uptime", untimed.Window)
	}
	if Between() != nil || Between(nil, nil) != nil {
		t.Error("no sample gives an observation")
	}
}

func TestBetweenWindow(t *testing.T) {
	first := sample(0, func(s *Snapshot) {
		s.IRQs.Rows[0].Counts = []uint32{4294967290, 5}
		s.Softirqs.Counts["NET_RX"] = []uint32{4294967295, 20, 0}
		s.Softnet.Rows[0].Squeezed = 4294967295
	})
	last := sample(10, func(s *Snapshot) {
		s.IRQs.Rows[0].Counts = []uint32{4, 15}
		s.Softirqs.Counts["NET_RX"] = []uint32{9, 25, 0}
		s.Softnet.Rows[0] = SoftnetRow{CPU: 0, Processed: 105, Squeezed: 2, Dropped: 1, ReceivedRPS: 4, FlowLimit: 3, Backlog: 7}
		s.CPUTimes.CPUs[0] = CPUTime{User: 20, Idle: 85, Softirq: 40, Steal: 10, IRQ: 5, IOWait: 35}
		s.Devices[0].Counters.RxPackets = 150
		s.Devices[0].QueueRate = map[QueueID]map[string]uint64{{}: {"packets": 150, "bytes": 1}}
	})
	o := Between(first, last)
	if o.Basis != BasisWindow || o.Window != 10*time.Second || o.HotPlug || len(o.Inconsistent) > 0 || len(o.Gaps) > 0 {
		t.Errorf("basis %v, window %v, hotplug %v, inconsistent %v, gaps %v", o.Basis, o.Window, o.HotPlug, o.Inconsistent, o.Gaps)
	}
	if diff := cmp.Diff(map[int]uint64{0: 10, 1: 5}, o.NetRx); diff != "" {
		t.Errorf("NET_RX over the wrap (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(IRQDelta{Total: 20, CPU: map[int]uint64{0: 10, 1: 10}, Home: 0, HomeShare: 0.5}, o.IRQ[30]); diff != "" {
		t.Errorf("interrupt over the wrap (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(IRQDelta{Home: -1}, o.IRQ[31]); diff != "" {
		t.Errorf("silent interrupt (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(SoftnetDelta{Processed: 100, Squeezed: 3, Dropped: 1, ReceivedRPS: 4, FlowLimit: 3}, o.Softnet[0]); diff != "" {
		t.Errorf("softnet (-want +got):\n%s", diff)
	}
	// Idle went back by five ticks, which happens; it counts as none.
	want := CPUShare{Softirq: 0.4, IRQ: 0.05, Steal: 0.1, Idle: 0.35, Busy: 0.65, Ticks: 100}
	if diff := cmp.Diff(want, o.CPU[0], cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("CPU 0 (-want +got):\n%s", diff)
	}
	if _, ok := o.CPU[1]; ok {
		t.Error("CPU 1 has a share though no time passed")
	}
	if diff := cmp.Diff(map[QueueID]map[string]uint64{{}: {"packets": 100}}, o.Device["eth0"].Queue); diff != "" {
		t.Errorf("queue counters; one is new (-want +got):\n%s", diff)
	}
}

func TestBetweenUntimed(t *testing.T) {
	for name, change := range map[string]func(*Snapshot){
		"no time":         func(s *Snapshot) { s.Taken = time.Time{} },
		"clock went back": func(s *Snapshot) { s.Taken = s.Taken.Add(-time.Hour) },
	} {
		if o := Between(sample(0, nil), sample(1, change)); o.Basis != BasisUntimed || o.Window != 0 {
			t.Errorf("%s: basis %v, window %v", name, o.Basis, o.Window)
		}
	}
}

func TestBetweenMoves(t *testing.T) {
	at := func(i int, counts ...uint32) *Snapshot {
		return sample(i, func(s *Snapshot) { s.IRQs.Rows[0].Counts = counts })
	}
	// Homes of the steps: CPU 0, CPU 1, silent, CPU 1, CPU 0.
	o := Between(at(0, 0, 0), at(1, 10, 1), at(2, 10, 50), at(3, 10, 50), at(4, 10, 60), at(5, 90, 60))
	if d := o.IRQ[30]; d.Moves != 2 || d.Home != 0 || d.Total != 150 {
		t.Errorf("interrupt %+v, want 2 moves, home 0", d)
	}
	if o := Between(at(0, 0, 0), at(1, 10, 90)); o.IRQ[30].Moves != 0 {
		t.Errorf("two samples show %d moves", o.IRQ[30].Moves)
	}
}

func TestBetweenGaps(t *testing.T) {
	first := sample(0, func(s *Snapshot) {
		s.Devices = append(s.Devices, &Device{Name: "gone"}, &Device{Name: "reused", Index: 7, Counters: InterfaceCounters{Known: true}})
		s.Softnet.Rows = append(s.Softnet.Rows, SoftnetRow{CPU: 2})
	})
	last := sample(1, func(s *Snapshot) {
		s.IRQs.CPUs = []int{1, 2}
		s.IRQs.Rows[0] = IRQ{Number: 30, Actions: []string{"nvme0q1"}, Counts: []uint32{1, 1}}
		s.IRQs.Rows[1].Counts = []uint32{8, 1000}
		s.Devices[0].Counters.RxPackets = 10
		s.Devices[0].QueueRate = map[QueueID]map[string]uint64{{}: {"packets": 1}}
		s.Devices = append(s.Devices, &Device{Name: "new"}, &Device{Name: "reused", Index: 8, Counters: InterfaceCounters{Known: true}})
		s.Protocols["Udp.InErrors"] = 1
		s.CPUTimes.CPUs = map[int]CPUTime{1: {Idle: 200}, 2: {Idle: 1}}
	})
	o := Between(first, last)
	if !o.HotPlug || !cmp.Equal(o.Vanished, []string{"gone"}) || !cmp.Equal(o.Appeared, []string{"new"}) {
		t.Errorf("hotplug %v, vanished %v, appeared %v", o.HotPlug, o.Vanished, o.Appeared)
	}
	if _, ok := o.IRQ[30]; ok {
		t.Error("interrupt 30 serves another device now and must be absent")
	}
	if diff := cmp.Diff(IRQDelta{Total: 1, CPU: map[int]uint64{1: 1}, Home: 1, HomeShare: 1}, o.IRQ[31]); diff != "" {
		t.Errorf("interrupt 31 on the CPU that stayed (-want +got):\n%s", diff)
	}
	if d := o.Device["eth0"]; d.Known || len(d.Queue) != 0 {
		t.Errorf("counters that went down: %+v", d)
	}
	if _, ok := o.Device["reused"]; ok {
		t.Error("another device under an old name was subtracted")
	}
	if _, ok := o.Protocols["Udp.InErrors"]; ok {
		t.Error("a protocol counter that went down is there")
	}
	if _, ok := o.CPU[2]; ok {
		t.Error("CPU 2 was in one sample only")
	}
	sources := map[string]bool{}
	for _, g := range o.Gaps {
		sources[g.Source] = true
	}
	if diff := cmp.Diff(map[string]bool{"counters of eth0": true, "device reused": true, "proc/net/snmp": true}, sources); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
	if len(o.Inconsistent) != 0 {
		t.Errorf("inconsistent %v: two CPUs everywhere", o.Inconsistent)
	}
}

func TestContradictions(t *testing.T) {
	s := sample(0, func(s *Snapshot) {
		s.Softnet.Rows = append(s.Softnet.Rows, SoftnetRow{CPU: 2})
		s.Softirqs.CPUs = []int{0}
		s.Softirqs.Counts = map[string][]uint32{"NET_RX": {1}}
		s.CPUTimes.CPUs[2] = CPUTime{Idle: 1}
	})
	want := []string{
		"softnet_stat has 3 rows, /proc/interrupts 2 CPUs",
		"/proc/softirqs has columns for 0, which are not all of the CPUs 0-1 of /proc/interrupts",
		"/proc/stat has 3 CPUs, /proc/interrupts 2",
	}
	if diff := cmp.Diff(want, Between(s).Inconsistent); diff != "" {
		t.Errorf("contradictions (-want +got):\n%s", diff)
	}
}
